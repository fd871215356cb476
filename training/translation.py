"""Translation starter: how far does a small Marian encoder-decoder get from English to French?

The architecture is that of the opus-mt checkpoints (Junczys-Dowmunt et al. 2018, Marian), three
layers each side, trained from scratch on sentence pairs. Vocabulary and model are written in the
layout of opus-mt, so that plain `from_pretrained` loads them.

    python -m training.translation --data PATH/en-fr --out checkpoints/marian-en-fr
"""

import argparse
import json
import math
import random
import re
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import sentencepiece
import torch
from tqdm import tqdm
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

from components.device import best_device
from training.common import (
    averaged,
    load_progress,
    read_pairs,
    save_progress,
    warmup_cosine,
)

VOCABULARY = 8000
BATCH_TOKENS = 3000
MAX_TOKENS = 128
PEAK_RATE = 1.2e-3
WARMUP = 200
SAVE_EVERY = 250  # steps
AVERAGE_LAST = 0.25  # share of the steps whose weights are averaged into the result

NAME = re.compile(r"\b[A-Z][a-zé]+\b")
VOWELS = "aeiouyàâéèêîôAEIOUYÉÈH"


def train_vocabulary(pairs: list[tuple[str, str]], out: Path) -> MarianTokenizer:
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
    (out / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "fr"})
    )
    return MarianTokenizer.from_pretrained(out)


class Renamer:
    """Swaps a name that stands in both sentences for another, so that copying is learnt.

    Two names make up most of those in the corpus; without this the model knows no others. Half of
    the new names come from the corpus, half are syllables put together.
    """

    def __init__(self, pairs: list[tuple[str, str]], seed: int) -> None:
        self.random = random.Random(seed)
        shared = {name for en, fr in pairs for name in self.names(en, fr)}
        self.known = sorted(shared)

    @staticmethod
    def names(english: str, french: str) -> set[str]:
        """Capitalised words that stand in both sentences."""
        return set(NAME.findall(english)) & set(NAME.findall(french))

    def invent(self) -> str:
        syllable = lambda: self.random.choice("bcdfgjklmnprstvz") + self.random.choice("aeiou")  # noqa: E731
        word = "".join(syllable() for _ in range(self.random.choice((1, 2, 2, 3))))
        if self.random.random() < 0.3:
            word = word[1:]
        if self.random.random() < 0.6:
            word += self.random.choice(("n", "r", "l", "s", "ck", "t", "nd", "rt"))
        return word.capitalize()

    def __call__(self, english: str, french: str) -> tuple[str, str]:
        for name in sorted(self.names(english, french)):
            if self.random.random() < 0.5:
                continue
            new = self.random.choice(self.known) if self.random.random() < 0.5 else self.invent()
            # "de Tom" must not become "de Anna": a vowel stays a vowel.
            if (new[0] in VOWELS) != (name[0] in VOWELS) or new in english:
                continue
            english = re.sub(rf"\b{name}\b", new, english)
            french = re.sub(rf"\b{name}\b", new, french)
        return english, french


def batches(
    pairs: list[tuple[str, str]], tokenizer: MarianTokenizer, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """One epoch of batches of about BATCH_TOKENS padded tokens, similar lengths together.

    Yields input_ids, attention_mask `[batch, source]` and labels `[batch, target]` (-100: padding).
    """
    shuffled = pairs.copy()
    random.Random(seed).shuffle(shuffled)
    rename = Renamer(pairs, seed)
    shuffled = [rename(*pair) for pair in shuffled]
    encode = sentencepiece.SentencePieceProcessor(model_file=tokenizer.spm_files[0]).encode
    sources = encode([english for english, _ in shuffled])
    targets = encode([french for _, french in shuffled])
    end = [tokenizer.eos_token_id]
    rows = [(s[:MAX_TOKENS] + end, t[:MAX_TOKENS] + end) for s, t in zip(sources, targets, strict=True)]
    rows.sort(key=lambda row: (len(row[1]), len(row[0])))
    groups: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        widest = max([len(row[0]), len(row[1])] + [max(len(s), len(t)) for s, t in groups[-1][-1:]])
        if (len(groups[-1]) + 1) * widest > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(row)
    random.Random(seed + 1).shuffle(groups)
    pad = tokenizer.pad_token_id
    for group in groups:
        source = pad_rows([s for s, _ in group], pad)
        yield {
            "input_ids": source,
            "attention_mask": (source != pad).long(),
            "labels": pad_rows([t for _, t in group], -100),
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
    model = MarianMTModel(config)
    torch.nn.init.normal_(model.model.shared.weight, std=config.d_model**-0.5)
    model.generation_config.update(num_beams=4, max_length=512, bad_words_ids=[[tokenizer.pad_token_id]])
    return model


def train(model: MarianMTModel, tokenizer, pairs, steps: int, seed: int, work: Path) -> list[dict]:
    """Adam with label smoothing 0.1; leaves the averaged weights in `model`, returns the loss curve."""
    device = best_device()
    model.to(device).train()  # type: ignore[arg-type]  # its decorator hides the signature
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), eps=1e-9, weight_decay=0.01)
    loss_of = torch.nn.CrossEntropyLoss(ignore_index=-100, label_smoothing=0.1)
    progress = load_progress(work, model, optimizer) or {
        "step": 0,
        "epoch": 0,
        "batch": 0,
        "curve": [],
        "mean": None,
    }
    bar, started = tqdm(total=steps, initial=progress["step"]), time.monotonic()
    while progress["step"] < steps:
        for batch in islice(batches(pairs, tokenizer, seed + progress["epoch"]), progress["batch"], None):
            step = progress["step"]
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * warmup_cosine(step, WARMUP, steps)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(**batch).logits
            loss = loss_of(logits.float().flatten(0, 1), batch["labels"].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress["step"] += 1
            progress["batch"] += 1
            if progress["step"] == steps or (step >= steps * (1 - AVERAGE_LAST) and step % 10 == 0):
                progress["mean"] = averaged(progress["mean"], model)
            if step % 50 == 0:
                if not math.isfinite(loss.item()):
                    raise RuntimeError(f"the loss is {loss.item()} at step {step}")
                progress["curve"].append({"step": step, "loss": round(loss.item(), 4)})
                bar.set_postfix(loss=f"{loss.item():.3f}", s=f"{time.monotonic() - started:.0f}")
            bar.update()
            if progress["step"] % SAVE_EVERY == 0:
                save_progress(work, model, optimizer, progress)
            if progress["step"] == steps:
                break
        progress["epoch"] += 1
        progress["batch"] = 0
    model.load_state_dict(progress["mean"]["weights"])
    return progress["curve"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, work = arguments.out, arguments.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    pairs = read_pairs(arguments.data / "train.tsv")
    tokenizer = train_vocabulary(pairs, out)
    model = new_model(tokenizer)
    curve = train(model, tokenizer, pairs, arguments.steps, arguments.seed, work)
    model.eval().half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
