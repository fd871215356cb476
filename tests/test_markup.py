"""The pieces of the page that are made of text: what they show, and that it stays text."""

from __future__ import annotations

import re

import pytest

from components.models.status import Status
from components.progress import Progress
from components.show import markup

EVIL = "<img src=x onerror=\"alert('1')\"> & co"


def harmless(html: str) -> bool:
    return "<img" not in html and "&lt;img" in html and "&amp; co" in html


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
    assert markup.seconds(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0.0 %"), (0.1234, "12.3 %"), (0.9996, "100.0 %"), (1, "100.0 %")]
)
def test_percent(share, shown):
    assert markup.percent(share) == shown


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
    assert markup.clock(value) == shown


def test_bars_show_labels_in_order_with_the_first_one_large():
    html = markup.bars([("POSITIVE", 0.9), ("NEGATIVE", 0.1)])
    assert html.index("POSITIVE") < html.index("NEGATIVE")
    assert html.count("POSITIVE") == 2
    assert '<p class="answer">POSITIVE <span>90.0 %</span></p>' in html
    assert "width:90.00%" in html
    assert "width:10.00%" in html
    assert html.count("POSITIVE") - markup.bars([("POSITIVE", 0.9)], headline=False).count("POSITIVE") == 1


def test_bars_say_how_many_are_left_out():
    scores = [(f"label {i}", 1 / 12) for i in range(12)]
    assert "and 2 more" in markup.bars(scores)
    assert "label 10" not in markup.bars(scores)
    assert "more" not in markup.bars(scores, most=12)


def test_no_scores_no_bars():
    assert markup.bars([]) == ""


def test_markup_of_visitors_and_checkpoints_is_text_everywhere():
    assert harmless(markup.bars([(EVIL, 1.0)]))
    assert harmless(markup.chips([EVIL]))
    assert harmless(markup.counts([EVIL]))
    assert harmless(markup.problem(EVIL))
    assert harmless(markup.sequences("", [EVIL]))
    assert harmless(markup.sequences(EVIL, [""]))
    assert harmless(markup.timed_lines([(EVIL, 0, 1)]))
    for field in ("checkpoint", "device", "dtype"):
        assert harmless(markup.status_line(status(**{field: EVIL})))
    assert harmless(markup.status_line(status(remarks=(EVIL,))))


def test_counts_are_shares_of_all_texts():
    html = markup.counts(["good", "bad", "good", "good"])
    assert "4 texts" in html
    assert "good (3)" in html
    assert "75.0 %" in html
    assert html.index("good") < html.index("bad (1)")


def test_status_line():
    line = markup.status_line(status(remarks=("First.", "Second.")))
    text = " ".join(re.sub("<[^>]+>", " ", line).split())
    assert text == "owner/name · hub · CPU, float32 · loaded in 1.2 s · ran in 0.034 s First. Second."
    assert line.count('class="remark"') == 2
    assert 'role="status"' in line


def test_problem():
    assert markup.problem("") == ""
    assert markup.problem("No text.") == '<p role="alert">No text.</p>'


def test_sequences_come_after_their_prompt():
    html = markup.sequences("Once", [" upon", " more"])
    assert html.count('<span class="prompt">Once</span>') == 2
    assert "</span> upon<" in html
    assert "Sequence 2" in html


def test_a_wait_says_what_happens_and_how_far_it_is():
    line = markup.waiting(Progress("downloading", 41_000_000, 82_000_000))
    assert "Downloading 41 of 82 MB" in line and '<progress value="41000000" max="82000000">' in line
    line = markup.waiting(Progress("loading weights"))
    assert "Loading weights" in line and "<progress" not in line


def row(**changes):
    from components.models.manager import Snapshot

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
    from components.models.manager import Totals

    busy = row(name=EVIL, users=2, pinned=True)
    loading = row(name="large", bytes=0, state="loading", progress="downloading 41 of 82 MB")
    html = markup.models_table([row(), busy, loading], Totals(3, 6, 1), (2, 5))
    text = " ".join(re.sub("<[^>]+>", " ", html).split())
    assert "sentiment · 90 MB · cpu, float32 · idle for 12 s · loads 1, hits 3" in text
    assert "2 in use · loads 1, hits 3 · stays loaded" in text
    assert "large sentiment · downloading 41 of 82 MB" in text
    assert "180 MB in all. 3 loads, 6 hits, 1 evictions since the start. 2 runs under way, 5 waiting." in text
    assert harmless(html)
    assert "No model is loaded" in markup.models_table([], Totals(0, 0, 0), (0, 0))
