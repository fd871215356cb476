"""Gaps: where is the missing word of a text, and how much around it fits?"""

from __future__ import annotations

import re

from components.errors import InputError
from components.inputs import given

MARK = "___"  # as a visitor writes it
GAP = re.compile(r"_{3,}|\[MASK\]|<mask>", re.IGNORECASE)
SHORT_GAP = re.compile(r"(?<!\w)__(?!\w)")  # only where there is none of the others: __init__ is a name
MOST_CHARACTERS = 4000


def split_at_gap(text: str | None) -> tuple[str, str]:
    """What stands before the gap and after it, as it was written.

    Raises InputError without a text, for one that is too long, and unless there is exactly one gap.
    """
    clean = given.text(text).strip()
    if not clean:
        raise InputError(f"There is no text yet. Type a sentence with {MARK} in place of a word.")
    if len(clean) > MOST_CHARACTERS:
        raise InputError(
            f"That is {len(clean):,} characters; at most {MOST_CHARACTERS:,} go in one run. Shorten it."
        )
    parts = (GAP if GAP.search(clean) else SHORT_GAP).split(clean)
    if len(parts) == 1:
        raise InputError(f"There is no gap in the text. Write {MARK} or [MASK] in place of one word.")
    if len(parts) > 2:
        raise InputError(
            f"There are {len(parts) - 1} gaps in the text, and one is filled at a time: "
            "the models would have to guess them together. Leave one."
        )
    return parts[0], parts[1]


def window(length: int, place: int, room: int) -> slice:
    """Which `room` of `length` tokens to read so that `place` is among them, in the middle if it can be."""
    start = min(max(place - room // 2, 0), max(length - room, 0))
    return slice(start, min(start + room, length))
