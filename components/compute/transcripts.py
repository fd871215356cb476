"""Transcripts: how is timed text written down, as subtitles or as plain text?"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

# What subtitle editors take for readable, as in the BBC's and Netflix's guidelines.
MOST_LETTERS, MOST_LINES = 42, 2
CLAUSE = re.compile(r"[.!?,;:…](?= |$)")  # where a cue had better end
SHORTEST_CUE = 1  # milliseconds; WebVTT wants each end after its start


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, from start to end in seconds: a phrase or a word."""

    text: str
    start: float
    end: float


def to_srt(segments: Iterable[Segment]) -> str:
    """SubRip: numbered cues with a comma before the milliseconds; "" where nothing was said."""
    cues = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
        for number, (text, start, end) in enumerate(_cues(segments, {"-->": "→"}), 1)
    ]
    return "\n".join(cues)


def to_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT (W3C): a header, then cues in which & < > are escaped."""
    cues = [
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{_escaped(text)}\n"
        for text, start, end in _cues(segments)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _cues(
    segments: Iterable[Segment], replaced: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, int, int]]:
    """(lines, start, end) in milliseconds: no empty text, in order, never overlapping.

    replaced: what would break the format, and what is written instead.
    """
    reached = 0
    for segment in segments:
        text = " ".join(segment.text.split())
        for old, new in replaced.items():
            text = text.replace(old, new)
        if not text:
            continue
        start = max(reached, round(1000 * segment.start))
        end = max(start + SHORTEST_CUE, round(1000 * segment.end))
        parts = _split(text)
        letters, said = sum(len(line) for part in parts for line in part), 0
        for number, part in enumerate(parts, 1):
            said += sum(map(len, part))
            until = end if number == len(parts) else start + (end - start) * said // letters
            begin, reached = max(start, reached), max(until, max(start, reached) + SHORTEST_CUE)
            yield "\n".join(part), begin, reached


def _split(text: str) -> list[list[str]]:
    """A text as cues of MOST_LINES lines of MOST_LETTERS at most, of about the same length each.

    A sentence or clause that ends near the end of a cue ends it.
    """
    if len(text) <= MOST_LETTERS:
        return [[text]]
    count = len(_wrapped(text, MOST_LETTERS))
    if count <= MOST_LINES:
        return [_balanced(text)]
    cues, rest = [], text
    while len(_wrapped(rest, MOST_LETTERS)) > MOST_LINES:
        shown = " ".join(_wrapped(rest, MOST_LETTERS)[:MOST_LINES])
        ends = [match.end() for match in CLAUSE.finditer(shown) if match.end() > len(shown) / 2]
        taken = _taken(rest, shown[: ends[-1]] if ends else shown)
        cues.append(_balanced(taken))
        rest = rest[len(taken) :].strip()
    return [*cues, _balanced(rest)]


def _taken(text: str, shown: str) -> str:
    """The beginning of a text that is shown as this: the same, but for the space where a long word is cut."""
    place = 0
    for letter in shown:
        if place < len(text) and text[place] == letter:
            place += 1
    return text[:place]


def _balanced(text: str) -> list[str]:
    """Its lines, as few as can be and none much longer than the others."""
    lines = _wrapped(text, MOST_LETTERS)
    for width in range(-(-len(text) // len(lines)), MOST_LETTERS):
        if len(narrow := _wrapped(text, width)) == len(lines):
            return narrow
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _clock(milliseconds: int, point: str) -> str:
    """HH:MM:SS and milliseconds; hours grow beyond two digits where they must."""
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
