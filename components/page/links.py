"""Links: a tab with its input and settings as the query of an address, and back."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

LONGEST = 1_500  # characters of a text in a link
MOST = 6_000  # characters of a query: proxies refuse more than about 8,000 in a line
READ = 50_000  # characters of a query that are looked at
EXACT = float(2**53)  # whole numbers up to here are the same in a browser
TAB = "tab"
# Gradio reads these from the address itself, and all that begin with two underscores.
TAKEN = frozenset({TAB, "page", "view", "deep_link", "logs", "session_hash"})


@dataclass(frozen=True)
class Parameter:
    """What a value in a link may be.

    label: what visitors call it; known: values that may be chosen; free: whether others may be typed;
    least, most: the range of a number, step: its distance from one to the next, counted from `least`;
    whole: whether it is an integer. "media" is never in a link.
    """

    kind: Literal["text", "flag", "number", "choice", "choices", "media"]
    label: str = ""
    known: tuple[Any, ...] = ()
    free: bool = False
    least: float | None = None
    most: float | None = None
    step: float | None = None
    whole: bool = False


def encode(
    tab: str, parameters: Mapping[str, Parameter], values: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """The query that opens the tab with these values, and the labels of what is too long for it, or media.

    A value that is None is nowhere. Raises ValueError for a name that means something else in an address.
    """
    pairs: dict[str, list[str]] = {}
    left_out = []
    for name, value in values.items():
        if name in TAKEN or name.startswith("__"):
            raise ValueError(f"{name} cannot be a parameter of a link")
        if value is None:
            continue
        parameter = parameters[name]
        if parameter.kind == "media" or sum(map(len, written := _write(parameter, value))) > LONGEST:
            left_out.append(name)
        else:
            pairs[name] = written
    while len(query := _query(tab, pairs)) > MOST:
        longest = max(pairs, key=lambda name: len(_query(tab, {name: pairs[name]})))
        del pairs[longest]
        left_out.append(longest)
    return query, tuple(parameters[name].label or name for name in values if name in left_out)


def decode(query: str, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values that a query gives to these parameters. What it cannot give is not in there.

    Numbers are moved into their range and onto their step. Nothing is raised, whatever the query is.
    """
    try:
        pairs = parse_qsl(query[:READ].removeprefix("?"), keep_blank_values=True, max_num_fields=200)
    except ValueError:  # more fields than any tab has
        return {}
    given: dict[str, list[str]] = {}
    for name, text in pairs:
        given.setdefault(name, []).append(text)
    read = {
        name: READERS[parameter.kind](parameter, given[name])
        for name, parameter in parameters.items()
        if name in given
    }
    return {name: value for name, value in read.items() if value is not None}


def _query(tab: str, pairs: Mapping[str, Sequence[str]]) -> str:
    # What a browser gives may hold halves of characters, which have no place in UTF-8.
    return "?" + urlencode({TAB: tab, **pairs}, doseq=True, errors="replace")


def _write(parameter: Parameter, value: Any) -> list[str]:
    if parameter.kind == "flag":
        return ["true" if value else "false"]
    if parameter.kind == "number":
        return [str(int(value)) if float(value).is_integer() else repr(float(value))]
    if parameter.kind == "choices":
        return [str(one) for one in value] or [""]
    return [str(value)]


def _read_text(parameter: Parameter, given: Sequence[str]) -> str | None:
    text = "".join(
        c for c in given[-1].replace("\r\n", "\n") if c in "\n\t" or unicodedata.category(c) != "Cc"
    )
    return text if len(text) <= LONGEST else None


def _read_flag(parameter: Parameter, given: Sequence[str]) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(given[-1].lower())


def _read_number(parameter: Parameter, given: Sequence[str]) -> float | None:
    try:
        number = float(given[-1])
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    least = -EXACT if parameter.least is None else parameter.least
    most = EXACT if parameter.most is None else parameter.most
    number = min(max(number, least), most)
    if parameter.step and parameter.least is not None:
        number = parameter.least + round((number - parameter.least) / parameter.step) * parameter.step
        number = min(round(number, 10), most)
    return round(number) if parameter.whole else number


def _read_choice(parameter: Parameter, given: Sequence[str]) -> Any:
    text = given[-1]
    for one in parameter.known:
        if str(one) == text:
            return one
    return _read_text(parameter, given) if parameter.free and text.isprintable() else None


def _read_choices(parameter: Parameter, given: Sequence[str]) -> list[Any] | None:
    if list(given) == [""]:
        return []
    return [one for one in parameter.known if str(one) in given] or None


READERS: dict[str, Callable[[Parameter, Sequence[str]], Any]] = {
    "text": _read_text,
    "flag": _read_flag,
    "number": _read_number,
    "choice": _read_choice,
    "choices": _read_choices,
    "media": lambda parameter, given: None,
}
