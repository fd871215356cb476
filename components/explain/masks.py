"""Masks: which token may look at which, and how is a map of that read?"""

from __future__ import annotations

import numpy as np

AXES = "queries down, keys across"  # of every map of attention, as in figures.attention_heatmap


def may_look(length: int, causal: bool) -> np.ndarray:
    """The attention mask `[query, key]` of one text without padding: which token may look at which.

    All at all in an encoder; in a decoder each at itself and those before it.
    """
    return np.tri(length, dtype=bool) if causal else np.ones((length, length), dtype=bool)


def hide_later(weights: np.ndarray) -> np.ndarray:
    """Weights `[..., query, key]` with NaN where a query would look at what comes after it."""
    return np.where(np.tri(*weights.shape[-2:]) > 0, weights, np.nan).astype(weights.dtype)
