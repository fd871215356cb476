"""Answers: in which JSON shapes do endpoints answer, and how do they take many texts in one call?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.errors import InputError
from components.inputs import given

Schema = dict[str, Any]  # JSON Schema, as far as Gradio makes Python types of it

TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
TEXT_OR_TEXTS: Schema = {"anyOf": [TEXT, TEXTS]}
PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}


def record(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def rows(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


# What gr.Label gives: the likeliest label, and all of them, likeliest first.
CONFIDENCES = rows(record(label=TEXT, confidence=PROBABILITY))
# remarks: what the page says below its status line of this answer, such as what was cut or left out.
LABELS = record(label=TEXT, confidences=CONFIDENCES, remarks=TEXTS)
FIGURE = record(type={"const": "plotly"}, plot={**TEXT, "description": "the figure as JSON"}, remarks=TEXTS)
SEGMENTS = rows(record(text=TEXT, start={"type": "number"}, end={"type": "number"}))
CONTINUATIONS = record(sequences=TEXTS, remarks=TEXTS)
SIDE = record(label=or_null(TEXT), confidences=CONFIDENCES, problem=or_null(TEXT), remarks=TEXTS)
SIDES = record(masked=SIDE, causal=SIDE)


@dataclass(frozen=True)
class About:
    """What clients are told of an endpoint besides its docstring.

    returns: the schema of each output; limits: what is to be added to the schema of a parameter, such as
    its least value, or its types, if it takes several ("anyOf"); examples: a value of a parameter, by its
    name; others show their default.
    """

    returns: tuple[Schema, ...] = ()
    limits: Mapping[str, Schema] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)


def between(low: float, high: float) -> Schema:
    return {"minimum": low, "maximum": high}


def up_to(most: int) -> Schema:
    """Of a list of texts: from one to so many."""
    return {**TEXTS, "minItems": 1, "maxItems": most}


def with_remarks(name: str, schema: Schema) -> Schema:
    """Of an answer that is a list: that, or a record of it and of the remarks for who asks for them.

    A list has no room for remarks, and clients that do not know of them are to get what they got.
    """
    return {"anyOf": [schema, record(**{name: schema, "remarks": TEXTS})]}


def remarked(name: str, answer: Any, remarks: Sequence[str], asked: bool) -> Any:
    """An answer of the schema `with_remarks(name, ...)`; asked: whether the remarks were asked for."""
    return {name: answer, "remarks": list(remarks)} if asked else answer


def labelled(scores: Iterable[tuple[str, float]], remarks: Sequence[str] = ()) -> dict[str, Any]:
    """LABELS of labels and probabilities, likeliest first; of two of the same name the first one stays."""
    first: dict[str, float] = {}
    for label, score in scores:
        first.setdefault(label, score)
    return {**_named(first.items()), "remarks": list(remarks)}


def side(answer: Iterable[tuple[str, float]] | str, remarks: Sequence[str] = ()) -> dict[str, Any]:
    """SIDE of tokens and probabilities, likeliest first, or of the sentence that says why there are none."""
    if isinstance(answer, str):
        return {"label": None, "confidences": [], "problem": answer, "remarks": list(remarks)}
    return {**_named(answer), "problem": None, "remarks": list(remarks)}


def figure(drawn: str, remarks: Sequence[str] = ()) -> dict[str, Any]:
    """FIGURE of a plotly figure as JSON, with the remarks on the whole answer that it belongs to."""
    return {"type": "plotly", "plot": drawn, "remarks": list(remarks)}


def _named(scores: Iterable[tuple[str, float]]) -> dict[str, Any]:
    named = [{"label": label, "confidence": score} for label, score in scores]
    return {"label": named[0]["label"], "confidences": named}


def texts(values: object, most: int) -> list[str]:
    """A list of texts, each with something in it, so that answers can be told by their places.

    Raises InputError, with the place of the first text that is none.
    """
    if not isinstance(values, list):
        raise InputError('A list of texts is needed here, as in ["one text", "another"].')
    if not values:
        raise InputError("There is no text yet. Give a list of at least one.")
    if len(values) > most:
        raise InputError(f"That is {len(values)} texts; at most {most} go in one call. Split them up.")
    clean = []
    for place, value in enumerate(values, 1):
        try:
            text = given.text(value, given.MOST_CHARACTERS).strip()
        except InputError as error:
            raise InputError(f"Text {place} of {len(values)}: {error}") from error
        if not text:
            raise InputError(f"Text {place} of {len(values)} is empty. Leave it out, or fill it in.")
        clean.append(text)
    return clean
