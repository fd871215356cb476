"""The lean step beside the model's own forward."""

from __future__ import annotations

import copy

import pytest

from components.compute import lean as module
from components.compute.lean import LeanStep, lean
from tests import tiny

SETTINGS = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}


def model_of(kind: str = "Llama", **settings):
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SETTINGS, **settings})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # norms of ones and biases of zeros would hide what is left out
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def stepped(model, ids, mask, positions, cache):
    import torch

    with torch.inference_mode():
        return model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Llama", {}),
        ("Llama", {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True}),
        ("Llama", {"num_key_value_heads": 1, "head_dim": 8, "hidden_act": "gelu"}),
        ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 0.1}),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}}),
        ("Qwen2", {}),
    ],
)
@pytest.mark.parametrize("lengths", [[5], [5, 5, 5], [3, 5, 2]])
def test_logits_and_cache_are_those_of_the_model(kind, settings, lengths):
    import torch

    model = model_of(kind, **settings)
    with torch.inference_mode():
        step = lean(model)
    assert isinstance(step, LeanStep)
    rows, most = len(lengths), max(lengths)
    # Filled up on the left, so that all end at one column.
    mask = (torch.arange(most) >= most - torch.tensor(lengths)[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    ids = torch.randint(0, 48, (rows, most + 3))
    with torch.inference_mode():
        cache = model(input_ids=ids[:, :most], attention_mask=mask, position_ids=positions).past_key_values
    other = copy.deepcopy(cache)
    for column in range(most, most + 3):
        mask = torch.cat((mask, torch.ones(rows, 1, dtype=torch.long)), 1)
        asked = ids[:, column : column + 1], mask if len(set(lengths)) > 1 else None, mask.sum(1)[:, None] - 1
        torch.testing.assert_close(
            stepped(step, *asked, other), stepped(model, *asked, cache), rtol=1e-4, atol=1e-5
        )
    for ours, theirs in zip(other.layers, cache.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-5)


def test_what_is_not_known_here_is_left_to_the_model():
    import torch

    sliding = model_of("Qwen2", use_sliding_window=True, max_window_layers=1, sliding_window=4)
    with torch.inference_mode():
        for model in (sliding, model_of("Qwen3"), model_of().to("meta")):
            assert lean(model) is model


def test_a_step_that_differs_is_not_used(monkeypatch, caplog):
    import torch

    model = model_of()
    own = module._norm
    monkeypatch.setattr(module, "_norm", lambda layer: (*own(layer)[:2], 0.5))
    with torch.inference_mode():
        assert lean(model) is model
    assert "differs from the model's own" in caplog.text


def test_parts_that_are_missing_are_said_and_left_to_the_model(caplog):
    import torch

    model = model_of()
    del model.model.norm
    model.model.last_norm = torch.nn.Identity()
    with torch.inference_mode():
        assert lean(model) is model
    assert "is not used" in caplog.text


def test_who_watches_the_model_sees_each_step():
    import torch

    model = model_of()
    with torch.inference_mode():
        step = lean(model)
        cache = model(input_ids=torch.tensor([[1, 2]])).past_key_values
    calls = tiny.counted(model)
    stepped(step, torch.tensor([[3]]), None, torch.tensor([[2]]), cache)
    assert calls == [1]
    assert lean(model) is model


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantized_layers_are_stepped_as_well(kind, architecture):
    import torch

    from components.models.joined import join
    from components.models.quantization import quantize_decoder

    model = model_of(architecture, hidden_size=96, intermediate_size=160)
    join(model)
    assert quantize_decoder(model, kind)
    with torch.inference_mode():
        step = lean(model)
        assert isinstance(step, LeanStep)
        cache = model(input_ids=torch.tensor([[1, 2]])).past_key_values
    other = copy.deepcopy(cache)
    asked = torch.tensor([[3]]), None, torch.tensor([[2]])
    torch.testing.assert_close(
        stepped(step, *asked, other), stepped(model, *asked, cache), rtol=0.05, atol=0.02
    )
