"""Inside of the sentiment tab: every number shown beside direct calls of tokenizer and model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import CheckpointError
from components.explain import attribution
from components.explain.inside import Axis
from components.models.manager import ModelManager
from components.show import inside_markup
from demos import sentiment
from demos.sentiment import COURSE, EXAMPLES, Ran, attribute, draw_inside, look_inside
from tests import tiny

LONG = "I LOVE   this course so very much. " * 20


@pytest.fixture
def tiny_models() -> ModelManager:
    return tiny.manager(tiny.distilbert())


def plain(folder: Path, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer by Transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **options)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def called(folder: Path, texts: list[str], **options: Any) -> tuple[Any, Any]:
    """The tokenizer's output for several texts and the model's for that."""
    import torch

    model, tokenizer = plain(folder)
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt", **options)
    with torch.no_grad():
        return inputs, model(**inputs, output_hidden_states=True)


def starter_folder(models: Any) -> Path:
    with models.use(sentiment.OFFER, "starter") as loaded:
        return Path(loaded.model.name_or_path)


def near(expected: Any, abs: float = 1e-4) -> Any:
    return pytest.approx(np.array(expected), abs=abs)


def numbers(page: str) -> list[list[str]]:
    """The rows of all tables on a page, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [re.findall(r"<td>(.*?)</td>", row) for row in rows if "<td>" in row]


def holds(seen: sentiment.Inside, inputs: Any, output: Any) -> None:
    """What was seen is what tokenizer and model give, and it is what stands on the page."""
    assert [[token.id for token in row.tokens] for row in seen.tokens] == inputs["input_ids"].tolist()
    mask = [[int(token.attended) for token in row.tokens] for row in seen.tokens]
    assert mask == inputs["attention_mask"].tolist()
    names = ("batch", "sequence", "hidden")
    shape = output.hidden_states[-1].shape
    assert seen.hidden == (("", tuple(map(Axis, names, shape))),)
    assert seen.logits == near(output.logits)
    assert seen.probabilities == near(output.logits.softmax(-1))
    page = draw_inside(seen)
    rows = re.findall(r'<div class="tokens">(.*?)</div>', page)
    written = [[int(one) for one in re.findall(r"<small>(\d+)</small>", row)] for row in rows]
    assert written == inputs["input_ids"].tolist()
    assert f"[{', '.join(map(str, shape))}]" in page
    shown = numbers(page)
    labels = len(seen.labels)
    heads = shown[: len(seen.texts) * labels]
    expected = [
        [seen.labels[i], str(i), f"{seen.logits[row][i]:.4f}"]
        for row in range(len(seen.texts))
        for i in range(labels)
    ]
    assert heads == expected
    for row in shown[len(heads) :]:
        label, place, logit, power, share = row
        assert label == seen.labels[int(place)]
        text = next(i for i, logits in enumerate(seen.logits) if f"{logits[int(place)]:.4f}" == logit)
        highest = max(seen.logits[text])
        total = sum(math.exp(one - highest) for one in seen.logits[text])
        assert float(power) == pytest.approx(math.exp(float(logit) - highest), abs=2e-4)
        assert float(share) == pytest.approx(math.exp(float(logit) - highest) / total, abs=2e-4)
    assert len(shown) == 2 * len(heads)


def test_tiny_texts_of_several_lengths(tiny_models):
    texts = ["I love this course so very much", "i hate it", "fun"]
    seen = look_inside(Ran(tuple(texts), "x"), tiny_models)
    assert tiny_models.asked == ["x"]  # type: ignore[attr-defined]
    holds(seen, *called(tiny.distilbert(), texts))
    assert "padding" in draw_inside(seen)


def test_the_examples_on_the_starter(models):
    folder = starter_folder(models)
    seen = look_inside(Ran((COURSE, EXAMPLES[1]), "starter"), models)
    assert seen.algorithm == "WordPiece"
    assert [token.id for token in seen.tokens[0].tokens][:4] == [101, 1045, 1005, 2310]
    assert seen.hidden[0][1] == (Axis("batch", 2), Axis("sequence", 16), Axis("hidden", 384))
    holds(seen, *called(folder, [COURSE, EXAMPLES[1]]))


def test_what_is_seen_is_what_was_answered(models):
    result = sentiment.run(EXAMPLES[0], "starter", models)
    seen = look_inside(Ran((EXAMPLES[0],), "starter"), models)
    inside = dict(zip(seen.labels, seen.probabilities[0], strict=True))
    assert dict(result.rows[0].scores) == pytest.approx(inside, abs=1e-5)


def test_a_text_that_was_cut(tiny_models):
    seen = look_inside(Ran((LONG, "fun"), "x"), tiny_models)
    inputs, output = called(tiny.distilbert(), [LONG, "fun"], max_length=64)
    holds(seen, inputs, output)
    long, short = seen.tokens
    assert short.cut == ""
    assert LONG.endswith(long.cut)
    _, tokenizer = plain(tiny.distilbert())
    read = LONG[: len(LONG) - len(long.cut)]
    assert tokenizer(read)["input_ids"] == [token.id for token in long.tokens]
    assert f"<del>{long.cut[:300]}" in draw_inside(seen)


def test_labels_that_do_not_exclude_each_other():
    import torch

    folder = tiny.distilbert(("joy", "fear", "<b>rage</b>"), "multi_label_classification")
    seen = look_inside(Ran(("i love it",), "x"), tiny.manager(folder))
    _, output = called(folder, ["i love it"])
    assert seen.sigmoid
    assert seen.probabilities == near(torch.sigmoid(output.logits))
    assert sum(seen.probabilities[0]) != pytest.approx(1, abs=1e-3)
    page = draw_inside(seen)
    assert "sigmoid" in page
    assert "<b>rage</b>" not in page
    for label, place, logit, share in numbers(page)[3:]:
        assert label in ("joy", "fear", "&lt;b&gt;rage&lt;/b&gt;")
        assert seen.logits[0][int(place)] == pytest.approx(float(logit), abs=1e-4)
        assert float(share) == pytest.approx(1 / (1 + math.exp(-float(logit))), abs=1e-4)


def test_one_label_alone():
    folder = tiny.distilbert(("score",))
    seen = look_inside(Ran(("i love it",), "x"), tiny.manager(folder))
    assert seen.sigmoid
    assert seen.probabilities[0][0] == pytest.approx(1 / (1 + math.exp(-seen.logits[0][0])), abs=1e-5)


def test_a_classifier_with_a_decoder():
    folder = tiny.bart(("bad", "good"))
    texts = ["I like it", "no"]
    seen = look_inside(Ran(tuple(texts), "x"), tiny.manager(folder))
    inputs, output = called(folder, texts)
    shape = tuple(map(Axis, ("batch", "sequence", "hidden"), output.encoder_last_hidden_state.shape))
    assert seen.hidden == (("encoder", shape), ("decoder", shape))
    assert seen.logits == near(output.logits)
    assert [[token.id for token in row.tokens] for row in seen.tokens] == inputs["input_ids"].tolist()
    page = draw_inside(seen)
    assert "hidden states of its encoder" in page
    assert "2 in the encoder, 2 in the decoder" in page


def test_only_the_first_texts_are_shown(tiny_models):
    texts = tuple(f"i love {i}" for i in range(20))
    assert look_inside(Ran(texts, "x"), tiny_models).texts == texts[: sentiment.MOST_INSIDE]


def test_what_a_visitor_types_is_shown_as_text(tiny_models):
    evil = "<img src=x onerror=alert(1)>"
    page = draw_inside(look_inside(Ran((evil, "b"), "x"), tiny_models))
    assert "<img" not in page
    assert "&lt;img" in page


def test_a_checkpoint_that_cannot_be_had(models):
    with pytest.raises(CheckpointError):
        look_inside(Ran(("a",), "nobody/nothing"), models)


# Which tokens carried the decision


def test_attribution_asks_about_the_top_label(tiny_models):
    inputs, output = called(tiny.distilbert(), ["i hate it"])
    top = int(output.logits[0].argmax())
    carried = attribute(Ran(("i love it", "i hate it"), "x"), tiny_models, 1)
    assert carried.labels == ("NEGATIVE", "POSITIVE")
    assert carried.chosen == top
    assert carried.score == f"the logit of {carried.labels[top]}"
    assert carried.attributions.score == pytest.approx(float(output.logits[0, top]), abs=1e-4)
    assert [token.id for token in carried.tokens.tokens] == inputs["input_ids"][0].tolist()
    other = attribute(Ran(("i love it", "i hate it"), "x"), tiny_models, 1, 1 - top)
    assert other.attributions.score == pytest.approx(float(output.logits[0, 1 - top]), abs=1e-4)


def test_a_label_of_another_checkpoint_is_not_asked_about(tiny_models):
    carried = attribute(Ran(("i hate it",), "x"), tiny_models, 0, 7)
    assert carried.chosen == attribute(Ran(("i hate it",), "x"), tiny_models).chosen


def test_on_the_starter_hate_makes_it_negative(models):
    carried = attribute(Ran(tuple(EXAMPLES), "starter"), models, 1)
    found = carried.attributions
    assert carried.labels[carried.chosen] == "NEGATIVE"
    assert carried.tokens.tokens[int(found.values.argmax())].text == "hate"
    assert found.exact
    assert (
        abs(found.values.sum() - (found.score - found.blank)) <= attribution.ENOUGH * abs(found.values).sum()
    )
    _, output = called(starter_folder(models), [EXAMPLES[1]])
    assert found.score == pytest.approx(float(output.logits[0, carried.chosen]), abs=1e-3)
    assert isinstance(carried.attention, np.ndarray)
    assert carried.attention.sum() == pytest.approx(1, abs=1e-4)


def test_the_drawing_tells_each_number(tiny_models):
    carried = attribute(Ran(("i hate it",), "x"), tiny_models)
    page = inside_markup.attribution(carried)
    for value in carried.attributions.values:
        assert f"{value:+.2f}".replace("-", "−") in page
        assert f"{value:+.4f}" in page
    for weight in carried.attention:  # type: ignore[union-attr]
        assert f"{100 * weight:.1f} %" in page
    found = carried.attributions
    shown = dict(numbers(page))
    assert shown["of the text"] == f"{found.score:.4f}"
    assert shown["of padding in its place"] == f"{found.blank:.4f}"
    assert shown["convergence delta"] == f"{found.delta:+.4f}"


# The drawer


def handlers(tab: tiny.Tab, inputs: int) -> list[Any]:
    """What answers to events of the drawers with so many inputs."""
    return [fn.fn for fn in tab.app.fns.values() if fn.name == "opened" and len(fn.inputs) == inputs]


def test_opening_the_drawers(tiny_models):
    tab = tiny.tab(sentiment.DEMO, tiny_models)
    *_, last = tab.press("i love it\ni hate it", None, None, None, None)
    ran = next(value for value in last if isinstance(value, Ran))
    assert ran == Ran(("i love it", "i hate it"), tiny_models.asked and "tiny/" + tiny.distilbert().name)  # type: ignore[attr-defined]
    opened = [open_it(ran) for open_it in handlers(tab, 1)]
    (attributed,) = [values for values in opened if len(values) == 5]
    state, text, label, page, said = attributed
    assert (state, said) == (True, "")
    assert text["choices"] == [("i love it", 0), ("i hate it", 1)]
    assert text["visible"]
    assert [name for name, _ in label["choices"]] == ["NEGATIVE", "POSITIVE"]
    assert page == inside_markup.attribution(attribute(ran, tiny_models))
    (stations,) = [values for values in opened if len(values) == 3 and "station" in str(values[1])]
    assert stations[1] == draw_inside(look_inside(ran, tiny_models))


def test_picking_another_text_and_label(tiny_models):
    tab = tiny.tab(sentiment.DEMO, tiny_models)
    ran = Ran(("i love it", "i hate it"), "x")
    ((label, page, said),) = tab.pick(ran, 1)
    second = attribute(ran, tiny_models, 1)
    assert (label["value"], page, said) == (second.chosen, inside_markup.attribution(second), "")
    ((page, said),) = tab.pick(ran, 1, 1 - second.chosen)
    assert page == inside_markup.attribution(attribute(ran, tiny_models, 1, 1 - second.chosen))


def test_nothing_is_computed_before_a_run(tiny_models):
    tab = tiny.tab(sentiment.DEMO, tiny_models)
    assert any("Nothing has run" in str(open_it(None)) for open_it in handlers(tab, 1))
    assert tiny_models.asked == []  # type: ignore[attr-defined]


def test_the_first_example_is_no_close_call_and_that_of_the_course_is_among_them(models):
    for text, label in zip(sentiment.EXAMPLES, ("POSITIVE", "NEGATIVE"), strict=True):
        (best, share), *_ = sentiment.run(text, "starter", models).rows[0].scores
        assert best == label and share > 0.9
    import gradio as gr

    page = tiny.tab(sentiment.DEMO, models)
    shown = [component for component in page.app.blocks.values() if isinstance(component, gr.Dataset)]
    assert [sentiment.COURSE] in [sample for dataset in shown for sample in dataset.samples]
