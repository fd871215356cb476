"""Limits: how fast could a model be that has nothing to do but read its weights?

A pass for one row multiplies each weight once, so that memory, not arithmetic, bounds it: its bytes over the
rate at which this device reads, measured in the same run. Functions that take a `stage` ask a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from benchmarks.rounds import number

if TYPE_CHECKING:
    from benchmarks.stage import Stage

SIZE = 1 << 29  # bytes that are read: more than caches hold
TRIES = 7


def tokens(stage: Stage, rows: int = 1, quantize: str = "none") -> str:
    """Beside a row of generation: tokens a second if each step read all weights once for so many rows."""
    size, rate = _size(stage, "generation", "AutoModelForCausalLM", quantize), _rate(stage)
    return f"limit {number(rows * rate / size)} tokens/s ({_why(size, rate)})"


def one_pass(stage: Stage, tab: str, kind: str) -> str:
    """Beside a row of short inputs: milliseconds if all weights were read once."""
    size, rate = _size(stage, tab, kind), _rate(stage)
    return f"limit {number(1000 * size / rate)} ms ({_why(size, rate)})"


def _why(size: float, rate: float) -> str:
    return f"{number(size / 1e6)} MB of weights at {number(rate / 1e9)} GB/s"


def _size(stage: Stage, tab: str, kind: str, quantize: str = "none") -> float:
    return float(stage.alone("weights_read", tab, kind=kind, quantize=quantize).answers[0].data)


def _rate(stage: Stage) -> float:
    return float(stage.alone("read_rate", "generation").answers[0].data)


# In a worker


@cache
def read_rate() -> float:
    """Bytes a second that the app's device reads at best, by adding up a tensor or by copying it."""
    import torch

    from components.models.device import best_device

    device = best_device()
    source = torch.ones(SIZE // 4, device=device)
    target = torch.empty_like(source)
    ways: dict[Callable[[], Any], int] = {source.sum: SIZE, lambda: target.copy_(source): 2 * SIZE}
    return max(moved / min(_seconds(way, device) for _ in range(TRIES)) for way, moved in ways.items())


def _seconds(work: Callable[[], Any], device: Any) -> float:
    import torch

    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def weights_read(model: Any, quantize: str = "none") -> int:
    """Bytes that one pass reads: of embeddings it takes a few rows, unless they are the output layer too.

    quantize: as the app keeps them with `--quantize`; the model is changed.
    """
    import torch

    from components.models.quantization import bytes_of, quantize_decoder

    if quantize != "none" and not quantize_decoder(model, quantize):
        raise ValueError(f"this decoder cannot be kept in {quantize}")
    head = model.get_output_embeddings()
    looked_up = {
        id(layer.weight): layer.weight
        for layer in model.modules()
        if isinstance(layer, torch.nn.Embedding) and (head is None or layer.weight is not head.weight)
    }
    return bytes_of(model) - sum(weight.numel() * weight.element_size() for weight in looked_up.values())
