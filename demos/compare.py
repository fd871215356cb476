"""Compare: how do two checkpoints of a task answer the same input, and how often do they agree?"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

import demos
from components.errors import Cancelled, InputError
from components.explain.agreement import agreement, strength
from components.inputs import given, tables
from components.models.manager import ModelManager
from components.models.status import Status, status_of_two
from components.page import choosing, patches, showing, ui
from components.page.demo import Compared, Comparison, Demo
from components.progress import Progress, Report, Stopped, never, unreported
from components.server.line import Line
from components.show import markup
from components.show.inside_markup import sentence
from components.weights.checkpoints import Offer

if TYPE_CHECKING:
    from components.settings import Settings

MOST_TEXTS = 200
REVIEWS = """A warm and funny film from beginning to end.
The plot makes no sense and the jokes are stale.
I would watch it again tomorrow.
Not bad, but not good either.
Two hours of my life that nobody gives me back.
The actors do what they can with a weak script.
I laughed, I cried, and I called my mother.
It is hardly the masterpiece that they promised."""
NOTHING = "No tab can be compared."
NO_INSIDE = "This tab does not show here what happens inside. Its own tab does."


@dataclass(frozen=True)
class Subject:
    """A tab whose checkpoints can be compared, and what that takes."""

    tab: Demo
    offer: Offer
    how: Comparison


@dataclass(frozen=True)
class Column:
    """What one checkpoint answers to the inputs, in their order; fewer answers than inputs if stopped."""

    answers: tuple[Compared, ...]
    note: str  # on the choice of the checkpoint

    @property
    def status(self) -> Status:
        """That of the first answer with the time of all, in seconds, and the remarks that all have."""
        told = [answer.status.remarks for answer in self.answers]
        common = tuple(remark for remark in told[0] if all(remark in others for others in told))
        own = [remark for remarks in told for remark in remarks if remark not in common]
        some = sum(not set(remarks) <= set(common) for remarks in told)
        said = (
            (f"{some} of {len(told)} answers have a remark of their own, such as: {own[0]}",) if own else ()
        )
        return replace(
            self.answers[0].status,
            run_seconds=sum(answer.status.run_seconds for answer in self.answers),
            remarks=(*filter(None, [self.note]), *common, *said),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(answer.label for answer in self.answers)


@dataclass(frozen=True)
class Ran:
    """What the drawer needs to know of a run: the first input, and the checkpoints' actual names."""

    task: str
    input: str
    extra: str
    checkpoints: tuple[str, str]


def subjects(tabs: Sequence[Demo]) -> dict[str, Subject]:
    """The tabs that say how their checkpoints are compared, by name."""
    return {tab.name: Subject(tab, tab.offer, tab.compare) for tab in tabs if tab.offer and tab.compare}


def validate(how: Comparison, text: str | None, image: str | None, extra: str | None) -> tuple[str, ...]:
    """The inputs: the lines of the text, or the path of the picture.

    Raises InputError if there is none, if there are too many, or without the second text it needs.
    """
    if how.extra and not given.text(extra).strip():
        raise InputError(f"{how.extra} are missing. Type them and run again.")
    if how.input == "image":
        if not image:
            raise InputError("There is no picture yet. Choose one and run again.")
        return (image,)
    lines = given.text(text, tables.LARGEST).splitlines()
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise InputError("There is no text yet. Type one, or one a line, and run again.")
    if len(texts) > MOST_TEXTS:
        raise InputError(f"That is {len(texts)} texts; at most {MOST_TEXTS} are compared. Leave some out.")
    return texts


def answers(
    subject: Subject,
    inputs: Sequence[str],
    extra: str,
    choice: str,
    models: ModelManager,
    settings: Settings,
    report: Report = unreported,
    stopped: Stopped = never,
) -> Column:
    """One checkpoint's answers. Raises Cancelled if it is stopped before there is one."""
    # Held throughout, so that it is not let go between two inputs.
    with models.use(subject.offer, choice, report, stopped) as loaded:
        name, done = loaded.checkpoint.name, list[Compared]()
        for i, one in enumerate(inputs, 1):
            if stopped():
                break
            if len(inputs) > 1:
                report(Progress(f"{name}: text {i} of {len(inputs)}"))
            try:
                done.append(subject.how.answer(one, extra, name, models, settings, unreported, stopped))
            except Cancelled:
                break
        if not done:
            raise Cancelled("Stopped.")
        return Column(tuple(done), loaded.note)


def run(
    subject: Subject,
    inputs: Sequence[str],
    extra: str,
    choices: tuple[str, str],
    models: ModelManager,
    settings: Settings,
    report: Report = unreported,
    stopped: Stopped = never,
) -> Iterator[tuple[Column, ...]]:
    """Ask one checkpoint and then the other; yields the first column, then both."""
    first = answers(subject, inputs, extra, choices[0], models, settings, report, stopped)
    yield (first,)
    yield first, answers(subject, inputs, extra, choices[1], models, settings, report, stopped)


def remarks(columns: Sequence[Column], count: int) -> tuple[str, ...]:
    """What to say of two columns for so many inputs, besides what they say themselves."""
    first, second = columns
    name, said = first.status.checkpoint, []
    if name == second.status.checkpoint:
        said.append(
            f"Both sides are {name}: only the times can differ. Choose another checkpoint for one of them."
        )
    if (done := min(len(first.answers), len(second.answers))) < count:
        said.append(f"Stopped: {done} of {count} texts were compared.")
    return tuple(said)


def draw(columns: Sequence[Column], count: int) -> str:
    """The columns side by side as HTML, with their agreement where there are several answers."""
    sections = "".join(_section(i, column) for i, column in enumerate(columns))
    if len(columns) == 1:
        sections += f"<section><h3>Second</h3>{sentence('The second checkpoint comes next …')}</section>"
        said = ""
    else:
        said = "".join(map(markup.remark, remarks(columns, count)))
        if count > 1:
            said += _agreement(*columns)
    return f'<div class="sides">{said}<div class="sequences">{sections}</div></div>'


def _section(i: int, column: Column) -> str:
    head = f"<h3>{('First', 'Second')[i]}</h3>"
    line = markup.status_line(replace(column.status, remarks=()))
    if len(column.answers) == 1:
        answer = column.answers[0]
        shown = markup.bars(answer.scores) if answer.scores else sentence(answer.text)
    elif column.answers[0].scores:
        shown = markup.counts(column.labels)
    else:
        shown = "".join(map(sentence, column.labels))
    return f"<section>{head}{shown}{line}</section>"


def _agreement(first: Column, second: Column) -> str:
    both = list(zip(first.labels, second.labels, strict=False))
    found = agreement(*zip(*both, strict=True))
    what = "label" if first.answers[0].scores else "answer"
    headline = f'<p class="answer">{markup.percent(found.share)} <span>the same {what}</span></p>'
    words = f"{round(found.share * len(both))} of {len(both)} texts get the same {what} from both."
    if what == "answer":
        return headline + sentence(words)
    if found.kappa is None:
        words += " Cohen's kappa is not defined: both give every text one and the same label."
    else:
        words += (
            f" Cohen's kappa, the agreement beyond chance, is {found.kappa:.2f}. 1 is full agreement, 0 what "
            f"chance gives; Landis and Koch (1977) would call this {strength(found.kappa)}."
        )
    if not found.common:
        words += " No label is given by both: they may only name their labels differently."
    return headline + sentence(words)


def disagreements(inputs: Sequence[str], first: Column, second: Column) -> list[list[str]]:
    """Rows of the texts that get different labels: the text and both answers."""
    return [
        [text, _cell(one), _cell(other)]
        for text, one, other in zip(inputs, first.answers, second.answers, strict=False)
        if one.label.casefold() != other.label.casefold()
    ]


def _cell(answer: Compared) -> str:
    return f"{answer.label} {markup.percent(answer.scores[0][1])}" if answer.scores else answer.text


def to_csv(inputs: Sequence[str], first: Column, second: Column) -> str:
    """All texts with both answers, their probabilities, and whether they are the same."""
    out = io.StringIO()
    writer = csv.writer(out)
    names = [tables.safe_cell(column.status.checkpoint) for column in (first, second)]
    writer.writerow(["text", *names, "first probability", "second probability", "same"])
    for text, *both in zip(inputs, first.answers, second.answers, strict=False):
        labels = [tables.safe_cell(answer.label) for answer in both]
        shares = [f"{answer.scores[0][1]:.6f}" if answer.scores else "" for answer in both]
        same = both[0].label.casefold() == both[1].label.casefold()
        writer.writerow([tables.safe_cell(text), *labels, *shares, "yes" if same else "no"])
    return out.getvalue()


def look_inside(ran: Ran, subject: Subject, models: ModelManager, settings: Settings) -> tuple[str, str]:
    """What happened inside of each for the first input, as HTML."""
    inside = subject.how.inside
    if inside is None:
        return sentence(NO_INSIDE), ""
    first, second = (
        f"<h3>{html.escape(name)}</h3>{inside(ran.input, ran.extra, name, models, settings)}"
        for name in ran.checkpoints
    )
    return first, second


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    found = subjects(demos.discover())
    if not found:
        with page.inputs():
            gr.HTML(sentence(NOTHING))
        return
    begin = next(iter(found.values()))
    examples = {subject.how.example for subject in found.values()}
    pictures = [subject.how.example for subject in found.values() if subject.how.input == "image"]

    def of_text(subject: Subject) -> bool:
        return subject.how.input == "text"

    with page.inputs():
        task = gr.Dropdown(
            [(subject.tab.title, name) for name, subject in found.items()],
            value=begin.tab.name,
            label="Task",
        )
        text = gr.Textbox(
            begin.how.example if of_text(begin) else "",
            label="Text",
            lines=3,
            max_lines=12,
            info="One text, or a list with one a line: then their agreement is counted.",
            visible=of_text(begin),
        )
        image = patches.as_uploaded(
            gr.Image(
                next((gr.media.get_image(name) for name in pictures), None),
                label="Picture",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard", "webcam"],
                height=260,
                visible=not of_text(begin),
            )
        )
        extra = gr.Textbox(
            begin.how.extra_example, label=begin.how.extra or "", visible=begin.how.extra is not None
        )
        first = choosing.checkpoint_dropdown(begin.offer, "First checkpoint")
        second = choosing.checkpoint_dropdown(begin.offer, "Second checkpoint", choosing.other(begin.offer))
    with page.results():
        answer = gr.HTML(showing.EMPTY, label="Answers side by side")
        table = gr.Dataframe(label="Where they differ", visible=False, interactive=False, wrap=True)
        download = gr.DownloadButton("Download as CSV", visible=False)
    ran = gr.State()

    def switch(name: str, text: str) -> tuple[Any, ...]:
        """Show what the task needs, without the answers of another; what a visitor has typed stays."""
        subject = found[name]
        how, offers = subject.how, choosing.choices(subject.offer)
        fresh = how.example if of_text(subject) and (not text or text in examples) else text
        return (
            gr.update(value=fresh, visible=of_text(subject)),
            gr.update(visible=not of_text(subject)),
            gr.update(value=how.extra_example, label=how.extra or "", visible=how.extra is not None),
            gr.update(choices=offers, value="auto"),
            gr.update(choices=offers, value=choosing.other(subject.offer)),
            showing.EMPTY,
            gr.update(visible=False),
            gr.update(visible=False),
        )

    switched = [text, image, extra, first, second, answer, table, download]
    page.changes(task, switch, [task, text], switched)

    def idle(values: Mapping[str, Any]) -> tuple[str, ...]:
        """What the task has no place for."""
        how = found[values["task"]].how if values["task"] else begin.how
        return ("image" if how.input == "text" else "text", *(() if how.extra else ("extra",)))

    named = {"task": task, "text": text, "image": image, "extra": extra}
    chosen = {"first_checkpoint": first, "second_checkpoint": second}
    page.linked({**named, **chosen}, [(switch, [task, text], switched)], idle)

    def act(
        task: str,
        text: str,
        image: str | None,
        extra: str,
        first: str,
        second: str,
        report: Report,
        stopped: Stopped,
    ) -> Iterator[tuple[Any, ...]]:
        subject = found[task]
        inputs = validate(subject.how, text, image, extra)
        hide = gr.update(visible=False)
        for columns in run(subject, inputs, extra, (first, second), models, settings, report, stopped):
            drawn = draw(columns, len(inputs))
            if len(columns) < 2:
                yield drawn, hide, hide, None, Progress("running")
                continue
            one, other = columns
            names = one.status.checkpoint, other.status.checkpoint
            status, done = status_of_two(one.status, other.status), Ran(task, inputs[0], extra, names)
            if len(inputs) == 1:
                yield drawn, hide, hide, done, status
                continue
            rows = disagreements(inputs, one, other)
            content = {"headers": ["text", f"first: {names[0]}", f"second: {names[1]}"], "data": rows}
            saved = showing.download("comparison.csv", to_csv(inputs, one, other))
            shown = gr.update(value=content, visible=bool(rows))
            yield drawn, shown, gr.update(value=saved, visible=True), done, status

    page.runs(act, [task, text, image, extra, first, second], [answer, table, download, ran])
    page.examples([[example] for example in (begin.how.example, REVIEWS) if of_text(begin)], [text])

    with page.drawer("Inside") as drawer, gr.Row():
        with gr.Column(min_width=300):
            left = gr.HTML()
        with gr.Column(min_width=300):
            right = gr.HTML()
    drawer.shows(lambda ran: look_inside(ran, found[ran.task], models, settings), [ran], [left, right])


DEMO = Demo(
    "compare",
    "Compare",
    9,
    "Checkpoints of the same task differ in size, training and manners: ask two of them the same.",
    None,
    build,
    at_once=16,
)
