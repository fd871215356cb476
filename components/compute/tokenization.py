"""Tokenization: which tokens does a text become, what of it was cut or is unknown, what does a batch cost?"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.compute.batching import Cost
from components.models.manager import Loaded

if TYPE_CHECKING:
    import torch

Encoding = dict[str, list[int]]  # what a tokenizer makes of one text: input_ids, attention_mask, ...
KNOWN_SCRIPTS = ("LATIN", "FULLWIDTH", "MODIFIER", "FEMININE", "MASCULINE")
WIDE = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")  # scripts in which a sign may well be a token
LEAST_WIDE = 2000  # pieces of a vocabulary made for these; an English one has some
FIRST = 2000  # characters that tell the script
UNSURE = "the answer says little about the text."
GUESSED = "what the model writes is little more than a guess."


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of tokens that stand for no part of a text; the one for unknown words does."""
    # Some tokenizers have one token for unknown words and for the end.
    names = ("bos_token", "eos_token", "sep_token", "cls_token", "pad_token", "mask_token")
    others = {getattr(tokenizer, name, None) for name in names}
    unknown = {tokenizer.unk_token_id} if tokenizer.unk_token not in others else set()
    return set(tokenizer.all_special_ids) - unknown


def longest_input(loaded: Loaded) -> int:
    """Tokens that the model takes, special tokens included."""
    config = loaded.model.config
    positions = getattr(config, "max_position_embeddings", None) or 512
    # RoBERTa and MPNet count positions from its padding token on.
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= config.pad_token_id + 1
    return min(positions, loaded.processor.model_max_length)


def tokenized(texts: list[str], loaded: Loaded, limit: int) -> tuple[list[Encoding], list[str | None]]:
    """Each text as tokens, unpadded, and what was kept of it if it was cut to `limit` tokens, else None."""
    tokenizer = loaded.processor
    kept: list[str | None] = [None] * len(texts)
    with loaded.lock:
        encodings = one_by_one(tokenizer(texts, truncation=False, verbose=False))
        long = [i for i, encoding in enumerate(encodings) if length(encoding) > limit]
        for i in long:
            encodings[i] = dict(tokenizer(texts[i], truncation=True, max_length=limit))
            kept[i] = tokenizer.decode(encodings[i]["input_ids"], skip_special_tokens=True)
    return encodings, kept


def one_by_one(tokens: Mapping[str, list[list[int]]]) -> list[Encoding]:
    """What a tokenizer made of several texts, apart."""
    return [dict(zip(tokens, row, strict=True)) for row in zip(*tokens.values(), strict=True)]


def padded(encodings: Sequence[Encoding], loaded: Loaded) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and what else there is, `[batch, sequence]`, as long as the longest."""
    return dict(loaded.processor.pad(list(encodings), return_tensors="pt"))


def length(encoding: Encoding) -> int:
    """In tokens, special tokens included."""
    return len(encoding["input_ids"])


def pass_cost(loaded: Loaded) -> Cost:
    """What a batch of texts costs a model, in tokens: the padded ones, and what a pass costs besides.

    That is a few dozen on a CPU (measured on MiniLM), and far more where few tokens leave the device idle.
    """
    besides = 32 if loaded.device.type == "cpu" else 4096
    return lambda count, longest: count * longest + besides


def truncation_remarks(kept: list[str | None], limit: int) -> tuple[str, ...]:
    """What to say of the texts that were cut; kept: what was read of each, None for all of it."""
    cut = [text for text in kept if text is not None]
    if not cut:
        return ()
    which = "The text was" if len(kept) == 1 else f"{len(cut)} of {len(kept)} texts were"
    return (f"{which} cut to the {limit} tokens that the model takes. Read up to: “… {cut[0][-80:]}”",)


def unknown_remarks(
    texts: Sequence[str], encodings: Sequence[Encoding], loaded: Loaded
) -> list[tuple[str, ...]]:
    """For each text what to say if the checkpoint's vocabulary hardly has it: then no answer is sure."""
    special = special_ids(loaded.processor)
    said: list[tuple[str, ...]] = []
    for text, encoding in zip(texts, encodings, strict=True):
        why = unknown(text, [one for one in encoding["input_ids"] if one not in special], loaded)
        said.append((f"{why}: {UNSURE}",) if why else ())
    return said


def unknown(text: str, ids: Sequence[int], loaded: Loaded) -> str:
    """Why a checkpoint hardly knows a text, as the beginning of a sentence; "" if it does know it.

    ids: its tokens, without those that the tokenizer puts around it. Either most are unknown, or the text is
    in a script whose words the vocabulary lacks, so that it is spelt in letters or bytes.
    """
    tokens = max(1, len(ids))
    without = list(ids).count(loaded.processor.unk_token_id)
    if without > tokens / 2:
        return f"{without} of {tokens} tokens are unknown to the checkpoint"
    names = [unicodedata.name(mark, "").split()[:1] for mark in text[:FIRST] if mark.isalpha()]
    foreign = [name[0] for name in names if name and name[0] not in KNOWN_SCRIPTS]
    if len(foreign) <= len(names) / 2:
        return ""
    wide = sum(name in WIDE for name in foreign) > len(foreign) / 2
    share = tokens / len(names) if len(text) <= FIRST else 0
    spelt = share > (1.5 if wide else 0.7) or (wide and not loaded.share(_has_wide_words))
    return "The vocabulary has almost no words in this script" if spelt else ""


def unknown_of(texts: Sequence[str], loaded: Loaded) -> list[str]:
    """`unknown` of each text, read by itself."""
    with loaded.lock:
        rows = loaded.processor(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [unknown(text, ids, loaded) for text, ids in zip(texts, rows, strict=True)]


def _has_wide_words(loaded: Loaded) -> bool:
    """Whether a vocabulary was made from Chinese, Japanese or Korean, too: an English one has a few signs."""
    pieces = loaded.processor.get_vocab()
    wide = sum(any(ord(mark) >= 0x1100 and mark.isalpha() for mark in piece) for piece in pieces)
    # Byte-level pieces are none of these; how many there are of a sign tells.
    return wide > LEAST_WIDE or wide == 0
