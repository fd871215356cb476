"""Markup for attention: the words of a map as buttons; what one looked at, or who looked at it, shaded.

Whatever comes from checkpoints and visitors is shown as text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from components.explain.attention import Maps, looked_at, looked_by
from components.show.colours import grounds
from components.show.inside_markup import sentence

QUERY, KEY = "query", "key"
MOST_TOLD = 3  # words that the sentence names
SIDES = {"encoder": ("source", "source"), "decoder": ("translation", "translation")}


def words_panel(maps: Maps, picked: str) -> str:
    """Both sides of a map as rows of buttons, and the weights of the one that was picked.

    picked: "query:2" or "key:0", as the buttons are named; one that there is not becomes the first query.
    """
    side, place = _place(maps, picked)
    if place is None:
        return sentence("There are no words to show: all tokens here are special. Choose to show them.")
    weights = looked_at(maps, place) if side == QUERY else looked_by(maps, place)
    looking, looked = SIDES.get(maps.view.kind, ("translation", "source"))
    rows = [
        _row(f"Looking: {looking} (queries)", QUERY, maps.queries, side, place, weights),
        _row(f"Looked at: {looked} (keys)", KEY, maps.keys, side, place, weights),
    ]
    return f'<div class="looks">{"".join(rows)}{_told(maps, side, place, weights)}</div>'


def _place(maps: Maps, picked: str) -> tuple[str, int | None]:
    side, _, number = picked.partition(":")
    if not maps.queries or not maps.keys:
        return QUERY, None
    place = int(number) if number.isdecimal() else 0
    if side in (QUERY, KEY) and place < len(maps.queries if side == QUERY else maps.keys):
        return side, place
    return QUERY, 0


def _row(
    name: str, side: str, tokens: Sequence[str], picked_side: str, place: int, weights: np.ndarray
) -> str:
    """The tokens of one side; those of the other side than the picked one carry its weights."""
    shaded = side != picked_side
    behind = _grounds(weights) if shaded else []
    buttons = []
    for i, token in enumerate(tokens):
        pressed = not shaded and i == place
        number, style = "", ""
        if shaded and not np.isnan(weights[i]):
            number = f"<small>{weights[i]:.2f}</small>"
            style = f' style="{behind[i]}"'
        buttons.append(
            f'<button type="button" value="{side}:{i}" aria-pressed="{str(pressed).lower()}"{style}>'
            f"<b>{html.escape(token)}</b>{number}</button>"
        )
    return f'<p>{name}</p><div class="row" role="group" aria-label="{name}">{"".join(buttons)}</div>'


def _grounds(weights: np.ndarray) -> list[str]:
    """Behind each token, viridis from 0 to the largest weight."""
    known = np.nan_to_num(weights)
    return grounds(known / (known.max() or 1.0))


def _told(maps: Maps, side: str, place: int, weights: np.ndarray) -> str:
    """The same in words, for those who do not see the colours."""
    others = maps.keys if side == QUERY else maps.queries
    order = [i for i in np.argsort(-weights, kind="stable") if not np.isnan(weights[i])][:MOST_TOLD]
    most = ", ".join(f"“{others[i]}” {weights[i]:.2f}" for i in order) or "nothing here"
    if side == QUERY:
        said = f"“{maps.queries[place]}” looked most at {most}"
        follows = maps.queries[place + 1 : place + 2] if maps.view.kind != "encoder" else ()
        said += f"; then “{follows[0]}” was written." if follows else "."
    else:
        said = (
            f"“{maps.keys[place]}” was looked at most by {most}. "
            "Each number is a part of another row: they sum to anything."
        )
    if len(maps.which) > 1:
        said += " The mean of the maps above."
    return f'<p role="status">{html.escape(said)}</p>'
