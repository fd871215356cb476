"""Demo: the record a tab is, and the status that every run ends with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.checkpoints import Offer
from components.device import device_name
from components.models import Loaded

if TYPE_CHECKING:
    from components.line import Line
    from components.models import ModelManager
    from components.settings import Settings


@dataclass(frozen=True)
class Demo:
    """One tab. name: in links and endpoints; task: what it is, in a sentence; offer: its checkpoints, None
    for a tab without a model.

    build: draws it; at_once: runs of it that may go on together; further visitors wait in line.
    """

    name: str
    title: str
    order: int
    task: str
    offer: Offer | None
    build: Callable[[Demo, ModelManager, Settings, Line], None]
    at_once: int = 64


@dataclass(frozen=True)
class Status:
    """What the status line tells. Times in seconds; remarks: what was truncated, left out, chosen."""

    checkpoint: str
    source: str
    device: str
    dtype: str
    load_seconds: float
    run_seconds: float
    remarks: tuple[str, ...] = ()


def status_of(loaded: Loaded, started: float, remarks: tuple[str, ...] = ()) -> Status:
    """The status of a run that began at `started` (time.perf_counter) and ends now."""
    notes = (loaded.note,) if loaded.note else ()
    return Status(
        checkpoint=loaded.checkpoint.name,
        source="starter" if loaded.checkpoint.is_starter else "hub",
        device=device_name(loaded.device),
        dtype=loaded.precision,
        load_seconds=loaded.seconds,
        run_seconds=time.perf_counter() - started,
        remarks=notes + remarks,
    )
