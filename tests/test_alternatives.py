"""The steps from logits to the choice beside Transformers' own logits warpers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.compute.decoding import Sampling
from components.explain import alternatives
from components.explain.alternatives import MODEL, causal, entropy, places, softmax, steps

SAMPLINGS = [
    Sampling(1.0),
    Sampling(0.7, 50, 0.95),
    Sampling(0.3, 3),
    Sampling(2.5, 0, 0.4),
    Sampling(1.3, 7, 0.9, 1.4),
    Sampling(0.8, 1000, 1.0, 0.6),
    Sampling(0.01, 0, 0.0001),
    Sampling(0.0, 50, 0.95, 1.7),
]
VOCABULARY, SEEN = 300, [5, 5, 17, 299, 40]


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 4, (6, VOCABULARY)).astype(np.float32)


def warped(row: np.ndarray, seen: list[int], sampling: Sampling) -> list[np.ndarray]:
    """The scores after each of Transformers' steps, as `generate` does them."""
    import torch
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    made = [torch.tensor(row)[None]]
    ids = torch.tensor([seen])
    processors: list[Any] = []
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if not sampling.greedy:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(sampling.top_p))
    for processor in processors:
        made.append(processor(ids, made[-1].clone()))
    return [one[0].numpy() for one in made]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_each_step_is_that_of_transformers(logits, sampling):
    for row in logits:
        ours, theirs = steps(row, SEEN, sampling), warped(row, SEEN, sampling)
        if sampling.greedy:
            assert ours[-1][0] == "greedy"
            assert np.flatnonzero(softmax(ours[-1][1])).tolist() == [int(theirs[-1].argmax())]
            ours = ours[:-1]
        assert len(ours) == len(theirs)
        for (name, scores), expected in zip(ours, theirs, strict=True):
            assert (np.isfinite(scores) == np.isfinite(expected)).all(), name
            left = np.isfinite(expected)
            np.testing.assert_allclose(scores[left], expected[left], rtol=1e-5)


def test_what_changes_nothing_is_no_step(logits):
    assert [name for name, _ in steps(logits[0], SEEN, Sampling(1.0))] == [MODEL, "temperature 1"]
    assert [name for name, _ in steps(logits[0], SEEN, Sampling(0.5, 9, 0.9, 1.2))] == [
        MODEL,
        "repetition penalty 1.2",
        "temperature 0.5",
        "top-k 9",
        "top-p 0.9",
    ]


def test_the_logits_are_left_as_they_were(logits):
    before = logits.copy()
    places(logits, SEEN, [1] * 6, Sampling(0.7, 5, 0.5, 2.0))
    assert (logits == before).all()


def test_softmax_takes_what_is_cut_off_and_large_numbers():
    assert softmax(np.array([1e4, 1e4, -np.inf])).tolist() == [0.5, 0.5, 0.0]


def test_top_k_larger_than_the_vocabulary_keeps_all(logits):
    assert np.isfinite(alternatives.highest(logits[0], 10_000)).all()


def test_top_k_keeps_all_that_are_as_high_as_the_last():
    kept = alternatives.highest(np.array([3.0, 1.0, 2.0, 2.0]), 2)
    assert np.isfinite(kept).tolist() == [True, False, True, True]


def test_top_p_keeps_one_at_least_and_what_is_needed_for_the_share():
    scores = np.log([0.5, 0.3, 0.15, 0.05])
    for share, left in ((0.001, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.99, 4)):
        assert np.isfinite(alternatives.nucleus(scores, share)).sum() == left


def test_entropy_is_that_of_torch(logits):
    import torch

    for row in logits:
        nats = torch.distributions.Categorical(logits=torch.tensor(row).double()).entropy()
        assert entropy(softmax(row)) == pytest.approx(float(nats) / np.log(2), rel=1e-6)


def test_entropy_counts_doublings():
    assert entropy(np.array([1.0, 0.0])) == 0
    assert entropy(np.full(8, 1 / 8)) == 3


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_places_hold_the_ten_likeliest_and_the_taken(logits, sampling):
    import torch

    taken = [7, 250, int(logits[2].argmax()), 0, 299, 12]
    seen = places(logits, SEEN, taken, sampling)
    top = torch.tensor(logits).topk(10)
    assert (seen.ids[:, :-1] == top.indices.numpy()).all()
    assert seen.ids[:, -1].tolist() == taken
    np.testing.assert_array_equal(seen.logits[:, :-1], top.values.numpy())
    shares = torch.tensor(logits).softmax(-1).numpy()
    for place, one in enumerate(taken):
        assert seen.taken[place] == pytest.approx(shares[place, one], abs=1e-6)
        assert seen.ranks[place] == 1 + (logits[place] > logits[place, one]).sum()
        theirs = warped(logits[place], [*SEEN, *taken[:place]], sampling)
        if not sampling.greedy:
            last = torch.tensor(theirs[-1]).softmax(-1).numpy()
            np.testing.assert_allclose(
                seen.probabilities[-1, place], last[seen.ids[place]], rtol=1e-4, atol=1e-7
            )
            assert seen.left[-1, place] == np.isfinite(theirs[-1]).sum()
        assert seen.left[0, place] == VOCABULARY


def test_a_taken_token_is_shown_once(logits):
    best, worst = int(logits[0].argmax()), int(logits[0].argmin())
    assert places(logits[:1], SEEN, [best], Sampling()).candidates(0) == list(range(10))
    assert places(logits[:1], SEEN, [worst], Sampling()).candidates(0) == list(range(11))


def test_a_vocabulary_of_fewer_than_ten():
    seen = places(np.array([[0.0, 2.0, 1.0]], dtype=np.float32), [0], [1], Sampling(1.0, 2))
    assert seen.ids.tolist() == [[1, 2, 0, 1]]
    assert seen.left[:, 0].tolist() == [3, 3, 2]


def test_equal_logits_come_in_the_order_of_their_ids():
    seen = places(np.zeros((1, 10), dtype=np.float32), [0], [3], Sampling(1.0))
    assert seen.ids[0, :-1].tolist() == list(range(10))


@pytest.mark.parametrize("taken", [[], [1], [1] * 7])
def test_logits_and_tokens_that_do_not_match(logits, taken):
    with pytest.raises(ValueError, match="rows of logits"):
        places(logits, SEEN, taken, Sampling())


def test_causal_masks_what_comes_after():
    weights = np.array([[1, 0, 0], [0.25, 0.75, 0], [0.5, 0, 0.5]])
    masked, divided = causal(weights)
    assert np.isnan(masked).tolist() == [[False, True, True], [False, False, True], [False] * 3]
    assert np.nansum(masked, -1).tolist() == [1, 1, 1]
    assert not divided


def test_rows_that_do_not_sum_to_one_are_divided_and_that_is_said():
    masked, divided = causal(np.array([[1.0, 0], [0.5, 0.49]]))
    assert divided
    np.testing.assert_allclose(np.nansum(masked, -1), 1)


def test_attention_to_what_comes_after_is_no_causal_mask():
    with pytest.raises(ValueError, match="come after"):
        causal(np.full((2, 2), 0.5))
