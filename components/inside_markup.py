"""Markup for what is inside: tokens as chips, tensors with their axes, numbers in tables.

Whatever comes from checkpoints and visitors is shown as text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from components.inside import Architecture, Axis, Token, Tokens

MOST_LABELS = 10  # that are shown step by step
SOFTMAX = (
    "A softmax makes probabilities that sum to 1: e to the power of each logit, divided by the sum of all. "
    "Taking away the highest logit, {highest:.4f}, changes nothing and keeps the powers small. "
    "Here they sum to {total:.4f}."
)
SIGMOID = "These labels do not exclude each other: a sigmoid turns each logit into a probability of its own."
STATIONS = ("Tokenizer", "Model", "Head", "Postprocessing")
SHOWN = 200  # tokens of one input; a longer one would be a wall of chips
MARKS = {" ": "␣", "▁": "␣", "Ġ": "␣", "Ċ": "↵", "\n": "↵", "\t": "⇥"}
FAMILIES = {
    "encoder": "An encoder: every token looks at every other one, in both directions.",
    "decoder": "A decoder: a token looks only at those before it, and the last one predicts the next.",
    "encoder-decoder": "An encoder reads the input; a decoder writes the output and looks back at it.",
    "convolutional": "No attention: each layer looks at small neighbourhoods, which grow with depth.",
}


def readable(token: str) -> str:
    """A token with its marks of spaces and line ends as signs that can be seen."""
    return "".join(MARKS.get(letter, letter) for letter in token) or "∅"


def stations(*contents: str, titles: Sequence[str] = STATIONS) -> str:
    """What lies between the input and the answer: one section for each station, in order, from HTML."""
    numbered = enumerate(zip(titles, contents, strict=True), 1)
    return "".join(_station(number, title, content) for number, (title, content) in numbered)


def _station(number: int, title: str, content: str) -> str:
    return f'<section class="station"><h3><span>{number}</span> {html.escape(title)}</h3>{content}</section>'


def sentence(text: str) -> str:
    """A plain sentence of explanation, shown as text."""
    return f"<p>{html.escape(text)}</p>"


def token_chips(rows: Sequence[Tokens]) -> str:
    """Each input as a row of chips, a token above its id; special ones, padding and the cut end marked."""
    return "".join(_row(row) for row in rows)


def _row(row: Tokens) -> str:
    chips = "".join(_chip(token) for token in row.tokens[:SHOWN])
    more = (
        f'<span class="more">and {len(row.tokens) - SHOWN} more tokens</span>'
        if len(row.tokens) > SHOWN
        else ""
    )
    cut = f"<del>{html.escape(row.cut[:300])}{' …' if len(row.cut) > 300 else ''}</del>" if row.cut else ""
    return f'<div class="tokens">{chips}{more}{cut}</div>'


def _chip(token: Token) -> str:
    kinds = [name for name, is_so in (("special", token.special), ("padding", not token.attended)) if is_so]
    titles = f"{token.text}: id {token.id}, attention mask {int(token.attended)}"
    return (
        f'<span class="token {" ".join(kinds)}" title="{html.escape(titles)}">'
        f"<b>{html.escape(readable(token.text))}</b><small>{token.id}</small></span>"
    )


def shape(axes: Sequence[Axis]) -> str:
    """The shape of a tensor, each axis named: [2, 16, 768] and what each number counts."""
    sizes = ", ".join(str(axis.size) for axis in axes)
    names = " × ".join(axis.name for axis in axes)
    return f'<p><code class="shape">[{sizes}]</code> {html.escape(names)}</p>'


def architecture_facts(facts: Architecture) -> str:
    """What the model is made of, as a list, with a sentence on its family."""
    rows = [
        ("architecture", facts.name),
        ("layers", facts.layers),
        ("attention heads in each", facts.heads),
        ("hidden size", facts.hidden),
        ("parameters", f"{facts.parameters:,}"),
        ("numbers kept as", facts.dtype),
    ]
    shown = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in rows
        if value is not None
    )
    return f'{sentence(FAMILIES[facts.family])}<dl class="facts">{shown}</dl>'


def number_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A small table, its first column words, the others numbers that are already written out."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="numbers"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def hidden_states(axes: Sequence[Axis]) -> str:
    """The shape of the last hidden states, in a sentence."""
    return sentence("Its last hidden states for this input have the shape") + shape(axes)


def logit_table(labels: Sequence[str], logits: Sequence[float]) -> str:
    """The logits of one input in the order of the classes."""
    rows = [(label, str(i), f"{logits[i]:.4f}") for i, label in enumerate(labels)]
    return number_table(("label", "class", "logit"), rows)


def to_probabilities_table(
    labels: Sequence[str], logits: Sequence[float], probabilities: Sequence[float], sigmoid: bool
) -> str:
    """One row of logits step by step to its probabilities, the likeliest first; the class number beside.

    labels: what `id2label` names each class, in the order of the classes.
    """
    order = sorted(range(len(labels)), key=lambda i: -probabilities[i])
    highest = max(logits)
    shown = order[:MOST_LABELS]
    rows = [[labels[i], str(i), f"{logits[i]:.4f}"] for i in shown]
    if sigmoid:
        head, words = ["1 / (1 + e^-logit)"], SIGMOID
    else:
        powers = [math.exp(logit - highest) for logit in logits]
        head, words = ["e^(logit - highest)", "divided by their sum"], SOFTMAX
        words = words.format(highest=highest, total=sum(powers))
        rows = [[*row, f"{powers[i]:.4f}"] for row, i in zip(rows, shown, strict=True)]
    rows = [[*row, f"{probabilities[i]:.4f}"] for row, i in zip(rows, shown, strict=True)]
    more = f'<p class="remark">and {len(labels) - MOST_LABELS} more</p>' if len(labels) > MOST_LABELS else ""
    return sentence(words) + number_table(["label", "class", "logit", *head], rows) + more
