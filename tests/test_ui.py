"""The pieces of the page that are made of text, and what becomes of errors."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from components import ui
from components.demo import Status
from components.errors import CheckpointError, InputError, OutOfMemory
from components.progress import Progress

EVIL = "<img src=x onerror=\"alert('1')\"> & co"


def harmless(markup: str) -> bool:
    return "<img" not in markup and "&lt;img" in markup and "&amp; co" in markup


def status(**changes) -> Status:
    values = {
        "checkpoint": "owner/name",
        "source": "hub",
        "device": "CPU",
        "dtype": "float32",
        "load_seconds": 1.25,
        "run_seconds": 0.0341,
        "remarks": (),
    }
    return Status(**{**values, **changes})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "under 0.001 s"),
        (0.0009, "under 0.001 s"),
        (0.001, "0.001 s"),
        (0.0123, "0.012 s"),
        (0.034, "0.034 s"),
        (0.34567, "0.35 s"),
        (0.999, "1 s"),
        (1.23, "1.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (85.4, "85 s"),
        (1234.5, "1234 s"),
    ],
)
def test_seconds(value, shown):
    assert ui.seconds(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0.0 %"), (0.1234, "12.3 %"), (0.9996, "100.0 %"), (1, "100.0 %")]
)
def test_percent(share, shown):
    assert ui.percent(share) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0:00.0"),
        (-0.3, "0:00.0"),
        (5.26, "0:05.3"),
        (59.96, "1:00.0"),
        (65.3, "1:05.3"),
        (3725.04, "1:02:05.0"),
    ],
)
def test_clock(value, shown):
    assert ui.clock(value) == shown


def test_bars_show_labels_in_order_with_the_first_one_large():
    markup = ui.bars([("POSITIVE", 0.9), ("NEGATIVE", 0.1)])
    assert markup.index("POSITIVE") < markup.index("NEGATIVE")
    assert markup.count("POSITIVE") == 2
    assert '<p class="answer">POSITIVE <span>90.0 %</span></p>' in markup
    assert "width:90.00%" in markup
    assert "width:10.00%" in markup
    assert markup.count("POSITIVE") - ui.bars([("POSITIVE", 0.9)], headline=False).count("POSITIVE") == 1


def test_bars_say_how_many_are_left_out():
    scores = [(f"label {i}", 1 / 12) for i in range(12)]
    assert "and 2 more" in ui.bars(scores)
    assert "label 10" not in ui.bars(scores)
    assert "more" not in ui.bars(scores, most=12)


def test_no_scores_no_bars():
    assert ui.bars([]) == ""


def test_markup_of_visitors_and_checkpoints_is_text_everywhere():
    assert harmless(ui.bars([(EVIL, 1.0)]))
    assert harmless(ui.chips([EVIL]))
    assert harmless(ui.counts([EVIL]))
    assert harmless(ui.problem(EVIL))
    assert harmless(ui.sequences("", [EVIL]))
    assert harmless(ui.sequences(EVIL, [""]))
    assert harmless(ui.timed_lines([(EVIL, 0, 1)]))
    for field in ("checkpoint", "device", "dtype"):
        assert harmless(ui.status_line(status(**{field: EVIL})))
    assert harmless(ui.status_line(status(remarks=(EVIL,))))


def test_counts_are_shares_of_all_texts():
    markup = ui.counts(["good", "bad", "good", "good"])
    assert "4 texts" in markup
    assert "good (3)" in markup
    assert "75.0 %" in markup
    assert markup.index("good") < markup.index("bad (1)")


def test_status_line():
    line = ui.status_line(status(remarks=("First.", "Second.")))
    text = " ".join(re.sub("<[^>]+>", " ", line).split())
    assert text == "owner/name · hub · CPU, float32 · loaded in 1.2 s · ran in 0.034 s First. Second."
    assert line.count('class="remark"') == 2
    assert 'role="status"' in line


def test_problem():
    assert ui.problem("") == ""
    assert ui.problem("No text.") == '<p role="alert">No text.</p>'


def test_sequences_come_after_their_prompt():
    markup = ui.sequences("Once", [" upon", " more"])
    assert markup.count('<span class="prompt">Once</span>') == 2
    assert "</span> upon<" in markup
    assert "Sequence 2" in markup


def test_download_writes_the_file_under_its_name():
    path = Path(ui.download("table.csv", "a,é\n"))
    assert path.name == "table.csv"
    assert path.read_bytes() == "a,é\n".encode()
    assert ui.download("table.csv", "") != str(path)


@pytest.mark.parametrize(
    "error", [InputError("Type a text."), CheckpointError("None."), OutOfMemory("Shorter.")]
)
def test_errors_for_visitors_go_through(error, caplog):
    with pytest.raises(type(error)) as told, ui.shown("sentiment"):
        raise error
    assert told.value is error
    assert not caplog.records


def test_any_other_error_gets_a_number_and_is_logged(caplog):
    from components.errors import DemoError

    with caplog.at_level(logging.ERROR), pytest.raises(DemoError) as told, ui.shown("sentiment"):
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
        with pytest.raises(DemoError) as told, ui.shown("x"):
            raise ValueError
        sentences.add(str(told.value))
    assert len(sentences) == 2


def test_an_abandoned_generator_is_no_error(caplog):
    def steps():
        with ui.shown("x"):
            yield 1
            yield 2

    running = steps()
    next(running)
    running.close()
    assert not caplog.records


def test_a_wait_says_what_happens_and_how_far_it_is():
    line = ui._waiting(Progress("downloading", 41_000_000, 82_000_000))
    assert "Downloading 41 of 82 MB" in line and '<progress value="41000000" max="82000000">' in line
    line = ui._waiting(Progress("loading weights"))
    assert "Loading weights" in line and "<progress" not in line


def test_style_and_script_are_files():
    assert ui.STYLE.is_file()
    assert ui.SCRIPT.is_file()


def test_the_theme_is_made_without_a_network():
    assert "teal" in str(ui.theme().primary_500) or ui.theme().primary_500.startswith("#")


def test_without_an_answer_files_are_hidden_and_choices_stay():
    import gradio as gr

    assert ui._emptied(gr.HTML()) is None
    hidden = ui._emptied(gr.DownloadButton("CSV"))
    assert hidden["value"] is None and hidden["visible"] is False
    assert ui._emptied(gr.Radio(["a", "b"], value="a")) == gr.skip()


def row(**changes):
    from components.models import Snapshot

    values = {
        "name": "owner/name",
        "task": "sentiment",
        "bytes": 90_000_000,
        "device": "cpu",
        "dtype": "float32",
        "users": 0,
        "idle_seconds": 12.0,
        "loads": 1,
        "hits": 3,
        "pinned": False,
        "state": "loaded",
        "progress": "",
    }
    return Snapshot(**{**values, **changes})


def test_the_models_table_lists_what_is_in_memory():
    from components.models import Totals

    busy = row(name=EVIL, users=2, pinned=True)
    loading = row(name="large", bytes=0, state="loading", progress="downloading 41 of 82 MB")
    markup = ui.models_table([row(), busy, loading], Totals(3, 6, 1), (2, 5))
    text = " ".join(re.sub("<[^>]+>", " ", markup).split())
    assert "sentiment · 90 MB · cpu, float32 · idle for 12 s · loads 1, hits 3" in text
    assert "2 in use · loads 1, hits 3 · stays loaded" in text
    assert "large sentiment · downloading 41 of 82 MB" in text
    assert "180 MB in all. 3 loads, 6 hits, 1 evictions since the start. 2 runs under way, 5 waiting." in text
    assert harmless(markup)
    assert "No model is loaded" in ui.models_table([], Totals(0, 0, 0), (0, 0))
