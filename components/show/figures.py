"""Figures: numpy in, plotly out. Their ground is transparent; style.css colours their text."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_NUMBERED = 16  # tokens on the longer side up to which a number fits into a cell
MOST_MARKED = 40  # points of a line that are marked each
WIDE_COLUMNS = 4  # small multiples beside each other that leave room for tall ones
SMALL, SMALLER, NAME = 190, 110, 18  # pixels of a row of small multiples, and of the name above each
# Two lines of title and the colours go above a map: beside it they would leave no room for it on a phone.
MARGIN = {"l": 10, "r": 10, "t": 100, "b": 10}
GRID = "rgba(128, 128, 128, 0.3)"  # on light and on dark
# A blue and an orange that stand out from light and from dark, and what tells them apart without colours.
LINES = (("#2b87c0", "solid", "circle"), ("#d55e00", "dash", "diamond"))
COLOUR_BAR = {
    "orientation": "h",
    "title": {"text": "weight", "side": "top"},
    "tickfont": {"size": 10},
    "thickness": 10,
    "lenmode": "pixels",
    "len": 120,
    "x": 0,
    "xanchor": "left",
    "y": 1,
    "yanchor": "bottom",
    "ypad": 4,
    "nticks": 5,
}


def attention_heatmap(
    weights: np.ndarray, queries: Sequence[str], keys: Sequence[str], title: str = ""
) -> go.Figure:
    """Attention weights `[query, key]` as a heatmap: queries down, keys across, viridis.

    Two decimals stand in the cells while they fit; what is NaN stays blank. Raises ValueError if the tokens
    do not match.
    """
    import plotly.graph_objects as go

    if weights.shape != (len(queries), len(keys)):
        raise ValueError(f"weights {weights.shape} for {len(queries)} queries and {len(keys)} keys")
    # Plotly reads markup in labels: a token such as </s> or <b> must stay text.
    queries, keys = [html.escape(token) for token in queries], [html.escape(token) for token in keys]
    numbered = max(weights.shape) <= MOST_NUMBERED
    return go.Figure(
        go.Heatmap(
            z=weights,
            colorscale="Viridis",
            zmin=0,
            text=np.where(np.isnan(weights), "", np.char.mod("%.2f", weights)) if numbered else None,
            texttemplate="%{text}" if numbered else None,
            customdata=np.array([[(query, key) for key in keys] for query in queries], dtype=object),
            hovertemplate="%{customdata[0]} looks at %{customdata[1]}: %{z:.4f}<extra></extra>",
            hoverongaps=False,
            colorbar=COLOUR_BAR,
        ),
        # All at once: plotly takes twice the time to update a figure that it has made.
        {
            "title": _title(title),
            # Positions, not tokens, are the axis: a token may occur twice.
            "xaxis": {
                "tickvals": list(range(len(keys))),
                "ticktext": keys,
                "title": {"text": "key (looked at)"},
                "tickangle": -45 if len(keys) <= MOST_NUMBERED else -90,
                "showgrid": False,
                "zeroline": False,
                "automargin": True,
            },
            "yaxis": {
                "tickvals": list(range(len(queries))),
                "ticktext": queries,
                "title": {"text": "query (looking)"},
                "autorange": "reversed",
                "showgrid": False,
                "zeroline": False,
                "automargin": True,
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": MARGIN,
            "height": max(360, 160 + (28 if len(queries) <= MOST_NUMBERED else 17) * len(queries)),
        },
    )


def attention_grid(
    weights: np.ndarray,
    queries: Sequence[str],
    keys: Sequence[str],
    names: Sequence[str],
    columns: int,
    title: str = "",
) -> go.Figure:
    """Attention weights `[maps, query, key]` as small multiples, row by row, on one colour scale.

    queries, keys: those of every map, told on hovering; what is NaN stays blank; names: one above each map.
    Raises ValueError if tokens or names do not match.
    """
    import plotly.graph_objects as go

    if weights.shape != (len(names), len(queries), len(keys)):
        raise ValueError(
            f"weights {weights.shape} for {len(names)} names, {len(queries)} queries and {len(keys)} keys"
        )
    queries, keys = [html.escape(token) for token in queries], [html.escape(token) for token in keys]
    rows = -(-len(names) // columns)
    tall = SMALL if columns <= WIDE_COLUMNS else SMALLER
    height = MARGIN["t"] + MARGIN["b"] + rows * tall
    name_share = NAME / (rows * tall)  # of the height, for the name above a map
    layout: dict[str, Any] = {
        "title": _title(title),
        "coloraxis": {
            "colorscale": "Viridis",
            "cmin": 0,
            "colorbar": COLOUR_BAR,
        },
        "annotations": [],
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": MARGIN,
        "height": height,
    }
    # Hovering reads the tokens from the axes: a pair for each cell of each map would be megabytes.
    hidden = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False}
    across, down = (
        {**hidden, "tickvals": list(range(len(tokens))), "ticktext": tokens} for tokens in (keys, queries)
    )
    maps = []
    for i, name in enumerate(names):
        row, column = divmod(i, columns)
        number = str(i + 1) if i else ""
        left, top = column / columns, 1 - row / rows
        layout[f"xaxis{number}"] = {
            **across,
            "domain": [left, left + 0.94 / columns],
            "anchor": f"y{number}",
        }
        layout[f"yaxis{number}"] = {
            **down,
            "domain": [max(0, top - 1 / rows), top - name_share],
            "anchor": f"x{number}",
            "autorange": "reversed",
        }
        above = {"x": left, "y": top - name_share, "xref": "paper", "yref": "paper", "showarrow": False}
        layout["annotations"].append(
            {**above, "text": html.escape(name), "xanchor": "left", "yanchor": "bottom", "font": {"size": 11}}
        )
        maps.append(
            go.Heatmap(
                z=weights[i],
                coloraxis="coloraxis",
                xaxis=f"x{number}",
                yaxis=f"y{number}",
                hovertemplate=f"{html.escape(name)}: %{{y}} looks at %{{x}}: %{{z:.4f}}<extra></extra>",
                hoverongaps=False,
            )
        )
    return go.Figure(maps, layout)


def learning_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, percent: bool = False
) -> go.Figure:
    """One or two lines by name, each of its x and y values, with the names of both axes.

    percent: y values are shares. A line is told by its marks and dashes as well as its colour.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    lines = zip(curves.items(), LINES[: len(curves)], strict=True)
    for (name, (across, up)), (colour, dash, symbol) in lines:
        figure.add_scatter(
            x=list(across),
            y=list(up),
            name=html.escape(name),
            mode="lines+markers" if len(across) <= MOST_MARKED else "lines",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 7},
            hovertemplate=f"{y}: %{{y:{'.1%' if percent else '.3f'}}}<br>{x}: %{{x:.1f}}",
        )
    ticks = {"tickformat": ".0%"} if percent else {}
    axes = {"automargin": True, "gridcolor": GRID, "zeroline": False}
    figure.update_layout(
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        height=340,
        xaxis={"title": {"text": x}, **axes},
        yaxis={"title": {"text": y}, **axes, **ticks},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        showlegend=len(curves) > 1,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _title(text: str) -> dict[str, Any]:
    """Top left; plotly hangs the last line of a title where its only one would be."""
    place = {"x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
    return {"text": text, "font": {"size": 12}, **place, "pad": {"t": 20 + 16 * text.count("<br>"), "l": 10}}
