"""The heatmap: what is drawn for given weights."""

from __future__ import annotations

import numpy as np
import pytest

from components.figures import MOST_NUMBERED, attention_heatmap

WEIGHTS = np.array([[0.5, 0.25, 0.25], [0.125, 0.875, 0.0]], dtype=np.float32)


def test_weights_tokens_and_title():
    figure = attention_heatmap(WEIGHTS, ["a", "b"], ["x", "y", "x"], "Layer 2")
    (map_,) = figure.data
    assert np.array_equal(np.asarray(map_.z), WEIGHTS)
    assert figure.layout.title.text == "Layer 2"
    assert list(figure.layout.yaxis.ticktext) == ["a", "b"]
    assert list(figure.layout.xaxis.ticktext) == ["x", "y", "x"], "a token may occur twice"
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    assert figure.layout.yaxis.autorange == "reversed", "the first query is on top"
    assert "query" in figure.layout.yaxis.title.text
    assert "key" in figure.layout.xaxis.title.text


def test_colours_begin_at_zero_and_the_ground_is_transparent():
    figure = attention_heatmap(WEIGHTS, ["a", "b"], ["x", "y", "z"])
    (map_,) = figure.data
    assert map_.zmin == 0
    assert map_.colorscale[0][1] == "#440154"  # viridis
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_two_decimals_while_they_fit():
    (map_,) = attention_heatmap(WEIGHTS, ["a", "b"], ["x", "y", "z"]).data
    # As C does, ties to even.
    assert np.asarray(map_.text).tolist() == [["0.50", "0.25", "0.25"], ["0.12", "0.88", "0.00"]]
    tokens = [str(i) for i in range(MOST_NUMBERED + 1)]
    (map_,) = attention_heatmap(np.eye(MOST_NUMBERED + 1), tokens, tokens).data
    assert map_.text is None
    assert map_.texttemplate is None


def test_hovering_names_the_pair():
    (map_,) = attention_heatmap(WEIGHTS, ["a", "b"], ["x", "y", "z"]).data
    pairs = np.asarray(map_.customdata)
    assert pairs.shape == (2, 3, 2)
    assert pairs[1, 2].tolist() == ["b", "z"]
    assert "looks at" in map_.hovertemplate


def test_markup_in_tokens_stays_text():
    figure = attention_heatmap(np.ones((1, 2)), ["</s>"], ["<b>", "&"])
    assert list(figure.layout.yaxis.ticktext) == ["&lt;/s&gt;"]
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;", "&amp;"]
    assert "<b>" not in str(np.asarray(figure.data[0].customdata).tolist())


@pytest.mark.parametrize(("queries", "keys"), [(["a"], ["x", "y", "z"]), (["a", "b"], ["x"]), ([], [])])
def test_tokens_must_match_the_weights(queries, keys):
    with pytest.raises(ValueError, match="queries"):
        attention_heatmap(WEIGHTS, queries, keys)


def test_nothing_to_show_is_still_a_figure():
    figure = attention_heatmap(np.zeros((0, 0)), [], [])
    assert figure.to_json()


def test_many_tokens_make_a_taller_figure():
    few = attention_heatmap(np.ones((2, 2)), ["a"] * 2, ["b"] * 2)
    many = attention_heatmap(np.ones((40, 2)), ["a"] * 40, ["b"] * 2)
    assert many.layout.height > few.layout.height
