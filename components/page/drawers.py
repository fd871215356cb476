"""Drawers: what is folded away, and computed only when a visitor opens it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from components.page.events import QUIET, changes, guarded
from components.page.showing import blank
from components.show import markup

NOT_YET = "Nothing has run on this tab yet. Press Run above, and what happened is shown here."
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
        unchanged, emptied = (gr.skip(),) * len(outputs), tuple(map(blank, outputs))

        def update(opened: bool, record: Any, *values: Any) -> tuple[Any, ...]:
            if not opened:
                return (*unchanged, gr.skip())
            if record is None:
                return (*emptied, markup.remark(NOT_YET))
            return guarded(self._name, lambda: look(record, *values), emptied)

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
            return guarded(self._name, lambda: act(str(event.picked), *values), (gr.skip(),) * len(outputs))

        buttons.select(picked, list(inputs), [*outputs, self._said], **QUIET)

    def saves(
        self, button: gr.Button, make: Callable[..., str], inputs: Sequence[gr.components.Component]
    ) -> None:
        """Press a button to have a file made and downloaded at once; `make` gives its path, see `download`.

        A DemoError is shown here.
        """
        file = gr.DownloadButton(visible=False)

        def saved(*values: Any) -> tuple[Any, ...]:
            return guarded(self._name, lambda: make(*values), (None,))

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
