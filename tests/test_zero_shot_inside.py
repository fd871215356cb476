"""Inside of the zero-shot tab: every number shown beside direct calls of tokenizer and model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.explain import attribution
from components.explain.inside import Axis
from components.show import inside_markup
from demos import zero_shot
from demos.zero_shot import LABELS, TEMPLATE, TEXT, Ran, attribute, draw_inside, look_inside
from tests import tiny

SHORT = "About {}."
NAMES = ("education", "politics", "business")


def ran(
    text: str = TEXT, labels: str = LABELS, multi: bool = False, template: str = TEMPLATE, name: str = "x"
) -> Ran:
    return Ran(zero_shot.validate(text, labels, template, multi), name)


def near(expected: Any) -> Any:
    return pytest.approx(np.array(expected), abs=1e-4)


def sections(page: str) -> list[str]:
    return page.split('<section class="station">')[1:]


def tables_of(page: str) -> list[list[list[str]]]:
    """The tables on a page, each as rows of texts."""
    bodies = re.findall(r"<tbody>(.*?)</tbody>", page)
    return [[re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", b)] for b in bodies]


def as_numbers(rows: list[list[str]]) -> np.ndarray:
    """A table without its first column, in which labels stand."""
    return np.array([[float(cell) for cell in row[1:]] for row in rows])


def pairs(folder: Path, text: str, hypotheses: list[str], **options: Any) -> tuple[Any, Any]:
    """Tokenizer and model called directly for premise and hypotheses."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        [text] * len(hypotheses),
        hypotheses,
        padding=True,
        truncation="only_first",
        return_tensors="pt",
        **options,
    )
    with torch.no_grad():
        return inputs, model(**inputs)


def vectors(folder: Path, texts: list[str], first: bool = False) -> Any:
    """Sentence vectors of length 1, one text at a time: of the first token, or the mean."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        rows.append(hidden[0] if first else hidden.mean(0))
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()


def softmax(numbers: np.ndarray) -> np.ndarray:
    powers = np.exp(numbers - numbers.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# Entailment


@pytest.mark.parametrize("multi", [False, True])
def test_entailment(multi):
    models = tiny.manager(tiny.bart())
    asked = ran(multi=multi)
    seen = look_inside(asked, models)
    assert models.asked == ["x"]  # type: ignore[attr-defined]
    hypotheses = [TEMPLATE.format(label) for label in NAMES]
    inputs, output = pairs(tiny.bart(), TEXT, hypotheses)
    logits = output.logits.numpy()
    assert [[token.id for token in row.tokens] for row in seen.tokens] == inputs["input_ids"].tolist()
    mask = [[int(token.attended) for token in row.tokens] for row in seen.tokens]
    assert mask == inputs["attention_mask"].tolist()
    assert seen.logits == near(logits)
    assert (seen.classes, seen.pair) == (("contradiction", "neutral", "entailment"), (0, 2))
    shape = tuple(map(Axis, ("batch", "sequence", "hidden"), output.encoder_last_hidden_state.shape))
    assert seen.hidden == (("encoder", shape), ("decoder", shape))

    page = draw_inside(seen)
    _, _, head, after = sections(page)
    assert as_numbers(*tables_of(head)) == near(logits)
    one, each = tables_of(after)[::-1] if multi else tables_of(after)
    entailment, both = logits[:, 2], logits[:, [0, 2]]
    powers = np.exp(entailment - entailment.max())
    assert as_numbers(one) == near(np.stack([entailment, powers, softmax(entailment)], 1))
    powers = np.exp(both - both.max(1, keepdims=True))
    assert as_numbers(each) == near(np.column_stack([both, powers, softmax(both)[:, 1]]))
    assert [row[0] for row in one] == [row[0] for row in each] == list(NAMES)
    used = "Several labels may be right" if multi else "One answer"
    assert f"<h4>{used}: this run</h4>" in after
    assert f"here {softmax(both)[:, 1].sum():.4f}" in after
    assert f"Here they sum to {np.exp(entailment - entailment.max()).sum():.4f}" in after


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("folder", [tiny.bart, tiny.sentence_encoder])
def test_what_is_seen_is_what_was_answered(folder, multi):
    models = tiny.manager(folder())
    answered = zero_shot.run(TEXT, LABELS, multi, TEMPLATE, "auto", models).scores
    seen = look_inside(ran(multi=multi), models)
    assert dict(seen.scores) == pytest.approx(dict(answered), abs=1e-5)
    _, _, _, after = sections(draw_inside(seen))
    shown = {row[0]: float(row[-1]) for row in tables_of(after)[0]}
    assert shown == pytest.approx(dict(answered), abs=1e-4)


def test_two_classes_and_another_order():
    folder = tiny.bart(("entailment", "not_entailment"))
    seen = look_inside(ran(multi=True), tiny.manager(folder))
    _, output = pairs(folder, TEXT, [TEMPLATE.format(label) for label in NAMES])
    assert seen.pair == (1, 0)
    _, _, _, after = sections(draw_inside(seen))
    each, _ = tables_of(after)
    assert as_numbers(each)[:, -1] == near(output.logits.softmax(-1)[:, 0])
    assert "not_entailment and entailment" in after


def test_one_label_is_scored_by_itself():
    seen = look_inside(ran(labels="education"), tiny.manager(tiny.bart()))
    page = draw_inside(seen)
    assert "nothing to compete with" in page
    assert "<h4>Several labels may be right: this run</h4>" in page


def test_a_premise_that_was_cut():
    text = "abcdefghij " * 20
    seen = look_inside(ran(text, "a, bcd", template=SHORT), tiny.manager(tiny.bart()))
    inputs, output = pairs(tiny.bart(), text.strip(), ["About a.", "About bcd."], max_length=96)
    assert [[token.id for token in row.tokens] for row in seen.tokens] == inputs["input_ids"].tolist()
    assert seen.logits == near(output.logits)
    ends = [row.cut for row in seen.tokens]
    assert len(ends[1]) == len(ends[0]) + 2, "the longer label leaves less room"
    assert all(text.strip().endswith(end) for end in ends)
    assert draw_inside(seen).count("<del>") == 2


def test_more_labels_than_are_shown():
    labels = [f"l{i}" for i in range(12)]
    for folder in (tiny.bart(), tiny.sentence_encoder()):
        models = tiny.manager(folder)
        asked = ran("fun", ", ".join(labels), template=SHORT)
        seen = look_inside(asked, models)
        assert len(seen.logits or seen.cosines) == 12
        page = draw_inside(seen)
        assert "and 4 more labels" in page
        answered = zero_shot.run("fun", ", ".join(labels), False, SHORT, "auto", models).scores
        assert dict(seen.scores) == pytest.approx(dict(answered), abs=1e-5)
        assert len(tables_of(page)[0]) == 12


# Similarity


def similar(seen: zero_shot.Inside, folder: Path, first: bool = False) -> None:
    """What was seen is what tokenizer and model give, and it is what stands on the page."""
    from transformers import AutoTokenizer

    sentences = [TEXT, *(TEMPLATE.format(label) for label in NAMES)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [[token.id for token in row.tokens if token.attended] for row in seen.tokens]
    assert ids == [tokenizer(sentence)["input_ids"] for sentence in sentences]
    text, *labels = vectors(folder, sentences, first)
    cosines = np.array(labels) @ text
    assert seen.cosines == near(cosines)
    longest = max(map(len, ids))
    assert seen.hidden[0][1] == (Axis("batch", 4), Axis("sequence", longest), Axis("hidden", len(text)))
    _, model, head, after = sections(draw_inside(seen))
    assert f"[4, {longest}, {len(text)}]" in model
    assert f"[4, {len(text)}]" in head
    assert as_numbers(*tables_of(head))[:, 0] == near(cosines)
    one, each = tables_of(after)[::-1] if seen.request.multi_label else tables_of(after)
    divided = cosines / zero_shot.TEMPERATURE
    powers = np.exp(divided - divided.max())
    expected = np.column_stack([cosines, divided, powers, softmax(divided)])
    assert as_numbers(one) == pytest.approx(expected, abs=5e-4)
    assert as_numbers(each) == near(np.column_stack([cosines, cosines.clip(0)]))
    assert str(zero_shot.TEMPERATURE) in after


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_similarity(pooling, multi):
    folder = tiny.sentence_encoder(pooling)
    seen = look_inside(ran(multi=multi), tiny.manager(folder))
    similar(seen, folder, first=pooling == "cls")
    assert seen.pooling == (zero_shot.FIRST if pooling == "cls" else zero_shot.MEAN)
    assert seen.pooling in draw_inside(seen)


def test_similarity_on_the_starter(models):
    with models.use(zero_shot.OFFER, "starter") as loaded:
        folder = Path(loaded.model.name_or_path)
    similar(look_inside(ran(name="starter"), models), folder)


def test_a_text_that_was_cut_for_a_sentence_encoder():
    text = "so very much " * 40
    seen = look_inside(ran(text, "fun"), tiny.manager(tiny.sentence_encoder()))
    text_row, label_row = seen.tokens
    assert text.strip().endswith(text_row.cut)
    assert text_row.cut.split() == ("so very much " * 40).split()[62:]
    assert label_row.cut == ""


def test_what_a_visitor_types_is_shown_as_text():
    evil = "<img src=x onerror=alert(1)>"
    for folder in (tiny.bart(("<i>x</i>", "entailment")), tiny.sentence_encoder()):
        models = tiny.manager(folder)
        asked = ran(evil, f"{evil}, fun", template=f"{SHORT} <b>")
        page = draw_inside(look_inside(asked, models)) + inside_markup.attribution(attribute(asked, models))
        assert "<img" not in page
        assert "<i>x</i>" not in page
        assert "&lt;img" in page


# Which tokens carried the decision


def test_attribution_of_an_entailment_logit(monkeypatch):
    monkeypatch.setattr(attribution, "MOST", 16)
    models = tiny.manager(tiny.bart())
    inputs, output = pairs(tiny.bart(), TEXT, [TEMPLATE.format(label) for label in NAMES])
    carried = attribute(ran(), models)
    assert carried.chosen == int(output.logits[:, 2].argmax())
    assert carried.labels == NAMES
    assert carried.score == f"the entailment logit of “{NAMES[carried.chosen]}”"
    assert carried.attributions.score == pytest.approx(float(output.logits[carried.chosen, 2]), abs=1e-4)
    other = attribute(ran(), models, (carried.chosen + 1) % 3)
    assert other.attributions.score == pytest.approx(float(output.logits[other.chosen, 2]), abs=1e-4)
    length = int(inputs["attention_mask"][other.chosen].sum())
    ids = inputs["input_ids"][other.chosen].tolist()[:length]
    assert [token.id for token in other.tokens.tokens] == ids
    special = [token.special for token in other.tokens.tokens]
    assert all(other.attributions.values[place] == 0 for place, is_so in enumerate(special) if is_so)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_attribution_of_a_cosine(pooling):
    folder = tiny.sentence_encoder(pooling)
    carried = attribute(ran(), tiny.manager(folder), 1)
    padding = " ".join(["[PAD]"] * (len(carried.tokens.tokens) - 2))
    text, label, blank = vectors(folder, [TEXT, TEMPLATE.format("politics"), padding], pooling == "cls")
    found = carried.attributions
    assert found.score == pytest.approx(float(text @ label), abs=1e-4)
    assert found.blank == pytest.approx(float(blank @ label), abs=1e-4)
    assert found.exact
    assert found.values.sum() == pytest.approx(found.score - found.blank + found.delta)
    assert carried.position == ("“[CLS]”" if pooling == "cls" else "all tokens on average")
    assert carried.attention is not None
    assert carried.attention.sum() == pytest.approx(1, abs=1e-4)


def test_attribution_on_the_starter(models):
    carried = attribute(ran(name="starter"), models)
    assert carried.labels[carried.chosen] == "education"
    heaviest = carried.tokens.tokens[int(carried.attributions.values.argmax())].text
    assert heaviest in ("class", "history")
    assert carried.attributions.exact


def test_a_label_of_an_earlier_run_is_not_asked_about():
    models = tiny.manager(tiny.sentence_encoder())
    assert attribute(ran(), models, 50).chosen == attribute(ran(), models).chosen


# The drawer


def test_opening_the_drawers():
    models = tiny.manager(tiny.sentence_encoder())
    tab = tiny.tab(zero_shot.DEMO, models)
    *_, last = tab.press(TEXT, LABELS, True, SHORT)
    remembered = next(value for value in last if isinstance(value, Ran))
    assert remembered == ran(multi=True, template=SHORT, name=f"tiny/{tiny.sentence_encoder().name}")
    opening = [fn.fn for fn in tab.app.fns.values() if fn.name == "opened" and len(fn.inputs) == 1]
    opened = [open_it(remembered) for open_it in opening]
    (attributed,) = [values for values in opened if len(values) == 5]
    _, text, label, page, said = attributed
    assert not text["visible"]
    assert label["choices"] == [(name, place) for place, name in enumerate(NAMES)]
    assert (page, said) == (inside_markup.attribution(attribute(remembered, models)), "")
    assert any(values[1] == draw_inside(look_inside(remembered, models)) for values in opened)
    ((page, said),) = tab.pick(remembered, 0, 2)
    assert page == inside_markup.attribution(attribute(remembered, models, 2))


def test_a_run_can_be_repeated_from_what_is_remembered():
    import pickle

    kept = pickle.loads(pickle.dumps(ran(multi=True)))
    models = tiny.manager(tiny.bart())
    asked = kept.request
    again = zero_shot.run(
        asked.text, ", ".join(asked.labels), asked.multi_label, asked.template, kept.checkpoint, models
    )
    assert dict(again.scores) == pytest.approx(dict(look_inside(kept, models).scores), abs=1e-5)
    assert math.isfinite(again.scores[0][1])
