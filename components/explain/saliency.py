"""Saliency: which parts of a picture did a classifier look at?

Attention rollout for Transformers, Grad-CAM for convolutional networks, and how such a map lies over the
picture.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from components.inputs.pictures import data_uri

MOST_EXTRA = 16  # tokens that stand for no patch: a class token, one for distillation, a few registers
STEPS = 16  # colours in the bar
HINT = (
    "Such maps are hints, not proofs: they tell where numbers come from, not why the answer is this one "
    "(Adebayo et al. 2018, “Sanity Checks for Saliency Maps”)."
)
ROLLOUT = (
    "Attention rollout (Abnar and Zuidema 2020), from the picture up to {name}: the brighter a patch, the "
    "more of it has reached {reader}. All {count} patches together hold {sum:.4f} of 1{rest}. The mean is "
    "{mean:.4f}."
)
GRAD_CAM = (
    "Grad-CAM (Selvaraju et al. 2017) for “{name}”: the brighter one of the {rows} × {columns} cells of the "
    "last feature map, the more it speaks for this label. The numbers are on the scale of the logits."
)
EMPTY_MAP = (
    "Grad-CAM for “{name}”: no cell of the last feature map speaks for this label, so the map is empty."
)


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


def framed(picture: str, over: str = "") -> str:
    """A picture, given by its address, and what lies over it."""
    shown = f'<img src="{html.escape(picture)}" alt="The picture as the model saw it">'
    return f'<div class="picture">{shown}{over}</div>'


def grid_over(picture: str, grid: tuple[int, int]) -> str:
    """A picture, given by its address, with the lines between its patches."""
    rows, columns = grid
    lines = "".join(f"M0 {row}H{columns}" for row in range(1, rows))
    lines += "".join(f"M{column} 0V{rows}" for column in range(1, columns))
    return framed(picture, _svg(grid, f'<path d="{lines}" vector-effect="non-scaling-stroke"/>', "grid"))


def draw_map(maps: Maps, index: int) -> str:
    """One of the maps over the picture, with a colour bar and sentences on how to read it."""
    values, name = maps.values[index], maps.names[index]
    grid = (values.shape[0], values.shape[1])
    picture = data_uri(maps.picture, "jpeg")
    if not values.max() > 0:
        words = EMPTY_MAP.format(name=name)
        return f"{framed(picture)}<p>{html.escape(words)}</p>"
    # Shares of patches differ little from each other, so their colours begin at the smallest.
    low, high = float(values.min()) if maps.kind == "rollout" else 0.0, float(values.max())
    colours = viridis((values - low) / ((high - low) or 1))
    cells = "".join(
        f'<rect x="{column}" y="{row}" width="1" height="1" fill="{colours[row][column]}">'
        f"<title>row {row + 1}, column {column + 1}: {value:.4f}</title></rect>"
        for (row, column), value in np.ndenumerate(values)
    )
    bar = ", ".join(viridis(np.linspace(0, 1, STEPS)[None])[0])
    scale = (
        f'<div class="scale"><span>{low:.4f}</span><i style="background: linear-gradient(90deg, {bar})"></i>'
        f"<span>{high:.4f}</span></div>"
    )
    drawn = framed(picture, _svg(grid, cells, "map"))
    return f"{drawn}{scale}<p>{html.escape(_reading(maps, index))}</p><p>{html.escape(HINT)}</p>"


def _reading(maps: Maps, index: int) -> str:
    values, name = maps.values[index], maps.names[index]
    rows, columns = values.shape
    if maps.kind == "Grad-CAM":
        return GRAD_CAM.format(name=name, rows=rows, columns=columns)
    total = float(values.sum())
    rest = "; the rest is of tokens that stand for no patch" if total < 0.99995 else ""
    return ROLLOUT.format(
        name=name, reader=maps.reader, count=values.size, sum=total, rest=rest, mean=float(values.mean())
    )


def viridis(values: np.ndarray) -> list[list[str]]:
    """Colours of values between 0 and 1, `[rows, columns]`, as CSS writes them."""
    from plotly.colors import sample_colorscale

    colours = iter(sample_colorscale("Viridis", values.clip(0, 1).ravel().tolist()))
    return [[next(colours) for _ in row] for row in values]


def _svg(grid: tuple[int, int], content: str, name: str) -> str:
    rows, columns = grid
    return f'<svg class="{name}" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none">{content}</svg>'
