"""Figures: numpy in, plotly out. Their ground is transparent; style.css colours their text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_NUMBERED = 16  # tokens on the longer side up to which a number fits into a cell


def attention_heatmap(
    weights: np.ndarray, queries: Sequence[str], keys: Sequence[str], title: str = ""
) -> go.Figure:
    """Attention weights `[query, key]` as a heatmap: queries down, keys across, viridis.

    Two decimals stand in the cells while they fit. Raises ValueError if the tokens do not match.
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
            text=np.char.mod("%.2f", weights) if numbered else None,
            texttemplate="%{text}" if numbered else None,
            customdata=np.array([[(query, key) for key in keys] for query in queries], dtype=object),
            hovertemplate="%{customdata[0]} looks at %{customdata[1]}: %{z:.4f}<extra></extra>",
            colorbar={"title": {"text": "weight"}, "thickness": 12},
        ),
        # All at once: plotly takes twice the time to update a figure that it has made.
        {
            "title": {"text": title, "font": {"size": 12}},
            # Positions, not tokens, are the axis: a token may occur twice.
            "xaxis": {
                "tickvals": list(range(len(keys))),
                "ticktext": keys,
                "title": {"text": "key (looked at)"},
                "tickangle": -45,
                "automargin": True,
            },
            "yaxis": {
                "tickvals": list(range(len(queries))),
                "ticktext": queries,
                "title": {"text": "query (looking)"},
                "autorange": "reversed",
                "automargin": True,
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
            "height": max(360, 120 + 28 * len(queries)),
        },
    )
