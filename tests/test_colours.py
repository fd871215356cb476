"""Colours: viridis, and what can be read on it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from plotly.colors import unlabel_rgb

from components.show.colours import BLACK, WHITE, grounds, ink, luminance, viridis


def test_viridis_from_end_to_end():
    assert viridis([0, 1]) == ["rgb(68, 1, 84)", "rgb(253, 231, 37)"]
    assert viridis([-1, 2]) == viridis([0, 1])
    assert viridis([]) == []
    assert viridis(np.array([0.5])) == viridis([0.5]) != viridis([0.51])


@pytest.mark.parametrize(
    "colour, wanted", [("rgb(0, 0, 0)", 0), ("rgb(255, 255, 255)", 1), ("rgb(255, 0, 0)", 0.2126)]
)
def test_luminance(colour, wanted):
    assert luminance(unlabel_rgb(colour)) == pytest.approx(wanted)


def test_the_ink_can_be_read_wherever_it_stands():
    made = [
        re.fullmatch(r"background: (rgb\(.*?\)); color: (#\w+)", style)
        for style in grounds(i / 50 for i in range(51))
    ]
    inks = set()
    for match in made:
        assert match
        behind, over = luminance(unlabel_rgb(match[1])), {BLACK: 0.0, WHITE: 1.0}[match[2]]
        assert (max(behind, over) + 0.05) / (min(behind, over) + 0.05) > 4.5
        assert match[2] == ink(match[1])
        inks.add(match[2])
    assert inks == {BLACK, WHITE}
