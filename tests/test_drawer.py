"""A drawer: nothing is computed until it is opened, and then it follows the runs."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from components.errors import InputError
from components.page import drawers


class Drawn:
    """A drawer with two outputs in an app of its own; looked: what it was asked to show."""

    def __init__(self) -> None:
        self.looked: list[Any] = []
        with gr.Blocks() as self.app:
            ran = gr.State()
            drawer = drawers.Drawer("Inside", "sentiment", gr.Button().click(lambda: None))
            with drawer:
                knob, text = gr.Slider(), gr.HTML()
                figure = gr.Plot()
            drawer.shows(self.look, [ran, knob], [text, figure])
            drawer.changes(knob, self.look, [ran, knob], [text, figure])

    def look(self, ran: Any, knob: float) -> tuple[str, str]:
        self.looked.append((ran, knob))
        if ran == "bad":
            raise InputError("Not like this.")
        if ran == "worse":
            raise ZeroDivisionError
        return f"{ran} at {knob}", "figure"

    def fire(self, name: str, *values: Any) -> Any:
        (found,) = [fn.fn for fn in self.app.fns.values() if fn.name == name]
        return found(*values)


@pytest.fixture
def drawn() -> Drawn:
    return Drawn()


def test_a_closed_drawer_computes_nothing(drawn):
    answer = drawn.fire("update", False, "a run", 3)
    assert not drawn.looked
    assert answer == (gr.skip(),) * 3


def test_opened_before_any_run_it_invites(drawn):
    opened, *emptied, said = drawn.fire("opened", None, 3)
    assert opened is True
    assert not drawn.looked
    assert emptied == [None, None]
    assert drawers.NOT_YET in said


def test_opened_after_a_run_it_shows_it(drawn):
    assert drawn.fire("opened", "a run", 3) == (True, "a run at 3", "figure", "")
    assert drawn.looked == [("a run", 3)]


def test_an_open_one_follows_the_next_run(drawn):
    assert drawn.fire("update", True, "another run", 4) == ("another run at 4", "figure", "")


def test_after_a_run_that_failed_it_is_empty(drawn):
    text, figure, said = drawn.fire("update", True, None, 4)
    assert (text, figure) == (None, None)
    assert drawers.NOT_YET in said


@pytest.mark.parametrize(("ran", "words"), [("bad", "Not like this."), ("worse", "report the number")])
def test_errors_are_said_in_the_drawer(drawn, ran, words):
    text, figure, said = drawn.fire("update", True, ran, 4)
    assert (text, figure) == (None, None)
    assert words in said
    *unchanged, said = drawn.fire("handler", ran, 4)
    assert unchanged == [gr.skip(), gr.skip()]
    assert words in said


def test_a_selector_shows_another_view(drawn):
    assert drawn.fire("handler", "a run", 7) == ("a run at 7", "figure", "")


def test_one_in_another_is_opened_by_itself():
    looked = []
    with gr.Blocks() as app:
        ran = gr.State()
        outer = drawers.Drawer("Inside", "sentiment", gr.Button().click(lambda: None))
        with outer:
            first = gr.HTML()
            inner = outer.drawer("Attribution")
            with inner:
                second = gr.HTML()
        outer.shows(lambda ran: looked.append("outer") or "outer", [ran], [first])
        inner.shows(lambda ran: looked.append("inner") or "inner", [ran], [second])
    outer_open, inner_open = [fn.fn for fn in app.fns.values() if fn.name == "opened"]
    assert outer_open("a run") == (True, "outer", "")
    assert looked == ["outer"]
    assert inner_open("a run") == (True, "inner", "")
    folds = [block for block in app.blocks.values() if isinstance(block, gr.Accordion)]
    assert folds[1].parent is folds[0]
    assert not any(fold.open for fold in folds)
