"""Texts that a checkpoint hardly knows: every tab says so, and says nothing of those that it knows."""

from __future__ import annotations

from typing import Any

import pytest

from components.compute import tokenization
from demos import generation, masked, sentiment, translation, zero_shot

FOREIGN = ["Мне очень понравился этот фильм", "هذا فيلم رائع جدا", "我非常喜欢这部电影", "Αυτή η ταινία"]
KNOWN = ["I love this film", "Un café très agréable à Zürich", "88 + 12 = 100 😀", "naïve Ünïcode"]
HARDLY = ("unknown to the checkpoint", "almost no words in this script", "hardly known")


def hardly(remarks: Any) -> list[str]:
    return [words for words in remarks if any(sign in words for sign in HARDLY)]


@pytest.mark.parametrize(("text", "expected"), [*((one, 1) for one in FOREIGN), *((one, 0) for one in KNOWN)])
def test_every_tab_says_of_a_text_whether_it_is_hardly_known(models, text, expected):
    found = {
        "sentiment": sentiment.run(text, "starter", models).status.remarks,
        "zero-shot": zero_shot.run(
            text, "sport, film", False, zero_shot.TEMPLATE, "starter", models
        ).status.remarks,
        "translation": translation.run(text, "starter", models).status.remarks,
        "generation": list(generation.run(generation.validate(text, 1), "starter", models))[
            -1
        ].status.remarks,
    }
    assert {name: len(hardly(remarks)) for name, remarks in found.items()} == dict.fromkeys(found, expected)


@pytest.mark.parametrize(("text", "expected"), [(f"{FOREIGN[0]} ___ да", 2), (f"{KNOWN[0]} ___ it", 0)])
def test_both_sides_of_a_gap_say_it_of_themselves(models, text, expected):
    *_, result = masked.run(text, "starter", "starter", models)
    said = hardly(result.status.remarks)
    assert len(said) == expected
    assert all(
        any(f"Of the {side} model" in words for words in said) for side in ("causal", "masked") if expected
    )


def test_only_what_a_side_reads_counts(models):
    *_, result = masked.run(f"I love ___ {FOREIGN[0]} {FOREIGN[0]}", "starter", "starter", models)
    assert isinstance(result.causal, masked.Side) and not hardly(result.causal.status.remarks)
    assert isinstance(result.masked, masked.Side) and hardly(result.masked.status.remarks)


@pytest.mark.parametrize(
    ("labels", "strange"),
    [
        ("sport, фильм, 电影", ["фильм", "电影"]),
        ("sport, film, café", []),
        ("😀, film", ["😀"]),
        (
            ", ".join(["спорт", "фильм", "погода", "еда", "музыка", "книги", "игра", "news"]),
            ["спорт", "2 more"],
        ),
    ],
)
def test_labels_that_the_checkpoint_hardly_knows_are_named(models, labels, strange):
    for several in (False, True):
        result = zero_shot.run("I love it", labels, several, zero_shot.TEMPLATE, "starter", models)
        said = [words for words in result.status.remarks if "these labels" in words]
        assert bool(said) == bool(strange)
        assert all(word in said[0] for word in strange) and not any("“news”" in words for words in said)


def test_many_texts_say_it_each_for_itself(models):
    texts = [FOREIGN[0], KNOWN[0]]
    found = zero_shot.run_many(texts, "sport, film", False, zero_shot.TEMPLATE, "starter", models)
    assert [len(hardly(remarks)) for _, remarks in found] == [1, 0]
    assert [len(hardly(row.remarks)) for row in sentiment.run("\n".join(texts), "starter", models).rows] == [
        1,
        0,
    ]


@pytest.mark.parametrize("text", [FOREIGN[0], FOREIGN[2], KNOWN[0]])
def test_attribution_says_it_too(models, text):
    from components.show.inside_markup import attribution

    known = text in KNOWN
    asked = zero_shot.validate(text, "sport, film", zero_shot.TEMPLATE, False)
    for found in (
        sentiment.attribute(sentiment.Ran((text,), "starter"), models),
        zero_shot.attribute(zero_shot.Ran(asked, "starter"), models),
    ):
        assert len(hardly(found.remarks)) == (not known)
        assert (tokenization.UNSURE in attribution(found)) == (not known)
