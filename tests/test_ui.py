"""The pieces of the page that are made of text, and what becomes of errors."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from components.errors import CheckpointError, InputError, OutOfMemory
from components.page import events, showing, ui


def test_download_writes_the_file_under_its_name():
    path = Path(showing.download("table.csv", "a,é\n"))
    assert path.name == "table.csv"
    assert path.read_bytes() == "a,é\n".encode("utf-8-sig")
    assert showing.download("table.csv", "") != str(path)


@pytest.mark.parametrize(
    "error", [InputError("Type a text."), CheckpointError("None."), OutOfMemory("Shorter.")]
)
def test_errors_for_visitors_go_through(error, caplog):
    with pytest.raises(type(error)) as told, events.shown("sentiment"):
        raise error
    assert told.value is error
    assert not caplog.records


def test_any_other_error_gets_a_number_and_is_logged(caplog):
    from components.errors import DemoError

    with caplog.at_level(logging.ERROR), pytest.raises(DemoError) as told, events.shown("sentiment"):
        raise ZeroDivisionError("secret detail")
    sentence = str(told.value)
    (number,) = re.findall(r"number ([0-9a-f]{6})", sentence)
    assert "secret" not in sentence
    assert "ZeroDivision" not in sentence
    (record,) = caplog.records
    assert number in record.getMessage()
    assert "sentiment" in record.getMessage()
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])


def test_two_errors_have_two_numbers():
    from components.errors import DemoError

    sentences = set()
    for _ in range(2):
        with pytest.raises(DemoError) as told, events.shown("x"):
            raise ValueError
        sentences.add(str(told.value))
    assert len(sentences) == 2


def test_an_abandoned_generator_is_no_error(caplog):
    def steps():
        with events.shown("x"):
            yield 1
            yield 2

    running = steps()
    next(running)
    running.close()
    assert not caplog.records


def test_style_and_script_are_files():
    assert ui.STYLE.is_file()
    assert ui.SCRIPT.is_file()


def test_the_theme_is_made_without_a_network():
    assert "teal" in str(ui.theme().primary_500) or ui.theme().primary_500.startswith("#")


def test_without_an_answer_files_are_hidden_and_choices_stay():
    import gradio as gr

    assert showing.blank(gr.HTML()) is None
    hidden = showing.blank(gr.DownloadButton("CSV"))
    assert hidden["value"] is None and hidden["visible"] is False
    assert showing.blank(gr.Radio(["a", "b"], value="a")) == gr.skip()
