"""Compare: two checkpoints beside each other, as each answers alone, and how often they agree."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import demos
from components.errors import Cancelled, CheckpointError, InputError
from components.models.loading import weights_bytes
from components.models.manager import ModelManager
from components.models.status import Status, status_of_two
from components.page import choosing, showing
from components.page.demo import Compared, Comparison, Demo
from components.progress import Progress, never
from components.settings import Settings
from components.weights.checkpoints import Checkpoint, Offer
from demos import compare, generation, image, sentiment, translation, zero_shot
from tests import tiny, where

TEXTS = "i love it\ni hate it\nfun class\nthe weather was not so fun\nhistory of my life\nhouse"


def says(text: str, extra: str, choice: str, models: Any, settings: Any, report: Any, stopped: Any) -> Any:
    result = sentiment.run(text, choice, models, report, stopped, batch=settings.batch)
    return Compared(result.status, result.rows[0].scores)


def sorts(text: str, extra: str, choice: str, models: Any, settings: Any, report: Any, stopped: Any) -> Any:
    result = zero_shot.run(text, extra, False, zero_shot.TEMPLATE, choice, models, report, stopped)
    return Compared(result.status, result.scores)


def sees(path: str, extra: str, choice: str, models: Any, settings: Any, report: Any, stopped: Any) -> Any:
    result = image.run(path, 3, choice, models, report, stopped, settings.max_image_megapixels)
    return Compared(result.status, result.scores)


def echoes(text: str, extra: str, choice: str, models: Any, settings: Any, report: Any, stopped: Any) -> Any:
    result = sentiment.run(text, choice, models, report, stopped)
    return Compared(result.status, text=f"{text} <b>{len(choice)}</b>")


def inside(text: str, extra: str, checkpoint: str, models: Any, settings: Any) -> str:
    return sentiment.draw_inside(sentiment.look_inside(sentiment.Ran((text,), checkpoint), models))


SENTIMENT = replace(sentiment.DEMO, compare=Comparison("text", sentiment.EXAMPLES[0], says, inside))
ZERO_SHOT = replace(
    zero_shot.DEMO,
    compare=Comparison("text", zero_shot.TEXT, sorts, extra="Candidate labels", extra_example="a, b"),
)
IMAGE = replace(image.DEMO, compare=Comparison("image", "lion.jpg", sees))
ECHO = replace(sentiment.DEMO, name="echo", title="Echo", compare=Comparison("text", "a text", echoes))


@pytest.fixture
def tabs(monkeypatch) -> list[Demo]:
    """What `discover` gives; the last one says nothing of comparing."""
    found = [SENTIMENT, ZERO_SHOT, IMAGE, ECHO, replace(sentiment.DEMO, name="plain", compare=None)]
    monkeypatch.setattr(demos, "discover", lambda: found)
    return found


def several(folders: dict[str, Path]) -> ModelManager:
    """A manager of these folders by the names that are chosen; "auto" is the first one."""

    def choose(offer: Offer, choice: str) -> tuple[Checkpoint, str]:
        name = next(iter(folders)) if choice == "auto" else choice
        if name not in folders:
            raise CheckpointError(f"There is no {name}.")
        checkpoint = tiny.checkpoint(folders[name], offer.recipe)
        return replace(checkpoint, name=name), "chosen by itself" if choice == "auto" else ""

    return ModelManager(
        choose=choose,
        fetch=lambda checkpoint, report: folders[checkpoint.name],
        load=where.load,
        size=weights_bytes,
        free=lambda: 10**12,
        keep_alive=0,  # the hardest case: what nobody holds is gone
    )


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {
        "small": tiny.distilbert(),
        "shouting": tiny.bart(("NEGATIVE", "positive")),
        "other": tiny.distilbert(("LABEL_0", "LABEL_1")),
    }


@pytest.fixture
def models(folders) -> ModelManager:
    return several(folders)


def subject(tab: Demo) -> compare.Subject:
    return compare.subjects([tab])[tab.name]


def columns(
    models: ModelManager, text: str, choices: tuple[str, str] = ("small", "shouting"), tab: Demo = SENTIMENT
) -> tuple[compare.Column, ...]:
    found = subject(tab)
    inputs = compare.validate(found.how, text, None, "")
    return list(compare.run(found, inputs, "", choices, models, Settings()))[-1]


def directly(folder: Path, texts: list[str]) -> list[tuple[str, float]]:
    """The likeliest label of each text and its probability, by tokenizer and model alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            shares = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        rows.append((model.config.id2label[int(shares.argmax())], float(shares.max())))
    return rows


# what can be compared, and what cannot


def test_tabs_without_a_comparison_are_left_out(tabs):
    assert list(compare.subjects(tabs)) == ["sentiment", "zero_shot", "image", "echo"]
    assert compare.subjects([replace(SENTIMENT, offer=None)]) == {}


@pytest.mark.parametrize("text", ["", None, " \n \n"])
def test_no_text(text):
    with pytest.raises(InputError, match="no text yet"):
        compare.validate(subject(SENTIMENT).how, text, None, "")


def test_too_many_texts_no_picture_no_labels():
    with pytest.raises(InputError, match=f"at most {compare.MOST_TEXTS}"):
        compare.validate(subject(SENTIMENT).how, "a\n" * (compare.MOST_TEXTS + 1), None, "")
    with pytest.raises(InputError, match="no picture yet"):
        compare.validate(subject(IMAGE).how, "a text", None, "")
    with pytest.raises(InputError, match="Candidate labels are missing"):
        compare.validate(subject(ZERO_SHOT).how, "a text", None, "  ")
    assert compare.validate(subject(ZERO_SHOT).how, " a \n\n b", None, "x") == ("a", "b")
    assert compare.validate(subject(IMAGE).how, None, "/a/path", "") == ("/a/path",)


def test_a_checkpoint_that_cannot_be_had_is_said(models):
    with pytest.raises(CheckpointError, match="There is no third"):
        columns(models, "a", ("small", "third"))


# answers


def test_each_column_is_what_the_checkpoint_says_alone(models, folders):
    found = columns(models, TEXTS)
    for column, name in zip(found, ("small", "shouting"), strict=True):
        expected = directly(folders[name], TEXTS.splitlines())
        assert list(column.labels) == [label for label, _ in expected]
        shares = [answer.scores[0][1] for answer in column.answers]
        assert shares == pytest.approx([share for _, share in expected], abs=1e-5)
        assert column.status.checkpoint == name
        assert column.status.run_seconds == sum(answer.status.run_seconds for answer in column.answers)


def test_a_checkpoint_is_loaded_once_for_all_texts(models):
    columns(models, TEXTS)
    assert models.totals().loads == 2
    assert models.snapshot() == []


def test_how_a_checkpoint_was_chosen_is_told(models):
    first, second = columns(models, "a", ("auto", "small"))
    assert first.status.checkpoint == "small"
    assert first.status.remarks[0] == "chosen by itself"
    assert "chosen by itself" not in second.status.remarks


def test_remarks_of_single_answers_are_told_once(models):
    long = "so very fun " * 40
    first, _ = columns(models, f"house\n{long}\nlove {long}")
    (remark,) = first.status.remarks
    assert remark.startswith("2 of 3 answers have a remark of their own, such as: The text was cut to the 64")
    assert columns(models, long)[0].status.remarks[0].startswith("The text was cut to the 64")
    assert columns(models, "house\nlove")[0].status.remarks == ()


def test_labels_of_the_visitor_reach_the_tab(folders):
    names = {"similar": tiny.sentence_encoder(), "entailing": tiny.bart()}
    models, found = several(names), subject(ZERO_SHOT)
    both = list(
        compare.run(found, ("i love history",), "sport, class", ("similar", "entailing"), models, Settings())
    )[-1]
    for column, name in zip(both, names, strict=True):
        alone = zero_shot.run("i love history", "sport, class", False, zero_shot.TEMPLATE, name, models)
        assert column.answers[0].scores == alone.scores


def test_pictures(tmp_path):
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.effect_noise((40, 30), 90).convert("RGB").save(path)
    models, found = several({"one": tiny.vit(), "two": tiny.vit(("x", "y"))}), subject(IMAGE)
    both = list(compare.run(found, (str(path),), "", ("one", "two"), models, Settings()))[-1]
    for column in both:
        alone = image.run(str(path), 3, column.status.checkpoint, models)
        assert column.answers[0].scores == alone.scores


# agreement


def test_agreement_counts_what_the_columns_show(models):
    from sklearn import metrics

    first, second = columns(models, TEXTS)
    ours, theirs = ([label.upper() for label in column.labels] for column in (first, second))
    same = sum(one == other for one, other in zip(ours, theirs, strict=True))
    assert 0 < same < 6, "the checkpoints must differ on some, or the test says nothing"
    page = compare.draw((first, second), 6)
    assert f"{100 * same / 6:.1f} % <span>the same label" in page
    assert f"{same} of 6 texts" in page
    assert f"is {metrics.cohen_kappa_score(ours, theirs):.2f}." in page
    rows = compare.disagreements(TEXTS.splitlines(), first, second)
    assert [row[0] for row in rows] == [
        text for text, one, other in zip(TEXTS.splitlines(), ours, theirs, strict=True) if one != other
    ]
    label, share = first.answers[TEXTS.splitlines().index(rows[0][0])].scores[0]
    assert rows[0][1] == f"{label} {100 * share:.1f} %"


def test_the_table_for_download(models):
    texts = ["=1+1", "i love it", "house"]
    first, second = columns(models, "\n".join(texts))
    rows = list(csv.reader(io.StringIO(compare.to_csv(texts, first, second))))
    assert rows[0] == ["text", "small", "shouting", "first probability", "second probability", "same"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "i love it", "house"]
    for row, one, other in zip(rows[1:], first.answers, second.answers, strict=True):
        assert row[1:3] == [one.label, other.label]
        assert [float(row[3]), float(row[4])] == pytest.approx(
            [one.scores[0][1], other.scores[0][1]], abs=1e-6
        )
        assert row[5] == ("yes" if one.label.upper() == other.label.upper() else "no")


def test_labels_that_only_have_other_names_are_told(models):
    page = compare.draw(columns(models, TEXTS, ("small", "other")), 6)
    assert "0.0 % <span>the same label" in page
    assert "they may only name their labels differently" in page


def test_the_same_checkpoint_twice_is_told(models):
    page = compare.draw(columns(models, TEXTS, ("small", "small")), 6)
    assert "Both sides are small: only the times can differ." in page
    assert "100.0 % <span>the same label" in page
    assert "Both sides" not in compare.draw(columns(models, "a"), 1)


def test_kappa_that_is_not_defined_is_told(models):
    page = compare.draw(columns(models, "house\nhouse", ("small", "small")), 2)
    assert "kappa is not defined" in page


def test_answers_that_are_texts(models):
    both = columns(models, "a\nb", tab=ECHO)
    page = compare.draw(both, 2)
    assert "0.0 % <span>the same answer" in page and "kappa" not in page
    assert "a &lt;b&gt;5&lt;/b&gt;" in page and "<b>5" not in page
    rows = list(csv.reader(io.StringIO(compare.to_csv(["a", "b"], *both))))
    assert rows[1] == ["a", "a <b>5</b>", "a <b>8</b>", "", "", "no"]


# progress and stopping


def test_progress_names_checkpoint_and_text(models):
    told: list[Progress] = []
    found = subject(SENTIMENT)
    list(compare.run(found, ("a", "b"), "", ("small", "shouting"), models, Settings(), told.append))
    stages = [progress.stage for progress in told if "text" in progress.stage]
    assert stages == [f"{name}: text {i} of 2" for name in ("small", "shouting") for i in (1, 2)]


def test_stopped_before_the_second_has_answered(models):
    found = subject(SENTIMENT)
    steps = compare.run(found, ("a",), "", ("small", "shouting"), models, Settings(), stopped=never)
    assert len(next(steps)) == 1
    # Held, so that no load goes on behind the next test.
    with models.use(found.offer, "small"), pytest.raises(Cancelled):
        compare.answers(found, ("a",), "", "small", models, Settings(), stopped=lambda: True)


def test_stopped_in_between_shows_what_both_have_answered(models):
    found, asked = subject(SENTIMENT), []

    def after_two(*values: Any) -> Compared:
        answer = says(*values)
        asked.append(values[0])
        return answer

    stopping = replace(found, how=replace(found.how, answer=after_two))
    texts = TEXTS.splitlines()
    first = compare.answers(found, texts, "", "small", models, Settings())
    second = compare.answers(
        stopping, texts, "", "shouting", models, Settings(), stopped=lambda: len(asked) >= 2
    )
    assert asked == texts[:2]
    page = compare.draw((first, second), 6)
    assert "Stopped: 2 of 6 texts were compared." in page
    assert "of 2 texts get the same label" in page
    assert len(compare.to_csv(texts, first, second).splitlines()) == 3


# the status of both


def test_the_status_of_two():
    one = Status("a", "hub", "CPU", "float32", 1.0, 2.0, ("x", "y"))
    other = Status("b", "starter", "CPU", "int8", 0.5, 0.25, ("y", "z"))
    assert status_of_two(one, other) == Status(
        "a and b", "hub and starter", "CPU", "float32 and int8", 1.5, 2.25, ("x", "y", "z")
    )
    assert status_of_two(one, one) == replace(one, run_seconds=4.0)


# the page


def press(page: tiny.Tab, task: str, text: str, *choices: str, extra: str = "", image: Any = None) -> Any:
    return page.press(task, text, image, extra, choices[0], checkpoint=choices[1])


def test_one_text_on_the_page(tabs, models, folders):
    page = tiny.tab(compare.DEMO, models)
    answer, table, download, ran, problem, status = press(
        page, "sentiment", "i love it", "small", "shouting"
    )[-1]
    for name in ("small", "shouting"):
        ((label, share),) = directly(folders[name], ["i love it"])
        assert f"{label} <span>{100 * share:.1f} %" in answer
    assert "the same label" not in answer
    assert not table["visible"] and not download["visible"] and problem == ""
    assert ran == compare.Ran("sentiment", "i love it", "", ("small", "shouting"))
    assert "small and shouting" in status


def test_a_list_on_the_page(tabs, models):
    page = tiny.tab(compare.DEMO, models)
    answer, table, download, *_ = press(page, "sentiment", TEXTS, "small", "shouting")[-1]
    assert "the same label" in answer
    assert table["visible"] and table["value"]["headers"] == ["text", "first: small", "second: shouting"]
    assert Path(download["value"]).read_text("utf-8-sig").startswith("text,small,shouting,")
    answer, table, *_ = press(page, "sentiment", TEXTS, "small", "small")[-1]
    assert not table["visible"]


def test_a_mistake_empties_the_page(tabs, models):
    page = tiny.tab(compare.DEMO, models)
    answer, *_, ran, problem, status = press(page, "sentiment", " ", "small", "shouting")[-1]
    assert answer is None and ran is None and status == ""
    assert "no text yet" in problem


def test_inside_shows_both_for_the_first_text(tabs, models):
    ran = compare.Ran("sentiment", "i love it", "", ("small", "shouting"))
    first, second = compare.look_inside(ran, subject(SENTIMENT), models, Settings())
    assert first == f"<h3>small</h3>{inside('i love it', '', 'small', models, None)}"
    assert second == f"<h3>shouting</h3>{inside('i love it', '', 'shouting', models, None)}"
    assert "DistilBert" in first and "Bart" in second
    assert compare.look_inside(replace(ran, task="echo"), subject(ECHO), models, Settings()) == (
        f"<p>{compare.NO_INSIDE}</p>",
        "",
    )


def test_another_task_needs_other_inputs(tabs, models):
    page = tiny.tab(compare.DEMO, models)

    def switch(name: str, text: str) -> Any:
        (answer,) = [a for a in page.pick(name, text) if len(a) == 9]
        return answer

    text, image_, extra, first, second, answer, table, download, problem = switch(
        "zero_shot", sentiment.EXAMPLES[0]
    )
    assert text["value"] == zero_shot.TEXT and text["visible"] and not image_["visible"]
    assert (extra["value"], extra["label"], extra["visible"]) == ("a, b", "Candidate labels", True)
    assert first["choices"] == second["choices"] == choosing.choices(zero_shot.OFFER)
    assert (first["value"], second["value"], problem) == ("auto", "starter", "")
    assert answer == showing.EMPTY and not table["visible"] and not download["visible"]
    text, image_, extra, *_ = switch("image", "my own words")
    assert text["value"] == "my own words" and not text["visible"]
    assert image_["visible"] and not extra["visible"]


def test_without_anything_to_compare_the_page_says_so(monkeypatch, models):
    monkeypatch.setattr(demos, "discover", lambda: [replace(sentiment.DEMO, compare=None)])
    page = tiny.tab(compare.DEMO, models)
    shown = [getattr(block, "value", None) for block in page.app.blocks.values()]
    assert f"<p>{compare.NOTHING}</p>" in shown


@pytest.fixture(scope="module")
def starters() -> ModelManager:
    """The app's own manager with its starters, of which nothing is loaded yet."""
    import os

    from components.settings import parse

    settings = replace(parse([], os.environ), checkpoints="starter", keep_alive=-1)
    return where.manager(settings)


def test_the_starter_against_itself(starters):
    """Through the app's own manager: the same answers, and it is said."""
    first, second = columns(starters, "\n".join(sentiment.EXAMPLES), ("auto", "starter"))
    assert first.labels == second.labels == ("POSITIVE", "NEGATIVE")
    assert [answer.scores for answer in first.answers] == [answer.scores for answer in second.answers]
    alone = sentiment.run(sentiment.EXAMPLES[0], "auto", starters)
    assert dict(first.answers[0].scores) == pytest.approx(dict(alone.rows[0].scores))
    assert compare.remarks((first, second), 2)[0].startswith(f"Both sides are {alone.status.checkpoint}")
    assert starters.totals().loads == 1


# the tabs that can be compared


@pytest.fixture(scope="module")
def real() -> dict[str, compare.Subject]:
    return compare.subjects(demos.discover())


def test_the_tabs_of_the_app(real):
    assert set(real) == {"sentiment", "zero_shot", "generation", "image", "translation"}


@pytest.mark.parametrize("name", ["sentiment", "zero_shot", "image", "translation", "generation"])
def test_a_column_is_what_its_own_tab_answers(real, starters, name):
    import gradio as gr

    found = real[name]
    given = found.how.example if found.how.input == "text" else str(gr.media.get_image(found.how.example))
    column = compare.answers(found, [given], found.how.extra_example, "auto", starters, Settings())
    (answer,) = column.answers
    if name == "sentiment":
        assert answer.scores == sentiment.run(given, "auto", starters).rows[0].scores
    elif name == "zero_shot":
        alone = zero_shot.run(given, zero_shot.LABELS, False, zero_shot.TEMPLATE, "auto", starters)
        assert answer.scores == alone.scores
    elif name == "image":
        assert answer.scores == image.run(given, image.TOP_K, "auto", starters).scores
    elif name == "translation":
        assert answer.text == translation.run(given, "auto", starters).text
    else:
        request = generation.validate(given, temperature=0)
        *_, alone = generation.run(request, "auto", starters)
        assert answer.text == alone.sequences[0]
    assert found.offer.starter
    assert column.status.checkpoint == found.offer.starter.name
    first, second = compare.look_inside(
        compare.Ran(name, given, found.how.extra_example, (column.status.checkpoint,) * 2),
        found,
        starters,
        Settings(),
    )
    assert first == second if found.how.inside else first == f"<p>{compare.NO_INSIDE}</p>"
    if found.how.inside:
        assert first.count('class="station"') >= 4
