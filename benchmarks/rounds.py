"""Rounds: two sides measured in turn, what came of it, and the table that shows it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.load import Burst

Side = Callable[[], Burst]

HEADER = ("work", "compared with", "it", "ours", "ratio", "must reach", "reached", "beside")
NUMBERS = HEADER[2:5]  # columns aligned to the right


@dataclass(frozen=True)
class Target:
    """How our number must stand to the other one: at least, or at most, so many times that."""

    least: bool
    ratio: float

    def reached(self, ratio: float) -> bool:
        return ratio >= self.ratio if self.least else ratio <= self.ratio

    def __str__(self) -> str:
        return f"{'at least' if self.least else 'at most'} {self.ratio:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table. theirs, ours: one number a round, in `unit`; both judged by their medians.

    also: further conditions, each with whether it holds; beside: limits and other peers, as text.
    """

    work: str
    unit: str
    against: str
    theirs: tuple[float, ...]
    ours: tuple[float, ...]
    target: Target
    also: tuple[tuple[str, bool], ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest ratio of a single round."""
        ratios = [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        return min(ratios), max(ratios)

    @property
    def reached(self) -> bool:
        return self.target.reached(self.ratio) and all(holds for _, holds in self.also)


at_least, at_most = partial(Target, True), partial(Target, False)


def alternate(
    sides: Mapping[str, Side], rounds: int, warm_up: Iterable[Side] | None = None
) -> dict[str, list[Burst]]:
    """A warm-up, then in each round every side once, the order turned around from round to round.

    What comes and goes on the machine so falls on all sides alike.
    """
    for side in sides.values() if warm_up is None else warm_up:
        side()
    done: dict[str, list[Burst]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 == 0 else reversed(list(sides)):
            done[name].append(sides[name]())
    return done


def seconds(bursts: Sequence[Burst]) -> tuple[float, ...]:
    """Of each round, from first to last."""
    return tuple(burst.seconds for burst in bursts)


def rates(bursts: Sequence[Burst], items: int | None = None) -> tuple[float, ...]:
    """Items a second of each round; the answers are the items if not said otherwise."""
    return tuple((items or len(burst.answers)) / burst.seconds for burst in bursts)


def milliseconds(bursts: Sequence[Burst], first: bool = False) -> tuple[float, ...]:
    """The median wait of each round for an answer, or for the first of it."""
    return tuple(
        1000 * statistics.median(answer.first if first else answer.seconds for answer in burst.answers)
        for burst in bursts
    )


def number(value: float) -> str:
    """Three digits that matter, never in powers of ten."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def note(name: str, values: Sequence[float], unit: str) -> str:
    """A limit or another peer, to stand beside."""
    return f"{name} {number(statistics.median(values))} {unit}"


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, from all over the sequence."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)


def alike(sides: Sequence[Sequence[Any]], what: str) -> str:
    """How many answers are the same on both sides."""
    same = [one == other for one, other in zip(*sides, strict=True)]
    return f"{sum(same)} of {len(same)} {what}"


def cells(row: Row) -> tuple[str, ...]:
    """A row as it is printed; the ratio with its range over the rounds."""
    low, high = row.spread
    return (
        row.work,
        row.against,
        f"{number(statistics.median(row.theirs))} {row.unit}",
        f"{number(statistics.median(row.ours))} {row.unit}",
        f"{row.ratio:.2f} ({low:.2f} to {high:.2f})",
        str(row.target),
        "yes" if row.reached else "no",
        "; ".join((*(text for text, _ in row.also), *row.beside)),
    )


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def heading() -> str:
    """The first two lines of the table."""
    rule = ["---:" if head in NUMBERS else "---" for head in HEADER]
    return f"{line(HEADER)}\n{line(rule)}"
