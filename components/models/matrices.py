"""Matrices: in which of several ways does this machine take a few rows through a linear layer fastest?

A decoder at work reads all its weights for one row, or for one of each visitor, and the kernels behind
`x @ weight.T` are made for many rows. There are other ways to the same numbers: `weight @ x.T`, and
FBGEMM's product of float32 rows with weights that are kept in half precision, which reads half the bytes.
Which is fastest depends on processor, threads and shape, so it is measured where it runs, once.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tour")

ROWS = (1, 2, 4, 8)  # measured; what lies between goes as the next larger, and more rows as PyTorch does it
SMALL = 1 << 16  # layers of fewer weights are left alone: calling them costs more than computing them
SAMPLE = 1 << 21  # weights of a larger layer that are measured
ROUNDS = 15  # of each way at most, in turns; the shortest counts, so that a busy machine does not decide
LIMIT = 0.03  # seconds after which no further round begins
AGREE = 3  # so many of the shortest must be alike, else something else was going on
STEADY = 1.2  # times the shortest, up to which they are
DOUBT = 1.5  # times as long as another way half precision may seem to take where they are not
AGAIN = 60.0  # seconds after which what was measured meanwhile is measured once more
# Rounding to half precision may change a weight by this share of the layer's largest: no more than the
# sums in float32 differ by. Weights stored in half precision, and in bfloat16, are within it.
EXACT = 1e-6
READ = re.compile(r"\bself\.(\w+)\.weight\b(?! = )")
ISA = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")  # what libraries may use


class Way(NamedTuple):
    """How layers of one shape are computed.

    half: with weights in half precision where that changes none; turned: the numbers of rows, of ROWS,
    at which `weight @ x.T` is the faster one in single precision.
    """

    half: bool
    turned: tuple[int, ...]


class Measured(NamedTuple):
    """steady: whether repetitions agreed, as they do not on a busy machine."""

    way: Way
    steady: bool


class Ways:
    """What was measured on this machine, kept in a file. path: None keeps it in memory only.

    What was not steady is used, but not kept: a later load or start measures again.
    measure: of a weight; clock: seconds.
    """

    def __init__(
        self,
        path: Path | None = None,
        measure: Callable[[torch.Tensor], Measured] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._measure, self._clock = path, measure or measured, clock
        self._known: dict[str, Way] | None = None
        self._doubtful: dict[str, tuple[Way, float]] = {}  # and when it was measured

    def of(self, weight: torch.Tensor) -> Way:
        """The fastest way for a weight `[outputs, inputs]`, measured if it has not been for good."""
        if self._known is None:
            self._known = self._read().get(here(), {})
        shape = "x".join(map(str, weight.shape))
        if shape in self._known:
            return self._known[shape]
        if shape in self._doubtful and self._clock() < self._doubtful[shape][1] + AGAIN:
            return self._doubtful[shape][0]
        way, steady = self._measure(weight)
        if steady:
            self._known[shape] = way
            self._write()
        else:
            log.info("the machine was busy while products of %s were measured", shape)
            self._doubtful[shape] = way, self._clock()
        return way

    def _read(self) -> dict[str, dict[str, Way]]:
        """Machine -> shape -> way. What cannot be read is measured again."""
        if self._path is None:
            return {}
        try:
            machines = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                machine: {shape: _checked(**way) for shape, way in shapes.items()}
                for machine, shapes in machines.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s is not used: %r", self._path, error)
            return {}

    def _write(self) -> None:
        if self._path is None or self._known is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock"):
                machines = self._read()
                machines.setdefault(here(), {}).update(self._known)
                written = {
                    machine: {shape: way._asdict() for shape, way in shapes.items()}
                    for machine, shapes in machines.items()
                }
                new = self._path.with_suffix(".new")
                new.write_text(json.dumps(written, indent=1), encoding="utf-8")
                new.replace(self._path)
        except OSError as error:
            log.warning("%s was not written: %r", self._path, error)


def _checked(half: Any, turned: Any) -> Way:
    """Raises ValueError for what was not written by this version."""
    if not isinstance(half, bool) or not set(turned) <= set(ROWS):
        raise ValueError(f"{half!r}, {turned!r}")
    return Way(half, tuple(turned))


@cache
def here() -> str:
    """What the speed of a product depends on: the processor, its instructions in use, threads, torch."""
    import torch

    limits = [f"{name}={os.environ[name]}" for name in ISA if name in os.environ]
    return ", ".join(
        (
            processor(),
            torch.backends.cpu.get_cpu_capability(),
            *limits,
            f"{torch.get_num_threads()} threads",
            f"torch {torch.__version__}",
        )
    )


def processor() -> str:
    """Its name, with family and model where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
    return " ".join(told[key] for key in wanted if key in told) or platform.machine()


def measured(weight: torch.Tensor) -> Measured:
    """The fastest way for few rows of a layer's inputs on this machine; takes milliseconds."""
    import torch

    weight = weight.detach()[: max(1, SAMPLE // weight.shape[1])]
    half = packed(weight, None) if has_half() else None
    turned, single, halved, steady = [], 0.0, 0.0, True
    # Alone, a thread need not count the time that others have its core; several wait for each other.
    clock = time.thread_time if torch.get_num_threads() == 1 and _fine() else time.perf_counter
    with torch.inference_mode():
        for rows in ROWS:
            x = torch.ones(rows, weight.shape[1])
            ways = [
                lambda x=x: torch.nn.functional.linear(x, weight),
                lambda x=x: _turned(x, weight),
                *([lambda x=x: torch.ops.quantized.linear_dynamic_fp16(x, half)] if half is not None else []),
            ]
            seconds, alike = _shortest(ways, clock)
            steady = steady and alike
            if seconds[1] < seconds[0]:
                turned.append(rows)
            single += min(seconds[:2])
            halved += seconds[-1]
    # In doubt it is the one that reads half the bytes.
    faster = halved < single * (1 if steady else DOUBT)
    return Measured(Way(half is not None and faster, tuple(turned)), steady)


def _fine() -> bool:
    """Whether the time of a thread is told in steps that are shorter than a product; not on Windows."""
    return time.get_clock_info("thread_time").resolution < 1e-6


def _shortest(ways: list[Any], clock: Callable[[], float]) -> tuple[list[float], bool]:
    """Seconds that each takes at best, and whether the best ones of each are alike."""
    taken: list[list[float]] = [[] for _ in ways]
    end, steady = time.perf_counter() + LIMIT, False
    for done in range(ROUNDS):
        if steady or (done >= AGREE and time.perf_counter() > end):
            break
        for way, seconds in zip(ways, taken, strict=True):
            started = clock()
            way()
            seconds.append(clock() - started)
            seconds.sort()
        steady = done + 1 >= AGREE and all(seconds[AGREE - 1] <= STEADY * seconds[0] for seconds in taken)
    return [seconds[0] for seconds in taken], steady


def quicken(model: Any, ways: Ways) -> int:
    """Have the linear layers of a model on the CPU take few rows the fastest way; how many were changed.

    Results differ by rounding in float32. Where half precision is the fastest and holds a layer's weights
    as they are, they are kept in it, which takes half the memory and has no gradients. Layers in other
    types than float32 or on another device are left alone.
    """
    import torch

    changed, read = 0, read_layers(model)
    uses = Counter(id(weight) for layer in model.modules() for weight in layer.parameters(recurse=False))
    for name, layer in list(model.named_modules()):
        if type(layer) is not torch.nn.Linear or layer.weight.numel() < SMALL:
            continue
        if layer.weight.dtype != torch.float32 or layer.weight.device.type != "cpu":
            continue
        way = ways.of(layer.weight)
        if way.half and name and name not in read and fits_half(layer.weight):
            model.set_submodule(name, _half_linear()(layer, uses[id(layer.weight)] > 1))
        elif way.turned:
            few: Any = layer
            few.__class__, few.turned = _few_rows(), _reach(way.turned)
        else:
            continue
        changed += 1
    return changed


def _reach(turned: tuple[int, ...]) -> frozenset[int]:
    """All numbers of rows up to the largest of ROWS that go as those measured."""
    return frozenset(
        rows for rows in range(1, ROWS[-1] + 1) if next(size for size in ROWS if size >= rows) in turned
    )


def read_layers(model: Any) -> set[str]:
    """Names of layers that are more than called: their `weight` has to stay an ordinary tensor.

    The program of an architecture may read it, as Mamba's does for its time steps; its source tells.
    """
    return {
        f"{name}.{child}".lstrip(".")
        for name, module in model.named_modules()
        for child in _read_in(type(module).__module__)
        if child in module._modules
    }


@cache
def _read_in(module: str) -> frozenset[str]:
    """Attributes of layers whose weights are read somewhere in the source of a Python module."""
    try:
        return frozenset(READ.findall(inspect.getsource(sys.modules[module])))
    except (OSError, TypeError):  # it has none
        return frozenset()


def fits_half(weight: torch.Tensor) -> bool:
    """Whether half precision holds the weights as they are; see EXACT."""
    with_half = weight.detach().half().float()
    return bool((with_half - weight).abs().max() <= EXACT * weight.abs().max())


def packed_numbers(model: Any, tied: bool = True) -> int:
    """How many weights of a model are packed in half precision, where `parameters()` does not find them.

    tied: with those that are there a second time, of an output layer that is the embedding again.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _half_linear())]
    return sum(layer.numbers for layer in layers if tied or not layer.tied)


@cache
def has_half() -> bool:
    """Whether PyTorch has FBGEMM here; on processors other than x86 it has not."""
    import torch

    try:
        packed(torch.ones(1, 1), None)
    except RuntimeError as error:
        log.info("weights are not kept in half precision: %s", error)
        return False
    return True


def packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """Weights as FBGEMM's half-precision product takes them. Raises RuntimeError where there is none."""
    import torch

    return torch.ops.quantized.linear_prepack_fp16(weight.detach(), None if bias is None else bias.detach())


def _turned(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`[rows, inputs]` -> `[rows, outputs]`. One column would use one thread only."""
    import torch

    rows = x.shape[0]
    columns = (x if rows > 1 else x.repeat(2, 1)).t()
    return torch.mm(weight, columns)[:, :rows].t().contiguous()


@cache
def _few_rows() -> Any:
    import torch

    class FewRows(torch.nn.Linear):
        turned: frozenset[int]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.numel() // self.in_features
            if rows not in self.turned:
                return super().forward(x)
            y = _turned(x.reshape(rows, self.in_features), self.weight)
            if self.bias is not None:
                y += self.bias
            return y.view(*x.shape[:-1], self.out_features)

    return FewRows


@cache
def _half_linear() -> Any:
    import torch

    class HalfLinear(torch.nn.Module):
        """weights in half precision as FBGEMM wants them, which is no tensor; inputs and sums in float32."""

        def __init__(self, layer: torch.nn.Linear, tied: bool) -> None:
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.numbers, self.tied = layer.weight.numel(), tied
            self.bias = layer.bias
            self.packed = packed(layer.weight, layer.bias)

        def __deepcopy__(self, memo: dict[int, Any]) -> HalfLinear:
            # Nothing here ever changes, and a copy would take the memory again.
            return self

        def few(self, x: torch.Tensor) -> torch.Tensor:
            """`[rows, inputs]` -> `[rows, outputs]`; at least one row."""
            return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not x.numel():
                return x.new_empty(*x.shape[:-1], self.out_features)
            if x.dim() == 1:
                return torch.ops.quantized.linear_dynamic_fp16(x[None], self.packed)[0]
            return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)

    return HalfLinear
