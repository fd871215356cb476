"""Recorded: stands in for CUDA graphs on the CPU, by recording a step's operations and doing them again.

As with a graph, nothing of Python's runs again: an operation reads and writes the memory that it read and
wrote when it was recorded. What Python read from a tensor would go stale, so that reading is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.compute import captured
from components.compute.captured import NotCapturable, Step

READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__"}


class Recorded:
    """A Capture. made: how many steps were recorded; replayed: how often one was done again."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.made = self.replayed = 0
        self._before = before  # may raise, as where memory is short

    def __call__(self, step: Step) -> Step:
        self._before()
        captured.check(step, torch.device("cpu"))
        operations: list[tuple[Any, Any, Any, Any]] = []
        with _NoReads(), _Record(operations):
            step()
        self.made += 1

        def replay() -> None:
            self.replayed += 1
            for func, args, kwargs, outputs in operations:
                again = func(*args, **kwargs)
                for there, new in zip(tree_leaves(outputs), tree_leaves(again), strict=True):
                    if isinstance(there, torch.Tensor) and there.data_ptr() != new.data_ptr():
                        there.copy_(new)

        return replay

    def bytes(self) -> int:
        return 1000 * self.made


class _Record(TorchDispatchMode):
    def __init__(self, operations: list[tuple[Any, Any, Any, Any]]) -> None:
        super().__init__()
        self._operations = operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, outputs))
        return outputs


class _NoReads(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READS:
            raise NotCapturable(f"{func.__name__} reads what is on the device")
        return func(*args, **(kwargs or {}))
