"""Transcripts: how is timed text written down, as subtitles or as plain text?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text.replace('-->', '→')}\n"
        for number, (text, start, end) in enumerate(_cues(segments), 1)
    ]
    return "\n".join(cues)


def to_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT (W3C): a header, then cues in which & < > are escaped."""
    cues = [
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{_escaped(text)}\n"
        for text, start, end in _cues(segments)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def to_text(segments: Iterable[Segment]) -> str:
    """One segment per line; "" where nothing was said."""
    return "".join(f"{text}\n" for text, _, _ in _cues(segments))


def _cues(segments: Iterable[Segment]) -> Iterator[tuple[str, int, int]]:
    """(text, start, end) in milliseconds: no empty text, on one line, in order, never overlapping."""
    reached = 0
    for segment in segments:
        text = " ".join(segment.text.split())
        if not text:
            continue
        start = max(reached, round(1000 * segment.start))
        reached = max(start + SHORTEST_CUE, round(1000 * segment.end))
        yield text, start, reached


def _clock(milliseconds: int, point: str) -> str:
    """HH:MM:SS and milliseconds; hours grow beyond two digits where they must."""
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
