"""Translation starters: how far does a small Marian encoder-decoder get between English and French?

The architecture is that of the opus-mt checkpoints (Junczys-Dowmunt et al. 2018, Marian), three
layers each side, trained from scratch on sentence pairs. Vocabulary and model are written in the
layout of opus-mt, so that plain `from_pretrained` loads them.

    python -m training.translation --data PATH --out checkpoints/marian-en-fr
    python -m training.translation --data PATH --from fr --out checkpoints/marian-fr-en
"""

import argparse
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu
import sentencepiece
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

from benchmarks.measures import reference_streams
from components.device import best_device
from training.common import read_pairs, train

VOCABULARY = 8000
BATCH_TOKENS = 3000
MAX_TOKENS = 128
USUAL_TOKENS = 32  # 99.5 % of the sentences have no more; longer ones are translated in clauses
PEAK_RATE = 1.2e-3
WARMUP = 300
SMOOTHING = 0.1
GUIDE = (1, 0)  # decoder layer and cross-attention head that learn to align
GUIDE_WEIGHT = 0.05

NAME = re.compile(r"\b[A-Z][a-zé]+\b")
NUMBER = re.compile(r"(?<![\d.,:])\d+(?![\d.,:]*\d)")
VOWELS = "aeiouyàâéèêîôAEIOUYÉÈH"


def train_vocabulary(pairs: list[tuple[str, str]], languages: list[str], out: Path) -> MarianTokenizer:
    """A joint unigram vocabulary (Kudo 2018) in Marian's layout.

    Digits stand alone and unseen characters fall back to bytes, so that numbers and foreign names
    can be copied instead of becoming unknown.
    """
    text = out / "vocabulary.txt"
    text.write_text("\n".join(sentence for pair in pairs for sentence in pair), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(out / "source"),
        vocab_size=VOCABULARY,
        model_type="unigram",
        character_coverage=0.9999,
        byte_fallback=True,
        split_digits=True,
        bos_id=-1,
        eos_id=0,
        unk_id=1,
        pad_id=2,
        minloglevel=2,
    )
    text.unlink()
    (out / "source.vocab").unlink()
    (out / "source.model").rename(out / "source.spm")
    shutil.copy(out / "source.spm", out / "target.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(out / "source.spm"))
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0))
    source, target = languages
    settings = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": source,
        "target_lang": target,
        "model_max_length": USUAL_TOKENS,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    return MarianTokenizer.from_pretrained(out)


class Renamer:
    """Swaps a name or number that stands in both sentences for another, so that copying is learnt.

    Two names make up most of those in the corpus, and numbers are rare in it; without this the model
    knows no others.
    """

    def __init__(self, pairs: list[tuple[str, str]], seed: int) -> None:
        self.random = random.Random(seed)
        self.known = sorted({name for pair in pairs for name in shared(NAME, *pair)})

    def name(self) -> str:
        """One from the corpus, the halves of two of them, or syllables."""
        kind = self.random.random()
        if kind < 0.35:
            return self.random.choice(self.known)
        if kind < 0.7:
            first, second = self.random.choices(self.known, k=2)
            return first[: self.random.randint(2, 4)] + second[len(second) // 2 :].lower()
        length = self.random.choice((1, 2, 2, 3))
        word = "".join(
            self.random.choice("bcdfgjklmnprstvwz") + self.random.choice("aeiouy") for _ in range(length)
        )
        word = word[self.random.random() < 0.3 :]
        return (word + self.random.choice(("", "", "n", "r", "l", "s", "ck", "t", "nd", "rt"))).capitalize()

    def number(self) -> str:
        length = self.random.choice((1, 2, 2, 3, 4, 4, 5))
        return str(self.random.randrange(10 ** (length - 1), 10**length))

    def __call__(self, source: str, target: str) -> tuple[str, str]:
        for word in sorted(shared(NAME, source, target)):
            # "de Tom" must not become "de Anna": a vowel stays a vowel.
            new = self.name()
            if self.random.random() < 0.5 and (new[0] in VOWELS) == (word[0] in VOWELS):
                source, target = swapped(word, new, source, target)
        for word in sorted(shared(NUMBER, source, target)):
            if self.random.random() < 0.8 and word != "1":  # which has a singular
                source, target = swapped(word, self.number(), source, target)
        return source, target


def shared(pattern: re.Pattern[str], source: str, target: str) -> set[str]:
    """What `pattern` finds in both sentences."""
    return set(pattern.findall(source)) & set(pattern.findall(target))


def swapped(word: str, new: str, source: str, target: str) -> tuple[str, str]:
    """Both sentences with another word in the place of `word`, or as they were if it stands there already."""
    if new in source or new in target:
        return source, target
    whole = re.compile(rf"\b{word}\b")
    return whole.sub(new, source), whole.sub(new, target)


class Aligner:
    """Which source token does a target token translate? IBM Model 1 in both directions (Brown et al. 1993).

    Tokens that are the same on both sides count as translations of each other, and near places are
    likelier than far ones (Dyer et al. 2013).
    """

    def __init__(self, size: int) -> None:
        even = np.full((size, size), 1 / size, np.float32)
        self.size = size
        self.forth, self.back = even, even.copy()  # [source, target]: p(target | source), p(source | target)

    def learn(self, rows: list[tuple[list[int], list[int]]], rounds: int = 4) -> None:
        """Expectation-maximisation over pairs of token ids."""
        for _ in tqdm(range(rounds), desc="aligning"):
            counts = [np.zeros_like(self.forth) for _ in range(2)]
            for source, target in rows:
                at = np.ix_(source, target)
                forth, back = self.forth[at], self.back[at]
                np.add.at(counts[0], at, forth / forth.sum(0))
                np.add.at(counts[1], at, back / back.sum(1, keepdims=True))
            self.forth = counts[0] / np.maximum(counts[0].sum(1, keepdims=True), 1e-9)
            self.back = counts[1] / np.maximum(counts[1].sum(0), 1e-9)

    def __call__(self, source: list[int], target: list[int]) -> np.ndarray:
        """`[target, source]` of float32: for each target token, shares of the source tokens that sum to 1."""
        at = np.ix_(source, target)
        same = np.equal.outer(source, target)
        near = np.abs(np.subtract.outer(np.linspace(0, 1, len(source)), np.linspace(0, 1, len(target))))
        both = (np.sqrt(self.forth[at] * self.back[at]) + same + 1e-7) * np.exp(-4 * near)
        return (both / both.sum(0)).T.astype(np.float32)


def encoded(pairs: list[tuple[str, str]], tokenizer: MarianTokenizer) -> list[tuple[list[int], list[int]]]:
    """Token ids of both sides, each with its end."""
    encode = sentencepiece.SentencePieceProcessor(model_file=tokenizer.spm_files[0]).encode
    end = [tokenizer.eos_token_id]
    sides = [
        [ids[: MAX_TOKENS - 1] + end for ids in encode(list(texts))] for texts in zip(*pairs, strict=True)
    ]
    return list(zip(*sides, strict=True))


def batches(
    pairs: list[tuple[str, str]], tokenizer: MarianTokenizer, aligner: Aligner, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """One epoch of batches of at most BATCH_TOKENS padded tokens a side, similar lengths together.

    Yields input_ids, attention_mask `[batch, source]`, decoder_input_ids, labels `[batch, target]`
    (-100: padding) and alignment `[batch, target, source]`.
    """
    mixed = random.Random(seed).sample(pairs, len(pairs))
    rename = Renamer(pairs, seed)
    rows = sorted(
        encoded([rename(*pair) for pair in mixed], tokenizer), key=lambda row: (len(row[1]), len(row[0]))
    )
    groups: list[list[tuple[list[int], list[int]]]] = [[]]
    widest = 0
    for row in rows:
        widest = max(widest, *map(len, row))
        if (len(groups[-1]) + 1) * widest > BATCH_TOKENS:
            groups.append([])
            widest = max(map(len, row))
        groups[-1].append(row)
    random.Random(seed + 1).shuffle(groups)
    pad = tokenizer.pad_token_id
    for group in groups:
        source, labels = pad_rows([s for s, _ in group], pad), pad_rows([t for _, t in group], -100)
        alignment = torch.zeros(*labels.shape, source.shape[1])
        for place, (s, t) in enumerate(group):
            alignment[place, : len(t), : len(s)] = torch.from_numpy(aligner(s, t))
        yield {
            "input_ids": source,
            "attention_mask": (source != pad).long(),
            "decoder_input_ids": pad_rows([[pad, *t[:-1]] for _, t in group], pad),
            "labels": labels,
            "alignment": alignment,
        }


def pad_rows(rows: list[list[int]], value: int) -> torch.Tensor:
    """`[batch, longest]` of int64, filled up with `value` on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def new_model(tokenizer: MarianTokenizer) -> MarianMTModel:
    """Random weights, 3 + 3 layers of 256, 4 heads, one embedding for both languages and the output."""
    config = MarianConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=256,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        activation_function="swish",
        dropout=0.1,
        max_position_embeddings=512,
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=None,
    )
    model = MarianMTModel._from_config(config, attn_implementation="eager")  # it returns the attention
    torch.nn.init.normal_(model.model.shared.weight, std=config.d_model**-0.5)
    model.generation_config.update(num_beams=4, max_length=512, bad_words_ids=[[tokenizer.pad_token_id]])
    return model


def loss_of(model: MarianMTModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of the next token and, for one head, of its attention (Garg et al. 2019)."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    labels, alignment = batch.pop("labels"), batch.pop("alignment")
    wanted = labels != -100
    with torch.autocast(model.device.type, torch.bfloat16):
        outputs: Any = model.model(**batch, output_attentions=True)
        logits = model.lm_head(outputs.last_hidden_state[wanted]) + model.final_logits_bias
    layer, head = GUIDE
    attention = outputs.cross_attentions[layer][:, head].float()
    guide = -(alignment * (attention + 1e-6).log()).sum(-1)[wanted].mean()
    return cross_entropy(logits.float(), labels[wanted], label_smoothing=SMOOTHING) + GUIDE_WEIGHT * guide


@torch.inference_mode()
def quality(model: Any, tokenizer: MarianTokenizer, pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """BLEU and chrF against all translations that `pairs` have of a sentence, beam 4."""
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        references.setdefault(source, []).append(target)
    order = sorted(references, key=len)
    answers: list[str] = []
    for start in tqdm(range(0, len(order), 32), desc="translating"):
        inputs = tokenizer(order[start : start + 32], padding=True, return_tensors="pt").to(model.device)
        answers += tokenizer.batch_decode(
            model.generate(**inputs, max_length=MAX_TOKENS), skip_special_tokens=True
        )
    streams = reference_streams([references[source] for source in order])
    return sacrebleu.corpus_bleu(answers, streams).score, sacrebleu.corpus_chrf(answers, streams).score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with en-fr/train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--from", dest="source", choices=("en", "fr"), default="en", help="source language")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, work = arguments.out, arguments.out / "work"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    pairs, held_out = (read_pairs(arguments.data / "en-fr" / f"{split}.tsv") for split in ("train", "dev"))
    languages = ["en", "fr"]
    if arguments.source == "fr":
        languages.reverse()
        pairs, held_out = ([(french, english) for english, french in rows] for rows in (pairs, held_out))
    # The data was split by English sentence, so that a French one can be on both sides.
    kept_back = {source for source, _ in held_out}
    pairs = [pair for pair in pairs if pair[0] not in kept_back]
    tokenizer = train_vocabulary(pairs, languages, out)
    aligner = Aligner(tokenizer.vocab_size)
    aligner.learn(encoded(pairs, tokenizer))
    model = new_model(tokenizer)
    model.to(best_device())  # type: ignore[arg-type]  # its decorator hides the signature
    curve = train(
        model,
        lambda number: batches(pairs, tokenizer, aligner, arguments.seed + number),
        lambda batch: loss_of(model, batch),
        steps=arguments.steps,
        peak_rate=PEAK_RATE,
        warmup=WARMUP,
        seed=arguments.seed,
        work=work,
        betas=(0.9, 0.98),
        eps=1e-9,
    )
    bleu, chrf = quality(model, tokenizer, held_out)
    print(f"BLEU {bleu:.1f}, chrF {chrf:.1f} on {len(held_out)} held-out pairs")
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
