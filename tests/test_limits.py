"""The bytes that a pass reads, counted by hand on tiny models, and the sentences made of them."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from benchmarks import limits, speed
from tests import tiny


def numbers(model: Any, *without: str) -> int:
    named = dict(model.named_parameters())
    return sum(weight.numel() for weight in named.values()) - sum(named[name].numel() for name in without)


def test_embeddings_are_read_in_rows_unless_they_are_the_output_layer_too():
    llama = AutoModelForCausalLM.from_pretrained(tiny.llama())
    assert limits.weights_read(llama) == 4 * numbers(llama, "model.embed_tokens.weight")
    tied = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=True,
        )
    )
    assert limits.weights_read(tied) == 4 * numbers(tied)
    assert limits.weights_read(tied.bfloat16()) == 2 * numbers(tied)
    bert = AutoModelForSequenceClassification.from_pretrained(tiny.distilbert())
    embeddings = [f"distilbert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position")]
    assert limits.weights_read(bert) == 4 * numbers(bert, *embeddings)
    masked = AutoModelForMaskedLM.from_pretrained(tiny.masked_distilbert())
    assert limits.weights_read(masked) == 4 * numbers(masked, embeddings[1])


def test_eight_bits_are_counted_as_the_app_keeps_them():
    model = AutoModelForCausalLM.from_pretrained(tiny.llama())
    linear = sum(
        layer.weight.numel() for layer in model.get_decoder().modules() if isinstance(layer, torch.nn.Linear)
    )
    outputs = sum(
        layer.out_features for layer in model.get_decoder().modules() if isinstance(layer, torch.nn.Linear)
    )
    before = limits.weights_read(model)
    assert limits.weights_read(model, "int8") == before - 3 * linear + 2 * outputs


def test_a_device_reads_at_some_rate(monkeypatch):
    monkeypatch.setattr(limits, "SIZE", 1 << 20)
    assert limits.read_rate.__wrapped__() > 1e6


def test_a_limit_is_bytes_over_rate():
    told = {"weights_read": 540e6, "read_rate": 12e9}
    asked: list[Any] = []

    def alone(measure: str, tab: str, **values: Any) -> Any:
        asked.append((measure, tab, values))
        return SimpleNamespace(answers=[SimpleNamespace(data=told[measure])])

    stage: Any = SimpleNamespace(alone=alone)
    assert limits.tokens(stage) == "limit 22.2 tokens/s (540 MB of weights at 12 GB/s)"
    assert limits.tokens(stage, 8, quantize="int8") == "limit 178 tokens/s (540 MB of weights at 12 GB/s)"
    assert limits.one_pass(stage, "sentiment", "Kind") == "limit 45 ms (540 MB of weights at 12 GB/s)"
    sizes = [values for measure, _, values in asked if measure == "weights_read"]
    assert [one["quantize"] for one in sizes] == ["none", "int8", "none"]
    assert sizes[2]["kind"] == "Kind"


@pytest.mark.on_cpu
def test_a_device_that_is_not_there_is_not_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert speed.arguments([str(tmp_path), "--device", "cpu"]).device == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(SystemExit):
        speed.arguments([str(tmp_path), "--device", "mps"])
    assert "would run on cpu here, not on mps" in capsys.readouterr().err
