"""Markup of a text that a language model wrote: how sure it was of each token, and what else it might say.

Whatever comes from checkpoints and visitors is shown as text.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.explain.alternatives import MODEL, Places
from components.show.colours import grounds, viridis
from components.show.figures import attention_heatmap
from components.show.inside_markup import number_table, readable, sentence
from components.show.markup import percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from components.explain.inside import Token

READING = (
    "Each token has the colour of the probability that the model gave it. Press one, or use the arrow keys "
    "and Enter, to see what else could have stood there."
)
ENTROPY = (
    "Entropy tells how uncertain the model was before each token: 0 bits where one token is certain, and "
    "one bit more for each doubling of equally likely ones (1 bit is 0.69 nats)."
)
MASKED = "rgba(128, 128, 128, 0.35)"
CUT = "–"
# A press on a button tells which one; arrow keys go from button to button, so that Tab need not.
BUTTONS = """
const buttons = () => [...element.querySelectorAll("button[data-place]")];
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-place]");
  if (!button) return;
  buttons().forEach((one) => one.setAttribute("aria-pressed", one === button));
  trigger("click", { place: Number(button.dataset.place) });
});
element.addEventListener("keydown", (event) => {
  const all = buttons(), at = all.indexOf(event.target);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (at < 0 || to === undefined || !all[to]) return;
  event.preventDefault();
  all[at].tabIndex = -1;
  all[to].tabIndex = 0;
  all[to].focus();
});
"""


def written(tokens: Sequence[Token], shares: Sequence[float], forks: Sequence[int] = ()) -> str:
    """Each token as a button in the colour of its probability; special ones dashed, chosen ones underlined.

    forks: places at which a visitor chose the token.
    """
    if not tokens:
        return sentence("The text is empty: there is no token to colour.")
    pieces = []
    for place, (token, share, ground) in enumerate(zip(tokens, shares, grounds(shares), strict=True)):
        shown = readable(token.text)
        kinds = [name for name, is_so in (("special", token.special), ("fork", place in forks)) if is_so]
        told = f"{shown}: {percent(share)}, id {token.id}" + (", chosen by you" if place in forks else "")
        pieces.append(
            f'<button type="button" class="piece {" ".join(kinds)}" data-place="{place}" '
            f'tabindex="{0 if place == 0 else -1}" aria-pressed="false" title="{html.escape(told)}" '
            f'style="{ground}">{html.escape(shown)}</button>' + ("<br>" if "↵" in shown else "")
        )
    reading = sentence(READING)
    return f'{reading}<div class="pieces" role="group" aria-label="tokens">{"".join(pieces)}</div>{scale()}'


def scale() -> str:
    """What the colours mean."""
    stops = ", ".join(viridis(i / 8 for i in range(9)))
    return (
        '<p class="certainty"><span>probability that the model gave the token: 0 %</span>'
        f'<span class="ramp" style="background:linear-gradient(to right, {stops})"></span>'
        "<span>100 %</span></p>"
    )


def _shares(places: Places, place: int, column: int) -> list[str]:
    """The probability of one candidate after each step."""
    pairs = zip(places.probabilities[:, place, column], places.scores[:, place, column], strict=True)
    return [_share(float(probability)) if np.isfinite(score) else CUT for probability, score in pairs]


def _share(probability: float) -> str:
    return f"{probability:.4f}" if probability >= 0.00005 else f"{probability:.0e}"


def head_table(places: Places, names: Mapping[int, str], place: int = 0) -> str:
    """The highest logits at a place."""
    ids, logits = places.ids[place, :-1], places.logits[place]
    rows = [
        (readable(names[one]), str(one), f"{logit:.4f}")
        for one, logit in zip(ids.tolist(), logits, strict=False)
    ]
    return number_table(("token", "id", "logit"), rows)


def steps_table(places: Places, names: Mapping[int, str], place: int = 0, marked: bool = True) -> str:
    """From the highest logits to probabilities, a column for each step; marked: the token that was taken."""
    rows = []
    for column in places.candidates(place):
        token = int(places.ids[place, column])
        name = readable(names[token])
        if marked and token == places.ids[place, -1]:
            name += " (chosen)"
        rows.append([name, f"{places.logits[place, column]:.4f}", *_shares(places, place, column)])
    return number_table(("token", "logit", *_headings(places)), rows)


def _headings(places: Places) -> list[str]:
    return [name if name != MODEL else "softmax" for name in places.steps]


def left_over(places: Places, place: int) -> str:
    """How many tokens could still come after each step, in a sentence."""
    counts = places.left[:, place]
    told = [
        f"{count:,} after {name}"
        for name, count, before in zip(places.steps[1:], counts[1:], counts[:-1], strict=True)
        if count != before
    ]
    if not told:
        return f"Each of the {counts[0]:,} tokens of the vocabulary could still come."
    return f"Of {counts[0]:,} tokens in the vocabulary there are left {', '.join(told)}."


def alternatives(places: Places, names: Mapping[int, str], place: int, before: str) -> str:
    """The likeliest tokens at a place, a button each, with probabilities before and after each step.

    before: the end of the text up to there.
    """
    token = int(places.ids[place, -1])
    taken = readable(names[token])
    rows = []
    for column in places.candidates(place):
        one = int(places.ids[place, column])
        shares = "".join(f"<td>{cell}</td>" for cell in _shares(places, place, column))
        rows.append(_alternative(readable(names[one]), one, one == token, column, shares))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("token", *places.steps))
    rank = f"the model's number {places.ranks[place]:,}"
    return (
        sentence(f"After “{before}” came “{taken}”, {rank}. {left_over(places, place)}")
        + sentence("Press another token to continue from here with that one. – : cut off.")
        + f'<div class="numbers"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _alternative(name: str, token: int, taken: bool, column: int, shares: str) -> str:
    shown = html.escape(name)
    if taken:
        cell = f'<b title="id {token}">{shown}</b> <small>chosen</small>'
    else:
        told = f"continue from here with {name}, id {token}"
        cell = (
            f'<button type="button" class="piece" data-place="{column}" aria-label="{html.escape(told)}" '
            f'title="{html.escape(told)}">{shown}</button>'
        )
    row = '<tr class="taken">' if taken else "<tr>"
    return f"{row}<td>{cell}</td>{shares}</tr>"


def branches(prompt: str, shared: str, original: str, chosen: str, branch: str) -> str:
    """Two texts side by side that part after `shared`, the branch point marked in both."""

    def section(heading: str, first: str, rest: str) -> str:
        return (
            f'<section><h3>{html.escape(heading)}</h3><span class="prompt">{html.escape(prompt)}</span>'
            f"{html.escape(shared)}{first}{html.escape(rest)}</section>"
        )

    mark = '<span class="parting" title="here the texts part">|</span>'
    return (
        '<div class="sequences branches">'
        + section("Original", mark, original)
        + section("Branch", f"{mark}<mark>{html.escape(chosen)}</mark>", branch)
        + "</div>"
    )


def entropy_line(entropies: np.ndarray, tokens: Sequence[str]) -> go.Figure:
    """Entropy `[place]` in bits along a text, as a line."""
    import plotly.graph_objects as go

    shown = [html.escape(readable(token)) for token in tokens]
    places = list(range(1, len(shown) + 1))
    return go.Figure(
        go.Scatter(
            x=places,
            y=entropies,
            mode="lines+markers",
            line={"color": "#0072b2", "width": 2},
            marker={"size": 5},
            customdata=shown,
            hovertemplate="before %{customdata} (token %{x}): %{y:.2f} bits<extra></extra>",
        ),
        {
            "title": {"text": "Entropy of the next token", "font": {"size": 12}},
            "xaxis": {
                "title": {"text": "token of the text"},
                "range": [0.5, len(shown) + 0.5],
                "automargin": True,
                "showgrid": False,
                "zeroline": False,
            },
            "yaxis": {
                "title": {"text": "entropy (bits)"},
                "rangemode": "tozero",
                "zerolinecolor": "rgba(128, 128, 128, 0.3)",
                "automargin": True,
                "gridcolor": "rgba(128, 128, 128, 0.3)",
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
            "height": 220,
        },
    )


def causal_map(weights: np.ndarray, tokens: Sequence[str], *titles: str) -> go.Figure:
    """Attention `[query, key]` with NaN where it is masked, as a heatmap on which the mask is grey.

    titles: the lines of its title.
    """
    shown = [readable(token) for token in tokens]
    title = "<br>".join(map(html.escape, titles))
    figure = attention_heatmap(weights, shown, shown, title)
    # A second layer over the first: what is masked must not look like a weight of 0.
    figure.add_heatmap(
        z=np.where(np.isnan(weights), 1.0, np.nan),
        colorscale=[[0, MASKED], [1, MASKED]],
        showscale=False,
        hoverongaps=False,
        hovertemplate="masked: this key comes after the query<extra></extra>",
    )
    figure.update_layout(height=max(360, 180 + 14 * len(shown)))
    return figure
