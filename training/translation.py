"""Translation starters: how far does a small Marian encoder-decoder get between English and French?

The architecture is that of the opus-mt checkpoints (Junczys-Dowmunt et al. 2018, Marian), three
layers each side, trained on sentence pairs and on variations of them (see training/variations.py).
Vocabulary and model are written in the layout of opus-mt, so that plain `from_pretrained` loads them.

    python -m training.translation --data PATH --out checkpoints/marian-en-fr
    python -m training.translation --data PATH --from fr --out checkpoints/marian-fr-en

trains from random weights. With `--resume FOLDER` it goes on from the checkpoint in that folder, in fewer
steps at a lower rate: pieces that its vocabulary lacks are added behind the others and get rows in the
embedding. `--earlier FOLDER` begins with a mean of that checkpoint and of an earlier one, which knew plain
sentences better.
"""

import argparse
import json
import random
import re
import shutil
import struct
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
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
from components.models.device import best_device
from training.common import read_pairs, train
from training.variations import Varied, rare_names

VOCABULARY = 8000
BATCH_TOKENS = 3000
POOL = 24_000  # pairs whose lengths are compared at once
ALIGNED = 80_000  # pairs that words are aligned in
MAX_TOKENS = 128
USUAL_TOKENS = 32  # 99.5 % of the sentences have no more; longer ones are translated in clauses
FROM_SCRATCH = 4500, BATCH_TOKENS, 1.2e-3, 300  # steps, tokens of a batch, peak rate, steps of warmup
RESUMED = 520, 2000, 5e-4, 40
EARLIER = 0.25  # share of the earlier checkpoint in a mean with a later one
NOISE = 0.3  # of new rows of an embedding, in standard deviations of the others
SMOOTHING = 0.1
GUIDE = (1, 0)  # decoder layer and cross-attention head that learn to align
GUIDE_WEIGHT = 0.05

# What is added to a trained vocabulary: marks of texts, and letters of the Latin script.
CHARACTERS = "".join(
    [*map(chr, range(0x21, 0x7F)), *map(chr, range(0xA1, 0x180)), "‘’‚“”„‹›–—‐‑−•†€™′″⁄→←≤≥≠≈√Ωμπ♥★✓"]
)
OPENING = "([{<“‘„«¿¡–—-−+&@#$€£*/=|~_`^:;%»•→"  # these begin words, too
BARE_WORDS = 1000  # frequent words that also come behind an opening mark, without a space
CHARACTER_SCORE, WORD_SCORE = -13.0, -16.0  # less than any piece has that was learnt


def train_vocabulary(pairs: list[tuple[str, str]], languages: list[str], out: Path) -> MarianTokenizer:
    """A joint unigram vocabulary (Kudo 2018), completed, in Marian's layout.

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
    model = (out / "source.model").read_bytes()
    (out / "source.model").unlink()
    return complete_vocabulary(model, pairs, languages, out)


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer: its number, the length of what it holds, and that."""
    length, left = b"", len(content)
    while left > 127:
        length, left = length + bytes([left % 128 + 128]), left // 128
    return bytes([number * 8 + 2]) + length + bytes([left]) + content


def complete_vocabulary(
    model: bytes, pairs: list[tuple[str, str]], languages: list[str], out: Path
) -> MarianTokenizer:
    """Adds to a SentencePiece model, behind the pieces that it has, what it lacks; writes Marian's layout.

    Added are CHARACTERS as whole pieces, those of OPENING also at the beginning of a word, and the frequent
    words of `pairs` as they stand behind these. Their scores are so low that plain sentences are nearly all
    split as before.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    known = [pieces.id_to_piece(i) for i in range(len(pieces))]
    counts = Counter(word for pair in pairs for side in pair for word in re.findall(r"[^\W\d_]{2,}", side))
    words = [word for word, _ in counts.most_common(BARE_WORDS)]
    characters = [one for one in CHARACTERS if pieces.normalize(f"a{one}") == f"▁a{one}"]
    characters += [f"▁{one}" for one in OPENING]
    scores = dict.fromkeys(words, WORD_SCORE) | dict.fromkeys(characters, CHARACTER_SCORE)
    added = [piece for piece in scores if piece not in set(known)]
    # Protocol buffers that stand behind one another are read as one, and lists in them as one list.
    model += b"".join(
        field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", scores[piece])) for piece in added
    )
    for side in ("source.spm", "target.spm"):
        (out / side).write_bytes(model)
    vocabulary = {piece: i for i, piece in enumerate([*known, *added])}
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
    pairs: list[tuple[str, str]],
    tokenizer: MarianTokenizer,
    aligner: Aligner,
    seed: int,
    vary: Callable[[str, str], tuple[str, str]] | None = None,
    tokens: int = BATCH_TOKENS,
) -> Iterator[dict[str, torch.Tensor]]:
    """One epoch of batches of at most so many padded tokens a side, similar lengths together.

    vary: what is done to each pair before, nothing if not given.

    Yields input_ids, attention_mask `[batch, source]`, decoder_input_ids, labels `[batch, target]`
    (-100: padding) and alignment `[batch, target, source]`.
    """
    mixed = random.Random(seed).sample(pairs, len(pairs))
    for start in range(0, len(mixed), POOL):
        some = mixed[start : start + POOL]
        groups = grouped(encoded([vary(*pair) for pair in some] if vary else some, tokenizer), tokens)
        random.Random(seed + start + 1).shuffle(groups)
        yield from (batch_of(group, tokenizer.pad_token_id, aligner) for group in groups)


def grouped(rows: list[tuple[list[int], list[int]]], tokens: int) -> list[list[tuple[list[int], list[int]]]]:
    """Rows of similar lengths together, of at most so many padded tokens a side."""
    groups: list[list[tuple[list[int], list[int]]]] = [[]]
    widest = 0
    for row in sorted(rows, key=lambda row: (len(row[1]), len(row[0]))):
        widest = max(widest, *map(len, row))
        if (len(groups[-1]) + 1) * widest > tokens:
            groups.append([])
            widest = max(map(len, row))
        groups[-1].append(row)
    return groups


def batch_of(group: list[tuple[list[int], list[int]]], pad: int, aligner: Aligner) -> dict[str, torch.Tensor]:
    """What `batches` yields, of some rows."""
    source, labels = pad_rows([s for s, _ in group], pad), pad_rows([t for _, t in group], -100)
    alignment = torch.zeros(*labels.shape, source.shape[1])
    for place, (s, t) in enumerate(group):
        alignment[place, : len(t), : len(s)] = torch.from_numpy(aligner(s, t))
    return {
        "input_ids": source,
        "attention_mask": (source != pad).long(),
        "decoder_input_ids": pad_rows([[pad, *t[:-1]] for _, t in group], pad),
        "labels": labels,
        "alignment": alignment,
    }


def mix(model: MarianMTModel, folder: Path) -> None:
    """Move weights by EARLIER towards an earlier checkpoint's, whose pieces are the first of this one's.

    Means of weights before and after a training for other texts keep much of both (Wortsman et al. 2022,
    Robust fine-tuning of zero-shot models).
    """
    earlier = MarianMTModel.from_pretrained(folder, dtype=torch.float32).state_dict()
    mixed = {}
    for name, tensor in model.state_dict().items():  # one tensor may be there under several names
        there = tuple(slice(size) for size in earlier[name].shape)
        mixed[name] = tensor.clone()
        mixed[name][there].lerp_(earlier[name], EARLIER)
    model.load_state_dict(mixed)


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


def grown_model(folder: Path, tokenizer: MarianTokenizer) -> MarianMTModel:
    """The model of a checkpoint, with rows in its embedding for the pieces that its vocabulary had not yet.

    A new row is like others, with a little noise: a word that follows no space like the same one behind a
    space; a letter like itself without its accent, or like all capitals or digits, a mark like other marks,
    and these also like the bytes as which they came.
    """
    kept, model = MarianMTModel.from_pretrained(folder, dtype=torch.float32), new_model(tokenizer)
    before = kept.model.shared.weight.detach()
    ids = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    old = dict(ids[: len(before)])
    single = [piece for piece in old if len(piece.removeprefix("▁")) == 1]
    # What sets a piece within a word apart from one at its beginning.
    long = [[i for one, i in old.items() if len(one) > 4 and one[0] != "<" and (one[0] == "▁") == is_first]
            for is_first in (False, True)]  # fmt: skip
    within = before[long[0]].mean(0) - before[long[1]].mean(0) if all(long) else 0

    def row(piece: str) -> torch.Tensor:
        text = piece.removeprefix("▁")
        if f"▁{text}" in old:
            return before[old[f"▁{text}"]] + within
        written = [f"<0x{byte:02X}>" for byte in text.encode()]
        plain = unicodedata.normalize("NFD", text[0])[0]
        kinds = [kind for kind in (str.isupper, str.islower, str.isdigit) if kind(text)]
        if len(text) > 1:
            like = [piece for piece in (text[:n] for n in range(1, 9)) if piece in old]
        elif plain != text and plain in old:
            like = [plain, *written]
        elif kinds:
            like = [*filter(kinds[0], single), *written]
        else:
            like = [*(one for one in single if not one.strip("▁").isalnum()), *written]
        return before[[old[one] for one in like]].mean(0)

    grown = torch.cat([before, *(row(piece)[None] for piece, _ in ids[len(before) :])])
    noise = torch.randn(len(grown) - len(before), grown.shape[1])
    grown[len(before) :] += NOISE * before.std() * noise
    state = kept.state_dict() | {
        name: grown if tensor.shape == grown.shape else tensor
        for name, tensor in model.state_dict().items()
        if tensor.shape != kept.state_dict()[name].shape
    }
    model.load_state_dict(state)
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
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with en-fr/train.tsv and dev.tsv; ner/train.jsonl.gz gives names if it is there",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--from", dest="source", choices=("en", "fr"), default="en", help="source language")
    parser.add_argument("--resume", type=Path, help="folder of a checkpoint to go on from")
    parser.add_argument("--earlier", type=Path, help="folder of a checkpoint before that one, to mix in")
    parser.add_argument("--steps", type=int, help="4500, or 520 with --resume")
    parser.add_argument("--tokens", type=int, help="of a batch on one side: 3000, or 2000 with --resume")
    parser.add_argument("--peak-rate", type=float, help="1.2e-3, or 5e-4 with --resume")
    parser.add_argument("--warmup", type=int, help="steps: 300, or 40 with --resume")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, work, resumed = arguments.out, arguments.out / "work", arguments.resume
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    pairs, held_out = (read_pairs(arguments.data / "en-fr" / f"{split}.tsv") for split in ("train", "dev"))
    names = rare_names(arguments.data)
    languages, back = ["en", "fr"], arguments.source == "fr"

    def sides(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(french, english) for english, french in rows] if back else rows

    # The data was split by English sentence, so that a French one can be on both sides.
    kept_back = {source for source, _ in sides(held_out)}
    pairs = [pair for pair in sides(pairs) if pair[0] not in kept_back]
    if back:
        languages.reverse()
    if resumed:
        model_file = (resumed / "source.spm").read_bytes()
        tokenizer = complete_vocabulary(model_file, pairs, languages, work)
    else:
        tokenizer = train_vocabulary(pairs, languages, work)
    vary = Varied(sides(pairs), arguments.seed, names, back)

    def varied(number: int) -> Callable[[str, str], tuple[str, str]]:
        vary.random.seed(arguments.seed + number)
        return (lambda french, english: vary(english, french)[::-1]) if back else vary

    aligner = Aligner(tokenizer.vocab_size)
    once = varied(-1)
    some = random.Random(arguments.seed).sample(pairs, min(len(pairs), ALIGNED))
    aligner.learn(encoded([once(*pair) for pair in some], tokenizer))
    model = grown_model(resumed, tokenizer) if resumed else new_model(tokenizer)
    if arguments.earlier:
        mix(model, arguments.earlier)
    model.to(best_device())  # type: ignore[arg-type]  # its decorator hides the signature
    steps, tokens, peak_rate, warmup = RESUMED if resumed else FROM_SCRATCH
    curve = train(
        model,
        lambda number: batches(
            pairs, tokenizer, aligner, arguments.seed + number, varied(number), arguments.tokens or tokens
        ),
        lambda batch: loss_of(model, batch),
        steps=arguments.steps or steps,
        peak_rate=arguments.peak_rate or peak_rate,
        warmup=arguments.warmup or warmup,
        seed=arguments.seed,
        work=work,
        betas=(0.9, 0.98),
        eps=1e-9,
    )
    if resumed:
        curve = joined(json.loads((resumed / "curve.json").read_text()), curve)
    bleu, chrf = quality(model, tokenizer, sides(held_out))
    print(f"BLEU {bleu:.1f}, chrF {chrf:.1f} on {len(held_out)} held-out pairs")
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))
    shutil.rmtree(work)


def joined(first: list[dict[str, float]], second: list[dict[str, float]]) -> list[dict[str, float]]:
    """The curve of a training and of one that went on from it, as one: steps and seconds go on."""
    last = first[-1]
    return first + [
        point
        | {"step": last["step"] + point["step"], "seconds": round(last["seconds"] + point["seconds"], 1)}
        for point in second
    ]


if __name__ == "__main__":
    main()
