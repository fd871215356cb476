"""What is inside a translation, beside direct calls of tokenizer and model: starter and tiny Marian."""

from __future__ import annotations

import csv
import html
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.explain import attention as explorer
from components.explain.attention import (
    ALL_HEADS,
    ALL_LAYERS,
    LEFT_OUT,
    MEAN,
    RENORMALISED,
    SHOWN,
    View,
    look,
)
from components.models.manager import ModelManager
from demos import translation
from demos.translation import Inside, Ran, Sentence
from tests import tiny

TEXT = "You like this house. Two dogs are running on the beach!"
ONE = "house"
KINDS = tuple(translation.KINDS.values())


@pytest.fixture(params=["starter", "tiny"])
def manager(request) -> ModelManager:
    """The app's manager with its starter, and one with a tiny checkpoint of random weights."""
    return request.getfixturevalue("models") if request.param == "starter" else tiny.manager(tiny.marian())


def ran(text: str, models: ModelManager) -> Ran:
    result = translation.run(text, "starter", models)
    return Ran(result.parts, result.status.checkpoint, tuple(result.sentences))


def direct(sentence: Sentence, models: ModelManager) -> Any:
    """The model's own output for a sentence, the decoder fed with all that was written but the last."""
    import torch

    with models.use(translation.OFFER, "starter") as loaded, torch.inference_mode():
        return loaded.model(
            input_ids=torch.tensor([sentence.source_ids]),
            decoder_input_ids=torch.tensor([sentence.target_ids[:-1]]),
            output_attentions=True,
            output_hidden_states=True,
        )


def weights(output: Any, kind: str) -> np.ndarray:
    """`[layers, heads, query, key]`"""
    layers = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}
    return np.stack([layer[0].numpy() for layer in output[layers[kind]]])


def seen(record: Ran, models: ModelManager, index: int = 0) -> Inside:
    return translation.look_inside(record, index, models)


# The four stations


@pytest.mark.parametrize("index", [0, 1])
def test_tokens_are_those_of_the_tokenizer(manager, index):
    record = ran(TEXT, manager)
    found = seen(record, manager, index)
    with manager.use(translation.OFFER, "starter") as loaded:
        ids = loaded.processor(record.sentences[index].source)["input_ids"]
        pieces = loaded.processor.convert_ids_to_tokens(ids)
    assert [token.id for token in found.read.tokens] == ids
    assert [token.text for token in found.read.tokens] == pieces
    assert [token.special for token in found.read.tokens] == [*[False] * (len(ids) - 1), True]
    assert found.read.cut == ""
    assert found.algorithm == "SentencePiece Unigram"


def test_the_shapes_are_those_of_the_models_tensors(manager):
    record = ran(TEXT, manager)
    output, found = direct(record.sentences[0], manager), seen(record, manager)
    sizes = {part: [axis.size for axis in axes] for part, axes in found.hidden}
    assert sizes == {
        "encoder": list(output.encoder_last_hidden_state.shape),
        "decoder": list(output.decoder_hidden_states[-1].shape),
    }
    assert [axis.size for axis in found.logits] == list(output.logits.shape)
    assert [axis.name for axis in found.logits] == ["batch", "sequence", "vocabulary"]
    assert found.architecture.layers == len(output.encoder_attentions)
    assert found.architecture.decoder_layers == len(output.decoder_attentions)
    assert found.architecture.heads == output.encoder_attentions[0].shape[1]
    assert found.architecture.decoder_heads == output.decoder_attentions[0].shape[1]


def test_logits_and_probabilities_of_each_written_token(manager):
    record = ran(TEXT, manager)
    sentence = record.sentences[0]
    logits, found = direct(sentence, manager).logits[0], seen(record, manager)
    assert [step.token.id for step in found.steps] == list(sentence.target_ids[1:])
    assert len(found.steps) == len(logits)
    with manager.use(translation.OFFER, "starter") as loaded:
        name = loaded.processor.convert_ids_to_tokens
    for step, row in zip(found.steps, logits, strict=True):
        written = step.token.id
        assert step.token.text == name(written)
        assert step.logit == pytest.approx(row[written].item(), abs=1e-4)
        assert step.probability == pytest.approx(row.softmax(-1)[written].item(), abs=1e-5)
        assert step.highest == pytest.approx(row.max().item(), abs=1e-4)
        assert step.total == pytest.approx((row - row.max()).exp().sum().item(), rel=1e-4)
        order = row.argsort(descending=True)[: translation.TOP].tolist()
        assert [piece for piece, _ in step.top] == [name(one) for one in order]
        assert [logit for _, logit in step.top] == pytest.approx(row[order].tolist(), abs=1e-4)
        assert step.rank == 1 + sum(one > row[written] for one in row)


def test_beam_search_chose_by_the_sum_that_is_told(manager):
    """What generate itself gives as the score of its choice."""
    import torch

    record = ran(TEXT, manager)
    found = seen(record, manager)
    sentence = record.sentences[0]
    with manager.use(translation.OFFER, "starter") as loaded, torch.inference_mode():
        given = torch.tensor([sentence.source_ids])
        made = loaded.model.generate(given, return_dict_in_generate=True, output_scores=True)
        settings = loaded.model.generation_config
    assert made.sequences[0].tolist() == list(sentence.target_ids)
    length = (len(sentence.target_ids) - 1) ** (settings.length_penalty or 1.0)
    score = made.sequences_scores[0].item() * length
    assert found.log_probability == pytest.approx(score, abs=1e-3)
    assert f"Beam search with {settings.num_beams} beams" in found.chosen


@pytest.mark.parametrize("beams", [None, 1])
def test_without_beams_it_is_greedy(beams):
    assert "greedy" in translation.how_chosen(SimpleNamespace(num_beams=beams))


def cells(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [[html.unescape(cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row)] for row in rows]


def test_every_number_is_on_the_page(manager):
    record = ran(TEXT, manager)
    found = seen(record, manager)
    page = translation.draw_inside(found)
    head, *rows = cells(page)
    size = len(found.steps)
    assert head == ["written", "id", "logit", "rank", "highest logits"]
    for row, step in zip(rows[:size], found.steps, strict=True):
        assert row[1:4] == [str(step.token.id), f"{step.logit:.4f}", str(step.rank)]
        assert [float(one.rsplit(" ", 1)[1]) for one in row[4].split(" · ")] == [
            round(logit, 4) for _, logit in step.top
        ]
    assert rows[size] == ["written", "logit", "highest", "e^(logit - highest)", "sum of all", "probability"]
    for row, step in zip(rows[size + 1 :], found.steps, strict=True):
        _, logit, highest, power, total, probability = row
        assert float(logit) == round(step.logit, 4)
        assert float(highest) == round(step.highest, 4)
        assert float(power) == pytest.approx(np.exp(step.logit - step.highest), abs=6e-5)
        assert float(power) / float(total) == pytest.approx(float(probability), abs=2e-4)
    for token in found.read.tokens:
        assert f"<small>{token.id}</small>" in page
    shapes = re.findall(r'class="shape">\[([\d, ]+)\]', page)
    assert shapes == [
        ", ".join(str(axis.size) for axis in axes) for axes in (*(a for _, a in found.hidden), found.logits)
    ]
    assert "SentencePiece Unigram" in page
    assert f"{found.log_probability:.4f}" in page


def test_what_a_visitor_wrote_is_text():
    models = tiny.manager(tiny.marian())
    page = translation.draw_inside(seen(ran("<b>bold</b>", models), models))
    assert "<b>bold" not in page


def test_bpe_is_told_from_unigram(tmp_path):
    import sentencepiece

    text = tmp_path / "text.txt"
    text.write_text("\n".join(tiny.ENGLISH * 20), encoding="utf-8")
    for kind, name in (("bpe", "SentencePiece BPE"), ("unigram", "SentencePiece Unigram")):
        sentencepiece.SentencePieceTrainer.train(
            input=str(text),
            model_prefix=str(tmp_path / kind),
            vocab_size=70,
            model_type=kind,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        trained = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / f"{kind}.model"))
        assert translation.inside.algorithm(SimpleNamespace(spm_source=trained)) == name


def test_the_end_that_was_cut_is_shown(monkeypatch):
    models = tiny.manager(tiny.marian())
    monkeypatch.setattr(translation, "split_clauses", lambda sentence, *limits: [sentence])
    record = ran("this house " * 60, models)
    found = seen(record, models)
    assert len(found.read.tokens) == 64
    assert found.read.cut
    assert record.sentences[0].source.endswith(found.read.cut.strip())
    assert f"<del>{found.read.cut[:20]}" in translation.draw_inside(found)


def test_a_language_code_that_was_put_before_the_sentence_is_seen():
    models = tiny.manager(tiny.marian((">>fra<<", ">>ita<<")))
    record = ran("You like this house.", models)
    assert seen(record, models).read.tokens[0].text == ">>fra<<"


def test_an_empty_translation_has_one_step():
    models = tiny.manager(tiny.marian())
    with models.use(translation.OFFER) as loaded:
        loaded.model.final_logits_bias[0, 0] = 1e4
    found = seen(ran(TEXT, models), models)
    assert [step.token.text for step in found.steps] == ["</s>"]
    assert translation.draw_inside(found)


def test_two_vocabularies_are_not_mixed_up():
    tokenizer = SimpleNamespace(separate_vocabs=True, encoder={"▁you": 0, "</s>": 1}, unk_token="<unk>")
    loaded: Any = SimpleNamespace(processor=tokenizer, lock=threading.Lock())
    assert translation.source_pieces([0, 1, 9], loaded) == ("▁you", "</s>", "<unk>")


# The explorer's maps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [TEXT, ONE])
def test_every_layer_and_head_is_the_models(manager, kind, text):
    record = ran(text, manager)
    for sentence in record.sentences:
        found = translation.attend(sentence, "starter", manager)
        expected = weights(direct(sentence, manager), kind)
        assert np.allclose(expected.sum(-1), 1, atol=1e-4)
        maps = look(found, View(kind, ALL_LAYERS, ALL_HEADS, special=SHOWN))
        flat = expected.reshape(-1, *expected.shape[2:])
        assert np.allclose(np.nan_to_num(maps.weights), flat, atol=1e-5)
        means = look(found, View(kind, ALL_LAYERS, MEAN, special=SHOWN))
        assert np.allclose(np.nan_to_num(means.weights), expected.mean(1), atol=1e-5)
        for layer, heads in enumerate(expected, 1):
            for head, one in enumerate(heads, 1):
                alone = look(found, View(kind, layer, head, special=SHOWN))
                assert np.allclose(np.nan_to_num(alone.weights[0]), one, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_sum_to_one_until_special_tokens_are_left_out(manager, kind):
    (sentence, _) = ran(TEXT, manager).sentences
    found = translation.attend(sentence, "starter", manager)
    assert np.allclose(getattr(found, kind).sum(-1), 1, atol=1e-4)
    for words in (False, True):
        sums = {
            special: np.nansum(look(found, View(kind, ALL_LAYERS, ALL_HEADS, words, special)).weights, -1)
            for special in (SHOWN, LEFT_OUT, RENORMALISED)
        }
        assert np.allclose(sums[SHOWN], 1, atol=1e-4)
        assert np.allclose(sums[RENORMALISED], 1, atol=1e-4)
        assert (sums[LEFT_OUT] < 1).all()


def test_words_are_those_of_the_sentence(models):
    record = ran(TEXT, models)
    for sentence in record.sentences:
        found = translation.attend(sentence, "starter", models)
        maps = look(found, View("cross", 1, MEAN, words=True))
        assert list(maps.keys) == sentence.source.split()
        assert list(maps.queries) == sentence.target.split()


def long_sentence(models: ModelManager) -> Sentence:
    """100 source tokens and 80 of the target, as they might have been."""
    with models.use(translation.OFFER, "starter") as loaded:
        encode = loaded.processor
        source = encode("the man and the dog like the house " * 20)["input_ids"][:99]
        target = encode(text_target="un homme et un chien " * 30)["input_ids"][:79]
        start, end = loaded.model.config.decoder_start_token_id, encode.eos_token_id
    return Sentence("the man …", "un homme …", (*source, end), (start, *target, end))


def test_of_a_hundred_tokens_the_first_are_drawn_and_it_is_said(models):
    sentence = long_sentence(models)
    whole = translation.attend(sentence, "starter", models)
    assert whole.encoder.shape[2:] == (100, 100)
    assert whole.cross.shape[2:] == (80, 100)
    cut = explorer.first(whole)
    output = direct(sentence, models)
    for kind in KINDS:
        maps = look(cut, View(kind, ALL_LAYERS, ALL_HEADS, special=SHOWN))
        expected = weights(output, kind)[:, :, :64, :64].reshape(-1, 64, 64)
        assert np.allclose(np.nan_to_num(maps.weights), expected, atol=1e-5)
        assert "Only the first 64 of" in explorer.how_to_read(maps)
        figure = translation.draw_maps(look(cut, View(kind, 1, 1, special=SHOWN)))
        assert np.asarray(figure.data[0].z).shape == (64, 64)
    assert np.asarray(translation.draw(whole).data[0].z).shape == (64, 64), "the first figure as well"
    found = translation.look_inside(Ran((sentence,), "starter", (sentence,)), 0, models)
    assert len(found.steps) == translation.MOST_STEPS
    page = translation.draw_inside(found)
    assert "The first 64 of 80 are shown." in page


@pytest.mark.parametrize(
    ("view", "maps", "columns"),
    [
        (View("encoder", 1, 1), 1, 1),
        (View("encoder", 1, ALL_HEADS), 2, 1),
        (View("decoder", 1, ALL_HEADS), 4, 2),
        (View("encoder", ALL_LAYERS, MEAN), 3, 2),
        (View("decoder", ALL_LAYERS, ALL_HEADS), 8, 4),
    ],
)
def test_grids(view, maps, columns):
    models = tiny.manager(tiny.marian())
    found = translation.attend(ran(TEXT, models).sentences[0], "auto", models)
    figure = translation.draw_maps(look(found, view))
    assert len(figure.data) == maps
    lefts = {figure.layout[f"xaxis{i or ''}"].domain for i in (0, *range(2, maps + 1))}
    assert len({domain and domain[0] for domain in lefts}) == columns


# The drawers


class Visitor:
    """One who has run the tab and opens its drawers."""

    def __init__(self, models: ModelManager, text: str = TEXT) -> None:
        self.tab = tiny.tab(translation.DEMO, models)
        answers = self.tab.press(text)[-1]
        self.ran, self.attention = answers[4:6]
        self.selected: list[Any] = ["Cross-attention", None, MEAN, LEFT_OUT, True]

    def handlers(self, name: str, inputs: int) -> list[Any]:
        return [
            fn.fn
            for fn in self.tab.app.fns.values()
            if fn.name == name and fn.fn and len(fn.inputs) == inputs
        ]

    def open(self, *values: Any) -> tuple[Any, ...]:
        (opened,) = self.handlers("opened", len(values))
        return opened(*values)

    def redraw(self, *selected: Any) -> tuple[Any, ...]:
        self.selected = list(selected)
        answers = self.tab.pick(self.attention, "query:0", *selected)
        assert len(answers) == len(selected), "each selector redraws"
        return answers[0]

    def saved(self, place: int) -> Path:
        path, problem = self.handlers("saved", 6)[place](self.attention, *self.selected)
        assert problem == ""
        return Path(path)


@pytest.fixture
def visitor() -> Visitor:
    return Visitor(tiny.manager(tiny.marian()))


def test_inside_opens_on_the_sentence_that_is_chosen():
    models = tiny.manager(tiny.marian())
    visitor = Visitor(models)
    for index in (0, 1):
        opened, page, problem = visitor.open(visitor.ran, index)
        assert opened
        assert page == translation.draw_inside(seen(visitor.ran, models, index))
        assert problem == ""


def test_nothing_is_computed_until_a_drawer_is_opened():
    models = tiny.manager(tiny.marian())
    visitor = Visitor(models)
    with models.use(translation.OFFER) as loaded:
        passes: list[bool] = []
        loaded.model.register_forward_hook(lambda *given: passes.append(True))
    updates = [fn for fn in visitor.tab.app.fns.values() if fn.name == "update" and len(fn.inputs) in (3, 9)]
    assert len(updates) == 4, "both drawers follow a run and another sentence"
    for update in updates:
        update.fn(False, visitor.ran, *(None,) * (len(update.inputs) - 2))
    assert not passes
    visitor.open(visitor.ran, 0)
    assert len(passes) == 1


def test_before_a_run_the_drawer_says_so(visitor):
    *_, said = visitor.open(None, None)
    assert "Nothing has run" in said


def test_the_explorer_opens_on_the_last_layer(visitor):
    answers = visitor.open(visitor.ran, 0, visitor.attention, *visitor.selected)
    opened, named, place, layer, head, figure, reading, panel, problem = answers
    assert opened
    assert "Sentence 1 of 2, “You like this house.”" in named
    assert place == "query:0"
    assert layer["choices"] == [ALL_LAYERS, 1, 2]
    assert layer["value"] == 2
    assert head["choices"] == [MEAN, ALL_HEADS, 1, 2, 3, 4]
    assert head["value"] == MEAN
    expected = look(visitor.attention, View("cross", 2, MEAN, True, LEFT_OUT))
    assert np.allclose(np.asarray(figure["value"].data[0].z), expected.weights[0])
    assert "Queries down, keys across" in reading
    assert 'aria-pressed="true"' in panel
    assert problem == ""


def test_a_single_sentence_is_not_numbered():
    visitor = Visitor(tiny.manager(tiny.marian()), ONE)
    named = visitor.open(visitor.ran, None, visitor.attention, *visitor.selected)[1]
    assert "“house”, became" in named
    assert "Sentence 1" not in named


def test_selectors_redraw_without_the_model():
    models = tiny.manager(tiny.marian())
    visitor = Visitor(models)
    asked = len(models.asked)  # type: ignore[attr-defined]
    layer, head, figure, reading, _, problem = visitor.redraw("Encoder self-attention", 3, 2, SHOWN, False)
    assert np.array_equal(np.asarray(figure["value"].data[0].z), visitor.attention.encoder[2, 1])
    assert (layer["value"], head["value"]) == (3, 2)
    assert "Each row sums to 1." in reading
    assert problem == ""
    assert len(models.asked) == asked  # type: ignore[attr-defined]


def test_a_kind_with_fewer_layers_and_heads_brings_the_last(visitor):
    layer, head, *_ = visitor.redraw("Encoder self-attention", 3, 4, SHOWN, False)
    assert (layer["value"], head["value"]) == (3, 2)
    layer, head, *_ = visitor.redraw("Decoder self-attention", 3, ALL_HEADS, SHOWN, False)
    assert (layer["value"], head["value"]) == (2, ALL_HEADS)


def test_selectors_before_the_first_run_do_nothing():
    tab = tiny.tab(translation.DEMO, tiny.manager(tiny.marian()))
    for *answers, problem in tab.pick(None, "query:0", "Cross-attention", None, MEAN, LEFT_OUT, True):
        assert all(answer == {"__type__": "update"} for answer in answers)
        assert problem == ""


def test_a_press_on_a_word_shows_who_looked(visitor):
    import gradio as gr

    (pressed,) = visitor.handlers("picked", 6)
    event = gr.EventData(None, {"picked": "key:1"})
    place, panel, problem = pressed(event, visitor.attention, *visitor.selected)
    assert place == "key:1"
    assert "was looked at most by" in panel
    assert problem == ""


def test_a_wide_map_scrolls(visitor):
    *_, narrow, _, _, _ = visitor.redraw("Encoder self-attention", 1, MEAN, SHOWN, True)
    assert narrow["elem_classes"] == ["maps"]
    many = look(
        explorer.Attention(
            *(np.full((1, 1, 40, 40), 1 / 40, np.float32),) * 3,
            *(tuple(f"▁{i}" for i in range(40)),) * 2,
            frozenset(),
        ),
        View("encoder", 1, MEAN),
    )
    assert translation.wide(many) == ["maps", "wide"]


def test_the_map_as_a_table(visitor):
    visitor.selected = ["Decoder self-attention", 1, 2, SHOWN, False]
    path = visitor.saved(1)
    assert path.name == "attention.csv"
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    expected = visitor.attention.decoder[0, 1]
    assert len(head) == 3 + len(expected)
    for i, row in enumerate(rows):
        assert [float(cell) for cell in row[3 : 4 + i]] == pytest.approx(expected[i, : i + 1], abs=1e-6)
        assert set(row[4 + i :]) <= {""}


def test_the_map_as_a_page_needs_no_network(visitor):
    path = visitor.saved(0)
    assert path.name == "attention.html"
    page = path.read_text(encoding="utf-8")
    assert "plotly.js v" in page
    assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="', page)
    assert "Cross-attention" in page
