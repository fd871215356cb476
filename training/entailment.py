"""Entailment head: can a sentence encoder learn whether one sentence follows from another?

LoRA on all-MiniLM-L6-v2 and a new head of three labels, trained on pairs of premise and hypothesis. Such a
classifier sorts texts into any labels, each put into a sentence as the hypothesis (Yin et al. 2019). It does
so less well than the encoder's own similarity, which is why the app has no such starter: see docs/quality.md.

    python -m training.entailment --data PATH --out FOLDER
"""

import random
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from benchmarks.measures import read_records
from components.models.device import best_device
from demos.zero_shot import TEMPLATE
from training.common import adapted, bucketed, encoder, keep, options, train

LABELS = ("contradiction", "neutral", "entailment")
RANK = 64
BATCH = 64
PEAK_RATE = 5e-4
WARMUP = 200
MAX_TOKENS = 96
EVALUATE_EVERY = 500  # steps
SAMPLE = 1000  # pairs for a point of the curve

Row = tuple[str, str, int]  # premise, hypothesis, place of the label in LABELS


def read(path: Path) -> list[Row]:
    """The labelled pairs of a file."""
    return [(row["premise"], row["hypothesis"], LABELS.index(row["label"])) for row in read_records(path)]


def new_model(folder: Path) -> PeftModel:
    """The encoder with a head of three labels, frozen but for adapters, biases and head."""
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    base = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager", **names)
    return adapted(base, RANK, bias="all", modules_to_save=["pooler", "classifier"])


def logits_of(model: Any, tokenizer: Any, rows: list[Row]) -> torch.Tensor:
    """`[rows, 3]` of float32."""
    sides = [premise for premise, _, _ in rows], [hypothesis for _, hypothesis, _ in rows]
    inputs = tokenizer(*sides, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    with torch.autocast(model.device.type, torch.bfloat16):
        return model(**inputs.to(model.device)).logits.float()


def batched(rows: list[Row], tokenizer: Any, seed: int) -> list[list[Row]]:
    """Batches of pairs of similar lengths."""
    return bucketed(rows, lambda row: len(tokenizer.tokenize(row[0] + " " + row[1])), BATCH, seed)


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, rows: list[Row]) -> float:
    """Share of the pairs whose likeliest label is the given one."""
    right = 0
    for batch in batched(rows, tokenizer, 0):
        answers = logits_of(model, tokenizer, batch).argmax(-1).tolist()
        right += sum(answer == label for answer, (_, _, label) in zip(answers, batch, strict=True))
    return right / len(rows)


@torch.inference_mode()
def zero_shot_accuracy(model: Any, tokenizer: Any, path: Path) -> float:
    """Share of the texts of a file whose own label, of all in the file, is the one they entail most."""
    items = read_records(path)
    labels = sorted({item["label"] for item in items})
    right = 0
    for item in items:
        asked = [(item["text"], TEMPLATE.format(label), 0) for label in labels]
        best = logits_of(model, tokenizer, asked)[:, LABELS.index("entailment")].argmax()
        right += labels[int(best)] == item["label"]
    return right / len(items)


def main() -> None:
    arguments = options(__doc__, "nli and zero_shot", epochs=3).parse_args()
    out, work, seed = arguments.out, arguments.out / "work", arguments.seed
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    folder, tokenizer = encoder()
    model: Any = new_model(folder).to(best_device())
    rows, dev = (read(arguments.data / "nli" / f"{split}.jsonl") for split in ("train", "dev"))
    sample = random.Random(seed).sample(dev, min(SAMPLE, len(dev)))

    def loss_of(batch: list[Row]) -> torch.Tensor:
        labels = torch.tensor([label for _, _, label in batch], device=model.device)
        return cross_entropy(logits_of(model, tokenizer, batch), labels)

    curve = train(
        model,
        lambda number: batched(rows, tokenizer, seed + number),
        loss_of,
        steps=arguments.epochs * -(-len(rows) // BATCH),
        peak_rate=PEAK_RATE,
        warmup=WARMUP,
        seed=seed,
        work=work,
        evaluate=lambda: {"accuracy": round(accuracy(model, tokenizer, sample), 4)},
        evaluate_every=EVALUATE_EVERY,
    )
    print(f"accuracy on {len(dev)} pairs of dev: {accuracy(model, tokenizer, dev):.4f}")
    for path in sorted((arguments.data / "zero_shot").glob("*.jsonl")):
        print(f"zero-shot accuracy on {path.stem}: {zero_shot_accuracy(model, tokenizer, path):.4f}")
    keep(model, out, curve)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
