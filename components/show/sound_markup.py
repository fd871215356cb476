"""Markup for sound: the decoder's tokens with their probabilities, and words to click.

Whatever comes from checkpoints and visitors is shown as text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from components.compute.transcripts import Segment
from components.explain.hearing import Written
from components.show.inside_markup import readable
from components.show.markup import clock, percent


def section(title: str, content: str) -> str:
    """A heading with what is said below it, from HTML."""
    return f'<section class="station"><h3>{html.escape(title)}</h3>{content}</section>'


def written_chips(tokens: Sequence[Written], taken: int | None = None) -> str:
    """Tokens as chips with id and probability, which is drawn as a bar too; special ones marked by kind.

    taken: how many of them became text; the others are faint. None: all.
    """
    chips = "".join(_chip(token, taken is None or i < taken) for i, token in enumerate(tokens))
    return f'<div class="tokens">{chips}</div>'


def _chip(token: Written, taken: bool) -> str:
    kinds = [*(["special"] if token.kind != "text" else []), *([] if taken else ["padding"])]
    told = [f"{token.text}: {token.kind}, id {token.id}"]
    if token.probability is not None:
        told.append(f"probability {token.probability:.4f}")
    if token.allowed is not None:
        told.append(f"among the allowed tokens {token.allowed:.4f}")
    bar = '<i class="share"></i>'
    style = ""
    if token.probability is not None:
        style = f' style="--share: {100 * token.probability:.1f}%"'
    share = percent(token.probability) if token.probability is not None else "given"
    return (
        f'<span class="token decoded {" ".join(kinds)}" title="{html.escape("; ".join(told))}"{style}>'
        f"<b>{html.escape(readable(token.text))}</b><small>{token.id}</small>"
        f"<small>{share}</small>{bar if style else ''}</span>"
    )


def word_buttons(words: Sequence[Segment]) -> str:
    """Words or phrases with their times in seconds, each a button: keys.html plays the sound from there."""
    buttons = "".join(
        f'<button type="button" class="word" data-from="{word.start:.3f}" data-to="{word.end:.3f}" '
        f'aria-label="{html.escape(f"Play from {clock(word.start)}: {word.text}")}">'
        f"{html.escape(word.text)}<small>{clock(word.start)}</small></button>"
        for word in words
    )
    return f'<div class="words">{buttons}</div>'
