"""Sidebar: which models are in memory, and who uses them?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import gradio as gr

from components.errors import DemoError
from components.page.demo import Demo
from components.page.events import QUIET, shown
from components.page.visits import asked_from_far
from components.server.line import Line
from components.show import markup

if TYPE_CHECKING:
    from components.models.manager import ModelManager

NOT_FROM_FAR = "Models are loaded and unloaded by who is at this machine only."


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
