"""Interface: the pieces every tab is made of. The only module here that names Gradio."""

from __future__ import annotations

import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from components.errors import Cancelled, DemoError
from components.models.status import Status
from components.page.answers import About
from components.page.choosing import checkpoint_dropdown
from components.page.demo import Demo
from components.page.drawers import Drawer
from components.page.endpoints import NOTHING_MORE, for_clients, publish
from components.page.events import CLOSING, FINISHED, NOTHING_YET, QUIET, Told, changes, start
from components.page.linking import Refresh, linked
from components.page.showing import blank
from components.page.visits import visitor
from components.progress import Progress
from components.server.line import Line, Ticket
from components.show import markup

STYLE = Path(__file__).parent / "static" / "style.css"
SCRIPT = Path(__file__).parent / "static" / "keys.html"
LINKS = Path(__file__).parent / "static" / "links.html"
QUICK = 0.15  # seconds within which an answer comes without a waiting line before it
BEAT = 1.0  # seconds from one look at a waiting visitor to the next: is the page still open?
STOPPED = '<p class="line" role="status">Stopped.</p>'
PROGRAM = "<p>This program gives the result of the last run without this app, with transformers alone.</p>"
# Shown by the page where a browser does not let it listen.
INSECURE = "<p>Browsers give the microphone to pages with https:// only. Upload a file instead.</p>"
RECORDED = "run_"  # begins the names of events that are kept in the history of runs


def theme() -> gr.themes.Base:
    """One calm theme; its fonts are served by this app."""
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono"), "monospace"],
    ).set(
        block_border_width="1px",
        block_shadow="none",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_weight="700",
        button_large_text_weight="700",
    )


class Page:
    """The skeleton of a tab: what it is; inputs left, answer right; status, examples and endpoints."""

    def __init__(self, demo: Demo, line: Line) -> None:
        """A tab that offers no checkpoints has no dropdown of them, and what it runs gets none."""
        self.demo = demo
        self._line = line
        self._visits: dict[str, tuple[Ticket, Told]] = {}  # by session
        gr.Markdown(demo.task, elem_classes="task")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                self._inputs = gr.Column()
                with gr.Column():
                    self.problem = gr.HTML(visible=True, elem_classes="problem")
                    self._options = gr.Accordion(
                        "Options and checkpoint", open=False, visible=demo.offer is not None
                    )
                    with gr.Row():
                        self._run = gr.Button("Run", variant="primary", elem_classes="run")
                        self._stop = gr.Button("Stop", variant="stop", visible=False, elem_classes="stop")
            with gr.Column(scale=6, min_width=300):
                self._results = gr.Column()
        self.status = gr.HTML(label="Status", elem_classes="status")
        self._link = gr.Column()
        self._below = gr.Column()
        self._drawers = gr.Column()
        self._ran: Any = None  # the event of a run, once there is one
        self._choice: list[gr.components.Component] = []
        if demo.offer:
            with self._options:
                self.checkpoint = checkpoint_dropdown(demo.offer)
            self._choice = [self.checkpoint]

    def inputs(self) -> gr.Column:
        """Where the input and the one or two options that matter go; use it in a `with`."""
        return self._inputs

    def options(self) -> gr.Accordion:
        """Options that are folded away."""
        return self._options

    def results(self) -> gr.Column:
        """Where the answer goes first and its figure below."""
        return self._results

    def examples(self, rows: Sequence[Sequence[Any]], inputs: Sequence[gr.components.Component]) -> None:
        """Rows that fill the inputs when clicked."""
        # A row of several inputs is named by its first: a table would not fit on a phone.
        labels = [str(row[0]) for row in rows] if len(inputs) > 1 else None
        with self._below:
            gr.Examples(
                [list(row) for row in rows],
                list(inputs),
                label="Examples",
                example_labels=labels,
                api_visibility="private",
            )

    def runs(
        self,
        act: Callable[..., Any],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
    ) -> None:
        """Run `act(*input values, checkpoint, report, stopped)` on a click or Ctrl+Enter; without checkpoint
        for a tab that offers none.

        It returns, or yields, a tuple of one value for each output and the Status; while a generator
        is at work, None or its Progress instead. What it yields stands for all before it, of which some
        may not be shown. A DemoError is shown above the button and the app goes on.
        """
        self._stop.click(self._stop_now, None, None, queue=False, api_visibility="private")
        if isinstance(Context.root_block, gr.Blocks):
            Context.root_block.unload(self._stop_now)
        self._ran = gr.on(
            [self._run.click],
            self._handler(act, outputs),
            [*inputs, *self._choice],
            [*outputs, self._stop, self.problem, self.status],
            show_progress="hidden",
            show_progress_on=[self.status],
            concurrency_limit=None,
            api_visibility="private",
            api_name=RECORDED + self.demo.name,
        )

    def also_runs(
        self,
        after: Callable[..., Any],
        stop: gr.Button,
        act: Callable[..., Any],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
        said: tuple[gr.HTML, gr.HTML],
    ) -> Any:
        """Run `act(*input values, report, stopped)` on another event than Run, in the tab's line as well.

        after: what takes a listener, such as `button.click`; stop: its own Stop button, hidden at first;
        said: where a problem and the status line go. What it ran before for this visitor is ended, a run by
        the Run button is not. Gives the event.
        """
        other = copy.copy(self)
        other._visits = {}
        stop.click(other._stop_now, None, None, queue=False, api_visibility="private")
        if isinstance(Context.root_block, gr.Blocks):
            Context.root_block.unload(other._stop_now)
        return after(other._stop_now, None, None, **QUIET).then(
            other._handler(act, outputs),
            list(inputs),
            [*outputs, stop, *said],
            trigger_mode="multiple",
            show_progress="hidden",
            concurrency_limit=None,
            api_visibility="private",
        )

    def changes(
        self,
        selector: gr.components.Component,
        act: Callable[..., Any],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
    ) -> Any:
        """Call `act` with the inputs' values when the visitor picks something; a DemoError is shown.

        Gives the event, for drawers that follow it.
        """
        return changes(selector, act, inputs, outputs, self.problem, self.demo.name)

    def drawer(self, title: str) -> Drawer:
        """What is folded away below the examples; use it in a `with`, after `runs`."""
        with self._drawers:
            return Drawer(title, self.demo.name, self._ran)

    def code(self, write: Callable[[Any], str], record: gr.State) -> None:
        """The drawer "Code": the program that `write` makes of what is remembered of the last run."""
        with self.drawer("Code") as drawer:
            gr.HTML(PROGRAM, elem_classes="said")
            # Wrapped, because a page that is scrolled sideways does not fit on a phone.
            program = gr.Code(
                language="python",
                label="Python",
                interactive=False,
                wrap_lines=True,
                elem_classes="program",
            )
        drawer.shows(write, [record], [program])

    def linked(
        self,
        inputs: Mapping[str, gr.components.Component],
        fresh: Sequence[Refresh] = (),
        idle: Callable[[Mapping[str, Any]], Sequence[str]] = lambda values: (),
    ) -> None:
        """A button that copies a link to the tab as it is filled in, with its checkpoint; see `linked`."""
        choice = {"checkpoint": self.checkpoint} if self._choice else {}
        with self._link:
            linked(self.demo.name, {**inputs, **choice}, fresh, idle)

    def _stop_now(self, request: gr.Request) -> None:
        """End what runs for this visitor: Stop was pressed, or the page was closed."""
        ticket, told = self._visits.get(request.session_hash or "", (None, None))
        if ticket and told and self._line.stop(ticket):
            told.put(FINISHED)  # it never began, so nobody else says so

    def _handler(
        self, act: Callable[..., Any], outputs: Sequence[gr.components.Component]
    ) -> Callable[..., Any]:
        unchanged, emptied = (gr.skip(),) * len(outputs), tuple(map(blank, outputs))
        hide_stop, show_stop = gr.update(visible=False), gr.update(visible=True)

        async def handler(request: gr.Request, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
            session = request.session_hash or ""
            told, ticket = Told(), None
            at_work, progress = True, Progress("running")
            quick = time.monotonic() + QUICK
            try:
                ticket = start(self._line, self.demo, act, (*values, told.put), told, visitor(request))
                self._visits[session] = ticket, told
                while (step := await told.next(_pause(quick))) is not FINISHED:
                    if isinstance(step, DemoError):
                        raise step
                    if step is NOTHING_YET or isinstance(step, Progress):
                        progress = step if isinstance(step, Progress) else progress
                        if not at_work or (step is progress and time.monotonic() < quick):
                            continue
                        place = self._line.place(ticket)
                        now = Progress(f"waiting in line, number {place}") if place else progress
                        yield (*unchanged, show_stop, "", markup.waiting(now))
                    else:
                        *answer, status = step
                        at_work = not isinstance(status, Status)
                        progress = status if isinstance(status, Progress) else progress
                        line = markup.waiting(progress) if at_work else markup.status_line(status)
                        yield (*answer, show_stop if at_work else hide_stop, "", line)
                if at_work:
                    raise Cancelled
                if ticket.stop.is_set() and self._line.closing:
                    yield (*unchanged, hide_stop, markup.problem(CLOSING), gr.skip())
            except Cancelled:
                yield (*unchanged, hide_stop, markup.problem(CLOSING) if self._line.closing else "", STOPPED)
            except DemoError as error:
                yield (*emptied, hide_stop, markup.problem(str(error)), "")
            finally:
                if ticket:
                    self._line.leave(ticket)
                    if self._visits.get(session) == (ticket, told):
                        del self._visits[session]

        return handler

    def endpoint(
        self,
        call: Callable[..., Any],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
        about: About = NOTHING_MORE,
    ) -> None:
        """A named, documented endpoint: its name, parameters and description are those of `call`.

        `call` takes `stopped` besides, which clients do not see. The components, which are not shown, and
        `about` give types and defaults. A line below "Args:" in the docstring tells of each parameter, one
        below "Returns:" of each output. An error reaches the client as the sentence a visitor would read.
        """
        publish(call, inputs, outputs, about)
        gr.on(
            [gr.Button(visible=False).click],
            for_clients(call, self._line, self.demo),
            list(inputs),
            list(outputs),
            api_name=call.__name__,
            concurrency_limit=None,
        )


def _pause(quick: float) -> float:
    """Seconds to wait for a step: until it is no longer quick (time.monotonic), then a beat at a time."""
    left = quick - time.monotonic()
    return left if left > 0 else BEAT
