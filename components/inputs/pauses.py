"""Pauses: where can a long recording be cut without cutting a word?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from components.inputs.audio import RATE, SILENT_BELOW

FRAME = RATE // 50  # 20 ms
SHORTEST = 0.3  # seconds; within words and between most of them it is quiet for less
LONG = 0.6  # seconds; between two that are longer, the later one is taken, for fewer stretches
WORD = 0.1  # seconds; what is louder for less is no word
AROUND = 30 * RATE  # samples that tell what is loud and what is quiet
CLEAR = 12.0  # dB from the quiet parts to the loud ones; under this a pause cannot be told from speech
DEPTH = 0.35  # a pause is quieter than this share of the way up from the quiet parts to the loud ones


def cut(samples: np.ndarray, most: int, first: int) -> list[tuple[int, int]]:
    """Stretches (start, end) that make up the recording, cut in the middle of pauses.

    samples: float32 [samples], mono, 16 kHz. A stretch is at most `most` samples long, the first of
    several at most `first`, as far as there are pauses; where there is none it goes on to the next one.
    """
    if samples.size <= most:
        return [(0, samples.size)] if samples.size else []
    levels = _levels(samples)
    end = _end(levels, 0, first)
    if end is None or end > most:  # then it had better be as long as the others
        end = _end(levels, 0, most)
    stretches = [(0, end or samples.size)]
    while (start := stretches[-1][1]) < samples.size:
        rest = samples.size - start
        stretches.append((start, samples.size if rest <= most else _end(levels, start, most) or samples.size))
    return stretches


def is_one(samples: np.ndarray, start: int, end: int) -> bool:
    """Whether nothing is said between two places, judging by what comes before them."""
    levels = _levels(samples[max(0, end - AROUND) : end])
    rest = levels[levels.size - (end - start) // FRAME :]
    return int(np.count_nonzero(rest >= _threshold(levels))) * FRAME < WORD * RATE


def _end(levels: np.ndarray, start: int, limit: int) -> int | None:
    """The best place in the second half of the limit, else the first one after it; None for none."""
    earliest = start + limit // 2
    best: tuple[float, int] | None = None
    for place, seconds in _pauses(levels, start // FRAME, limit // FRAME):
        if place > start + limit:
            return best[1] if best else place
        if place >= earliest:
            best = max(best or (0.0, 0), (min(seconds, LONG), place))
    return best[1] if best else None


def _pauses(levels: np.ndarray, start: int, span: int) -> Iterator[tuple[int, float]]:
    """The middle (in samples) and the length (in seconds) of each pause from frame `start` on.

    What is quiet is decided for `span` frames at a time, since a recording may change.
    """
    while start < levels.size:
        around = levels[start : start + span]
        edges = np.flatnonzero(np.diff(np.r_[False, around < _threshold(around), False].astype(np.int8)))
        for begin, end in edges.reshape(-1, 2):
            seconds = (end - begin) * FRAME / RATE
            if seconds >= SHORTEST:
                yield int(start + (begin + end) // 2) * FRAME, float(seconds)
        start += span


def _threshold(levels: np.ndarray) -> float:
    """Pauses are below it; there may be none."""
    if not levels.size:
        return -np.inf
    quiet, loud = np.percentile(levels, [5, 90])
    quiet = max(quiet, SILENT_BELOW)
    return float(quiet + DEPTH * (loud - quiet)) if loud - quiet >= CLEAR else -np.inf


def _levels(samples: np.ndarray) -> np.ndarray:
    """dBFS of each 20 ms, its constant offset taken away."""
    frames = samples[: samples.size // FRAME * FRAME].reshape(-1, FRAME)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME - frames.mean(axis=1) ** 2
    return 10 * np.log10(np.maximum(power, 1e-12))
