"""Demo: the record a tab is, and the status that every run ends with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from components.checkpoints import Offer
from components.device import device_name
from components.models import Loaded

if TYPE_CHECKING:
    from components.line import Line
    from components.models import ModelManager
    from components.progress import Report, Stopped
    from components.settings import Settings


@dataclass(frozen=True)
class Compared:
    """What one checkpoint answers: labels with their probabilities, likeliest first, or a text."""

    status: Status
    scores: tuple[tuple[str, float], ...] = ()
    text: str = ""

    @property
    def label(self) -> str:
        """The likeliest label, or the text."""
        return self.scores[0][0] if self.scores else self.text


@dataclass(frozen=True)
class Comparison:
    """What is needed to put two checkpoints of a tab side by side.

    input: what it is given, "text" or "image", a text or the path of a file; example: one to begin with,
    for an image the name that Gradio has it under; extra: the name of a second text that it needs, such
    as candidate labels, with `extra_example`, or None.

    answer: called as `answer(input, extra, choice, models, settings, report, stopped)`, runs one of the
    tab's checkpoints; inside: called as `inside(input, extra, checkpoint, models, settings)`, HTML of what
    is between input and answer, None if it cannot be shown so.
    """

    input: Literal["text", "image"]
    example: str
    answer: Callable[[str, str, str, ModelManager, Settings, Report, Stopped], Compared]
    inside: Callable[[str, str, str, ModelManager, Settings], str] | None = None
    extra: str | None = None
    extra_example: str = ""


@dataclass(frozen=True)
class Demo:
    """One tab. name: in links and endpoints; task: what it is, in a sentence; offer: its checkpoints, None
    for a tab without a model.

    build: draws it; at_once: runs of it that may go on together; further visitors wait in line; compare:
    how two of its checkpoints are compared, None if they are not.
    """

    name: str
    title: str
    order: int
    task: str
    offer: Offer | None
    build: Callable[[Demo, ModelManager, Settings, Line], None]
    at_once: int = 64
    compare: Comparison | None = None


@dataclass(frozen=True)
class Status:
    """What the status line tells. Times in seconds; measured: how much was done and how fast, which differs
    from run to run; remarks: what was truncated, left out, chosen."""

    checkpoint: str
    source: str
    device: str
    dtype: str
    load_seconds: float
    run_seconds: float
    remarks: tuple[str, ...] = ()
    measured: str = ""


def notes(loaded: Loaded) -> tuple[str, ...]:
    """What is to be said of the choice of a checkpoint, before the remarks on its answer."""
    return (loaded.note,) if loaded.note else ()


def status_of(loaded: Loaded, started: float, remarks: tuple[str, ...] = (), measured: str = "") -> Status:
    """The status of a run that began at `started` (time.perf_counter) and ends now."""
    return Status(
        checkpoint=loaded.checkpoint.name,
        source="starter" if loaded.checkpoint.is_starter else "hub",
        device=device_name(loaded.device),
        dtype=loaded.precision,
        load_seconds=loaded.seconds,
        run_seconds=time.perf_counter() - started,
        remarks=notes(loaded) + remarks,
        measured=measured,
    )


def status_of_two(first: Status, second: Status) -> Status:
    """The status of a run in which two checkpoints answered one after the other: times are sums.

    A checkpoint that answered twice was loaded once.
    """

    def both(one: str, other: str) -> str:
        return one if one == other else f"{one} and {other}"

    return Status(
        checkpoint=both(first.checkpoint, second.checkpoint),
        source=both(first.source, second.source),
        device=both(first.device, second.device),
        dtype=both(first.dtype, second.dtype),
        load_seconds=first.load_seconds + second.load_seconds * (first.checkpoint != second.checkpoint),
        run_seconds=first.run_seconds + second.run_seconds,
        remarks=tuple(dict.fromkeys((*first.remarks, *second.remarks))),
        measured=" ".join(filter(None, (first.measured, second.measured))),
    )
