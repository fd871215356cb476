"""Saliency: which parts of a picture did a classifier look at?

Attention rollout for Transformers, Grad-CAM for convolutional networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MOST_EXTRA = 16  # tokens that stand for no patch: a class token, one for distillation, a few registers


@dataclass(frozen=True)
class Maps:
    """Maps that lie over one picture. kind: how they were made.

    picture: what the model saw, as a JPEG file; values: `[maps, rows, columns]`, not negative; names: the
    layer or the label that each belongs to; reader: of a rollout, where the shares have arrived.
    """

    kind: Literal["rollout", "Grad-CAM"]
    picture: bytes
    values: np.ndarray
    names: tuple[str, ...]
    reader: str = ""

    @property
    def first(self) -> int:
        """The one to begin with: that of the last layer, or of the likeliest label."""
        return len(self.names) - 1 if self.kind == "rollout" else 0


def rollout(attentions: Sequence[np.ndarray]) -> np.ndarray:
    """Attention rollout (Abnar and Zuidema 2020): how much of each input is in each token by each layer.

    attentions: of each layer `[heads, query, key]`, rows summing to 1. Gives `[layers, query, input]` with
    rows summing to 1. Heads are averaged; the residual connection passes on a token as it is, and counts
    as one half. Raises ValueError for attention that does not lead from the same tokens to the same tokens.
    """
    shapes = {attention.shape[-2:] for attention in attentions}
    if len(shapes) != 1 or len(set(*shapes)) != 1:
        raise ValueError(f"attentions of different or not square shapes: {sorted(shapes)}")
    (size, _), *_ = shapes
    reached, layers = np.eye(size), []
    for attention in attentions:
        mean = attention.mean(0, dtype=np.float64)
        # What was computed in half precision sums to 1 only roughly.
        mixed = (mean / mean.sum(-1, keepdims=True) + np.eye(size)) / 2
        reached = mixed @ reached
        layers.append(reached)
    return np.stack(layers)


def patch_grid(tokens: int, height: int, width: int, patch: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of the patches that so many tokens stand for, None if they do not.

    height, width: of the picture in pixels; patch: height and width of one. The tokens that are left over
    come first.
    """
    rows, columns = height // patch[0], width // patch[1]
    return (rows, columns) if rows * columns and 0 <= tokens - rows * columns <= MOST_EXTRA else None


def rollout_maps(reached: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """How much of each patch has reached the class token: `[layers, rows, columns]`.

    reached: `[layers, query, input]`, as from `rollout`. What counts is the first token, or, where there
    are patches only, their mean.
    """
    layers, _, tokens = reached.shape
    extra = tokens - grid[0] * grid[1]
    read = reached[:, 0] if extra else reached.mean(1)
    return read[:, extra:].reshape(layers, *grid)


def grad_cam(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017): where the last feature map raises a logit, `[labels, height, width]`.

    features: `[channels, height, width]`; gradients: of each label's logit with respect to them,
    `[labels, channels, height, width]`. Each channel is weighted with the mean of its gradient; what lowers
    the logit is left out.
    """
    weights = gradients.mean((-2, -1), dtype=np.float64)
    return np.maximum(np.einsum("lc,chw->lhw", weights, features.astype(np.float64)), 0)
