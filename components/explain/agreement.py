"""Agreement: how often do two classifiers give the same texts the same label?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Landis and Koch 1977, The Measurement of Observer Agreement for Categorical Data, table 2.
STRENGTHS = ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))


@dataclass(frozen=True)
class Agreement:
    """How far two raters agree. share: of texts with the same label, 0 to 1; kappa: see cohens_kappa.

    common: whether any label was given by both; if not, they may only name their labels differently.
    """

    share: float
    kappa: float | None
    common: bool


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Of the labels that each gave the same texts, in the same order, whatever their case.

    Raises ValueError if there are none, or not as many of each.
    """
    one, other = [label.casefold() for label in first], [label.casefold() for label in second]
    return Agreement(_share(one, other), cohens_kappa(one, other), not set(one).isdisjoint(other))


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """(observed - expected) / (1 - expected): agreement beyond what chance would give (Cohen 1960).

    Expected is the share of equal labels if each gave its own ones as often as it does, but at random.
    1 is full agreement, 0 what chance gives, below 0 less than that. None if both give one and the same
    label throughout: then chance explains all. Raises ValueError as `agreement` does.
    """
    observed = _share(first, second)
    ours, theirs = Counter(first), Counter(second)
    # Counted in whole numbers: a share of 1 must be exactly that.
    expected, pairs = sum(count * theirs[label] for label, count in ours.items()), len(first) ** 2
    return None if expected == pairs else (observed - expected / pairs) / (1 - expected / pairs)


def strength(kappa: float) -> str:
    """A word for a kappa: poor, slight, fair, moderate, substantial or almost perfect (Landis and Koch)."""
    if kappa < 0:
        return "poor"
    return next((word for most, word in STRENGTHS if kappa <= most), "almost perfect")


def _share(first: Sequence[str], second: Sequence[str]) -> float:
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} labels cannot be compared")
    return sum(one == other for one, other in zip(first, second, strict=True)) / len(first)
