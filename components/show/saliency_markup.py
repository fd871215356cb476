"""Markup of saliency: how does a map lie over its picture, and how is it to be read?"""

from __future__ import annotations

import html

import numpy as np

from components.explain.saliency import Maps
from components.inputs.pictures import data_uri
from components.show.colours import viridis

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
    colours = viridis(((values - low) / ((high - low) or 1)).ravel())
    cells = "".join(
        f'<rect x="{column}" y="{row}" width="1" height="1" fill="{colour}">'
        f"<title>row {row + 1}, column {column + 1}: {value:.4f}</title></rect>"
        for ((row, column), value), colour in zip(np.ndenumerate(values), colours, strict=True)
    )
    bar = ", ".join(viridis(np.linspace(0, 1, STEPS)))
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


def _svg(grid: tuple[int, int], content: str, name: str) -> str:
    rows, columns = grid
    return f'<svg class="{name}" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none">{content}</svg>'
