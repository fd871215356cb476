"""Who speaks is told from what merely sounds, however softly it is said."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import gradio
import numpy as np
import pytest
import torch

from components.inputs import audio, voice
from demos import speech

CLIPS = Path(gradio.__file__).parent / "media_assets" / "audio"
SPOKEN = [speech.CLIP, CLIPS / "cate_blanch.mp3", CLIPS / "heath_ledger.mp3"]
SECOND = audio.RATE


def tune(seconds: int = 6) -> np.ndarray:
    """Plucked notes. [samples]"""
    t = np.arange(SECOND // 4) / SECOND
    notes = [0.3 * np.sin(2 * np.pi * pitch * t) * np.exp(-4 * t) for pitch in (262, 330, 392, 523, 440, 349)]
    return np.concatenate(notes * seconds)[: seconds * SECOND].astype(np.float32)


def sounds() -> dict[str, np.ndarray]:
    random, t = np.random.default_rng(0), np.arange(6 * SECOND) / SECOND
    clicks = np.zeros(6 * SECOND)
    clicks[:: SECOND // 3] = 0.9
    return {
        "hiss": 0.1 * random.normal(size=t.size),
        "faint hiss": 0.0003 * random.normal(size=t.size),
        "hum": 0.02 * np.sin(2 * np.pi * 50 * t),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * t),
        "sweep": 0.3 * np.sin(2 * np.pi * (200 + 100 * t) * t),
        "tune": tune(),
        "clicks": clicks,
        "nothing": np.zeros(t.size),
        "rounded off": random.integers(-1, 2, t.size) / 2**17,
    }


@pytest.mark.parametrize("path", SPOKEN)
@pytest.mark.parametrize("decibels", [0, -30, -50, -60])
def test_speech_is_heard_at_any_level(path, decibels):
    samples = audio.decode(path).samples[: 4 * SECOND] * np.float32(10 ** (decibels / 20))
    assert voice.is_heard(samples)


@pytest.mark.parametrize("name", sounds())
def test_what_is_no_speech(name):
    assert not voice.is_heard(sounds()[name].astype(np.float32))


def test_spans_lie_where_somebody_speaks():
    spoken = audio.decode(SPOKEN[0]).samples[: 3 * SECOND]
    samples = np.concatenate([tune(4), spoken, np.zeros(2 * SECOND, np.float32), spoken])
    found = voice.spans(samples)
    assert found[0][0] == pytest.approx(4 * SECOND, abs=SECOND // 3)
    assert found[-1][1] <= samples.size
    quiet = [start for start, end in found if start < 8.9 * SECOND and end > 7.4 * SECOND]
    assert not quiet
    assert all(0 <= start < end for start, end in found)
    assert all(before[1] < after[0] for before, after in pairwise(found))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 5000])
def test_short_recordings_have_a_probability_for_each_frame(size):
    found = voice.probabilities(np.zeros(size, np.float32))
    assert found.shape == (-(-size // voice.FRAME),) and ((found >= 0) & (found <= 1)).all()
    assert voice.spans(np.zeros(size, np.float32)) == []


def test_blocks_leave_no_seams(monkeypatch):
    samples = audio.decode(SPOKEN[0]).samples
    whole = voice.probabilities(samples)
    monkeypatch.setattr(voice, "AT_ONCE", 7)
    np.testing.assert_allclose(voice.probabilities(samples), whole, atol=1e-4)


def test_the_process_keeps_its_threads():
    before = torch.get_num_threads()
    voice.probabilities(np.zeros(4000, np.float32))
    assert torch.get_num_threads() == before
