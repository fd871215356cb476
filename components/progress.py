"""Progress: what is happening while a visitor waits, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One step of a wait. done and total are bytes while downloading, else None where unknown.

    stalled: seconds for which nothing has moved, where they are worth telling, else 0.
    """

    stage: str  # "downloading", "converting", "loading weights", "running", "waiting"
    done: int | None = None
    total: int | None = None
    stalled: int = 0

    def __str__(self) -> str:
        text = self.stage
        if self.done is not None and self.total:
            text = f"{text} {self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB"
        return f"{text}, no progress for {self.stalled} s: Stop ends it" if self.stalled else text


Report = Callable[[Progress], None]
Alone = Callable[[Report], AbstractContextManager[None]]  # no model is loaded elsewhere inside
Stopped = Callable[[], bool]  # whether the visitor has stopped the run or left


def unreported(progress: Progress) -> None:
    """For callers who do not show progress."""


def together(report: Report) -> AbstractContextManager[None]:
    """For callers who load no model at the same time."""
    return nullcontext()


def never() -> bool:
    """For callers who cannot be stopped."""
    return False
