"""What the training scripts share: reading pairs, the learning rate, averaging and resuming."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The two columns of a tab-separated file; stray carriage returns are taken out."""
    lines = path.read_bytes().decode("utf-8").replace("\r", "").split("\n")
    return [(first, second) for first, second in (line.split("\t") for line in lines if line)]


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Share of the peak rate at `step`: a line up for `warmup` steps, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def averaged(mean: dict[str, Any] | None, model: nn.Module) -> dict[str, Any]:
    """The running mean of the weights of `model` over the calls (Izmailov et al. 2018)."""
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if mean is None:
        return {"count": 1, "weights": {name: tensor.clone() for name, tensor in weights.items()}}
    mean["count"] += 1
    for name, tensor in weights.items():
        mean["weights"][name].lerp_(tensor, 1 / mean["count"])
    return mean


def save_progress(
    work: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Everything a resumed run needs, replaced in one step."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress}
    torch.save(state, work / "progress.new")
    (work / "progress.new").rename(work / "progress.pt")


def load_progress(work: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """The progress of an interrupted run, its weights put back; None if there is none."""
    if not (work / "progress.pt").exists():
        return None
    state = torch.load(work / "progress.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["progress"]
