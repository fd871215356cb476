"""Demo: the record a tab is, and the status that every run ends with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from components.models.status import Status
from components.weights.checkpoints import Offer

if TYPE_CHECKING:
    from components.models.manager import ModelManager
    from components.progress import Report, Stopped
    from components.server.line import Line
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
