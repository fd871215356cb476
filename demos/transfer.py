"""Transfer learning: what is a pretrained encoder worth, on the same data and in the same minutes?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from components.errors import InputError
from components.page import events, linking
from components.page.demo import Demo
from components.show import figures, markup
from components.weights.checkpoints import ROOT

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from components.models.manager import ModelManager
    from components.server.line import Line
    from components.settings import Settings

CHECKPOINTS = ROOT / "checkpoints"
TAUGHT = CHECKPOINTS / "minilm-sst2"  # its folder holds the curves of both runs
PRETRAINED, SCRATCH = "from the pretrained weights", "from random weights"
AXES = {"minutes of training": "minutes", "texts seen": "texts"}
CHANCE = 0.5
BATCH = 64  # texts a step, as in training/sentiment.py
EXPLAINED = (
    "Both runs train the same encoder (MiniLM, 6 layers of 384) on the same phrases of film reviews (SST-2) "
    "on the same processor; the accuracy is that on 872 sentences that neither has seen. The one begins with "
    "weights that have read a large part of the web, keeps them, and learns small additions to them (LoRA) "
    "and a head. The other begins with random numbers and learns all of its weights."
)
HOW_TO_READ = (
    "Each mark is a measurement during training, the last one that of the mean of the last weights. Half of "
    "the sentences are positive: guessing gives about 50 %. Both learn from the labels alone; the starter of "
    "the Sentiment tab has learnt from two teachers besides, see its card."
)


@dataclass(frozen=True)
class Measured:
    """One measurement during a training run. accuracy: share of right answers, from 0 to 1."""

    minutes: float
    texts: int
    accuracy: float


@dataclass(frozen=True)
class Lesson:
    """A starter that was trained here: its model card as Markdown, and pairs of step and loss."""

    card: str
    loss: tuple[tuple[float, float], ...]


def read_curve(path: Path) -> list[dict[str, float]]:
    """The points of a training run; written by training/common.py."""
    return json.loads(path.read_text(encoding="utf-8"))


def measured(curve: Sequence[dict[str, float]]) -> tuple[Measured, ...]:
    """The measurements among the points of a run."""
    return tuple(
        Measured(point["seconds"] / 60, int(point["step"]) * BATCH, point["accuracy"])
        for point in curve
        if "accuracy" in point
    )


def at(run: Sequence[Measured], minutes: float) -> float:
    """The accuracy that was last measured by then; chance before the first measurement."""
    return next((one.accuracy for one in reversed(run) if one.minutes <= minutes), CHANCE)


def minutes_to(run: Sequence[Measured], accuracy: float) -> float | None:
    """How long it took to be that good, None if it never was."""
    return next((one.minutes for one in run if one.accuracy >= accuracy), None)


def compare(pretrained: Sequence[Measured], scratch: Sequence[Measured], minutes: float) -> str:
    """Both runs after so many minutes: HTML, the better one first."""
    rows = [(PRETRAINED, at(pretrained, minutes)), (SCRATCH, at(scratch, minutes))]
    return markup.bars(sorted(rows, key=lambda row: -row[1]))


def summary(pretrained: Sequence[Measured], scratch: Sequence[Measured]) -> str:
    """What the curves say, in a sentence or two."""
    highest, last = max(one.accuracy for one in scratch), scratch[-1].minutes
    reached = minutes_to(pretrained, highest)
    best = markup.percent(max(one.accuracy for one in pretrained))
    if reached is None:
        return f"From random weights the best was {markup.percent(highest)}; the pretrained run stayed below."
    return (
        f"In {last:.0f} minutes the run from random weights got to {markup.percent(highest)} at best. From "
        f"the pretrained weights that took {reached:.1f} minutes, and the best was {best}."
    )


def draw(pretrained: Sequence[Measured], scratch: Sequence[Measured], axis: str) -> go.Figure:
    """Accuracy of both runs over minutes or texts, a key of AXES."""
    curves = {
        name: ([getattr(one, AXES[axis]) for one in run], [one.accuracy for one in run])
        for name, run in ((PRETRAINED, pretrained), (SCRATCH, scratch))
    }
    return figures.learning_curves(curves, axis, "accuracy", percent=True)


def draw_loss(lesson: Lesson) -> go.Figure:
    """The loss of a starter while it was trained."""
    steps, losses = zip(*lesson.loss, strict=True)
    return figures.learning_curves({"loss": (steps, losses)}, "batches", "loss on the batch")


def lessons() -> dict[str, Lesson]:
    """Of every starter that was trained here, by the title of its model card."""
    found = {}
    for folder in sorted(CHECKPOINTS.iterdir()):
        if (folder / "curve.json").exists():
            card = (folder / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1].strip()
            title, _, rest = card.partition("\n")
            points = read_curve(folder / "curve.json")
            loss = tuple((one["step"], one["loss"]) for one in points if "loss" in one)
            found[title.lstrip("# ")] = Lesson(rest.strip(), loss)
    return found


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    pretrained, scratch = (
        measured(read_curve(TAUGHT / f"{name}.json")) for name in ("pretrained", "scratch")
    )
    longest = max(run[-1].minutes for run in (pretrained, scratch))
    gr.Markdown(demo.task, elem_classes="task")
    with gr.Row(equal_height=False, elem_classes="part"):
        with gr.Column(scale=5, min_width=300):
            minutes = gr.Slider(
                0, round(longest + 0.5), round(longest / 4), step=1, label="Minutes of training"
            )
            axis = gr.Radio(list(AXES), value=next(iter(AXES)), label="Across")
            gr.Markdown(EXPLAINED)
            problem = gr.HTML(elem_classes="problem")
        with gr.Column(scale=6, min_width=300):
            answer = gr.HTML(compare(pretrained, scratch, minutes.value))
            curves = gr.Plot(show_label=False)
            gr.Markdown(f"{summary(pretrained, scratch)} {HOW_TO_READ}")
    gr.Markdown("## How the starters were made")
    taught = lessons()
    first = next(iter(taught))
    with gr.Row(equal_height=False, elem_classes="part"):
        with gr.Column(scale=5, min_width=300):
            starter = gr.Dropdown(list(taught), value=first, label="Starter")
            loss = gr.Plot(show_label=False)
        with gr.Column(scale=6, min_width=300):
            card = gr.Markdown(taught[first].card, elem_classes="card")

    def by_then(value: float) -> str:
        return compare(pretrained, scratch, value)

    def drawn(value: str) -> go.Figure:
        return draw(pretrained, scratch, value)

    def chosen(title: str) -> tuple[str, go.Figure]:
        lesson = taught.get(title)
        if lesson is None:
            raise InputError("Choose one of the starters.")
        return lesson.card, draw_loss(lesson)

    follows: list[linking.Refresh] = [
        (by_then, [minutes], [answer]),
        (drawn, [axis], [curves]),
        (chosen, [starter], [card, loss]),
    ]
    for act, inputs, outputs in follows:
        events.changes(inputs[0], act, inputs, outputs, problem, demo.name)
    # plotly takes a second to be imported.
    events.on_arrival(
        lambda across, title: (drawn(across), chosen(title)[1]), [axis, starter], [curves, loss]
    )
    linking.linked(demo.name, {"minutes": minutes, "across": axis, "starter": starter}, follows)


DEMO = Demo(
    "transfer",
    "Transfer learning",
    10,
    "Transfer learning begins with weights that another task has taught. What is that worth?",
    None,
    build,
)
