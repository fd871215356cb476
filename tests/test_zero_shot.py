"""The zero-shot tab beside Transformers' own pipeline and direct calls of tiny checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import Cancelled, InputError
from components.weights.checkpoints import SENTENCES
from demos import zero_shot
from demos.zero_shot import TEMPLATE
from tests import tiny

TEXT = "History isn't really a fun class"
LABELS = ["education", "politics", "business"]
SHORT = "About {}."


@pytest.fixture
def models():
    return tiny.manager(tiny.bart())


@pytest.fixture
def encoder():
    return tiny.manager(tiny.sentence_encoder())


def near(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-4)


def scores(
    models: Any, text: str = TEXT, labels: Any = LABELS, multi: bool = False, template: str = TEMPLATE
):
    return zero_shot.run(text, ", ".join(labels), multi, template, "auto", models).scores


def pipeline(folder: Path, labels: list[str], multi: bool, template: str) -> dict[str, float]:
    """What Transformers' zero-shot pipeline answers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    ask: Any = pipeline(
        "zero-shot-classification",
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device=torch.device("cpu"),
    )
    answer = ask(TEXT, labels, hypothesis_template=template, multi_label=multi)
    return dict(zip(answer["labels"], answer["scores"], strict=True))


# Labels and input


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a, b,c", ("a", "b", "c")),
        ("a\nb,\n c", ("a", "b", "c")),
        ("a,A, a ,b", ("a", "b")),
        ("Straße, STRASSE", ("Straße",)),
        (" two  words , x", ("two words", "x")),
        (",, ,\n,", ()),
        ("", ()),
        (None, ()),
        ("<b>x</b>, {y}", ("<b>x</b>", "{y}")),
        ("a; b；c，d、e", ("a", "b", "c", "d", "e")),
        ('"a, b", “c; d”; «e»', ("a, b", "c; d", "e")),
        ("'a' , 'b'\n\"c\"", ("a", "b", "c")),
        ("rock 'n' roll, '90s", ("rock 'n' roll", "'90s")),
        ('"open, b', ('"open', "b")),
        (["a, b", " c ", "C", ""], ("a, b", "c")),
        ([], ()),
    ],
)
def test_labels(text, labels):
    assert zero_shot.parse_labels(text) == labels


@pytest.mark.parametrize("labels", [["a", 5], [["a"]], [None, "b"]])
def test_a_list_of_anything_but_texts(labels):
    with pytest.raises(InputError, match=r"needed for “candidate_labels\[[01]\]”"):
        zero_shot.parse_labels(labels)


def test_a_limit_names_what_is_too_long():
    with pytest.raises(InputError, match="The template has 1,0"):
        zero_shot.validate("a", "b", f"{{}}{'x' * 1000}", False)
    with pytest.raises(InputError, match="labels has 20,001"):
        zero_shot.validate("a", "b" * 20_001, zero_shot.TEMPLATE, False)


def test_validate():
    request = zero_shot.validate(" a text ", "b, a", f" {SHORT} ", True)
    assert request == zero_shot.Request("a text", ("b", "a"), SHORT, True)


@pytest.mark.parametrize(
    ("text", "labels", "template", "told"),
    [
        ("", "a", TEMPLATE, "no text yet"),
        ("  \n", "a", TEMPLATE, "no text yet"),
        (None, "a", TEMPLATE, "no text yet"),
        ("x", "", TEMPLATE, "no labels yet.*commas"),
        ("x", " , ,", TEMPLATE, "no labels yet"),
        ("x", None, TEMPLATE, "no labels yet"),
        ("x", "a", "This is about it.", "exactly one {}"),
        ("x", "a", "{} and {}", "exactly one {}"),
        ("x", "a", "{0}", "exactly one {}"),
        ("x", "a", "{{}}", "exactly one {}"),
        ("x", "a", "{} {label}", "exactly one {}"),
        ("x", "a", "", "exactly one {}"),
        ("x", "a", None, "exactly one {}"),
        ("x", ",".join(f"l{i}" for i in range(101)), TEMPLATE, "101 labels; at most 100"),
    ],
)
def test_what_cannot_be_used(models, text, labels, template, told):
    with pytest.raises(InputError, match=told):
        zero_shot.run(text, labels, False, template, "auto", models)
    assert models.asked == []


# Entailment


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("template", [TEMPLATE, SHORT])
def test_entailment_scores_are_those_of_the_pipeline(models, multi, template):
    ours = dict(scores(models, multi=multi, template=template))
    assert ours == near(pipeline(tiny.bart(), LABELS, multi, template))
    assert (sum(ours.values()) == pytest.approx(1)) is not multi


def test_a_single_label_is_scored_on_its_own(models):
    """A softmax over one label would always be 100 %."""
    ours = dict(scores(models, labels=["education"]))
    assert ours == near(pipeline(tiny.bart(), ["education"], False, TEMPLATE))
    assert ours["education"] < 0.999


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize(
    "names", [("entailment", "not_entailment"), ("ENTAILMENT", "neutral", "CONTRADICTION")]
)
def test_other_orders_and_numbers_of_classes(multi, names):
    ours = dict(scores(tiny.manager(tiny.bart(names)), multi=multi))
    assert ours == near(pipeline(tiny.bart(names), LABELS, multi, TEMPLATE))


def test_all_pairs_go_through_in_one_batch(models):
    with models.use(zero_shot.OFFER) as loaded:
        calls: list[tuple[int, ...]] = []
        loaded.model.register_forward_pre_hook(
            lambda module, inputs, named: calls.append(tuple(named["input_ids"].shape)), with_kwargs=True
        )
    scores(models, labels=["a", "longer", "c", "d"], template=SHORT)
    assert len(calls) == 1
    assert calls[0][0] == 4


def test_a_long_text_does_not_make_its_labels_long(encoder):
    with encoder.use(zero_shot.OFFER) as loaded:
        calls: list[tuple[int, ...]] = []
        loaded.model.register_forward_pre_hook(
            lambda module, inputs, named: calls.append(tuple(named["input_ids"].shape)), with_kwargs=True
        )
    scores(encoder, text="love " * 62, labels=["sport", "a whole life", "politics"], template="{}")
    assert calls == [(3, 5), (1, 64)], "labels first, then the text, which they would be padded to"


def test_a_visitor_who_has_stopped_gets_nothing(models):
    with models.use(zero_shot.OFFER), pytest.raises(Cancelled):
        zero_shot.run(TEXT, "a, b", False, SHORT, "auto", models, stopped=lambda: True)


def test_more_labels_than_a_batch(models):
    labels = [f"label {i}" for i in range(23)]
    whole = dict(scores(models, labels=labels))
    parts = zero_shot.run(TEXT, ", ".join(labels), False, TEMPLATE, "auto", models, batch=5).scores
    assert dict(parts) == near(whole)


def test_labels_are_sorted_by_score(models):
    for multi in (False, True):
        values = [score for _, score in scores(models, multi=multi)]
        assert values == sorted(values, reverse=True)


def test_scores_do_not_depend_on_the_other_labels_when_several_may_be_right(models):
    alone = dict(scores(models, labels=["education", "x"], multi=True))["education"]
    among = dict(scores(models, labels=["a much longer label", "education", "z"], multi=True))["education"]
    assert alone == near(among)


def test_labels_with_braces_and_markup(models):
    labels = ["{}", "{x}", "<b>bold</b>"]
    assert {label for label, _ in scores(models, labels=labels)} == set(labels)


def long_text(words: int) -> str:
    return " ".join(f"word{i}" for i in range(words))


def test_a_long_text_is_cut_and_the_labels_stay_whole(models):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    text = long_text(60)
    result = zero_shot.run(text, "politics, business", False, SHORT, "auto", models)
    model = AutoModelForSequenceClassification.from_pretrained(tiny.bart()).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny.bart())
    logits = []
    for label in ("politics", "business"):
        pair = tokenizer(
            text, SHORT.format(label), truncation="only_first", max_length=96, return_tensors="pt"
        )
        assert SHORT.format(label) in tokenizer.decode(pair["input_ids"][0])
        with torch.no_grad():
            logits.append(model(**pair).logits[0, 2])
    expected = torch.stack(logits).softmax(0).tolist()
    assert dict(result.scores) == near(dict(zip(("politics", "business"), expected, strict=True)))


def test_what_was_read_of_a_cut_text_is_shown(models):
    text = long_text(60)
    result = zero_shot.run(text, "politics, business", False, SHORT, "auto", models)
    remark = next(remark for remark in result.status.remarks if "cut" in remark)
    assert "cut to the 96 tokens" in remark
    read = remark.split("“… ")[1].split("”")[0]
    assert "About" not in read, "what is shown is the text, not the label's sentence"
    assert read.strip() in text
    assert len(read) > 20


def test_only_the_last_label_makes_it_too_long(models):
    text = "x" * 70
    result = zero_shot.run(text, f"a, {'b' * 30}", False, SHORT, "auto", models)
    assert any("cut" in remark for remark in result.status.remarks)
    result = zero_shot.run(text, "a, b", False, SHORT, "auto", models)
    assert not any("cut" in remark for remark in result.status.remarks)


def test_a_label_longer_than_the_model_takes(models):
    with pytest.raises(InputError, match="label"):
        zero_shot.run("x", "y" * 300, False, TEMPLATE, "auto", models)


# Similarity


def embedded(texts: list[str], pooling: str = "mean") -> Any:
    """Sentence vectors of length 1, one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tiny.sentence_encoder(pooling)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        rows.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("multi", [False, True])
def test_similarity_is_that_of_sentence_vectors(pooling, multi):
    labels = ["sport", "the weather so very very much", "politics"]
    ours = dict(scores(tiny.manager(tiny.sentence_encoder(pooling)), labels=labels, multi=multi))
    vectors = embedded([TEXT, *(TEMPLATE.format(label) for label in labels)], pooling)
    cosines = vectors[1:] @ vectors[0]
    expected = cosines.clamp(min=0) if multi else (cosines / zero_shot.TEMPERATURE).softmax(0)
    assert ours == near(dict(zip(labels, expected.tolist(), strict=True)))


def test_a_checkpoint_that_says_nothing_of_pooling_takes_the_mean(tmp_path):
    import shutil

    folder = Path(shutil.copytree(tiny.sentence_encoder("cls"), tmp_path / "copy"))
    with_cls = scores(tiny.manager(folder))
    shutil.rmtree(folder / "1_Pooling")
    assert scores(tiny.manager(folder)) != with_cls


def test_pooling_leaves_padding_out():
    import torch

    hidden = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [99.0, 99.0]]])
    mask = torch.tensor([[1, 1, 0]])
    pooled = zero_shot._pool(hidden, mask, Path("/nowhere"))
    assert pooled.tolist() == [pytest.approx([0.6, 0.8])]


def test_pooling_takes_the_first_token_where_the_checkpoint_says_so(tmp_path):
    import torch

    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    hidden = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    assert zero_shot._pool(hidden, torch.ones(1, 2), tmp_path).tolist() == [[1.0, 0.0]]


def test_a_single_label_by_similarity(encoder):
    """Its softmax would always be 100 %: the cosine says something."""
    vectors = embedded([TEXT, TEMPLATE.format("sport")])
    assert dict(scores(encoder, labels=["sport"])) == near({"sport": float(vectors[0] @ vectors[1])})


def test_a_long_text_for_a_sentence_encoder_is_cut(encoder):
    text = "love " * 50 + "hate " * 60
    result = zero_shot.run(text, "sport, politics", False, TEMPLATE, "auto", encoder)
    remark = next(remark for remark in result.status.remarks if "cut" in remark)
    assert "64 tokens" in remark
    assert "love hate" in remark
    vectors = embedded([text, TEMPLATE.format("sport"), TEMPLATE.format("politics")])
    expected = (vectors[1:] @ vectors[0] / zero_shot.TEMPERATURE).softmax(0).tolist()
    assert dict(result.scores) == near(dict(zip(("sport", "politics"), expected, strict=True)))


def test_negative_cosines_become_zero():
    import torch

    config = tiny.loaded(tiny.sentence_encoder(), zero_shot.RECIPE).model.config
    output = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]])
    assert zero_shot.postprocess(output, ("a", "b"), True, config) == (("b", pytest.approx(0.6)), ("a", 0.0))


# Remarks and fitting


@pytest.mark.parametrize(
    ("folder", "multi", "words"),
    [
        (tiny.bart, False, "compared across the labels"),
        (tiny.bart, True, "against contradiction"),
        (tiny.sentence_encoder, False, "temperature 0.05"),
        (tiny.sentence_encoder, True, "not probabilities"),
    ],
)
def test_the_status_says_how_scores_are_made(folder, multi, words):
    result = zero_shot.run(TEXT, "a, b", multi, SHORT, "auto", tiny.manager(folder(), note="A note."))
    assert result.status.remarks[0] == "A note."
    assert words in result.status.remarks[1]
    assert len(result.status.remarks) == 2


ENTAILS = {"id2label": {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}}


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (
            {"architectures": ["BartForSequenceClassification"], **ENTAILS},
            "AutoModelForSequenceClassification",
        ),
        (
            {
                "architectures": ["DebertaV2ForSequenceClassification"],
                "id2label": {"0": "entailment", "1": "not_entailment"},
            },
            "AutoModelForSequenceClassification",
        ),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "AutoModel"),
        ({"architectures": ["MPNetModel"], "model_type": "mpnet"}, "AutoModel"),
        ({"architectures": ["MPNetForMaskedLM"], "model_type": "mpnet", SENTENCES: True}, "AutoModel"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama", SENTENCES: True}, None),
        ({"architectures": ["DistilBertForSequenceClassification"], "id2label": {0: "NEGATIVE"}}, None),
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, None),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, None),
        ({}, None),
    ],
)
def test_which_checkpoints_fit_and_how_they_load(config, model):
    reason = zero_shot.RECIPE.fits(config)
    if model is None:
        assert reason is not None
        assert "entailment" in reason
        assert "sentence encoder" in reason
    else:
        assert reason is None
        assert zero_shot.RECIPE.model(config) == model


# The tab


def test_the_endpoint_has_defaults_and_gives_all_scores(models):
    endpoint = tiny.tab(zero_shot.DEMO, models).endpoint("zero_shot")
    assert tiny.confidences(endpoint(TEXT)) == near(dict(scores(models)))
    assert tiny.confidences(endpoint(TEXT, "a, b", True, SHORT, "starter")) == near(
        dict(scores(models, labels=["a", "b"], multi=True, template=SHORT))
    )
    assert "starter" in models.asked


def test_the_button_shows_sorted_bars(models):
    *_, (answer, _, problem, status) = tiny.tab(zero_shot.DEMO, models).press(
        TEXT, "education, <b>x</b>", False, SHORT
    )
    order = [label for label, _ in scores(models, labels=["education", "<b>x</b>"], template=SHORT)]
    shown = [label.replace("<", "&lt;").replace(">", "&gt;") for label in order]
    assert answer.index(shown[0]) < answer.index(shown[1])
    assert "<b>x" not in answer
    assert problem == ""
    assert "entails" in status


def test_the_button_shows_what_is_wrong_with_the_template(models):
    *_, (answer, _, problem, _) = tiny.tab(zero_shot.DEMO, models).press(TEXT, "a", False, "no place")
    assert answer is None
    assert "exactly one {}" in problem
