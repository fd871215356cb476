"""Transfer learning: the curves of two training runs, read, compared and drawn."""

from __future__ import annotations

import json

import pytest

from components.page.demo import Demo
from components.show import figures
from demos import transfer
from demos.transfer import Measured
from tests import tiny
from training import sentiment

PRETRAINED = (Measured(1, 64, 0.8), Measured(5, 320, 0.9))
SCRATCH = (Measured(2, 64, 0.6), Measured(10, 640, 0.78))


def test_measurements_are_taken_from_a_curve(tmp_path):
    points = [
        {"step": 1, "seconds": 1.0, "loss": 0.7},
        {"step": 200, "seconds": 90.0, "accuracy": 0.81},
        {"step": 201, "seconds": 90.5, "loss": 0.4},
    ]
    (tmp_path / "curve.json").write_text(json.dumps(points))
    assert transfer.measured(transfer.read_curve(tmp_path / "curve.json")) == (Measured(1.5, 12800, 0.81),)
    assert transfer.BATCH == sentiment.BATCH


@pytest.mark.parametrize(
    ("minutes", "share"), [(0, 0.5), (1.9, 0.5), (2, 0.6), (9, 0.6), (10, 0.78), (99, 0.78)]
)
def test_the_last_measurement_counts(minutes, share):
    assert transfer.at(SCRATCH, minutes) == share


def test_the_time_to_an_accuracy():
    assert transfer.minutes_to(PRETRAINED, 0.78) == 1
    assert transfer.minutes_to(SCRATCH, 0.79) is None


def test_the_better_run_stands_first():
    page = transfer.compare(PRETRAINED, SCRATCH, 6)
    assert page.index("from the pretrained weights") < page.index("from random weights")
    assert "90.0 %" in page and "60.0 %" in page
    assert transfer.compare(SCRATCH, PRETRAINED, 6).index("from random") < page.index("60.0 %")


def test_the_summary_says_when_the_one_was_as_good_as_the_other():
    assert transfer.summary(PRETRAINED, SCRATCH) == (
        "In 10 minutes the run from random weights got to 78.0 % at best. From the pretrained weights that "
        "took 1.0 minutes, and the best was 90.0 %."
    )
    assert "stayed below" in transfer.summary(SCRATCH, PRETRAINED)


@pytest.mark.parametrize("axis", transfer.AXES)
def test_the_figure_holds_the_measurements(axis):
    figure = transfer.draw(PRETRAINED, SCRATCH, axis)
    first, second = figure.data
    assert list(first.y) == [0.8, 0.9] and list(second.y) == [0.6, 0.78]
    assert list(second.x) == ([2, 10] if axis.startswith("minutes") else [64, 640])
    assert figure.layout.xaxis.title.text == axis
    # Not by colour alone.
    assert first.line.dash != second.line.dash and first.marker.symbol != second.marker.symbol


def test_names_in_learning_curves_are_text():
    figure = figures.learning_curves({"<b>x</b>": ([1], [2])}, "x", "y")
    assert figure.data[0].name == "&lt;b&gt;x&lt;/b&gt;"
    assert not figure.layout.showlegend


def test_every_starter_that_was_trained_here_has_its_lesson():
    lessons = transfer.lessons()
    assert {"MiniLM fine-tuned on SST-2", "MiniLM that fills gaps", "Marian en-fr, small"} <= lessons.keys()
    for lesson in lessons.values():
        assert "| recipe |" in lesson.card and "license:" not in lesson.card
        steps, losses = zip(*lesson.loss, strict=True)
        assert list(steps) == sorted(steps) and losses[-1] < losses[0]


def test_these_very_runs_show_what_pretraining_is_worth():
    pretrained, scratch = (
        transfer.measured(transfer.read_curve(transfer.TAUGHT / f"{name}.json"))
        for name in ("pretrained", "scratch")
    )
    assert max(one.accuracy for one in pretrained) > max(one.accuracy for one in scratch) + 0.05
    assert transfer.minutes_to(pretrained, max(one.accuracy for one in scratch))


def test_the_tab_is_built_and_answers(tmp_path):
    assert isinstance(transfer.DEMO, Demo) and transfer.DEMO.offer is None
    page = tiny.tab(transfer.DEMO, tiny.manager(tmp_path))
    texts = [str(block["props"].get("value")) for block in page.app.get_config_file()["components"]]
    assert any("from random weights" in text for text in texts)
