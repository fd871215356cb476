"""Pauses: recordings are cut where nobody speaks, and nowhere else."""

from itertools import pairwise

import numpy as np
import pytest

from components.inputs import pauses
from components.inputs.audio import RATE

MOST, FIRST = 30 * RATE, 15 * RATE


def recording(*parts: float, hiss: float = 0.0, seed: int = 0) -> np.ndarray:
    """Seconds of speech-like noise, then of quiet, and so on; hiss: how loud the quiet is."""
    random = np.random.default_rng(seed)
    sounds = []
    for i, length in enumerate(parts):
        time = np.arange(int(length * RATE))
        # Syllables, four a second, with breaks too short for a pause.
        level = 0.0 if i % 2 else np.where(time % (RATE // 4) < RATE // 5, 0.1, 0.001)
        sounds.append(level * random.normal(size=time.size))
    together = np.concatenate(sounds)
    return (together + hiss * random.normal(size=together.size)).astype(np.float32)


def seconds(stretches: list[tuple[int, int]]) -> list[tuple[float, float]]:
    return [(round(start / RATE, 1), round(end / RATE, 1)) for start, end in stretches]


@pytest.mark.parametrize("hiss", [0.0, 0.001, 0.005])
def test_cuts_lie_in_pauses_and_leave_nothing_out(hiss):
    parts = (5, 0.4, 8, 0.5, 6, 0.4, 10, 0.6, 9, 0.4, 12, 0.4, 7, 0.8, 20, 0.4, 4)
    samples = recording(*parts, hiss=hiss)
    stretches = pauses.cut(samples, MOST, FIRST)
    edges = np.cumsum(parts)
    quiet = [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=False)]
    assert stretches[0][0] == 0 and stretches[-1][1] == samples.size
    for (_, end), (start, _) in pairwise(stretches):
        assert start == end
        assert any(low < start / RATE < high for low, high in quiet), start / RATE
    assert stretches[0][1] <= FIRST
    assert all(end - start <= MOST for start, end in stretches)
    assert len(stretches) < 7


def test_the_longest_pause_in_reach_is_taken():
    samples = recording(16, 0.4, 3, 0.8, 4, 0.4, 20)
    assert seconds(pauses.cut(samples, MOST, MOST)) == [(0.0, 19.8), (19.8, 44.6)]


def test_without_a_pause_a_stretch_goes_on_to_the_next_one():
    assert seconds(pauses.cut(recording(70, 0.4, 10, 0.4, 15), MOST, FIRST)) == [
        (0.0, 70.2),
        (70.2, 95.8),
    ]
    assert seconds(pauses.cut(recording(50), MOST, FIRST)) == [(0.0, 50.0)]
    steady = np.random.default_rng(0).normal(size=50 * RATE).astype(np.float32)
    assert seconds(pauses.cut(steady, MOST, FIRST)) == [(0.0, 50.0)]
    assert seconds(pauses.cut(np.zeros(50 * RATE, np.float32), MOST, FIRST)) == [(0.0, 50.0)]


def test_the_first_stretch_is_as_long_as_the_others_where_it_cannot_be_short():
    assert seconds(pauses.cut(recording(22, 0.4, 22), MOST, FIRST)) == [(0.0, 22.2), (22.2, 44.4)]


def test_what_is_short_enough_is_not_cut():
    samples = recording(7, 0.5, 7, 0.5, 14)
    assert pauses.cut(samples, MOST, FIRST) == [(0, samples.size)]
    assert pauses.cut(samples[:5], MOST, FIRST) == [(0, 5)]
    assert pauses.cut(samples[:0], MOST, FIRST) == []


def test_a_constant_offset_is_no_sound():
    samples = recording(10, 0.5, 10, 0.5, 14) + np.float32(0.3)
    assert seconds(pauses.cut(samples, MOST, FIRST))[0] == (0.0, 10.2)


def test_quiet_is_measured_by_what_is_around():
    """A loud half after a soft one: the pauses of both are found."""
    soft, loud = recording(20, 0.5, 20, hiss=0.003) * 0.1, recording(20, 0.5, 20, hiss=0.003)
    samples = np.concatenate([soft, np.zeros(RATE // 2, np.float32), loud])
    cuts = [end for _, end in seconds(pauses.cut(samples, MOST, FIRST))][:-1]
    assert cuts == pytest.approx([20.25, 40.75, 61.25], abs=0.1)


def test_a_rest_without_speech_is_a_pause():
    samples = recording(10, 0.8, hiss=0.001)
    assert pauses.is_one(samples, int(10.05 * RATE), samples.size)
    assert not pauses.is_one(samples, int(9.5 * RATE), samples.size)
    assert pauses.is_one(samples, samples.size, samples.size)
    assert not pauses.is_one(recording(1), 0, RATE)
