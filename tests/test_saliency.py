"""Saliency: rollout, Grad-CAM and their drawing beside small examples worked out by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from components.explain import saliency
from components.explain.saliency import Maps
from components.inputs.pictures import encoded
from components.show import saliency_markup


def attentions(layers: int = 3, heads: int = 4, tokens: int = 10, seed: int = 0) -> list[np.ndarray]:
    """Rows of a softmax, `[heads, query, key]` for each layer."""
    scores = np.exp(np.random.default_rng(seed).normal(0, 2, (layers, heads, tokens, tokens)))
    return list(scores / scores.sum(-1, keepdims=True))


# Rollout


def test_rollout_worked_out_by_hand():
    """Mean of the heads, one half of it and one half of the residual; then layer times layer."""
    first = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])  # mean: .5 .5, .5 .5
    second = np.array([[[0.2, 0.8], [1.0, 0.0]], [[0.6, 0.4], [0.0, 1.0]]])  # mean: .4 .6, .5 .5
    one, two = saliency.rollout([first, second])
    assert one == pytest.approx(np.array([[0.75, 0.25], [0.25, 0.75]]))
    # [[.7, .3], [.25, .75]] @ one
    assert two == pytest.approx(np.array([[0.6, 0.4], [0.375, 0.625]]))


def test_rows_of_a_rollout_sum_to_one():
    reached = saliency.rollout(attentions())
    assert reached.shape == (3, 10, 10)
    assert reached.sum(-1) == pytest.approx(np.ones((3, 10)), abs=1e-9)
    assert reached.min() >= 0


def test_rows_sum_to_one_for_half_precision_as_well():
    rough = [layer.astype(np.float16) for layer in attentions(12)]
    reached = saliency.rollout(rough)
    assert reached.sum(-1) == pytest.approx(np.ones((12, 10)), abs=1e-9)
    assert reached == pytest.approx(saliency.rollout(attentions(12)), abs=1e-3)


def test_who_looks_only_at_itself_stays_what_it_is():
    own = np.eye(5)[None]
    assert saliency.rollout([own, own]) == pytest.approx(np.stack([np.eye(5)] * 2))


@pytest.mark.parametrize(
    "layers",
    [[np.ones((2, 3, 4))], [np.ones((2, 3, 3)), np.ones((2, 5, 5))], []],
    ids=["not square", "different", "none"],
)
def test_attention_that_cannot_be_followed(layers):
    with pytest.raises(ValueError, match="shapes"):
        saliency.rollout(layers)


@pytest.mark.parametrize(
    ("tokens", "height", "width", "patch", "grid"),
    [
        (197, 224, 224, (16, 16), (14, 14)),
        (198, 224, 224, (16, 16), (14, 14)),
        (196, 224, 224, (16, 16), (14, 14)),
        (257, 224, 224, (14, 14), (16, 16)),
        (25, 32, 48, (8, 8), (4, 6)),
        (13, 32, 48, (8, 16), (4, 3)),
        (49, 224, 224, (4, 4), None),
        (195, 224, 224, (16, 16), None),
        (500, 224, 224, (16, 16), None),
        (3, 8, 8, (16, 16), None),
    ],
)
def test_the_grid_of_patches(tokens, height, width, patch, grid):
    assert saliency.patch_grid(tokens, height, width, patch) == grid


def test_rollout_maps_are_the_row_of_the_class_token():
    reached = np.arange(2 * 7 * 7, dtype=float).reshape(2, 7, 7)
    assert saliency.rollout_maps(reached, (2, 3)).tolist() == [
        [[1, 2, 3], [4, 5, 6]],
        [[50, 51, 52], [53, 54, 55]],
    ]


def test_rollout_maps_leave_out_all_that_is_no_patch():
    reached = np.arange(64, dtype=float).reshape(1, 8, 8)
    assert saliency.rollout_maps(reached, (2, 3)).tolist() == [[[2, 3, 4], [5, 6, 7]]]


def test_rollout_maps_without_a_class_token_are_means():
    reached = np.array([[[0.8, 0.2], [0.4, 0.6]]])
    assert saliency.rollout_maps(reached, (1, 2)) == pytest.approx(np.array([[[0.6, 0.4]]]))


# Grad-CAM


def test_grad_cam_worked_out_by_hand():
    features = np.array([[[1.0, 2.0]], [[3.0, 0.0]]])  # two channels of one row
    gradients = np.array(
        [
            [[[1.0, 3.0]], [[-1.0, 0.0]]],  # weights 2 and -0.5
            [[[-1.0, -1.0]], [[0.0, 0.0]]],  # weights -1 and 0
        ]
    )
    maps = saliency.grad_cam(features, gradients)
    assert maps.tolist() == [[[0.5, 4.0]], [[0.0, 0.0]]]


# Drawing


def maps(values: list[list[float]], kind: str = "rollout", name: str = "layer 1 of 2") -> Maps:
    picture = encoded(np.full((8, 12, 3), 128, np.uint8), "jpeg")
    options = {"reader": "the class token"} if kind == "rollout" else {}
    return Maps(kind, picture, np.array([values]), (name,), **options)  # type: ignore[arg-type]


def titles(drawn: str) -> list[str]:
    return re.findall(r"<title>(.*?)</title>", drawn)


def test_each_cell_is_drawn_with_its_number():
    drawn = saliency_markup.draw_map(maps([[0.1, 0.2, 0.05], [0.0, 0.125, 0.25]]), 0)
    assert titles(drawn)[:2] == ["row 1, column 1: 0.1000", "row 1, column 2: 0.2000"]
    assert titles(drawn)[-1] == "row 2, column 3: 0.2500"
    assert len(titles(drawn)) == drawn.count("<rect") == 6
    assert 'viewBox="0 0 3 2"' in drawn
    assert "<span>0.0000</span>" in drawn and "<span>0.2500</span>" in drawn
    assert "hold 0.7250 of 1; the rest" in drawn and "The mean is 0.1208" in drawn
    assert "Abnar and Zuidema 2020" in drawn and "hints, not proofs" in drawn


def test_the_smallest_is_dark_and_the_largest_is_bright():
    from plotly.colors import sample_colorscale

    dark, bright = sample_colorscale("Viridis", [0.0, 1.0])
    drawn = saliency_markup.draw_map(maps([[0.3, 0.2, 0.5]]), 0)
    fills = re.findall(r'<rect x="(\d)" .*?fill="(.*?)"', drawn)
    assert dict(fills)["1"] == dark and dict(fills)["2"] == bright
    assert dict(fills)["0"] not in (dark, bright)


def test_colours_of_grad_cam_begin_at_zero():
    drawn = saliency_markup.draw_map(maps([[1.0, 2.0]], "Grad-CAM", "<b>lion</b>"), 0)
    assert "<span>0.0000</span>" in drawn and "<span>2.0000</span>" in drawn
    assert "&lt;b&gt;lion" in drawn and "<b>" not in drawn
    assert "Selvaraju et al. 2017" in drawn and "1 × 2 cells" in drawn


def test_a_map_of_nothing_says_so():
    drawn = saliency_markup.draw_map(maps([[0.0, 0.0]], "Grad-CAM", "<b>lion</b>"), 0)
    assert "the map is empty" in drawn and "<rect" not in drawn and "<img" in drawn
    assert "&lt;b&gt;lion" in drawn and "<b>" not in drawn


def test_a_map_of_one_value_is_drawn():
    assert len(titles(saliency_markup.draw_map(maps([[0.25, 0.25], [0.25, 0.25]]), 0))) == 4


def test_lines_between_patches():
    drawn = saliency_markup.grid_over("data:image/png;base64,", (2, 3))
    (path,) = re.findall(r'<path d="(.*?)"', drawn)
    assert path == "M0 1H3M1 0V2M2 0V2"


def test_the_picture_of_a_map_is_the_one_given():
    import base64
    import io

    (address,) = re.findall(r'src="data:image/jpeg;base64,(.*?)"', saliency_markup.draw_map(maps([[0.1]]), 0))
    with Image.open(io.BytesIO(base64.b64decode(address))) as picture:
        assert picture.size == (12, 8)
        assert np.asarray(picture) == pytest.approx(np.full((8, 12, 3), 128), abs=2)
