"""Given: what a page or a client sends in place of a text or a number, checked before it is used."""

from __future__ import annotations

from components.errors import InputError

MOST_CHARACTERS = 100_000  # of one text where a tab has no lower limit; no model here reads so many


def text(value: object, most: int | None = None, name: str = "That") -> str:
    """A text, "" for None. A half of a surrogate pair is no text, and no tokenizer takes it: it becomes "?".

    name: what it is called, "The template". Raises InputError for anything but a text, and for one of more
    than `most` characters.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError("A text is needed here, and this is something else. Write it as text.")
    if most is not None and len(value) > most:
        has = "is" if name == "That" else "has"
        raise InputError(f"{name} {has} {len(value):,} characters; at most {most:,} are taken. Shorten it.")
    return value.encode("utf-8", "replace").decode()


def not_a_text(value: object, name: str) -> InputError:
    """What to say of a parameter, by its name, that is to be a text and is something else."""
    kinds = {list: "a list", dict: "an object", bool: "true or false", int: "a number", float: "a number"}
    what = kinds.get(type(value), "something else")
    return InputError(f"A text is needed for “{name}”, and this is {what}. Write it as text.")


def number(value: object, name: str, low: float, high: float) -> float:
    """A number from low to high, both included; name: what it is called, "Top-k".

    Raises InputError for anything else; what is not a number (NaN) is not between them.
    """
    if isinstance(value, int | float) and low <= value <= high:
        return value
    raise InputError(f"{name} must be between {low} and {high}.")
