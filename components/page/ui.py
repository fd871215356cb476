"""Interface: the pieces every tab is made of. The only module here that names Gradio."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import logging
import secrets
import tempfile
import time
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from contextvars import copy_context
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio import route_utils
from gradio.context import Context, LocalContext

from components.errors import Cancelled, DemoError
from components.inputs import given
from components.models.manager import TooNarrow
from components.models.status import Status
from components.page import links
from components.page.answers import About
from components.page.demo import Demo
from components.progress import Progress, Stopped
from components.server.access import Visitor, is_far
from components.server.fetching import fetch
from components.server.line import Line, Ticket
from components.show import markup
from components.weights.checkpoints import Offer

if TYPE_CHECKING:
    from components.models.manager import ModelManager
    from components.settings import Settings

log = logging.getLogger("tour")

STYLE = Path(__file__).parent / "static" / "style.css"
SCRIPT = Path(__file__).parent / "static" / "keys.html"
LINKS = Path(__file__).parent / "static" / "links.html"
INVITATION = "The answer appears here. An example is filled in: press Run."
QUICK = 0.15  # seconds within which an answer comes without a waiting line before it
BEAT = 1.0  # seconds from one look at a waiting visitor to the next: is the page still open?
NOTHING_YET, FINISHED = object(), object()
TYPED = "Pick one, or type any owner/name or owner/name@revision of the hub."
Refresh = tuple[Callable[..., Any], Sequence[Any], Sequence[Any]]  # a function, its inputs and outputs
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # events of the page's own
CLOSING = "The app is shutting down and did not finish this run. Try again in a minute."
NOTHING_MORE = About()
NOT_FROM_FAR = "Models are loaded and unloaded by who is at this machine only."
STOPPED = '<p class="line" role="status">Stopped.</p>'
NOT_YET = "Nothing has run on this tab yet. Press Run above, and what happened is shown here."
PROGRAM = "<p>This program gives the result of the last run without this app, with transformers alone.</p>"
EMPTY = f'<p class="empty">{INVITATION}</p>'
UNTAKEN = "One of the values sent is not of the kind that is asked for. The API page tells the kinds."
# Shown by the page where a browser does not let it listen.
INSECURE = "<p>Browsers give the microphone to pages with https:// only. Upload a file instead.</p>"
RECORDED = "run_"  # begins the names of events that are kept in the history of runs
LINKED = "Filled in from a link. Nothing has run yet."
# See Drawer.picks and Drawer.saves.
PICK = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[value]");
  if (button) trigger("select", {picked: button.value});
});"""
SAVE = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""


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
        unchanged, emptied = (gr.skip(),) * len(outputs), tuple(map(_emptied, outputs))
        hide_stop, show_stop = gr.update(visible=False), gr.update(visible=True)

        async def handler(request: gr.Request, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
            session = request.session_hash or ""
            told, ticket = Told(), None
            at_work, progress = True, Progress("running")
            quick = time.monotonic() + QUICK
            try:
                ticket = _start(self._line, self.demo, act, (*values, told.put), told, visitor(request))
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
        _publish(call, inputs, outputs, about)
        gr.on(
            [gr.Button(visible=False).click],
            _for_clients(call, self._line, self.demo),
            list(inputs),
            list(outputs),
            api_name=call.__name__,
            concurrency_limit=None,
        )


class Drawer:
    """What is folded away, and computed only when a visitor opens it.

    Use it in a `with` to fill it. name: of the tab; ran: the event after which an open one is computed anew.
    """

    def __init__(self, title: str, name: str, ran: Any) -> None:
        self._name, self._ran = name, ran
        self._open = gr.State(False)
        self._fold = gr.Accordion(title, open=False, elem_classes="drawer")
        with self._fold:
            self._said = gr.HTML(elem_classes="said")

    def __enter__(self) -> Drawer:
        self._fold.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._fold.__exit__(*error)

    @property
    def opened(self) -> gr.State:
        """Whether it is open, as an input of what need not be computed in a closed one."""
        return self._open

    def drawer(self, title: str) -> Drawer:
        """One inside this one, with what takes longer; make it in the `with` of this one."""
        inner = Drawer(title, self._name, self._ran)
        # Open in a closed one, it would be computed unseen after each run.
        self._fold.collapse(
            lambda: (False, gr.Accordion(open=False)), None, [inner._open, inner._fold], **QUIET
        )
        return inner

    def shows(
        self,
        look: Callable[..., Any],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
        after: Sequence[Any] = (),
    ) -> None:
        """Call `look` with the inputs' values when this is opened, and after each run while it is open.

        The first input is what is remembered of the last run, None before there is one. `look` returns a
        value for each output, in a tuple if there are several. A DemoError is shown here. after: events
        besides a run after which an open one is computed anew, such as those that `changes` gives.
        """
        unchanged, emptied = (gr.skip(),) * len(outputs), tuple(map(_emptied, outputs))

        def update(opened: bool, record: Any, *values: Any) -> tuple[Any, ...]:
            if not opened:
                return (*unchanged, gr.skip())
            if record is None:
                return (*emptied, markup.remark(NOT_YET))
            return _answered(self._name, lambda: look(record, *values), emptied)

        def opened(*values: Any) -> tuple[Any, ...]:
            return (True, *update(True, *values))

        shown_on: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
        self._fold.expand(opened, inputs, [self._open, *outputs, self._said], **shown_on)
        self._fold.collapse(lambda: False, None, self._open, **QUIET)
        for event in (self._ran, *after):
            event.then(update, [self._open, *inputs], [*outputs, self._said], **shown_on)

    def changes(
        self,
        selector: gr.components.Component,
        act: Callable[..., Any],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
    ) -> None:
        """Call `act` with the inputs' values when the visitor picks something; a DemoError is shown here."""
        changes(selector, act, inputs, outputs, self._said, self._name)

    def picks(
        self,
        buttons: gr.HTML,
        act: Callable[..., Any],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
    ) -> None:
        """Call `act` with the value of a button that was pressed and the inputs' values.

        buttons: an HTML made with `js_on_load=ui.PICK`, whose buttons have a `value`. A DemoError is shown.
        """

        def picked(event: gr.EventData, *values: Any) -> tuple[Any, ...]:
            return _answered(self._name, lambda: act(str(event.picked), *values), (gr.skip(),) * len(outputs))

        buttons.select(picked, list(inputs), [*outputs, self._said], **QUIET)

    def saves(
        self, button: gr.Button, make: Callable[..., str], inputs: Sequence[gr.components.Component]
    ) -> None:
        """Press a button to have a file made and downloaded at once; `make` gives its path, see `download`.

        A DemoError is shown here.
        """
        file = gr.DownloadButton(visible=False)

        def saved(*values: Any) -> tuple[Any, ...]:
            return _answered(self._name, lambda: make(*values), (None,))

        made = button.click(saved, list(inputs), [file, self._said], **QUIET)
        made.then(None, file, None, js=SAVE, **QUIET)


def attribution(
    inside: Drawer,
    ran: gr.State,
    texts: Callable[[Any], Sequence[str]],
    look: Callable[[Any, int, int | None], tuple[Sequence[str], int, str]],
) -> None:
    """A drawer in Inside: which tokens carried a decision? Make it in the `with` of Inside.

    texts: what is remembered of the last run -> the texts to choose from; look: that, the number of a text,
    and of a label or None for the first of them all -> the labels to choose from, the one it was, HTML.
    """
    with inside.drawer("Attribution: which tokens carried the decision?") as drawer:
        with gr.Row():
            text = gr.Dropdown([], label="Text", visible=False)
            label = gr.Dropdown([], label="Label asked about", visible=False)
        carried = gr.HTML()

    def another_text(record: Any, text: int | None) -> tuple[Any, str]:
        labels, chosen, html = look(record, text or 0, None)
        return gr.update(choices=_numbered(labels), value=chosen, visible=True), html

    def first(record: Any) -> tuple[Any, Any, str]:
        names = _numbered([one[:80] for one in texts(record)])
        return gr.update(choices=names, value=0, visible=len(names) > 1), *another_text(record, 0)

    drawer.shows(first, [ran], [text, label, carried])
    drawer.changes(text, another_text, [ran, text], [label, carried])
    drawer.changes(label, lambda *picked: look(*picked)[2], [ran, text, label], [carried])


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Choices of a dropdown whose values are places: names may occur twice."""
    return [(name, place) for place, name in enumerate(names)]


class Told:
    """What a run in another thread has told so far, for the event loop that it was made in."""

    def __init__(self) -> None:
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        self._steps: deque[Any] = deque()

    def put(self, step: Any) -> None:
        """From any thread."""
        self._steps.append(step)
        # A closed loop has nobody to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def next(self, pause: float | None) -> Any:
        """The next step, or NOTHING_YET after so many seconds. Of several of a kind only the last."""
        try:
            async with asyncio.timeout(pause):
                while not self._steps:
                    self._arrived.clear()
                    # Between the two lines something may have come; it would set the event only later.
                    if not self._steps:
                        await self._arrived.wait()
        except TimeoutError:
            return NOTHING_YET
        step = self._steps.popleft()
        while self._steps and self._steps[0] is not FINISHED and type(self._steps[0]) is type(step):
            step = self._steps.popleft()
        return step


def _answered(name: str, act: Callable[[], Any], instead: tuple[Any, ...]) -> tuple[Any, ...]:
    """One value for each output and no problem; after a DemoError what is shown instead, and its sentence."""
    try:
        with shown(name):
            answer = _repeated(act)
            return (*(answer if len(instead) > 1 else (answer,)), "")
    except DemoError as error:
        return (*instead, markup.problem(str(error)))


def _repeated(act: Callable[[], Any]) -> Any:
    """What looks inside a run, once more for each model that it takes in float32; a run does so by itself."""
    while True:
        try:
            return act()
        except TooNarrow as error:
            logging.getLogger("tour").debug("once more: %s", error)


def changes(
    selector: Any,
    act: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    said: gr.HTML,
    name: str,
) -> Any:
    """Call `act` with the inputs' values when the visitor picks something in the tab `name`.

    said: where a DemoError is shown. Gives the event.
    """

    def handler(*values: Any) -> tuple[Any, ...]:
        return _answered(name, lambda: act(*values), (gr.skip(),) * len(outputs))

    # A file has no such event. A slider moves on while one move is being answered: the last one counts.
    moved = selector.change if isinstance(selector, gr.File) else selector.input
    return moved(
        handler,
        inputs,
        [*outputs, said],
        show_progress="minimal",
        trigger_mode="always_last",
        api_visibility="private",
    )


def on_arrival(
    act: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
) -> None:
    """Call `act` whenever somebody opens the page: for what should not keep the app from starting."""
    if isinstance(Context.root_block, gr.Blocks):
        Context.root_block.load(act, list(inputs), list(outputs), **QUIET)


def _start(
    line: Line, demo: Demo, act: Callable[..., Any], values: tuple[Any, ...], told: Told, who: Visitor
) -> Ticket:
    """Enter the line with `act`, which tells each step, a DemoError as well, and at last FINISHED."""

    def work(stopped: Stopped) -> str | None:
        try:
            with shown(demo.name):
                for step in _steps(act(*values, stopped)):
                    told.put(step)
        except DemoError as error:
            told.put(error)
            return type(error).__name__
        finally:
            told.put(FINISHED)
        return None

    # Whose run it is: on ZeroGPU the time on the GPU is counted for who asks.
    context = copy_context()
    return line.enter(demo.name, demo.at_once, lambda stopped: context.run(work, stopped), who)


def visitor(request: gr.Request | None) -> Visitor:
    """Who asks: the user where there are users, else the session; and from which address."""
    client = request.client if request else None
    name = (request.username or request.session_hash or "") if request else ""
    return Visitor(name, client.host if client else "", _is_far(request))


def asked_from_far() -> bool:
    """Whether what is done now was asked for by a request that may come from another machine.

    In the thread of a run and in any other that Gradio has given to a request; False elsewhere.
    """
    return _is_far(LocalContext.request.get(None))


class Root(str):
    """The path of the app, which Gradio puts before those of files; by `str()`, for people, its address."""

    whole: str

    def __str__(self) -> str:
        return self.whole

    def __format__(self, spec: str) -> str:
        return format(super().__str__(), spec)


def relative_addresses() -> None:
    """Have the addresses of files and of the app in its page begin with its path, without scheme and host.

    Gradio takes those from the request, and a proxy that sends no Host, drops the port or ends HTTPS without
    saying so makes them lead elsewhere; the browser knows better. Who asks for /config is told all. Without a
    Host, Gradio would also answer with an error to what a browser says the origin of.
    """
    whole, valid = route_utils.get_root_url, route_utils.CustomCORSMiddleware.is_valid_origin
    if getattr(whole, "is_relative", False):
        return

    def root_url(request: Any, route_path: str, root_path: str | None) -> str:
        address = whole(request, route_path, root_path)
        if route_path == "/config" or str(root_path).startswith(("http://", "https://")):
            return address
        # An empty one would stand for the page's own address, with all that is behind its question mark.
        root = Root(root_path or "/.")
        root.whole = address
        return root

    def valid_origin(middleware: Any, request_headers: Any) -> bool:
        return "host" in request_headers and valid(middleware, request_headers)

    root_url.is_relative = True  # type: ignore[attr-defined]
    route_utils.get_root_url = root_url
    route_utils.CustomCORSMiddleware.is_valid_origin = valid_origin  # type: ignore[method-assign, assignment]


def is_exposed(settings: Settings) -> bool:
    """Whether others can see what is shown now: others than who is at this machine."""
    return settings.exposed or asked_from_far()


def _is_far(request: gr.Request | None) -> bool:
    asked = getattr(request, "request", None)
    return asked is not None and is_far(asked.headers, asked.scope.get("http_version", "1.1"))


def models_panel(models: ModelManager, line: Line, tabs: Sequence[Demo], may_change: bool) -> None:
    """A sidebar with what the manager holds, brought up to date while it is open.

    may_change: with buttons that load the model of a tab and let go of an idle one.
    """

    def show() -> str:
        return markup.models_table(models.snapshot(), models.totals(), line.counts())

    with gr.Sidebar(open=False, position="right", width=400, label="Models in memory") as panel:
        gr.Markdown("## Models in memory")
        table = gr.HTML(elem_classes="models")
        tick = gr.Timer(2, active=False)
        if may_change:
            _load_buttons(models, tabs, table, show)
    panel.expand(lambda: (show(), gr.Timer(active=True)), None, [table, tick], **QUIET)
    panel.collapse(lambda: gr.Timer(active=False), None, tick, **QUIET)
    tick.tick(show, None, table, **QUIET)


def _load_buttons(
    models: ModelManager, tabs: Sequence[Demo], table: gr.HTML, show: Callable[[], str]
) -> None:
    offers = {demo.name: demo.offer for demo in tabs if demo.offer}
    choices = [(demo.title, demo.name) for demo in tabs if demo.offer]
    tab = gr.Dropdown(choices, value=choices[0][1], label="Model of the tab")
    with gr.Row():
        load = gr.Button("Load", size="sm", min_width=80)
        unload = gr.Button("Unload", size="sm", min_width=80)
    said = gr.HTML(elem_classes="said")

    def load_now(tab: str) -> Iterator[tuple[str, str]]:
        if asked_from_far():
            yield show(), markup.remark(NOT_FROM_FAR)
            return
        yield show(), markup.remark("Loading …")
        try:
            with shown("models"), models.use(offers[tab]) as loaded:
                name = loaded.checkpoint.name
            yield show(), markup.remark(f"{name} is loaded.")
        except DemoError as error:
            yield show(), markup.remark(str(error))

    def unload_now(tab: str) -> tuple[str, str]:
        if asked_from_far():
            return show(), markup.remark(NOT_FROM_FAR)
        rows = [row for row in models.snapshot() if row.task == offers[tab].recipe.task]
        gone = [row.name for row in rows if models.unload(row.name)]
        words = [f"{row.name} is {'unloaded' if row.name in gone else 'in use'}." for row in rows]
        return show(), markup.remark(" ".join(words) or "This tab has no model in memory.")

    load.click(load_now, tab, [table, said], concurrency_limit=None, **QUIET)
    unload.click(unload_now, tab, [table, said], **QUIET)


def linked(
    name: str,
    inputs: Mapping[str, gr.components.Component],
    fresh: Sequence[Refresh] = (),
    idle: Callable[[Mapping[str, Any]], Sequence[str]] = lambda values: (),
) -> None:
    """A button that copies a link which opens the tab `name` with the same values in its inputs.

    inputs: by their names in the link, which stay as they are; media are said to be left out. fresh: what is
    called, with some of them, when a link fills the tab, where they decide what others offer or what is
    drawn; to one of them it gives an update. idle: the values -> the names of those that play no part beside
    the others. A link runs nothing.
    """
    parameters = {one: _parameter(component) for one, component in inputs.items()}
    components = list(inputs.values())
    with gr.Row(elem_classes="link"):
        button = gr.Button("Copy link", size="sm", scale=0, min_width=120)
        said = gr.HTML(
            elem_classes="said",
            js_on_load=f"tour.filled({json.dumps(name)}, (query) => trigger('select', {{query}}));",
        )
    query = gr.Textbox(visible=False)

    def write(*values: Any) -> tuple[str, str]:
        given = dict(zip(inputs, values, strict=True))
        for one in idle(given):
            given[one] = None
        link, left_out = links.encode(name, parameters, given)
        return link, f"Not in it: {', '.join(left_out)}." if left_out else ""

    # What a link may change: the inputs, and what is drawn anew.
    changed = list(dict.fromkeys([*components, *(one for _, _, outputs in fresh for one in outputs)]))

    def take(event: gr.EventData, *values: Any) -> tuple[Any, ...]:
        now = dict(zip(inputs, values, strict=True))
        # Without a query a run of the history has filled the tab already.
        given = now if event.query is None else links.decode(str(event.query), parameters)
        held = {inputs[one]: value for one, value in {**now, **given}.items()}
        updates: dict[Any, Any] = {}
        for act, of, outputs in fresh:
            answer = act(*(held[one] for one in of))
            updates |= zip(outputs, answer if len(outputs) > 1 else (answer,), strict=True)
        for one, value in given.items():
            if event.query is not None or inputs[one] in updates:
                updates[inputs[one]] = {**updates.get(inputs[one], gr.update()), "value": value}
        told = markup.remark(LINKED) if given and event.query is not None else gr.skip()
        return told, *(updates.get(one, gr.skip()) for one in changed)

    made = button.click(write, components, [query, said], **QUIET)
    made.then(None, [query, said], said, js="(query, remark) => tour.copied(query, remark)", **QUIET)
    said.select(take, components, [said, *changed], **QUIET)


def _parameter(component: gr.components.Component) -> links.Parameter:
    """What a link may give to a component."""
    label = str(component.label or "")
    if isinstance(component, gr.Textbox):
        return links.Parameter("text", label)
    if isinstance(component, gr.Checkbox):
        return links.Parameter("flag", label)
    if isinstance(component, gr.Slider):
        whole = all(float(part).is_integer() for part in (component.minimum, component.step))
        return links.Parameter(
            "number",
            label,
            least=component.minimum,
            most=component.maximum,
            step=component.step,
            whole=whole,
        )
    if isinstance(component, gr.Number):
        return links.Parameter(
            "number",
            label,
            least=component.minimum,
            most=component.maximum,
            whole=component.precision == 0,
        )
    if isinstance(component, gr.Radio | gr.Dropdown | gr.CheckboxGroup):
        known = tuple(value for _, value in component.choices)
        several = isinstance(component, gr.CheckboxGroup)
        free = isinstance(component, gr.Dropdown) and component.allow_custom_value
        return links.Parameter("choices" if several else "choice", label, known, free)
    return links.Parameter("media", label)


def addresses(tabs: gr.Tabs, opened: Mapping[str, gr.Tab]) -> None:
    """Let the address name the tab that is open: `/?tab=name`; back and forward open those before.

    opened: the tabs by their names.
    """
    router = gr.HTML(elem_classes="unseen", js_on_load="tour.routes(() => trigger('select', {}));")
    router.select(None, None, tabs, js="() => tour.selected()", **QUIET)
    for name, tab in opened.items():
        tab.select(None, None, None, js=f"() => tour.chosen({json.dumps(name)})", **QUIET)


def keep_runs(app: gr.Blocks) -> None:
    """Have a browser find its history of runs again when the app is started anew, unless the page differs.

    Call it when the page is complete. A run is filed with the numbers of what it ran and was given.
    """
    parts = [
        (number, type(block).__name__, getattr(block, "label", None)) for number, block in app.blocks.items()
    ]
    app.app_id = zlib.crc32(repr(parts).encode())


def hidden(kind: type[gr.components.Component], label: str, **options: Any) -> Any:
    """A component that only an endpoint uses.

    One for a text refuses all else: Gradio would write it out.
    """
    component: Any = kind(label=label, visible=False, **options)
    if isinstance(component, gr.Textbox):

        def preprocess(payload: Any) -> str | None:
            if payload is None or isinstance(payload, str):
                return payload
            raise gr.Error(str(given.not_a_text(payload, label)), print_exception=False)

        component.preprocess = preprocess  # type: ignore[method-assign]
    return component


def as_uploaded(image: gr.Image) -> gr.Image:
    """The same component, handing the file over unread: a damaged one is the tab's to explain."""
    read = image.preprocess

    def preprocess(payload: Any) -> Any:
        return payload.path if payload and payload.path else read(payload)

    image.preprocess = preprocess  # type: ignore[method-assign]
    return image


def checkpoint_parameter() -> gr.Textbox:
    """The `checkpoint` parameter of an endpoint."""
    return hidden(gr.Textbox, "checkpoint", value="auto", info='"auto", "course", "starter" or owner/name')


def remarks_parameter() -> gr.Checkbox:
    """The `remarks` parameter of an endpoint whose answer is a list; see `answers.with_remarks`."""
    return hidden(gr.Checkbox, "remarks", value=False)


@contextmanager
def shown(name: str) -> Iterator[None]:
    """Lets errors with a message for visitors through; any other is logged and gets a number.

    Raises DemoError only.
    """
    try:
        yield
    except (DemoError, GeneratorExit):
        raise
    except Exception as error:
        reference = secrets.token_hex(3)
        log.exception("error %s in %s", reference, name)
        raise DemoError(
            "Something went wrong that should not have. Try again; if it happens again, report the "
            f"number {reference}."
        ) from error


def _pause(quick: float) -> float:
    """Seconds to wait for a step: until it is no longer quick (time.monotonic), then a beat at a time."""
    left = quick - time.monotonic()
    return left if left > 0 else BEAT


def _publish(
    call: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    about: About,
) -> None:
    """Have these components tell clients what they take and give, instead of what their kind does."""
    _, told, answers = gr.utils.get_function_description(call)
    for component, name in zip(inputs, inspect.signature(call).parameters, strict=False):
        default = inspect.signature(call).parameters[name].default
        schema = {**component.api_info(), **about.limits.get(name, {})}
        if "anyOf" in schema:
            schema.pop("type", None)  # that of the component is one of them
        if told.get(name):
            # Gradio's page shows the one, agents and the OpenAPI description read the other.
            schema |= {"description": told[name], "additional_description": told[name]}
        if default is not inspect.Parameter.empty:
            schema["default"] = default
        _tells(component, "api_info", schema)
        if name in about.examples or "default" in schema:
            _tells(component, "example_payload", about.examples.get(name, schema.get("default")))
    for component, schema, answer in zip(outputs, about.returns, answers, strict=bool(about.returns)):
        _tells(component, "api_info", {**schema, "description": answer})


def _tells(component: gr.components.Component, method: str, answer: Any) -> None:
    setattr(component, method, lambda: answer)


def _for_clients(call: Callable[..., Any], line: Line, demo: Demo) -> Callable[..., Any]:
    """The same function, done in its line, with a DemoError made one that Gradio hands to the client."""
    signature = inspect.signature(call)
    seen = [parameter for parameter in signature.parameters.values() if parameter.name != "stopped"]
    # Gradio gives the request to a parameter of this type, which clients do not see either.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    request_parameter = inspect.Parameter("request", kind, default=None, annotation=gr.Request)
    asked = signature.replace(parameters=[*seen, request_parameter])

    async def steps(*values: Any) -> AsyncGenerator[Any]:
        told, ticket = Told(), None

        def act(*values: Any) -> Any:
            *given, stopped = values
            return call(*given, stopped=stopped)

        try:
            bound = asked.bind(*values)
            bound.apply_defaults()
            *given, request = bound.args
            ticket = _start(line, demo, act, tuple(given), told, visitor(request))
            while (step := await told.next(None)) is not FINISHED:
                if isinstance(step, DemoError):
                    raise step
                yield step
            if ticket.stop.is_set():
                raise Cancelled(CLOSING if line.closing else "Stopped.")
        except DemoError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            if ticket:
                line.leave(ticket)

    @wraps(call)
    async def stream(*values: Any) -> AsyncIterator[Any]:
        async with aclosing(steps(*values)) as answers:
            async for answer in answers:
                yield answer

    @wraps(call)
    async def once(*values: Any) -> Any:
        async with aclosing(steps(*values)) as answers:
            async for answer in answers:
                return answer

    client: Any = stream if inspect.isgeneratorfunction(call) else once
    client.__signature__ = asked
    client.__annotations__ = {**call.__annotations__, "request": gr.Request}
    return client


def forgiving(app: gr.Blocks) -> None:
    """Have what clients send and no component can take answered with a sentence.

    Gradio's own words would name types of Python, and its log would hold what was sent.
    """
    read = app.preprocess_data

    async def preprocess_data(*given: Any, **named: Any) -> list[Any]:
        try:
            return await read(*given, **named)
        except Exception as error:
            if isinstance(error, DemoError):
                log.info("a client sent what cannot be used: %s", type(error).__name__)
                raise gr.Error(str(error), print_exception=False) from error
            if isinstance(error, gr.Error) and not error.print_exception:
                raise  # a sentence of ours
            log.info("a client sent what no component takes: %s", type(error).__name__)
            raise gr.Error(UNTAKEN, print_exception=False) from error

    app.preprocess_data = preprocess_data  # type: ignore[method-assign]


def fetches(app: gr.Blocks, most: float) -> None:
    """Have files that clients name by an address fetched by `fetching.fetch`; most: bytes of one.

    Gradio would keep all of it in memory, whatever its size, and ask a name server of its own for names that
    this machine does not know.
    """
    for block in app.blocks.values():
        _block_fetches(block, most)


def _block_fetches(block: Any, most: float) -> None:
    keep = block.async_move_resource_to_block_cache

    async def kept(place: str | Path | None) -> str | None:
        if not str(place).startswith(("http://", "https://")):
            return await keep(place)
        path = str(await fetch(str(place), Path(block.GRADIO_CACHE), most))
        block.temp_files.add(path)  # deleted as uploads are
        return path

    block.async_move_resource_to_block_cache = kept


def _steps(answer: Any) -> Iterator[Any]:
    """What a generator yields, or the one answer that was returned."""
    if isinstance(answer, Generator):
        yield from answer
    else:
        yield answer


def only_listed(app: gr.Blocks) -> None:
    """Have the dropdowns of checkpoints say that no others are taken."""
    for block in app.blocks.values():
        if isinstance(block, gr.Dropdown) and block.info == TYPED:
            block.info = "Pick one. This app is open to others and runs only these."


def checkpoint_dropdown(offer: Offer, label: str = "Checkpoint", value: str = "auto") -> gr.Dropdown:
    """What an offer holds, or any name of the hub that a visitor types."""
    return gr.Dropdown(
        choices=choices(offer),
        value=value,
        label=label,
        info=TYPED,
        allow_custom_value=True,
        filterable=True,
    )


def other(offer: Offer) -> str:
    """What may be set against "auto": the starter where there is one, else an alternative."""
    return "starter" if offer.starter else next((one.name for one in offer.alternatives), "auto")


def choices(offer: Offer) -> list[tuple[str, str]]:
    """What a dropdown of an offer's checkpoints shows, with the choice that each stands for."""
    if offer.starter is None:
        return [
            (f"Course: {offer.course.name}", "auto"),
            *((checkpoint.name, checkpoint.name) for checkpoint in offer.alternatives),
        ]
    return [
        ("Automatic: the course's, or the starter without the hub", "auto"),
        (f"Course: {offer.course.name}", "course"),
        (f"Starter: {offer.starter.name}", "starter"),
        *((f"Starter: {starter.name}", starter.name) for starter in offer.starters[1:]),
        *((other.name, other.name) for other in offer.alternatives if not other.is_starter),
    ]


def _emptied(output: gr.components.Component) -> Any:
    """What an output shows when there is no answer: nothing. What a visitor has chosen stays.

    A selector that was hidden to begin with, such as that of sentences, belongs to the answer.
    """
    selector = isinstance(output, gr.Dropdown) and not output.visible
    if selector or isinstance(output, gr.DownloadButton | gr.Dataframe):
        return gr.update(value=None, visible=False)
    if isinstance(output, gr.Plot | gr.Audio) and not output.visible:
        return gr.update(value=None, visible=False)
    if isinstance(output, gr.Slider):
        return gr.update(visible=False) if not output.visible else gr.skip()
    return gr.skip() if isinstance(output, gr.Radio | gr.Dropdown) else None


def download(name: str, content: str) -> str:
    """A temporary file of that name for a download button; Gradio's cache deletes it after an hour."""
    cache = Path(gr.utils.get_upload_folder())  # only what lies there is deleted
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tour-", dir=cache))
    path = folder / name
    # Without the mark at its start a spreadsheet takes a table for one in an old encoding.
    path.write_text(content, encoding="utf-8-sig" if path.suffix == ".csv" else "utf-8")
    return str(path)


def scores_output() -> gr.JSON:
    """The output of endpoints that classify: `answers.labelled`."""
    return hidden(gr.JSON, "scores")
