"""Alternatives: what else could have stood at each place of a text, and how likely was it?

The steps are those of `generate`: repetition penalty (Keskar et al. 2019), temperature, top-k (Fan et al.
2018) and top-p (Holtzman et al. 2019), in this order. Numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.compute.decoding import Sampling
from components.explain.masks import hide_later

MOST = 10  # alternatives that are shown at a place
MODEL = "model"  # what the model's own probabilities are called, before any step


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits `[vocabulary]` -> probabilities of the same shape, in float64; minus infinity gives 0."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def penalised(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Logits `[vocabulary]`, those of tokens seen before divided by the penalty, or times it if negative."""
    ids = np.unique(np.asarray(seen, dtype=np.int64))
    less = logits.copy()
    less[ids] = np.where(logits[ids] < 0, logits[ids] * penalty, logits[ids] / penalty)
    return less


def highest(logits: np.ndarray, most: int) -> np.ndarray:
    """Logits `[vocabulary]` with minus infinity for all that are lower than the `most`-th highest."""
    most = min(most, len(logits))
    return np.where(logits < np.partition(logits, -most)[-most], -np.inf, logits)


def nucleus(logits: np.ndarray, share: float) -> np.ndarray:
    """Logits `[vocabulary]` with minus infinity but for the likeliest that together have that share."""
    left = np.flatnonzero(np.isfinite(logits))
    ascending = left[np.argsort(logits[left], kind="stable")]
    together = softmax(logits[ascending]).cumsum()
    cut = ascending[together <= 1 - share]
    kept = logits.copy()
    # The likeliest one stays whatever the share.
    kept[cut[cut != ascending[-1]]] = -np.inf
    return kept


def steps(logits: np.ndarray, seen: Sequence[int], sampling: Sampling) -> list[tuple[str, np.ndarray]]:
    """The scores `[vocabulary]` from which a token is drawn, step by step, each with its name.

    seen: the tokens before it, those of the prompt included. The first are the logits themselves, named
    MODEL; a step that changes nothing by its setting is left out. Minus infinity: cut off.
    """
    made = [(MODEL, logits.astype(np.float64))]
    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        made.append((f"repetition penalty {penalty:g}", penalised(made[-1][1], seen, penalty)))
    if sampling.greedy:
        scores = made[-1][1]
        only = np.full_like(scores, -np.inf)
        only[scores.argmax()] = scores.max()
        return [*made, ("greedy", only)]
    made.append((f"temperature {sampling.temperature:g}", made[-1][1] / sampling.temperature))
    if sampling.top_k:
        made.append((f"top-k {sampling.top_k}", highest(made[-1][1], sampling.top_k)))
    if sampling.top_p < 1:
        made.append((f"top-p {sampling.top_p:g}", nucleus(made[-1][1], sampling.top_p)))
    return made


def entropy(probabilities: np.ndarray) -> float:
    """In bits (Shannon 1948): 0 where one token is certain, log2(n) where n are equally likely."""
    some = probabilities[probabilities > 0]
    return float(abs((some * np.log2(some)).sum()))


@dataclass(frozen=True)
class Places:
    """The choice at each place of a text; candidates are the likeliest, and last the token that was taken.

    steps: names, MODEL first; ids, logits: `[place, candidate]`; scores, probabilities: `[step, place,
    candidate]`, after each step, minus infinity and 0 for what was cut off; left: `[step, place]`, tokens
    of the vocabulary that could still come; ranks: `[place]`, of the taken token among the logits, from
    1; entropies: `[place]`, in bits, of the model's own probabilities.
    """

    steps: tuple[str, ...]
    ids: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray
    left: np.ndarray
    ranks: np.ndarray
    entropies: np.ndarray

    @property
    def logits(self) -> np.ndarray:
        """`[place, candidate]`."""
        return self.scores[0]

    @property
    def taken(self) -> np.ndarray:
        """`[place]`: the probability that the model itself gave the token that was taken."""
        return self.probabilities[0, :, -1]

    def candidates(self, place: int) -> list[int]:
        """Columns to show, in order: the likeliest, then the taken one where it is not among them."""
        likeliest = range(self.ids.shape[1] - 1)
        others = [column for column in likeliest if self.ids[place, column] == self.ids[place, -1]]
        return [*likeliest] if others else [*likeliest, self.ids.shape[1] - 1]


def places(
    logits: np.ndarray, prompt: Sequence[int], taken: Sequence[int], sampling: Sampling, most: int = MOST
) -> Places:
    """Logits `[place, vocabulary]`, one row for each token taken -> the alternatives there.

    Raises ValueError if there is no place, or if logits and tokens are not as many.
    """
    if not taken or len(logits) != len(taken):
        raise ValueError(f"{len(logits)} rows of logits for {len(taken)} tokens")
    most = min(most, logits.shape[1])
    names: tuple[str, ...] = ()
    ids, scores, shares, left, ranks, entropies = [], [], [], [], [], []
    # One place at a time: all steps of all places would not fit into memory.
    for place, row in enumerate(logits):
        made = steps(row, [*prompt, *taken[:place]], sampling)
        names = tuple(name for name, _ in made)
        probabilities = [softmax(one) for _, one in made]
        some = np.argpartition(row, -most)[-most:]
        likeliest = some[np.lexsort((some, -row[some]))]
        column = [*likeliest, taken[place]]
        ids.append(column)
        scores.append([one[column] for _, one in made])
        shares.append([one[column] for one in probabilities])
        left.append([np.isfinite(one).sum() for _, one in made])
        ranks.append(1 + int((row > row[taken[place]]).sum()))
        entropies.append(entropy(probabilities[0]))
    return Places(
        steps=names,
        ids=np.array(ids),
        scores=np.moveaxis(np.array(scores), 1, 0),
        probabilities=np.moveaxis(np.array(shares), 1, 0),
        left=np.array(left).T,
        ranks=np.array(ranks),
        entropies=np.array(entropies),
    )


def causal(weights: np.ndarray) -> tuple[np.ndarray, bool]:
    """Attention `[query, key]` with NaN where the causal mask is: where the key comes after the query.

    Besides whether the rows had to be divided by their sums, because these were off 1 by more than 1e-4
    (in half precision). Raises ValueError where there is attention to what comes after.
    """
    if np.triu(np.abs(weights), 1).max(initial=0) > 0:
        raise ValueError("attention to tokens that come after")
    sums = weights.sum(-1, keepdims=True)
    off = bool(np.abs(sums - 1).max(initial=0) > 1e-4)
    return hide_later(weights / sums if off else weights), off
