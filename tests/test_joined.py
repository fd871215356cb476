"""Layers with the same inputs as one product."""

from __future__ import annotations

import copy
import gc
import threading

import pytest

from components.compute.lean import LeanStep, lean
from components.models import matrices
from components.models.eager import eager
from components.models.joined import TOGETHER, join, whole_of
from components.models.matrices import Measured, Way, Ways, packed_numbers, quicken
from components.models.quantization import bytes_of, quantize_decoder
from tests.test_lean import model_of

IDS = [[5, 7, 11, 2, 30], [1, 40, 3, 9, 9]]
SIZES = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "num_key_value_heads": 2}


def logits(model):
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor(IDS)).logits


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Llama", {}),
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Qwen2", {}),
    ],
)
def test_a_model_gives_what_it_gave(kind, settings):
    import torch

    model = model_of(kind, **settings)
    before, size = logits(model), bytes_of(model)
    assert join(model) == 4
    assert join(model) == 0, "already done"
    torch.testing.assert_close(logits(model), before)
    assert bytes_of(model) == size


def test_each_product_is_computed_once():
    import torch

    model = model_of()
    join(model)
    layer = model.model.layers[0]
    wholes = [
        whole_of([layer.get_submodule(f"{name}.{part}") for part in parts])
        for name, parts in TOGETHER.items()
    ]
    calls = []
    for whole in wholes:
        whole.register_forward_hook(lambda layer, given, y: calls.append(tuple(y.shape)))
    model(input_ids=torch.tensor(IDS))
    assert calls == [(2, 5, 24 + 2 * 8), (2, 5, 2 * 40)], "queries, keys and values of two heads; gate and up"


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantized_layers_give_the_same_bits_joined(kind):
    import torch

    model = model_of(**SIZES)
    other = copy.deepcopy(model)
    assert join(other) == 4
    assert quantize_decoder(model, kind) and quantize_decoder(other, kind)
    assert bytes_of(model) == bytes_of(other)
    assert torch.equal(logits(model), logits(other))


@pytest.mark.skipif("not matrices.has_half()", reason="PyTorch has no FBGEMM here")
def test_half_precision_gives_the_same_bits_joined(monkeypatch):
    import torch

    monkeypatch.setattr(matrices, "SMALL", 1)
    model = model_of(**SIZES)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    other, ways = copy.deepcopy(model), Ways(None, lambda weight: Measured(Way(True, ()), True))
    join(other)
    assert quicken(model, ways) == 7 * 2 + 1 and quicken(other, ways) == 4 * 2 + 1
    assert packed_numbers(model) == packed_numbers(other)
    assert torch.equal(logits(model), logits(other))
    with torch.inference_mode():
        assert isinstance(lean(other), LeanStep)


def test_the_lean_step_takes_the_whole():
    import torch

    model = model_of()
    join(model)
    with torch.inference_mode():
        step = lean(model)
    asked = []
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *call: asked.append(call))
    with torch.inference_mode():
        cache = model(input_ids=torch.tensor([[1, 2]])).past_key_values
        asked.clear()
        given = {"input_ids": torch.tensor([[3]]), "position_ids": torch.tensor([[2]])}
        theirs = model(**given, past_key_values=copy.deepcopy(cache)).logits
        assert len(asked) == 1
        torch.testing.assert_close(step(**given, past_key_values=cache).logits, theirs)
    assert len(asked) == 1 and isinstance(step, LeanStep)


def test_layers_that_are_no_whole_are_none():
    model = model_of()
    layer = model.model.layers[0]
    parts = [layer.self_attn.get_submodule(name) for name in TOGETHER["self_attn"]]
    assert whole_of(parts) is None
    join(model)
    q, k, v = (layer.self_attn.get_submodule(name) for name in TOGETHER["self_attn"])
    other = model.model.layers[1].self_attn
    assert whole_of([q, k, v]) is q.whole.layer
    for wrong in ([q, k], [k, q, v], [q, k, other.v_proj], [q, k, layer.self_attn.o_proj]):
        assert whole_of(wrong) is None


def test_what_is_no_plain_layer_or_differs_is_left_alone():
    import torch

    class Own(torch.nn.Linear):
        pass

    model = model_of()
    first, second = model.model.layers
    first.self_attn.v_proj.__class__ = Own
    second.mlp.up_proj.bias = torch.nn.Parameter(torch.zeros(40))
    before = logits(model)
    assert join(model) == 2
    assert type(first.self_attn.q_proj) is type(second.mlp.gate_proj) is torch.nn.Linear
    torch.testing.assert_close(logits(model), before)
    assert join(model_of("Qwen3")) == join(model_of().to("meta")) == 0


def test_outputs_are_kept_for_as_long_as_the_other_parts_may_ask():
    import torch

    model = model_of()
    join(model)
    attention = model.model.layers[0].self_attn
    calls = []
    attention.q_proj.whole.layer.register_forward_hook(lambda *call: calls.append(1))
    kept = attention.q_proj.whole._asked
    for weight in model.parameters():
        weight.requires_grad_(False)  # a graph would hold the inputs
    x = torch.randn(1, 3, 24)
    for part in (attention.q_proj, attention.k_proj, attention.v_proj):
        part(x)
    assert len(calls) == 1 and kept._known is None
    first = attention.k_proj(x)
    assert torch.equal(attention.k_proj(x), first) and len(calls) == 2
    attention.v_proj(x + 1)  # others in between
    assert torch.equal(attention.k_proj(x), first) and len(calls) == 4
    del x
    gc.collect()
    assert kept._known is None, "with the inputs go the outputs"


def test_threads_get_the_outputs_of_their_own_inputs():
    import torch

    model = model_of()
    join(model)
    attention, start, wrong = model.model.layers[0].self_attn, threading.Barrier(4), []
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    inputs = [torch.randn(1, 2, 24) for _ in range(4)]
    with torch.inference_mode():
        rightly = [[part(x) for part in parts] for x in inputs]

    def ask(number: int) -> None:
        start.wait()
        with torch.inference_mode():
            for _ in range(200):
                got = [part(inputs[number]) for part in parts]
                if not all(map(torch.equal, got, rightly[number])):
                    wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_twin_that_shows_attention_shares_the_weights():
    import torch

    model = model_of(attn_implementation="sdpa")
    join(model)
    model.model.layers[0].self_attn.q_proj(torch.randn(1, 2, 24))  # kept for parts that do not come
    twin = eager(model)
    assert twin is not model
    ours, theirs = (one.model.layers[0].self_attn.q_proj.whole for one in (model, twin))
    assert ours is not theirs and ours.layer.weight is theirs.layer.weight
    with torch.inference_mode():
        output = twin(input_ids=torch.tensor(IDS), output_attentions=True)
    assert output.attentions[0].shape == (2, 6, 5, 5)
    torch.testing.assert_close(output.logits, logits(model))


def test_gradients_reach_the_embeddings():
    import torch

    model = model_of()
    gradients = []
    for _ in range(2):
        x = model.model.embed_tokens(torch.tensor(IDS)).detach().requires_grad_()
        model(inputs_embeds=x).logits.sum().backward()
        gradients.append(x.grad)
        join(model)
    torch.testing.assert_close(*gradients)
