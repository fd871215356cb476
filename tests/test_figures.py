"""The heatmap: what is drawn for given weights."""

from __future__ import annotations

import numpy as np
import pytest

from components.show.figures import MOST_NUMBERED, attention_grid, attention_heatmap

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


def test_what_is_nan_stays_blank():
    weights = np.array([[1.0, np.nan], [0.5, 0.5]], dtype=np.float32)
    (map_,) = attention_heatmap(weights, ["a", "b"], ["a", "b"]).data
    assert np.asarray(map_.text).tolist() == [["1.00", ""], ["0.50", "0.50"]]
    assert map_.hoverongaps is False
    assert np.array_equal(np.isnan(np.asarray(map_.z)), np.isnan(weights))


GRID = np.random.default_rng(0).random((5, 2, 3)).astype(np.float32)
NAMES = ["head 1", "head 2", "head 3", "head 4", "<b>5</b>"]


def grid(columns=2):
    return attention_grid(GRID, ["a", "<i>"], ["x", "y", "z"], NAMES, columns, "Layer 2")


def test_small_multiples_hold_a_map_each_on_one_scale():
    figure = grid()
    assert len(figure.data) == 5
    for drawn, weights in zip(figure.data, GRID, strict=True):
        assert np.array_equal(np.asarray(drawn.z), weights)
        assert drawn.coloraxis == "coloraxis"
        assert "%{y} looks at %{x}" in drawn.hovertemplate
        across, down = (figure.layout[f"{axis[0]}axis{axis[1:]}"] for axis in (drawn.xaxis, drawn.yaxis))
        assert (list(across.ticktext), list(across.tickvals)) == (["x", "y", "z"], [0, 1, 2])
        assert list(down.ticktext) == ["a", "&lt;i&gt;"]
    assert figure.layout.coloraxis.cmin == 0
    assert figure.layout.coloraxis.colorscale[0][1] == "#440154"
    assert figure.layout.title.text == "Layer 2"
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_small_multiples_are_named_and_hovering_names_them_too():
    figure = grid()
    assert [note.text for note in figure.layout.annotations] == [*NAMES[:4], "&lt;b&gt;5&lt;/b&gt;"]
    assert figure.data[1].hovertemplate.startswith("head 2: ")
    assert figure.data[4].hovertemplate.startswith("&lt;b&gt;5")


@pytest.mark.parametrize(("columns", "rows"), [(1, 5), (2, 3), (3, 2), (5, 1), (8, 1)])
def test_small_multiples_go_row_by_row_and_do_not_overlap(columns, rows):
    layout = grid(columns).layout
    places = []
    for i in range(5):
        number = str(i + 1) if i else ""
        across, down = layout[f"xaxis{number}"], layout[f"yaxis{number}"]
        assert down.autorange == "reversed", "the first query is on top"
        assert 0 <= across.domain[0] < across.domain[1] <= 1
        assert 0 <= down.domain[0] < down.domain[1] <= 1
        assert across.domain[0] == pytest.approx(i % columns / columns)
        places.append((*across.domain, *down.domain))
        assert layout.annotations[i].y == pytest.approx(down.domain[1]), "a name stands on its map"
    assert len({place[3] for place in places}) == rows
    for i, (left, right, low, high) in enumerate(places):
        for other_left, other_right, other_low, other_high in places[:i]:
            apart = right <= other_left or other_right <= left or high <= other_low or other_high <= low
            assert apart


def test_more_rows_of_small_multiples_make_a_taller_figure():
    assert grid(1).layout.height > grid(5).layout.height


@pytest.mark.parametrize(
    ("queries", "keys", "names"),
    [(["a"], ["x", "y", "z"], NAMES), (["a", "b"], ["x"], NAMES), (["a", "b"], ["x", "y", "z"], NAMES[:4])],
)
def test_tokens_and_names_must_match_the_maps(queries, keys, names):
    with pytest.raises(ValueError, match="names"):
        attention_grid(GRID, queries, keys, names, 2)


def test_a_title_of_two_lines_has_room():
    one, two = (attention_heatmap(WEIGHTS, ["a", "b"], ["x", "y", "z"], t) for t in ("a", "a,<br>b"))
    assert two.layout.title.pad.t > one.layout.title.pad.t
    assert two.layout.title.pad.t < two.layout.margin.t
