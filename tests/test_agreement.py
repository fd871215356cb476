"""Agreement of two classifiers, beside scikit-learn's and the example of Cohen's paper."""

from __future__ import annotations

import numpy as np
import pytest

from components.explain.agreement import agreement, cohens_kappa, strength


def labels(table: list[list[int]]) -> tuple[list[str], list[str]]:
    """Labels of two raters from how often the first gave row's while the second gave column's."""
    pairs = [(str(i), str(j)) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def test_the_example_of_the_paper():
    # Cohen 1960, table 1: proportions of 200 judgements, kappa .492.
    first, second = labels([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    assert cohens_kappa(first, second) == pytest.approx(0.492, abs=0.0005)
    assert agreement(first, second).share == pytest.approx(0.70)


@pytest.mark.parametrize("kinds", [2, 3, 7])
def test_kappa_is_that_of_scikit_learn(kinds):
    from sklearn import metrics

    random = np.random.default_rng(kinds)
    for _ in range(20):
        first, second = random.integers(kinds, size=(2, 30)).astype(str).tolist()
        assert cohens_kappa(first, second) == pytest.approx(metrics.cohen_kappa_score(first, second))


def test_full_agreement_and_its_opposite():
    assert agreement(["a", "b", "a"], ["a", "b", "a"]) == agreement(["A", "b", "a"], ["a", "B", "A"])
    full = agreement(["a", "b"], ["a", "b"])
    assert (full.share, full.kappa, full.common) == (1, 1, True)
    none = agreement(["a", "b"], ["b", "a"])
    assert (none.share, none.kappa, none.common) == (0, -1, True)


def test_chance_gives_zero():
    first, second = labels([[9, 9], [9, 9]])
    assert cohens_kappa(first, second) == pytest.approx(0)


def test_one_label_throughout_leaves_kappa_open():
    found = agreement(["x"] * 3, ["X"] * 3)
    assert (found.share, found.kappa) == (1, None)
    # Where only one of them never varies, chance explains what agreement there is.
    assert cohens_kappa(["x", "x", "x"], ["x", "x", "y"]) == pytest.approx(0)


def test_labels_of_different_names_have_nothing_in_common():
    found = agreement(["POSITIVE", "NEGATIVE"], ["LABEL_1", "LABEL_0"])
    assert (found.share, found.common) == (0, False)


@pytest.mark.parametrize(("first", "second"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_nothing_to_compare_is_a_mistake(first, second):
    with pytest.raises(ValueError, match="cannot be compared"):
        agreement(first, second)


@pytest.mark.parametrize(
    ("kappa", "word"),
    [
        (-0.1, "poor"),
        (0, "slight"),
        (0.2, "slight"),
        (0.21, "fair"),
        (0.6, "moderate"),
        (0.61, "substantial"),
        (0.81, "almost perfect"),
        (1, "almost perfect"),
    ],
)
def test_words_for_kappa(kappa, word):
    assert strength(kappa) == word
