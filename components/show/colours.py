"""Colours: viridis for shares, and the ink that can be read on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BLACK, WHITE = "#000", "#fff"
EVEN = 0.179  # relative luminance at which black and white have the same contrast (WCAG 2.2)


def viridis(shares: Iterable[float]) -> list[str]:
    """The colour of each share between 0 and 1 as CSS writes it; what lies beyond has that of the end."""
    from plotly.colors import sample_colorscale

    # Without shares it would give the whole scale.
    known = [min(max(float(share), 0.0), 1.0) for share in shares]
    return sample_colorscale("Viridis", known) if known else []


def ink(ground: str) -> str:
    """Black or white, whichever has the higher contrast on this colour."""
    from plotly.colors import unlabel_rgb

    return BLACK if luminance(unlabel_rgb(ground)) > EVEN else WHITE


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance (WCAG 2.2) of red, green and blue between 0 and 255."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (number / 255 for number in rgb)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def grounds(shares: Iterable[float]) -> list[str]:
    """For each share between 0 and 1 a ground and what can be read on it, as a style of CSS."""
    return [f"background: {ground}; color: {ink(ground)}" for ground in viridis(shares)]
