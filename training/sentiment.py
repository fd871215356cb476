"""Sentiment starter: can a sentence encoder learn to tell praise from blame, and how sure to be?

LoRA (Hu et al. 2021) on every linear layer of all-MiniLM-L6-v2 and a new classification head, trained on the
phrases of SST-2; label smoothing keeps it from being sure of everything. Only the adapter and the head are
kept.

    python -m training.sentiment --data PATH --out checkpoints/minilm-sst2

With --soft FILE it learns what its teachers make of these phrases and of new ones: see training/teacher.py.
With --more STEPS it then goes on at half the rate, and the mean of the weights before and after is kept
(Wortsman et al. 2022).

With --scratch the same architecture starts from random weights and all of them are trained: what the
pretrained encoder is worth. That run leaves its curve only.

    python -m training.sentiment --data PATH --out checkpoints/minilm-sst2 --scratch
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks import measures
from components.models.device import best_device
from training.common import (
    adapted,
    averaged,
    bucketed,
    encoder,
    keep,
    options,
    read_pairs,
    restore,
    train,
    trained,
)

RANK = 16
BATCH = 64
PEAK_RATE = 8e-4
SOFT_RANK = 64  # what teachers say of twice the texts takes more weights to learn
SOFT_RATE = 6e-4
SCRATCH_RATE = 3e-4
WARMUP = 100
SMOOTHING = 0.05  # of labels; teachers are not sure of everything as it is
MAX_TOKENS = 128
EVALUATE_EVERY = 200  # steps
NAMES = {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}

Row = tuple[str, float]  # a text and how positive it is: 0 or 1 by its label, or what teachers make of it


def labelled(path: Path) -> list[Row]:
    """The rows of an SST-2 file, or of one in its form with probabilities for labels."""
    return [(text.strip(), float(label)) for label, text in read_pairs(path)[1:]]


def new_model(folder: Path, scratch: bool, rank: int = RANK) -> nn.Module:
    """The encoder with a two-label head: pretrained and frozen but for adapters and head, or new."""
    if scratch:
        return AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder, **NAMES))
    base = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager", **NAMES)
    # For this task peft trains and keeps the new head as well.
    return adapted(base, rank, task_type="SEQ_CLS", target_modules="all-linear")


def batched(rows: list[Row], tokenizer: Any, seed: int) -> list[list[Row]]:
    """Batches of rows of similar lengths."""
    return bucketed(rows, lambda row: len(tokenizer.tokenize(row[0])), BATCH, seed)


def logits_of(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """`[texts, 2]` of float32."""
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    with torch.autocast(model.device.type, torch.bfloat16):
        return model(**inputs.to(model.device)).logits.float()


def loss_of(model: Any, tokenizer: Any, rows: list[Row], smoothing: float) -> torch.Tensor:
    """Cross-entropy to how positive the rows are, as labels smoothed by `smoothing` are learnt."""
    positive = torch.tensor([share for _, share in rows], device=model.device)
    wanted = torch.stack([1 - positive, positive], dim=-1)
    return cross_entropy(
        logits_of(model, tokenizer, [text for text, _ in rows]), wanted, label_smoothing=smoothing
    )


@torch.inference_mode()
def predicted(model: Any, tokenizer: Any, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[rows, 2]` and labels `[rows]` of labelled rows."""
    batches = batched(rows, tokenizer, 0)
    logits = torch.cat([logits_of(model, tokenizer, [text for text, _ in batch]) for batch in batches]).cpu()
    return logits, torch.tensor([label for batch in batches for _, label in batch])


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the rows whose likelier label is the given one."""
    return (logits.argmax(-1) == labels).double().mean().item()


def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Expected calibration error of logits `[rows, 2]`, see `measures.calibration_error`."""
    confidence, answer = logits.softmax(-1).max(-1)
    return measures.calibration_error(confidence.numpy(), (answer == labels).numpy())


def main() -> None:
    parser = options(__doc__, "sentiment", epochs=2, more=0)
    parser.add_argument("--scratch", action="store_true", help="random weights, for comparison")
    parser.add_argument("--soft", type=Path, help="what training.teacher wrote, instead of the labels")
    arguments = parser.parse_args()
    name = "scratch" if arguments.scratch else "curve"
    out, work, seed = arguments.out, arguments.out / f"work-{name}", arguments.seed
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    folder, tokenizer = encoder()
    rank, rate = (SOFT_RANK, SOFT_RATE) if arguments.soft else (RANK, PEAK_RATE)
    if arguments.scratch:
        rate = SCRATCH_RATE
    model: Any = new_model(folder, arguments.scratch, rank).to(best_device())
    films = arguments.data / "sentiment"
    rows, dev = labelled(arguments.soft or films / "train.tsv"), labelled(films / "dev.tsv")
    smoothing = 0.0 if arguments.soft else SMOOTHING

    def measured() -> dict[str, float]:
        return {"accuracy": round(accuracy(*predicted(model, tokenizer, dev)), 4)}

    def run(part: str, seed: int, steps: int, peak_rate: float) -> list[dict[str, float]]:
        return train(
            model,
            lambda number: batched(rows, tokenizer, seed + number),
            lambda batch: loss_of(model, tokenizer, batch, smoothing),
            steps=steps,
            peak_rate=peak_rate,
            warmup=WARMUP,
            seed=seed,
            work=work / part,
            evaluate=measured,
            evaluate_every=EVALUATE_EVERY,
        )

    steps = arguments.epochs * -(-len(rows) // BATCH)
    curve = run("first", seed, steps, rate)
    if arguments.more:
        weights, end = trained(model), curve[-1]
        before = averaged(None, weights)
        for point in run("more", seed + steps, arguments.more, rate / 2):
            curve.append(point | {at: round(point[at] + end[at], 1) for at in ("step", "seconds")})
        restore(weights, averaged(before, weights)["weights"])
        curve[-1] |= measured()
    if arguments.scratch:
        (out / "scratch.json").write_text(json.dumps(curve))
    else:
        keep(model, out, curve)
    logits, labels = predicted(model.float(), tokenizer, dev)
    print(f"on dev: accuracy {accuracy(logits, labels):.4f}, ", end="")
    print(f"calibration error {calibration_error(logits, labels):.4f}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
