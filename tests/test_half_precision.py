"""16 bits: the starters answer as they do in float32 on the CPU.

On an accelerator (`--device`) in the format that the app takes there, all of them; on the CPU in float16 the
two that are quick there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

import app
from components.compute.decoding import Sampling
from components.models.device import cpu
from components.models.manager import LOADED_IN_FULL, ModelManager
from components.settings import parse
from components.weights.hub import HubStatus
from demos import generation, image, sentiment, speech, translation, zero_shot
from tests import where

PROMPTS = ("So today, I just feel like", "The best way to learn a language is")
SENTENCES = "You like this house. Two dogs are running.\nThe weather is nice today."


@pytest.fixture(scope="module")
def both() -> tuple[ModelManager, ModelManager]:
    """In 16 bits on the device, and in float32 on the CPU."""
    settings = replace(parse([], os.environ), checkpoints="starter", keep_alive=-1)
    return where.manager(settings, half=True), app.create_manager(settings, HubStatus(), cpu)


def last(steps: Any) -> Any:
    return list(steps)[-1] if isinstance(steps, Iterator) else steps


def alike(results: list[Any]) -> None:
    """The first is in 16 bits, which were enough, the other in float32."""
    half, full = (result.status for result in results)
    assert half.dtype in ("float16", "bfloat16") and full.dtype == "float32"
    assert LOADED_IN_FULL not in half.remarks


def same_labels(rows: list[tuple[tuple[str, float], ...]], within: float = 0.02) -> None:
    half, full = rows
    assert all(math.isfinite(share) for _, share in half)
    assert half[0][0] == full[0][0]
    assert dict(half) == pytest.approx(dict(full), abs=within)


def test_sentiment(both):
    text = "\n".join((*sentiment.EXAMPLES, "It is a film about a farm.", "Never again!"))
    results = [sentiment.run(text, "auto", models) for models in both]
    alike(results)
    for half, full in zip(results[0].rows, results[1].rows, strict=True):
        same_labels([half.scores, full.scores])


def test_zero_shot(both):
    labels = "education, politics, business"
    results = [zero_shot.run(PROMPTS[1], labels, False, zero_shot.TEMPLATE, "auto", one) for one in both]
    alike(results)
    same_labels([result.scores for result in results])


@pytest.mark.on_accelerator
def test_image(both):
    for name in image.EXAMPLES:
        results = [image.run(gr.media.get_image(name), 5, "auto", models) for models in both]
        alike(results)
        assert results[0].scores[0][0] == results[1].scores[0][0]


@pytest.mark.on_accelerator
def test_generation(both):
    for prompt in PROMPTS:
        request = generation.Request(prompt, 24, 1, Sampling(), "completion")
        results = [last(generation.run(request, "auto", models)) for models in both]
        alike(results)
        assert results[0].sequences == results[1].sequences
        assert all(math.isfinite(token.probability) for token in results[0].ran.written[0].tokens)


@pytest.mark.on_accelerator
def test_translation(both):
    results = [translation.run(SENTENCES, "auto", models) for models in both]
    alike(results)
    assert results[0].text == results[1].text


@pytest.mark.on_accelerator
def test_speech(both):
    clip = str(speech.CLIP)
    results = [last(speech.run(clip, "segment", None, "transcribe", "auto", models)) for models in both]
    alike(results)
    assert results[0].text == results[1].text
