"""Vocabularies: tokenizers of any size in the files that hub repositories hold, copied from none of them.

Pieces are learnt from the documentation of this project; what is missing to the size wanted is filled up with
tokens that no text leads to. So texts are cut into more tokens than by the real ones, which were learnt
from more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from components.weights.checkpoints import ROOT
from tests import tiny, tiny_whisper

LEARNT = 4000  # pieces, where there is room for as many
SMALL = 400  # pieces of a small checkpoint
FILL = "<|fill-{}|>"
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM = "endoftext im_start im_end repo_name reponame file_sep filename gh_stars issue_start issue_comment"
SMOLLM += " issue_closed jupyter_start jupyter_text jupyter_code jupyter_output jupyter_script empty_output"
QWEN = "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end"
QWEN += " vision_start vision_end vision_pad image_pad video_pad"
ROBERTA = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>"} | {
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
BERT = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}


def write(kind: str, name: str, size: int | None, folder: Path) -> tuple[Any, int]:
    """Write all files that a tokenizer of this architecture may have; the tokenizer and its tokens.

    kind: model_type; name: of the repository, for what differs between those of one kind; size: how many
    rows the embeddings have, None for as few as are needed.
    """
    makers = {
        "distilbert": _bert,
        "bert": _bert,
        "mpnet": _mpnet,
        "roberta": _roberta,
        "bart": _roberta,
        "gpt2": _gpt2,
        "llama": _smollm,
        "qwen2": _qwen,
        "marian": _marian,
        "whisper": _whisper,
        "deberta-v2": _deberta,
        "xlm-roberta": _xlm_roberta,
    }
    tokenizer = makers[kind](name, size, folder)
    if kind != "marian":
        tokenizer.save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text(_config(tokenizer))
        special = {
            key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)
        }
        (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    return tokenizer, len(tokenizer)


def _config(tokenizer: Any) -> str:
    """tokenizer_config.json in the form that most repositories have it in, that of Transformers 4."""
    added = {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    settings = {"added_tokens_decoder": added, "clean_up_tokenization_spaces": False}
    settings |= {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    settings |= {"model_max_length": tokenizer.model_max_length}
    settings |= {"tokenizer_class": type(tokenizer).__name__}
    if tokenizer.chat_template:
        settings["chat_template"] = tokenizer.chat_template
    return json.dumps(settings, indent=2)


@cache
def _text() -> tuple[str, ...]:
    pages = ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))
    return tuple(line for page in pages for line in page.read_text(encoding="utf-8").splitlines())


@cache
def _word_pieces(count: int, lower: bool) -> tuple[str, ...]:
    """Of BERT's kind, every letter among them."""
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=lower)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=count, special_tokens=["[UNK]"], show_progress=False)
    learner.train_from_iterator(_text(), trainer)
    pieces = sorted(learner.get_vocab(), key=learner.get_vocab().__getitem__)[1:]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
    return tuple(dict.fromkeys([*letters, *(f"##{letter}" for letter in letters), *pieces]))


@cache
def _byte_pairs(count: int) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Byte-level tokens and merges."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=count, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(_text(), trainer)
    bpe = json.loads(learner.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    return tuple(tokens), tuple((left, right) for left, right in bpe["merges"])


@cache
def _scored(count: int) -> tuple[tuple[str, float], ...]:
    """Pieces of SentencePiece's kind, each with the logarithm of its probability."""
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=count, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    learner.train_from_iterator(_text(), trainer)
    learnt = json.loads(learner.to_str())["model"]["vocab"]
    return tuple((piece, score) for piece, score in learnt if piece != "<unk>")


def _filled(
    first: Sequence[str], pieces: Sequence[str], last: Sequence[str], size: int | None
) -> dict[str, int]:
    """A vocabulary of this size: the first tokens, the pieces, as many to fill up as it takes, the last."""
    known = dict.fromkeys([*first, *(piece for piece in pieces if piece not in last)])
    missing = 0 if size is None else size - len(known) - len(last)
    if missing < 0:
        raise ValueError(f"{len(known) + len(last)} tokens do not fit into {size}")
    return {token: i for i, token in enumerate((*known, *map(FILL.format, range(missing)), *last))}


def _write_pairs(folder: Path, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_words(folder: Path, vocabulary: dict[str, int]) -> None:
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")


def _bert(name: str, size: int | None, folder: Path) -> Any:
    from transformers import BertTokenizer, DistilBertTokenizer

    lower = not name.endswith("-cased")
    pieces = _word_pieces(SMALL if size is None else LEARNT, lower)
    vocabulary = _filled(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], pieces, [], size)
    _write_words(folder, vocabulary)
    kind = DistilBertTokenizer if "distilbert" in name else BertTokenizer
    return kind(vocabulary, do_lower_case=lower, model_max_length=512)


def _mpnet(name: str, size: int | None, folder: Path) -> Any:
    from transformers import MPNetTokenizer

    pieces = _word_pieces(SMALL if size is None else LEARNT, True)
    vocabulary = _filled(["<s>", "<pad>", "</s>", "<unk>", "[UNK]"], pieces, ["<mask>"], size)
    _write_words(folder, vocabulary)
    return MPNetTokenizer(vocabulary, model_max_length=512)


def _roberta(name: str, size: int | None, folder: Path) -> Any:
    from transformers import BartTokenizer, RobertaTokenizer

    tokens, merges = _byte_pairs(SMALL if size is None else LEARNT)
    vocabulary = _filled(["<s>", "<pad>", "</s>", "<unk>"], tokens, ["<mask>"], size)
    _write_pairs(folder, vocabulary, merges)
    kind = BartTokenizer if "bart" in name else RobertaTokenizer
    return kind(vocabulary, list(merges), model_max_length=512)


def _gpt2(name: str, size: int | None, folder: Path) -> Any:
    from transformers import GPT2Tokenizer

    tokens, merges = _byte_pairs(SMALL if size is None else LEARNT)
    vocabulary = _filled([], tokens, ["<|endoftext|>"], size)
    _write_pairs(folder, vocabulary, merges)
    return GPT2Tokenizer(vocabulary, list(merges), model_max_length=1024)


def _smollm(name: str, size: int | None, folder: Path) -> Any:
    from transformers import GPT2Tokenizer

    special = [f"<|{word}|>" for word in SMOLLM.split()]
    tokens, merges = _byte_pairs(SMALL if size is None else LEARNT)
    vocabulary = _filled(special, tokens, [], size)
    _write_pairs(folder, vocabulary, merges)
    chat = name.endswith("-Instruct")
    ends = {"bos_token": special[1], "eos_token": special[2], "pad_token": special[2]} if chat else {}
    tokenizer = GPT2Tokenizer(vocabulary, list(merges), model_max_length=8192, **ends)
    tokenizer.add_tokens(special, special_tokens=True)
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def _qwen(name: str, size: int | None, folder: Path) -> Any:
    """Its embeddings have rows that no token leads to."""
    from transformers import Qwen2Tokenizer

    special = [f"<|{word}|>" for word in QWEN.split()]
    tokens, merges = _byte_pairs(SMALL if size is None else LEARNT)
    vocabulary = _filled([], tokens, [], size and 151_643)
    _write_pairs(folder, vocabulary, merges)
    tokenizer = Qwen2Tokenizer(vocabulary, list(merges), eos_token=special[2], model_max_length=131_072)
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.chat_template = CHAT
    return tokenizer


def _marian(name: str, size: int | None, folder: Path) -> Any:
    from transformers import MarianTokenizer

    make: Any = MarianTokenizer
    ordinary = tiny.marian()
    for file in ("source.spm", "target.spm"):
        (folder / file).write_bytes((ordinary / file).read_bytes())
    pieces = [piece for piece in json.loads((ordinary / "vocab.json").read_text()) if piece != "<pad>"]
    vocabulary = _filled(pieces, [], ["<pad>"], size)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    return make(*(str(folder / file) for file in ("source.spm", "target.spm", "vocab.json")))


def _whisper(name: str, size: int | None, folder: Path) -> Any:
    """Its tokenizer is that of GPT-2 before the special tokens; those with languages have one token more."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    base = None if size is None else 50_257 - name.endswith(".en")
    tokenizer: Any = tiny_whisper.tokenizer(tuple(LANGUAGES)[:99], base)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    _write_pairs(folder, bpe["vocab"], [tuple(merge) for merge in bpe["merges"]])
    tokenizer.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    added = {token: i for token, i in tokenizer.get_added_vocab().items() if token not in bpe["vocab"]}
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2))
    return tokenizer


def _deberta(name: str, size: int | None, folder: Path) -> Any:
    """Its embeddings have rows that no token leads to."""
    from transformers import DebertaV2Tokenizer

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = _unigrams(special, [], size and 128_000, folder / "spm.model")
    return DebertaV2Tokenizer(vocabulary, unk_id=3, model_max_length=512)


def _xlm_roberta(name: str, size: int | None, folder: Path) -> Any:
    from transformers import XLMRobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = _unigrams(special, ["<mask>"], size, folder / "sentencepiece.bpe.model")
    return XLMRobertaTokenizer(vocabulary, model_max_length=512)


def _unigrams(
    first: Sequence[str], last: Sequence[str], size: int | None, model: Path
) -> list[tuple[str, float]]:
    """A scored vocabulary, and a file of SentencePiece in its place, which has the pieces of tiny.marian."""
    model.write_bytes((tiny.marian() / "source.spm").read_bytes())
    scores = dict(_scored(SMALL if size is None else LEARNT))
    return [
        (token, scores.get(token, 0.0 if token in first else -100.0))
        for token in _filled(first, list(scores), last, size)
    ]
