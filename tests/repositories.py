"""Repositories: folders in just the form that the hub has them in, with random weights.

    make(facts()["openai/whisper-base"], folder)              # of the true size
    make(facts()["openai/whisper-base"], folder, small=True)  # of some hundred kilobytes

What is known of the form of each is in repositories.toml. Weights are random and vocabularies learnt here,
see vocabularies.py; formats that nothing here can write, and files that nobody reads, are zeros of the
stated length, which take no room on the disk.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from components.weights.checkpoints import ROOT
from tests import vocabularies

FACTS = Path(__file__).with_suffix(".toml")
UNITS = {"Bytes": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
LARGE = 60_000  # bytes of a small repository's file that is large in the true one
LABELS = ROOT / "checkpoints" / "imagenet-labels.txt"
WIDE = 0.4  # standard deviation of the weights of small models, so that different inputs differ
TASTE_FOR_ENDING = 4.6  # a translation is then about 5 tokens of a small model, 17 of a true one
# What a configuration is cut down to, by the names that architectures have for these sizes.
SIZES = {
    32: ("hidden_size", "d_model", "dim", "n_embd", "pooler_hidden_size"),
    64: ("intermediate_size", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
    2: ("num_hidden_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers"),
    4: ("num_attention_heads", "n_heads", "n_head", "encoder_attention_heads", "decoder_attention_heads"),
}
SHRUNK = {name: size for size, names in SIZES.items() for name in names} | {
    "num_key_value_heads": 2,
    "hidden_sizes": [8, 16, 16, 32],
    "embedding_size": 8,
    "depths": [1, 1, 1, 1],
    "initializer_range": WIDE,
    "init_std": WIDE,
}


@dataclass(frozen=True)
class Facts:
    """What is known of a repository. files: bytes of each, as rounded on the hub's page, None if not seen.

    model: name of the class whose weights the file holds; extra: further tensors in it, and their shapes;
    content: the text of files; old_norms: layer norms are called gamma and beta; unseen: what of all this was
    taken from elsewhere.
    """

    name: str
    commit: str
    files: dict[str, int | None]
    dtype: str
    model: str
    config: dict[str, Any]
    extra: dict[str, list[int]]
    content: dict[str, str]
    old_norms: bool
    conversion: dict[str, Any] | None
    unseen: str

    @property
    def weights(self) -> str:
        """The file that the app should take: safetensors where there are any."""
        return SAFETENSORS if SAFETENSORS in self.files else PICKLE

    @property
    def is_converted(self) -> bool:
        """Whether the hub's bot offers safetensors of this very commit."""
        return self.conversion is not None and self.conversion["base"] is True


@cache
def facts() -> dict[str, Facts]:
    """By the names of the repositories."""
    told = tomllib.loads(FACTS.read_text(encoding="utf-8"))
    return {name: _facts(name, table) for name, table in told.items()}


def _facts(name: str, table: dict[str, Any]) -> Facts:
    files = {}
    for line in table["files"].strip().splitlines():
        size, path = re.fullmatch(r"(\?|[\d.]+ \w+) (.+)", line).groups()  # type: ignore[union-attr]
        number, _, unit = size.partition(" ")
        files[path] = None if size == "?" else round(float(number) * UNITS[unit])
    return Facts(
        name,
        table["commit"],
        files,
        table["dtype"],
        table.get("model", table["config"]["architectures"][0]),
        table["config"],
        table.get("extra", {}),
        table.get("content", {}),
        "layer_norms" in table,
        table.get("conversion"),
        table.get("unseen", ""),
    )


def ending(path: str) -> str:
    """The format of a file, by the end of its name: ".safetensors", ".bin" and so on."""
    return Path(path).suffix or Path(path).name


def configuration(known: Facts, small: bool = False) -> dict[str, Any]:
    """The content of config.json; `small`: cut down to a few thousand parameters."""
    config = dict(known.config)
    if config["model_type"] in ("vit", "resnet", "convnext"):
        names = LABELS.read_text(encoding="utf-8").splitlines()[: 10 if small else None]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    if small:
        config |= {name: size for name, size in SHRUNK.items() if name in config or size == WIDE}
    return config


def make(known: Facts, folder: Path, small: bool = False, shards: int = 1, converted: bool = False) -> None:
    """Write a repository into an empty folder.

    shards: in how many files its weights are; converted: with what the hub's bot adds to it, the same weights
    as safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = configuration(known, small)
    tokenizer = None
    if "vocab_size" in config:
        size = None if small else config["vocab_size"]
        tokenizer, count = vocabularies.write(config["model_type"], known.name, size, folder)
        config["vocab_size"] = size or count
    config |= _tokens(config, tokenizer)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name, text in _settings(known, config, tokenizer).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for path in [path for path in folder.iterdir() if path.is_file() and path.name not in known.files]:
        path.unlink()
    _write_weights(known, folder, small, shards, SAFETENSORS if converted else known.weights)
    for name, length in known.files.items():
        if shards == 1 or name != known.weights:
            _fill(folder / name, length, small)


def _tokens(config: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The settings of a configuration that are tokens, where the vocabulary is another than the true one."""
    if tokenizer is None:
        return {}
    kind = config["model_type"]
    if kind == "marian":
        last = config["vocab_size"] - 1
        return {
            "bad_words_ids": [[last]],
            "decoder_start_token_id": last,
            "decoder_vocab_size": last + 1,
            "pad_token_id": last,
        }
    if kind == "whisper":
        end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
        stamps = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
        return {
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "decoder_start_token_id": start,
            "begin_suppress_tokens": [end],
            "forced_decoder_ids": [[1, stamps]],
        }
    ends: dict[str, Any] = {
        key: tokenizer.convert_tokens_to_ids(getattr(tokenizer, key.removesuffix("_id")))
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if key in config and getattr(tokenizer, key.removesuffix("_id"), None)
    }
    if kind == "qwen2":
        ends["bos_token_id"] = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return ends


def _settings(known: Facts, config: dict[str, Any], tokenizer: Any) -> dict[str, str]:
    """Further small files: those whose text is known, and what the model needs to run."""
    from transformers import WhisperFeatureExtractor

    texts, kind = dict(known.content), config["model_type"]
    if kind == "marian":
        true, here = known.config["vocab_size"] - 1, config["vocab_size"] - 1
        texts["generation_config.json"] = texts["generation_config.json"].replace(str(true), str(here))
    if kind == "whisper":
        extractor = WhisperFeatureExtractor(feature_size=config["num_mel_bins"])
        # Old repositories have the filters in this file, turned round.
        filters = {"mel_filters": extractor.mel_filters.T.tolist(), "return_attention_mask": False}
        texts["preprocessor_config.json"] = json.dumps(extractor.to_dict() | filters, indent=2)
        texts["generation_config.json"] = json.dumps(_whisper_generation(known, config, tokenizer), indent=2)
        texts["normalizer.json"] = json.dumps({"colour": "color", "grey": "gray"}, indent=2)
    if kind in ("llama", "qwen2"):
        settings: dict[str, Any] = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
        if (
            kind == "qwen2"
        ):  # two tokens may end its text, and it is sampled unless one asks for something else
            settings["eos_token_id"] = [config["eos_token_id"], config["bos_token_id"]]
            settings |= {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
        texts["generation_config.json"] = json.dumps(settings, indent=2)
    if kind == "mpnet":
        modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
        texts["1_Pooling/config.json"] = json.dumps(
            modes | {"word_embedding_dimension": config["hidden_size"]}
        )
        parts = ("Transformer", "Pooling", "Normalize")
        modules = [
            {
                "idx": i,
                "name": str(i),
                "path": f"{i}_{part}" * bool(i),
                "type": f"sentence_transformers.models.{part}",
            }
            for i, part in enumerate(parts)
        ]
        texts["modules.json"] = json.dumps(modules, indent=2)
    return texts


def _whisper_generation(known: Facts, config: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    def number(name: str) -> int:
        return tokenizer.convert_tokens_to_ids(f"<|{name}|>")

    layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
    settings: dict[str, Any] = {
        "alignment_heads": [[layer, 0] for layer in range(layers // 2, layers)] + [[layers - 1, heads - 1]],
        "begin_suppress_tokens": config["begin_suppress_tokens"],
        "is_multilingual": not known.name.endswith(".en"),
        "max_initial_timestamp_index": 50,
        "max_length": config["max_length"],
        "no_timestamps_token_id": number("notimestamps"),
        "prev_sot_token_id": number("startofprev"),
        "return_timestamps": False,
        "suppress_tokens": [number("startofprev"), number("nospeech")],
    }
    settings |= {key: config[key] for key in config if key.endswith("_token_id")}
    if settings["is_multilingual"]:
        settings["lang_to_id"] = {f"<|{code}|>": number(code) for code in tuple(LANGUAGES)[:99]}
        settings["task_to_id"] = {task: number(task) for task in ("translate", "transcribe")}
    return settings


def _write_weights(known: Facts, folder: Path, small: bool, shards: int, file: str) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(20)
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, known.model)(config).to(getattr(torch, known.dtype))
    _let_end(model)
    tensors = _tensors(known, model, folder, small, tied=file == PICKLE)
    del model
    parts = _parted(tensors, shards)
    stem, _, suffix = file.rpartition(".")
    names = [f"{stem}-{i + 1:05}-of-{len(parts):05}.{suffix}" for i in range(len(parts))]
    if shards == 1:
        names = [file]
    else:
        places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
        index = {"metadata": {}, "weight_map": places}
        (folder / f"{file}.index.json").write_text(json.dumps(index))
    for name, part in zip(names, parts, strict=True):
        if suffix == "safetensors":
            save_file(part, folder / name, metadata={"format": "pt"})
        else:
            torch.save(part, folder / name)


def _let_end(model: Any) -> None:
    """Raise the logit of the token that ends a text: random weights never would."""
    end = getattr(model.config, "eos_token_id", None)
    if model.config.model_type == "marian":
        model.final_logits_bias[0, end] = TASTE_FOR_ENDING
    if model.config.model_type == "whisper":
        # It stands for padding as well, whose row is zeros at first.
        row = model.get_output_embeddings().weight.data[end].normal_(0, model.config.init_std)
        model.model.decoder.layer_norm.bias.data += TASTE_FOR_ENDING * row / (row @ row)


def _tensors(known: Facts, model: Any, folder: Path, small: bool, tied: bool) -> dict[str, Any]:
    """Its weights by the names that files have for them; tied: those that share numbers under all names."""
    import torch
    from safetensors.torch import load_file

    saved = folder / "saved"
    model.save_pretrained(saved, max_shard_size="100GB")
    tensors = load_file(saved / SAFETENSORS)
    shutil.rmtree(saved)
    if tied and tensors.keys() <= model.state_dict().keys():
        tensors = dict(model.state_dict())  # these share their numbers
    if known.old_norms:
        tensors = {_old(name): tensor for name, tensor in tensors.items()}
    for name, shape in known.extra.items():
        if small:
            shape = [model.config.hidden_size if size == 768 else min(size, 64) for size in shape]
        if name.endswith("position_ids"):
            tensors[name] = torch.arange(shape[-1]).expand(shape).contiguous()
        else:
            tensors[name] = torch.zeros(shape, dtype=getattr(torch, known.dtype))
    return tensors


def _old(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def _parted(tensors: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    names = list(tensors)
    return [{name: tensors[name] for name in names[i::parts]} for i in range(parts)]


def _fill(path: Path, length: int | None, small: bool) -> None:
    """A file that nothing here writes: of its length, JSON where it has to be."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    length = 1000 if length is None else length
    if small:
        length = min(length, LARGE)
    if path.suffix == ".json":
        path.write_text(json.dumps({"": "x" * max(0, length - 8)}))
    else:
        with path.open("wb") as file:
            file.truncate(length)
