"""Inside: what do the tokenizer, the model, its head and the postprocessing do to this very input?

The four stations of chapter 2 of the Hugging Face LLM course, as records that a page can show.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from components.models import Loaded


@dataclass(frozen=True)
class Token:
    """One token of an input. special: added by the tokenizer; attended: its place in the attention mask."""

    text: str
    id: int
    special: bool = False
    attended: bool = True


@dataclass(frozen=True)
class Tokens:
    """One input as the model reads it. cut: the end of the text that no longer fitted."""

    tokens: tuple[Token, ...]
    cut: str = ""


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor: what it counts, and how many there are."""

    name: str
    size: int


@dataclass(frozen=True)
class Architecture:
    """What a model is made of. family: "encoder", "decoder", "encoder-decoder" or "convolutional".

    layers, heads, hidden: None where the architecture has no such thing, or not the same one throughout;
    of an encoder-decoder those of the encoder. parameters: how many numbers were learnt.
    """

    name: str
    family: str
    layers: int | None
    heads: int | None
    hidden: int | None
    parameters: int
    dtype: str


def tokens_of(
    inputs: Mapping[str, torch.Tensor], tokenizer: Any, cut: Sequence[str] = ()
) -> tuple[Tokens, ...]:
    """input_ids and attention_mask `[batch, sequence]` as tokens, padding included.

    cut: for each input the text that was cut off, where any was.
    """
    special = set(tokenizer.all_special_ids)
    rows = []
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        mask = inputs["attention_mask"][row].tolist() if "attention_mask" in inputs else [1] * len(ids)
        texts = tokenizer.convert_ids_to_tokens(ids)
        tokens = tuple(
            Token(text, one, one in special, bool(attended))
            for text, one, attended in zip(texts, ids, mask, strict=True)
        )
        rows.append(Tokens(tokens, cut[row] if row < len(cut) else ""))
    return tuple(rows)


def algorithm(tokenizer: Any) -> str:
    """How a tokenizer splits words: "WordPiece", "byte-level BPE", "BPE", "Unigram", "SentencePiece"."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "SentencePiece"
    built = json.loads(backend.to_str())
    kind = built["model"].get("type", "BPE")
    # The bytes of a text are its alphabet, or what stands in for unknown characters.
    if kind == "BPE" and "ByteLevel" in json.dumps([built["pre_tokenizer"], built["decoder"]]):
        return "byte-level BPE"
    return {"WordLevel": "whole words"}.get(kind, kind)


def architecture(loaded: Loaded) -> Architecture:
    """From the checkpoint's configuration and its weights."""
    model, config = loaded.model, loaded.model.config
    text = config.get_text_config(encoder=True) if config.is_encoder_decoder else config.get_text_config()

    def number(*names: str) -> int | None:
        found = (getattr(text, name, None) for name in names)
        return next((one for one in found if isinstance(one, int)), None)

    return Architecture(
        name=type(model).__name__,
        family=_family(model),
        layers=number("encoder_layers", "num_hidden_layers", "n_layer", "num_layers"),
        heads=number("encoder_attention_heads", "num_attention_heads", "n_head", "num_heads"),
        hidden=number("d_model", "hidden_size", "n_embd", "dim", "hidden_dim"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=loaded.precision,
    )


def _family(model: Any) -> str:
    import torch

    if model.config.is_encoder_decoder:
        return "encoder-decoder"
    if model.can_generate() and type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return "decoder"
    layers = [type(layer) for layer in model.modules()]
    attends = any("Attention" in layer.__name__ for layer in layers)
    return "encoder" if attends or torch.nn.Conv2d not in layers else "convolutional"


def axes(tensor: torch.Tensor, *names: str) -> tuple[Axis, ...]:
    """The shape of a tensor with a name for each axis. Raises ValueError if they do not match."""
    return tuple(Axis(name, size) for name, size in zip(names, tensor.shape, strict=True))
