"""Spectrogram: its numbers are the feature extractor's, its axes seconds and Hz, its figures small."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from components.compute.transcripts import Segment
from components.explain import spectrogram
from components.inputs import audio


def tone(hertz: float, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * audio.RATE)) / audio.RATE
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.3, 5.0, 30.0])
def test_the_spectrogram_is_what_the_feature_extractor_gives(seconds):
    extractor = WhisperFeatureExtractor()
    samples = tone(440, seconds)
    mel = spectrogram.log_mel(extractor, samples)
    direct = extractor(samples, sampling_rate=audio.RATE, return_tensors="np").input_features
    assert mel.shape == (80, 3000) == direct.shape[1:]
    np.testing.assert_array_equal(mel, direct[0])


@pytest.mark.parametrize("bins", [16, 80, 128])
def test_centres_are_those_of_the_filter_bank(bins):
    """Triangles from one centre to the next but one, peaks at the centre, are the extractor's filters."""
    extractor = WhisperFeatureExtractor(feature_size=bins)
    centres = spectrogram.mel_centres(bins)
    edges = np.concatenate([[0.0], centres, [8000.0]])
    hertz = np.linspace(0, 8000, 1 + extractor.n_fft // 2)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    np.testing.assert_allclose(triangles, extractor.mel_filters, atol=1e-9)


@pytest.mark.parametrize("hertz", [300, 1000, 4000])
def test_a_tone_is_brightest_at_its_own_frequency(hertz):
    mel = spectrogram.log_mel(WhisperFeatureExtractor(), tone(hertz, 30))
    centres = spectrogram.mel_centres(80)
    brightest = centres[mel[:, 100:2900].mean(axis=1).argmax()]
    assert abs(brightest - hertz) < 0.05 * hertz


def test_pooled_is_the_mean_of_neighbours():
    values = np.arange(14, dtype=np.float32).reshape(2, 7)
    np.testing.assert_allclose(spectrogram.pooled(values, 3), [[1, 4, 6], [8, 11, 13]])
    np.testing.assert_array_equal(spectrogram.pooled(values, 1), values)
    assert [spectrogram.neighbours(n) for n in (1, 600, 601, 3000)] == [1, 1, 2, 5]


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 70 * 16000])
def test_an_envelope_holds_every_sample_in_few_points(size):
    samples = np.random.default_rng(0).normal(size=size).astype(np.float32)
    seconds, low, high = spectrogram.envelope(samples)
    assert len(seconds) == len(low) == len(high) <= spectrogram.MOST_STRETCHES
    assert low.min() == samples.min() and high.max() == samples.max() and (low <= high).all()
    assert seconds[0] == 0 and seconds[-1] < size / audio.RATE
    assert len(spectrogram.envelope(samples[:0])[0]) == 0


def test_the_figure_is_in_seconds_and_hertz():
    mel = spectrogram.log_mel(WhisperFeatureExtractor(), tone(440, 8))
    figure = spectrogram.spectrogram_figure(mel, 8.0, start=30.0)
    (drawn,) = figure.data
    assert drawn.colorscale[0][1] == "#440154"  # viridis
    assert drawn.z.shape == (80, 450) and len(drawn.y) == 80  # 8 s, 1 s of padding, 20 ms each
    assert (drawn.x0, drawn.dx) == (pytest.approx(30.01), pytest.approx(0.02))
    np.testing.assert_allclose(drawn.z[:, 7], mel[:, 14:16].mean(axis=1), rtol=1e-5)
    centres = spectrogram.mel_centres(80)
    assert drawn.y[40] == f"{centres[40]:,.0f} Hz" and len(set(drawn.y)) == 80
    assert set(figure.layout.yaxis.tickvals) <= set(drawn.y) and len(figure.layout.yaxis.tickvals) == 9
    assert figure.layout.shapes[0].x0 == 38.0  # where padding begins
    assert not spectrogram.spectrogram_figure(mel, 30.0).layout.shapes
    assert (drawn.zmin, drawn.zmax) == (drawn.z.min(), drawn.z.max())
    (silence,) = spectrogram.spectrogram_figure(np.full_like(mel, -1.5), 8.0).data
    assert (silence.zmin, silence.zmax) == (-1.5, -0.5)


def test_words_lie_on_the_waveform_at_their_times():
    words = [Segment("<b>You</b>", 10.5, 10.9), Segment("like", 10.9, 11.4)]
    figure = spectrogram.waveform_figure(tone(440, 2), 10.0, words, marked=(10.2, 10.4))
    low, high, bars = figure.data
    assert low.x[0] == 10 and len(high.x) <= spectrogram.MOST_STRETCHES
    assert [x - w / 2 for x, w in zip(bars.x, bars.width, strict=True)] == pytest.approx([10.5, 10.9])
    assert [label.text for label in figure.layout.annotations] == ["&lt;b&gt;You&lt;/b&gt;", "like"]
    assert [label.x for label in figure.layout.annotations] == pytest.approx([10.7, 11.15])
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].x1) == (10.2, 10.4)
    many = [Segment("a", 0.01 * i, 0.01 * i + 0.01) for i in range(spectrogram.MOST_LABELLED + 1)]
    assert not spectrogram.waveform_figure(tone(440, 2), 0.0, many).layout.annotations
    assert len(spectrogram.waveform_figure(np.zeros(0, np.float32)).data[0].x) == 0


def test_attention_is_drawn_over_the_sound_and_sums_neighbours():
    weights = np.random.default_rng(0).dirichlet(np.ones(1500), size=3)
    figure = spectrogram.listening_figure(weights, ["␣You", "<b>", "␣You"], 0.02, 25.0, 60.0, "title")
    (drawn,) = figure.data
    assert drawn.z.shape == (3, 417) and drawn.dx == pytest.approx(0.06)
    np.testing.assert_allclose(drawn.z[1, 4], weights[1, 12:15].sum(), rtol=1e-5)
    assert drawn.x0 == pytest.approx(60.03)
    assert list(figure.layout.yaxis.ticktext) == ["␣You", "&lt;b&gt;", "␣You"]
    assert spectrogram.outside(weights, 1250) == pytest.approx(weights[:, 1250:].sum() / 3)
    with pytest.raises(ValueError, match="2 tokens"):
        spectrogram.listening_figure(weights, ["a", "b"], 0.02, 25.0)


def test_no_more_tokens_than_can_be_read():
    weights = np.full((150, 100), 0.01)
    figure = spectrogram.listening_figure(weights, [str(i) for i in range(150)], 0.02, 2.0)
    assert len(figure.data[0].z) == spectrogram.MOST_TOKENS == len(figure.layout.yaxis.ticktext)
