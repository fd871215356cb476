"""The starters that were trained here: they load, they repeat themselves, and their cards tell the truth."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from benchmarks import quality
from components.weights.checkpoints import ROOT
from demos import masked, sentiment, translation

CHECKPOINTS = ROOT / "checkpoints"
TRAINED = sorted(path.parent.name for path in CHECKPOINTS.glob("*/curve.json"))
SAMPLE = 200  # rows
# The data that the cards' figures are of; it is not part of this repository.
DATA = Path(os.environ.get("TOUR_DATA", ROOT.parent / "shared" / "data"))
FROM_FRENCH = "Marian fr-en, small"
FIGURES = [
    ("minilm-sst2", "starter", quality.measure_sentiment, "accuracy", r"\| accuracy \| (\d+\.\d) %"),
    ("marian-en-fr", "starter", quality.measure_translation, "BLEU", r"\| BLEU \| (\d+\.\d)"),
    ("marian-en-fr", "starter", quality.measure_translation, "chrF", r"\| chrF \| (\d+\.\d)"),
    ("marian-fr-en", FROM_FRENCH, quality.measure_translation, "BLEU", r"\| BLEU \| (\d+\.\d)"),
    ("marian-fr-en", FROM_FRENCH, quality.measure_translation, "chrF", r"\| chrF \| (\d+\.\d)"),
    ("minilm-masked", "starter", quality.measure_masked, "top-5", r"\| top-5 \| (\d+\.\d) %"),
]
PRAISE = [
    "What a wonderful film!",
    "I loved every minute of it.",
    "The actors are brilliant and the story is moving.",
    "A charming, funny and clever comedy.",
    "This is the best meal I have had in years.",
    "She was kind and very helpful.",
]
BLAME = [
    "What a terrible film!",
    "I was bored from beginning to end.",
    "The plot makes no sense and the jokes are stale.",
    "I hate this so much!",
    "The food was cold and the service was awful.",
    "He was rude and wasted our time.",
]
NEITHER = [
    "The meeting is on Tuesday.",
    "There are twelve chairs in the room.",
    "Je ne sais pas où est la gare.",
    "Der Zug fährt um neun Uhr ab.",
    "El libro está sobre la mesa.",
    "会议在星期二。",
    "Поезд отправляется в девять часов.",
]


@pytest.mark.parametrize("name", TRAINED)
def test_a_starter_is_small_and_has_a_card(name):
    folder = CHECKPOINTS / name
    (weights,) = folder.glob("*.safetensors")
    assert weights.stat().st_size < 20e6
    with safe_open(weights, "pt") as tensors:
        assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"F16"}  # noqa: SIM118
    card = (folder / "README.md").read_text(encoding="utf-8")
    for said in (
        "license:",
        "| data |",
        "| recipe |",
        "| hardware |",
        "| size |",
        "Limits:",
        "python -m training.",
    ):
        assert said in card


def test_praise_is_told_from_blame_and_neither_is_not_sure(models):
    def share(text: str) -> float:
        return dict(sentiment.run(text, "starter", models).rows[0].scores)["POSITIVE"]

    assert [text for text in PRAISE if share(text) < 0.8] == []
    assert [text for text in BLAME if share(text) > 0.2] == []
    assert [text for text in NEITHER if not 0.05 < share(text) < 0.95] == []


@pytest.mark.parametrize(
    ("choice", "text", "kept"),
    [
        ("starter", "My name is Anna and I live in Berlin.", ("Anna", "Berlin")),
        ("starter", "Peter and Linda met in Madrid.", ("Peter", "Linda", "Madrid")),
        ("starter", "She was born in 1984.", ("1984",)),
        ("starter", "The bill is 237 euros.", ("237",)),
        (FROM_FRENCH, "Je m'appelle Anna et j'habite à Berlin.", ("Anna", "Berlin")),
        (FROM_FRENCH, "Peter et Linda se sont rencontrés à Madrid.", ("Peter", "Linda", "Madrid")),
        (FROM_FRENCH, "Elle est née en 1984.", ("1984",)),
        (FROM_FRENCH, "La facture est de 237 euros.", ("237",)),
    ],
)
def test_names_and_numbers_survive_translation(models, choice, text, kept):
    answer = translation.run(text, choice, models).text
    assert [word for word in kept if word not in answer] == []


def test_a_teacher_would_accept_the_translation(models):
    french = translation.run("You like this house", "starter", models).text
    assert re.fullmatch(r"(Tu aimes|Vous aimez|Cette maison (te|vous) plaît)( cette maison)?\.?", french), (
        french
    )


@pytest.mark.parametrize("text", ["Tu aimes cette maison", "Vous aimez cette maison."])
def test_and_the_one_back(models, text):
    english = translation.run(text, FROM_FRENCH, models).text
    assert re.fullmatch(r"You (like|love) this house\.?", english), english


@pytest.mark.parametrize(
    ("choice", "walk", "house"),
    [
        (
            "starter",
            "On Monday we walked along the river, ate bread and cheese under the trees, and then my sister ",
            "told us that she wanted to buy the small blue house near the church. ",
        ),
        (
            FROM_FRENCH,
            "Lundi nous avons marché le long de la rivière. Nous avons mangé du pain sous les arbres. ",
            "Ma sœur nous a dit qu'elle voulait acheter la petite maison bleue près de l'église. ",
        ),
    ],
)
def test_a_long_text_is_translated_without_loops(models, choice, walk, house):
    text = (walk + house) * 4
    words = translation.run(text, choice, models).text.split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    assert not [i for i in range(len(triples) - 3) if triples[i] == triples[i + 3]]
    assert 0.6 < len(words) / len(text.split()) < 1.8


@pytest.mark.parametrize(
    "answer",
    [
        lambda models: sentiment.run("\n".join(PRAISE + BLAME), "starter", models).rows,
        lambda models: translation.run("You like this house.", "starter", models).parts,
        lambda models: translation.run("Tu aimes cette maison.", FROM_FRENCH, models).parts,
        lambda models: (
            masked.fill("She drank a glass of ", ".", "starter", models, print, lambda: False).scores
        ),
    ],
)
def test_two_runs_give_equal_outputs(models, answer: Callable[[Any], Any]):
    assert answer(models) == answer(models)


@pytest.mark.skipif(
    not DATA.is_dir(), reason="the data that the cards measure is not here; TOUR_DATA names it"
)
@pytest.mark.parametrize(("name", "choice", "measure", "kind", "pattern"), FIGURES)
def test_the_figures_of_a_card_hold_on_a_sample(models, name, choice, measure, kind, pattern):
    card = (CHECKPOINTS / name / "README.md").read_text(encoding="utf-8")
    found = re.search(pattern, card)
    assert found, f"the card has no {kind}"
    row = next(row for row in measure(DATA, choice, models, SAMPLE) if row.measure == kind)
    said = float(found[1]) / (1 if kind in ("BLEU", "chrF") else 100)
    assert row.low <= said <= row.high
