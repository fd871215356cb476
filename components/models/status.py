"""Status: what every run says of itself at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass

from components.models.device import device_name
from components.models.manager import Loaded


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
