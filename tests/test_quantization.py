"""Decoders in 8 bits beside the same in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from components.models.quantization import _int4_linear, _int8_linear, bytes_of, quantize_decoder
from tests import tiny

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SEQ2SEQ: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 96,
    "vocab_size": 90,
    "pad_token_id": 1,
    "decoder_start_token_id": 1,
    "eos_token_id": 0,
}


def causal(kind: str = "Llama", **settings: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{"vocab_size": 90, **settings})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def llama(**settings: Any) -> Any:
    return causal("Llama", **SIZES, num_key_value_heads=1, **settings)


def marian() -> Any:
    import torch
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    return MarianMTModel(MarianConfig(**SEQ2SEQ)).eval()


def whisper() -> Any:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    return WhisperForConditionalGeneration(WhisperConfig(**SEQ2SEQ, max_source_positions=20)).eval()


def linear_layers(module: Any) -> int:
    import torch

    return sum(isinstance(layer, torch.nn.Linear) for layer in module.modules())


def outputs(model: Any) -> Any:
    """Logits for some input of the kind that the model takes."""
    import torch

    torch.manual_seed(1)
    ids = torch.randint(2, 90, (3, 9))
    given = {"input_ids": ids}
    if model.config.model_type == "marian":
        given["decoder_input_ids"] = ids[:, :5]
    if model.config.model_type == "whisper":
        given = {"input_features": torch.randn(3, 80, 40), "decoder_input_ids": ids[:, :5]}
    with torch.inference_mode():
        return model(**given).logits


@pytest.mark.parametrize(("kind", "close"), [("int8", 0.02), ("int4", 0.2)])
@pytest.mark.parametrize("build", [llama, marian, whisper])
def test_logits_stay_close_and_only_the_decoder_changes(build, kind, close):
    import torch

    model = build()
    before, other = outputs(model), copy.deepcopy(model)
    assert quantize_decoder(model, kind) is True
    assert linear_layers(model.get_decoder()) == 0
    after = outputs(model)
    assert after.dtype == torch.float32
    assert not torch.equal(after, before)
    assert float((after - before).norm() / before.norm()) < close
    for name, weight in model.named_parameters():
        assert torch.equal(weight, other.get_parameter(name)), name
    if model.config.is_encoder_decoder:
        assert linear_layers(model.get_encoder()) == linear_layers(other.get_encoder()) > 0


def test_every_weight_is_within_half_a_step():
    import torch

    model = llama()
    weight = model.model.layers[0].mlp.down_proj.weight.detach().clone()
    quantize_decoder(model)
    layer = model.model.layers[0].mlp.down_proj
    assert layer.weight.dtype == torch.int8
    scale = layer.scale.float()[:, None]
    # The largest of a row may lie a little beyond the last step, since scales are rounded to bfloat16.
    assert float(((layer.weight * scale - weight).abs() / scale).max()) < 0.5 + 127 * 2**-8
    assert int(layer.weight.abs().max()) == 127


def test_a_row_of_zeros_stays_zero():
    import torch

    model = llama()
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
    quantize_decoder(model)
    assert bool((model.model.layers[0].self_attn.o_proj(torch.randn(2, 64)) == 0).all())


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 33])
def test_a_row_does_not_depend_on_the_rows_beside_it(rows):
    import torch

    model = llama()
    quantize_decoder(model)
    layer, x = model.model.layers[0].mlp.up_proj, torch.randn(rows, 1, 64)
    x[-1] *= 1000
    together = layer(x)
    assert together.shape == (rows, 1, 96)
    for row in range(rows):
        assert torch.equal(layer(x[row : row + 1]), together[row : row + 1])


def test_the_bias_is_added():
    import torch

    model = marian()
    layer = model.get_decoder().layers[0].fc1
    with torch.no_grad():
        layer.bias.copy_(torch.arange(96.0))
    quantize_decoder(model)
    zeros = torch.zeros(2, 3, 64)
    assert torch.equal(model.get_decoder().layers[0].fc1(zeros)[1, 2], torch.arange(96.0))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_mamba_reads_weights_by_itself_and_hands_over_what_lies_across(kind):
    import torch

    model = causal("Mamba", hidden_size=64, num_hidden_layers=2)
    before = outputs(model)
    assert quantize_decoder(model, kind) is True
    mixer = model.backbone.layers[0].mixer
    assert isinstance(mixer.dt_proj, torch.nn.Linear) and not isinstance(mixer.in_proj, torch.nn.Linear)
    assert float((outputs(model) - before).norm() / before.norm()) < 0.2


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_output_layer_stay_in_float(tied):
    import torch

    model = llama(tie_word_embeddings=tied)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    quantize_decoder(model)
    assert model.get_input_embeddings().weight is embedding
    assert model.get_output_embeddings().weight is head
    assert (head is embedding) is tied
    assert embedding.dtype == torch.float32


def test_bytes():
    model = llama()
    plain = bytes_of(model)
    assert plain == sum(weight.numel() * 4 for weight in model.parameters())
    layers = [layer for layer in model.model.modules() if hasattr(layer, "in_features")]
    quantize_decoder(model)
    saved = sum(layer.weight.numel() * 3 - layer.out_features * 2 for layer in layers)
    assert bytes_of(model) == plain - saved
    assert len(layers) == 14


def test_generate_and_the_cache_work():
    import torch

    model, ids = llama(), torch.randint(2, 90, (1, 5))
    quantize_decoder(model)
    text = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    with torch.inference_mode():
        again = model(text[:, :-1]).logits[0, 4:].argmax(-1)
    assert text[0, 5:].tolist() == again.tolist()


def test_a_checkpoint_of_the_app_can_be_quantized():
    from tests.test_decoding import RECIPE

    model = tiny.loaded(tiny.llama(), RECIPE).model
    size = bytes_of(model)
    assert quantize_decoder(model) is True
    assert bytes_of(model) < size


@pytest.mark.parametrize("shape", [(48, 64), (16, 32)])
def test_weights_of_four_bits_stay_what_they_were(shape):
    """As llama.cpp's Q4_1 has them: a step and a least one, in half precision, for each 32 inputs."""
    import torch

    torch.manual_seed(0)
    steps = torch.randint(0, 16, (shape[0], shape[1] // 32, 32))
    steps[..., :2] = torch.tensor([0, 15])  # the least and the largest of a block are always there
    step, least = torch.rand(2, shape[0], shape[1] // 32, 1).half().float()
    stored = (steps * step * 0.01 - least * 0.1).view(shape).half().float()
    layer = torch.nn.Linear(shape[1], shape[0])
    with torch.no_grad():
        layer.weight.copy_(stored)
    small = _int4_linear()(layer)
    weights = (small(torch.eye(shape[1])) - small(torch.zeros(1, shape[1]))).T
    error = (weights - stored).view(steps.shape).abs()
    # The kernel's scales and sums are in bfloat16; of a step that is little, and no weight is another one.
    largest = stored.view(steps.shape).abs().amax(-1, keepdim=True)
    assert bool((error <= largest * 2**-6).all())
    assert small.weight.dtype == torch.uint8 and small.weight.numel() * 2 == stored.numel()
    assert torch.equal(small(torch.zeros(3, shape[1])), layer.bias.detach().expand(3, -1))


def test_a_text_in_four_bits_does_not_depend_on_who_shares_the_batch():
    import torch

    torch.manual_seed(0)
    small = _int4_linear()(torch.nn.Linear(64, 32))
    rows = torch.randn(9, 64)
    together = small(rows)
    alone = torch.cat([small(row[None]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0.02, atol=0.02)


# Where it does not apply


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        # Its layers are of another class; the output layer is linear, and stays.
        ("GPT2", {"n_embd": 64, "n_layer": 1, "n_head": 2}),
        # PyTorch's kernel would read beyond the end of its rows.
        ("Llama", {**SIZES, "hidden_size": 40, "intermediate_size": 40}),
    ],
)
def test_what_cannot_be_quantized_is_left_alone(kind, settings):
    import torch

    model = causal(kind, **settings)
    before, size, names = outputs(model), bytes_of(model), str(model)
    assert quantize_decoder(model) is False
    assert torch.equal(outputs(model), before)
    assert (bytes_of(model), str(model)) == (size, names)


def test_on_another_device_it_is_left_alone():
    import torch

    with torch.device("meta"):
        model = llama()
    names = str(model)
    assert quantize_decoder(model) is False
    assert str(model) == names


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_step_of_few_rows_is_computed_as_any_other(kind, bias):
    import torch

    torch.manual_seed(0)
    layer = {"int8": _int8_linear, "int4": _int4_linear}[kind]()(torch.nn.Linear(64, 48, bias=bias))
    x = torch.randn(3, 64)
    with torch.inference_mode():
        few = layer.few(x)
        assert few.dtype == (torch.float32 if bias else torch.bfloat16)
        assert torch.equal(few.float(), layer(x))
        assert torch.equal(x[:, :48] + few, x[:, :48] + layer(x))
