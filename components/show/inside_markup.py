"""Markup for what is inside: tokens as chips, tensors with their axes, numbers in tables.

Whatever comes from checkpoints and visitors is shown as text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

from components.explain.attribution import Attributions, Carried
from components.explain.inside import Architecture, Axis, Token, Tokens, softmax_steps
from components.show.colours import grounds

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
BLUE, ORANGE = "0, 114, 178", "213, 94, 0"  # Okabe-Ito: for and against
DEEPEST = 0.5  # opacity of the ground behind the heaviest token, so that its text can be read on it
INTEGRATED = (
    "Integrated gradients: the text is made out of padding tokens little by little, and the gradients on the "
    "way tell how much each token adds to {score}. Blue and +: it speaks for it. Orange and −: against it. "
    "All numbers together are what lies between padding and text."
)
ROUGH = "The sum is still off by more than it should be: take small numbers lightly."
LOOKED = (
    "The last layer's attention from {position}, mean over all heads: yellow is most. "
    "The weights of all tokens sum to {total:.4f}."
)
NO_ATTENTION = "This model gives no attention weights."
COMPETE = (
    "A softmax over all labels: e to the power of each number, divided by the sum of all. The labels "
    "compete, one rises only where others fall, and the scores sum to 1. Taking away the highest, "
    "{highest:.4f}, changes nothing and keeps the powers small. Here they sum to {total:.4f}."
)
SPREAD = "The numbers lie close together: divided by a temperature of {temperature}, they are spread first. "
ALONE = (
    "For each label alone a softmax over its own two logits, {against} and {entails}; any other class is "
    "left out. No label knows of the others, and their scores may sum to anything, here {total:.4f}."
)
CLIPPED = "The cosine of each label by itself is its score, from 0 up: a similarity, no probability."
PAPERS = {
    "jain": ("Jain and Wallace 2019", "https://arxiv.org/abs/1902.10186"),
    "wiegreffe": ("Wiegreffe and Pinter 2019", "https://arxiv.org/abs/1908.04626"),
    "sundararajan": ("Sundararajan et al. 2017", "https://arxiv.org/abs/1703.01365"),
}
LITERATURE = (
    "Attention is not an explanation: it says where a layer looked, and quite other weights can lead to the "
    "same answer ({jain}). What it explains all the same is argued about ({wiegreffe}). Integrated gradients "
    "answer for the output itself, measured from a baseline that somebody chose ({sundararajan})."
)
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
    convolutional = facts.family == "convolutional"
    rows = [
        ("architecture", facts.name),
        ("convolutions" if convolutional else "layers", _both(facts.layers, facts.decoder_layers)),
        ("attention heads in each", _both(facts.heads, facts.decoder_heads)),
        ("hidden size", facts.hidden),
        ("parameters", f"{facts.parameters:,}"),
        ("numbers kept as", facts.dtype),
    ]
    return sentence(FAMILIES[facts.family]) + fact_list(rows)


def fact_list(rows: Sequence[tuple[str, object]]) -> str:
    """Names with their values; what is None is left out."""
    shown = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in rows
        if value is not None
    )
    return f'<dl class="facts">{shown}</dl>'


def _both(encoder: int | None, decoder: int | None) -> str | int | None:
    return encoder if decoder is None else f"{encoder} in the encoder, {decoder} in the decoder"


def number_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A small table, its first column words, the others numbers that are already written out."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="numbers"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def number_rows(labels: Sequence[str], *columns: np.ndarray) -> list[tuple[str, ...]]:
    """Rows for `number_table`: each label and its number `[labels]` of each column."""
    return [
        (label, *(f"{number:.4f}" for number in row)) for label, *row in zip(labels, *columns, strict=True)
    ]


def compete_table(labels: Sequence[str], values: np.ndarray, name: str, temperature: float = 1) -> str:
    """One softmax over the labels' numbers `[labels]`, step by step; name: of the numbers."""
    divided = values / temperature
    powers, shares = softmax_steps(divided)
    head, columns, words = ["label", name], [values], ""
    if temperature != 1:
        head, columns = [*head, f"divided by {temperature}"], [*columns, divided]
        words = SPREAD.format(temperature=temperature)
    words += COMPETE.format(highest=float(divided.max()), total=float(powers.sum()))
    head += ["e^(it - highest)", "divided by their sum"]
    return sentence(words) + number_table(head, number_rows(labels, *columns, powers, shares))


def alone_table(labels: Sequence[str], logits: np.ndarray, names: tuple[str, str]) -> str:
    """A softmax over the two logits `[labels, 2]` of each label, step by step; the second is its score."""
    powers, shares = softmax_steps(logits)
    against, entails = names
    words = ALONE.format(against=against, entails=entails, total=float(shares[:, 1].sum()))
    head = ["label", *(f"{name} logit" for name in names), *(f"e^({name} - higher)" for name in names)]
    rows = number_rows(labels, *logits.T, *powers.T, shares[:, 1])
    return sentence(words) + number_table([*head, f"share of {entails}"], rows)


def clipped_table(labels: Sequence[str], cosines: np.ndarray) -> str:
    """Cosines `[labels]` as scores of labels that do not exclude each other."""
    rows = number_rows(labels, cosines, cosines.clip(0, 1))
    return sentence(CLIPPED) + number_table(("label", "cosine", "score"), rows)


def hidden_states(axes: Sequence[Axis], part: str = "") -> str:
    """The shape of the last hidden states, in a sentence; part: of the "encoder" or the "decoder"."""
    whose = f"The last hidden states of its {part}" if part else "Its last hidden states"
    return sentence(f"{whose} for this input have the shape") + shape(axes)


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


def attribution(carried: Carried) -> str:
    """Which tokens carried a decision, as chips, the sums below; beside it where the last layer looked."""
    how = f"{sentence(INTEGRATED.format(score=carried.score))}{_signed_chips(carried)}{_sums(carried)}"
    columns = [("Integrated gradients", how), ("Attention", _attention(carried))]
    sections = "".join(f'<section class="station"><h3>{name}</h3>{body}</section>' for name, body in columns)
    papers = {
        key: f'<a href="{address}" target="_blank" rel="noopener">{name}</a>'
        for key, (name, address) in PAPERS.items()
    }
    words = LITERATURE.format(**papers)
    said = "".join(map(sentence, carried.remarks))
    return f'{said}<div class="beside">{sections}</div><div class="station"><p>{words}</p></div>'


def _signed_chips(carried: Carried) -> str:
    values = carried.attributions.values
    most = float(np.abs(values).max(initial=0)) or 1.0
    digits = 2 if most >= 1 else 3
    chips = (
        _shaded(token, f"{value:+.{digits}f}".replace("-", "−"), f"{value:+.4f}", _ground(value / most))
        for token, value in zip(carried.tokens.tokens[:SHOWN], values[:SHOWN], strict=True)
    )
    return f'<div class="tokens">{"".join(chips)}{_more(len(values))}</div>'


def _ground(share: float) -> str:
    """Behind a token whose attribution is this share of the heaviest one, from -1 to 1."""
    return f"background: rgba({BLUE if share >= 0 else ORANGE}, {DEEPEST * abs(share):.3f})"


def _shaded(token: Token, below: str, told: str, style: str) -> str:
    kind = " special" if token.special else ""
    return (
        f'<span class="token shaded{kind}" style="{style}" title="{html.escape(f"{token.text}: {told}")}">'
        f"<b>{html.escape(readable(token.text))}</b><small>{below}</small></span>"
    )


def _more(count: int) -> str:
    return f'<span class="more">and {count - SHOWN} more tokens</span>' if count > SHOWN else ""


def _sums(carried: Carried) -> str:
    found: Attributions = carried.attributions
    rows = [
        ("of the text", f"{found.score:.4f}"),
        ("of padding in its place", f"{found.blank:.4f}"),
        ("the difference", f"{found.score - found.blank:.4f}"),
        ("sum over all tokens", f"{float(found.values.sum()):.4f}"),
        ("convergence delta", f"{found.delta:+.4f}"),
        ("steps", str(found.steps)),
    ]
    table = number_table((f"{carried.score[:1].upper()}{carried.score[1:]}", ""), rows)
    return table + ("" if found.exact else sentence(ROUGH))


def _attention(carried: Carried) -> str:
    weights = carried.attention
    if weights is None:
        return sentence(NO_ATTENTION)
    words = LOOKED.format(position=carried.position, total=float(weights.sum()))
    most = float(weights.max()) or 1.0
    shown = weights[:SHOWN]
    chips = (
        _shaded(token, f"{100 * weight:.1f} %", f"{weight:.4f}", ground)
        for token, weight, ground in zip(
            carried.tokens.tokens[:SHOWN], shown, grounds(shown / most), strict=True
        )
    )
    return f'{sentence(words)}<div class="tokens weights">{"".join(chips)}{_more(len(weights))}</div>'
