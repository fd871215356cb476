"""Inside: what do the tokenizer, the model, its head and the postprocessing do to this very input?

The four stations of chapter 2 of the Hugging Face LLM course, as records that a page can show.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components.compute.tokenization import special_ids
from components.models.matrices import packed_numbers

if TYPE_CHECKING:
    import torch

    from components.models.manager import Loaded


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
    of an encoder-decoder those of the encoder, and decoder_layers, decoder_heads besides; of a convolutional
    one its convolutions. parameters: how many numbers were learnt.
    """

    name: str
    family: str
    layers: int | None
    heads: int | None
    hidden: int | None
    parameters: int
    dtype: str
    decoder_layers: int | None = None
    decoder_heads: int | None = None


def tokens_of(
    inputs: Mapping[str, torch.Tensor], tokenizer: Any, cut: Sequence[str] = ()
) -> tuple[Tokens, ...]:
    """input_ids and attention_mask `[batch, sequence]` as tokens, padding included.

    cut: for each input the text that was cut off, where any was.
    """
    special = special_ids(tokenizer)
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


def cut_end(text: str, loaded: Loaded, limit: int, kept: str, pair: str | None = None) -> str:
    """The end of a text that does not fit into `limit` tokens, with `pair` as its second sequence.

    kept: what was read of it, by which it is found where the tokenizer tells no places.
    """
    tokenizer = loaded.processor
    if not tokenizer.is_fast:
        return _after(text, sum(not letter.isspace() for letter in kept))
    with loaded.lock:
        encoding = tokenizer(
            text,
            pair,
            truncation="only_first",
            max_length=limit,
            return_offsets_mapping=True,
        )
    places = zip(encoding["offset_mapping"], encoding.sequence_ids(), strict=True)
    return text[max((end for (_, end), sequence in places if sequence == 0), default=0) :]


def _after(text: str, letters: int) -> str:
    """What follows after so many letters, white space not counted: decoding may change that."""
    places = [i for i, letter in enumerate(text) if not letter.isspace()]
    return text[places[letters - 1] + 1 :] if 0 < letters <= len(places) else text if not letters else ""


def algorithm(tokenizer: Any) -> str:
    """How a tokenizer splits words: "WordPiece", "byte-level BPE", "BPE", "SentencePiece BPE", "Unigram",
    "SentencePiece Unigram", "SentencePiece", "whole words". Of Marian's two it is the source's."""
    if (pieces := getattr(tokenizer, "spm_source", None)) is not None:
        return f"SentencePiece {_trained_by(pieces)}"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "SentencePiece"
    built = json.loads(backend.to_str())
    kind = built["model"].get("type", "BPE")
    # The bytes of a text are its alphabet, or what stands in for unknown characters.
    if kind == "BPE" and "ByteLevel" in json.dumps([built["pre_tokenizer"], built["decoder"]]):
        return "byte-level BPE"
    if kind == "BPE" and built["model"].get("byte_fallback"):
        return "SentencePiece BPE"
    return {"WordLevel": "whole words"}.get(kind, kind)


def _trained_by(pieces: Any) -> str:
    """Which algorithm made a SentencePiece model: the scores of its pieces tell.

    BPE numbers them by the order of merges, 0, -1, -2 and so on; Unigram has log-probabilities (Kudo and
    Richardson 2018).
    """
    scores = [
        pieces.get_score(i)
        for i in range(pieces.get_piece_size())
        if not (pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i) or pieces.is_unused(i))
    ]
    return "BPE" if all(map(float.is_integer, scores)) else "Unigram"


def architecture(loaded: Loaded) -> Architecture:
    """From the checkpoint's configuration and its weights."""
    import torch

    model, config, family = loaded.model, loaded.model.config, _family(loaded.model)
    text = config.get_text_config(encoder=True) if config.is_encoder_decoder else config.get_text_config()
    layers, heads, hidden = (
        _number(text, "encoder_layers", "num_hidden_layers", "n_layer", "num_layers"),
        _number(text, "encoder_attention_heads", "num_attention_heads", "n_head", "num_heads"),
        _number(text, "d_model", "hidden_size", "n_embd", "dim"),
    )
    decoder_layers = decoder_heads = None
    if family == "encoder-decoder":
        decoder_layers = _number(config, "decoder_layers", "num_decoder_layers") or layers
        decoder_heads = _number(config, "decoder_attention_heads") or heads
    if family == "convolutional":
        convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
        layers, heads, hidden = len(convolutions), None, None
    # Weights in 8 bits are kept as buffers, those in 4 two in a byte, packed ones in neither way.
    numbers = {torch.int8: 1, torch.uint8: 2}
    small = sum(tensor.numel() * numbers.get(tensor.dtype, 0) for tensor in model.buffers())
    small += packed_numbers(model, tied=False)
    return Architecture(
        name=type(model).__name__,
        family=family,
        layers=layers,
        heads=heads,
        hidden=hidden,
        parameters=sum(parameter.numel() for parameter in model.parameters()) + small,
        dtype=loaded.precision,
        decoder_layers=decoder_layers,
        decoder_heads=decoder_heads,
    )


def _number(config: Any, *names: str) -> int | None:
    """The first of these that the configuration has."""
    found = (getattr(config, name, None) for name in names)
    return next((one for one in found if isinstance(one, int)), None)


def _family(model: Any) -> str:
    import torch

    if model.config.is_encoder_decoder:
        return "encoder-decoder"
    if is_causal(model):
        return "decoder"
    layers = list(model.modules())
    attends = any("Attention" in type(layer).__name__ for layer in layers)
    convolves = any(isinstance(layer, torch.nn.Conv2d) for layer in layers)
    return "encoder" if attends or not convolves else "convolutional"


def is_causal(model: Any) -> bool:
    """Whether its tokens look only at those before them, whatever head it has."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    config = model.config.get_text_config()
    # BERT and its kin can be made either way, and say which.
    either = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and (
        not either or bool(getattr(config, "is_decoder", False))
    )


def last_hidden(output: Any, *names: str) -> tuple[tuple[str, tuple[Axis, ...]], ...]:
    """The shape of the last hidden states in a model's output, computed with `output_hidden_states`.

    Of an encoder-decoder for each of "encoder" and "decoder"; else the part has no name, "".
    """
    if output.get("hidden_states") is not None:
        return (("", axes(output.hidden_states[-1], *names)),)
    parts = [("encoder", output.encoder_last_hidden_state), ("decoder", output.decoder_hidden_states[-1])]
    return tuple((part, axes(hidden, *names)) for part, hidden in parts)


def softmax_steps(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """e to the power of each logit less the highest of its row, and each divided by the row's sum."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers, powers / powers.sum(-1, keepdims=True)


def axes(tensor: torch.Tensor, *names: str) -> tuple[Axis, ...]:
    """The shape of a tensor with a name for each axis. Raises ValueError if they do not match."""
    return tuple(Axis(name, size) for name, size in zip(names, tensor.shape, strict=True))
