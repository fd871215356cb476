"""Attention: which token looks at which, and how much?

Weights are `[layers, heads, query, key]`: queries look, keys are looked at, and each row sums to 1
(Vaswani et al. 2017, Attention Is All You Need, section 3.2).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from components.explain.masks import AXES, hide_later
from components.inputs.tables import safe_cell

MOST_DRAWN = 64  # tokens on a side; more could not be told apart
KINDS = {"Encoder self-attention": "encoder", "Decoder self-attention": "decoder", "Cross-attention": "cross"}
MEAN, ALL_HEADS, ALL_LAYERS = "mean of heads", "all heads", "all layers"
SHOWN, LEFT_OUT, RENORMALISED = "shown", "left out", "left out, rows renormalised"
SPECIAL = (LEFT_OUT, RENORMALISED, SHOWN)
BEGIN = "▁"  # what SentencePiece puts where a word begins
BYTES = re.compile("(<0x[0-9A-F]{2}>)+")  # what it falls back on for a character that is in no piece
Spans = tuple[range, ...]


@dataclass(frozen=True)
class Attention:
    """Attention weights of one sentence: encoder `[layers, heads, source, source]`, decoder
    `[layers, heads, target, target]`, cross `[layers, heads, target, source]`; each row sums to 1.

    The decoder's queries are the tokens it was fed, which begin with its start token. left_off: how many
    tokens of the source and of the target are not among these, see `first`.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    cross: np.ndarray
    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    special: frozenset[str]
    left_off: tuple[int, int] = (0, 0)

    def sides(self, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tokens that look, and those that are looked at."""
        return (
            self.source_tokens if kind == "encoder" else self.target_tokens,
            self.target_tokens if kind == "decoder" else self.source_tokens,
        )


@dataclass(frozen=True)
class View:
    """What of an Attention is to be seen. layer: from 1, or ALL_LAYERS; head: from 1, MEAN or ALL_HEADS;
    words: with subwords merged; special: one of SPECIAL.
    """

    kind: str = "cross"
    layer: int | str = ALL_LAYERS
    head: int | str = MEAN
    words: bool = False
    special: str = LEFT_OUT


@dataclass(frozen=True)
class Maps:
    """One map or several of the same tokens: weights `[maps, query, key]`, NaN for what a decoder cannot see.

    which: the layer and the head of each map, counted from 1, no head for the mean; layers: how many there
    are; left_off: as in Attention, of the queries and of the keys.
    """

    view: View
    which: tuple[tuple[int, int | None], ...]
    layers: int
    weights: np.ndarray
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    left_off: tuple[int, int]

    @property
    def mean(self) -> np.ndarray:
        """Of all maps, `[query, key]`."""
        return self.weights.mean(0)


def first(attention: Attention, most: int = MOST_DRAWN) -> Attention:
    """The weights between the first tokens only. What went to those behind them is missing in the rows."""
    source, target = len(attention.source_tokens), len(attention.target_tokens)
    if max(source, target) <= most:
        return attention
    return replace(
        attention,
        encoder=attention.encoder[:, :, :most, :most].copy(),
        decoder=attention.decoder[:, :, :most, :most].copy(),
        cross=attention.cross[:, :, :most, :most].copy(),
        source_tokens=attention.source_tokens[:most],
        target_tokens=attention.target_tokens[:most],
        left_off=(max(0, source - most), max(0, target - most)),
    )


def look(attention: Attention, view: View) -> Maps:
    """The maps of a view. A layer or a head that there is not becomes the last."""
    weights = getattr(attention, view.kind)
    which, chosen = choose(weights, view.layer, view.head)
    sides = attention.sides(view.kind)
    spans = [
        words(side, attention.special) if view.words else tuple(range(i, i + 1) for i in range(len(side)))
        for side in sides
    ]
    queries, keys = (
        tuple(_name(side[span.start : span.stop], view.words) for span in parts)
        for side, parts in zip(sides, spans, strict=True)
    )
    # A special token is a word of its own.
    rows, columns = (
        [i for i, s in enumerate(parts) if view.special == SHOWN or side[s.start] not in attention.special]
        for side, parts in zip(sides, spans, strict=True)
    )
    kept = left_out(merge(chosen, *spans), rows, columns, view.special == RENORMALISED)
    source, target = attention.left_off
    return Maps(
        view,
        which,
        len(weights),
        hide_later(kept) if view.kind == "decoder" else kept,
        tuple(queries[i] for i in rows),
        tuple(keys[i] for i in columns),
        (source if view.kind == "encoder" else target, target if view.kind == "decoder" else source),
    )


def choose(
    weights: np.ndarray, layer: int | str, head: int | str
) -> tuple[tuple[tuple[int, int | None], ...], np.ndarray]:
    """Of weights `[layers, heads, query, key]` those asked for, `[maps, query, key]`, and which they are."""
    layers, heads = weights.shape[:2]
    chosen = range(1, layers + 1) if isinstance(layer, str) else [min(layer, layers)]
    if head == MEAN:
        return tuple((one, None) for one in chosen), weights[[one - 1 for one in chosen]].mean(1)
    some = range(1, heads + 1) if isinstance(head, str) else [min(head, heads)]
    which = tuple((one, other) for one in chosen for other in some)
    return which, weights[[one - 1 for one, _ in which], [other - 1 for _, other in which]]


def words(tokens: Sequence[str], special: Collection[str]) -> Spans:
    """The places of each word's tokens. A word begins at ▁; a special token is one by itself."""
    starts = [
        i
        for i, token in enumerate(tokens)
        if i == 0 or token.startswith(BEGIN) or token in special or tokens[i - 1] in special
    ]
    return tuple(map(range, starts, [*starts[1:], len(tokens)]))


def merge(weights: np.ndarray, queries: Spans, keys: Spans) -> np.ndarray:
    """Weights `[..., query, key]` of tokens as those of words: summed over keys, averaged over queries.

    Rows that sum to 1 still do (Clark et al. 2019, What Does BERT Look At?, section 4).
    """
    summed = np.add.reduceat(weights, np.array([span.start for span in keys], dtype=int), axis=-1)
    both = np.add.reduceat(summed, np.array([span.start for span in queries], dtype=int), axis=-2)
    return both / np.array([len(span) for span in queries], dtype=weights.dtype)[:, None]


def left_out(
    weights: np.ndarray, queries: Sequence[int], keys: Sequence[int], renormalise: bool = False
) -> np.ndarray:
    """Weights `[..., query, key]` of these queries and keys only.

    Rows then sum to less than 1, or to 1 again where they are renormalised; one of zeros stays as it is.
    """
    kept = weights[..., list(queries), :][..., list(keys)]
    if not renormalise:
        return kept
    sums = kept.sum(-1, keepdims=True)
    return np.divide(kept, sums, out=np.zeros_like(kept), where=sums > 0)


def _name(tokens: Sequence[str], whole: bool) -> str:
    """Tokens as they are read: the mark of a word's beginning as a space that does not vanish.

    whole: a word without it, and with the characters that its tokens for bytes stand for.
    """
    written = "".join(tokens)
    if whole:
        written = BYTES.sub(lambda run: _decoded(run[0]), written)
    return (written.replace(BEGIN, "") if whole else "") or written.replace(BEGIN, "␣")


def _decoded(run: str) -> str:
    """<0xC3><0xA9> as é."""
    return bytes(int(code, 16) for code in re.findall("0x(..)", run)).decode("utf-8", "replace")


def title(maps: Maps) -> str:
    """What is drawn, in one line."""
    view, (layer, head) = maps.view, maps.which[-1]
    name = next(name for name, kind in KINDS.items() if kind == view.kind)
    where = ALL_LAYERS if view.layer == ALL_LAYERS else f"layer {layer} of {maps.layers}"
    return f"{name}, {where}, {view.head if isinstance(view.head, str) else f'head {head}'}"


def names(maps: Maps) -> tuple[str, ...]:
    """A short name for each map: what tells it from the others."""
    several_layers, several_heads = maps.view.layer == ALL_LAYERS, maps.view.head == ALL_HEADS
    if several_layers and several_heads:
        return tuple(f"{layer}.{head}" for layer, head in maps.which)
    return tuple(
        f"layer {layer}" if several_layers or head is None else f"head {head}" for layer, head in maps.which
    )


def how_to_read(maps: Maps) -> str:
    """How to read what is drawn, and what its rows sum to."""
    view = maps.view
    unit = "word" if view.words else "token"
    looking = "source" if view.kind == "encoder" else "translation"
    looked_at = "translation" if view.kind == "decoder" else "source"
    said = [
        f"{AXES.capitalize()}: each row is a {unit} of the {looking} that looks, and its cells say how "
        f"much it looks at each {unit} of the {looked_at}."
    ]
    if len(maps.which) > 1:
        said.append("All maps share one colour scale; hover over a cell to read it.")
    if view.layer == ALL_LAYERS and view.head == ALL_HEADS:
        said.append("Each is named by its layer and its head: 2.3 is head 3 of layer 2.")
    if view.kind == "decoder":
        said.append("Blank cells are not zeros: they come later, and the causal mask hides them.")
    if view.kind != "encoder":
        said.append("The decoder has just read what the row names, and writes what follows it.")
    if view.words:
        said.append("Subwords are merged into words: summed over keys, averaged over queries.")
    said.append(_sums(maps))
    if cut := [
        f"{count + MOST_DRAWN} {name}"
        for count, name in zip(maps.left_off, (looking, looked_at), strict=True)
        if count
    ]:
        said.append(f"Only the first {MOST_DRAWN} of {' and '.join(dict.fromkeys(cut))} tokens are drawn.")
    return " ".join(said)


def _sums(maps: Maps) -> str:
    special, missing = maps.view.special, bool(maps.left_off[1]) and maps.view.kind != "decoder"
    gone = {
        (False, False): "",
        (True, False): "Special tokens are left out",
        (False, True): "Tokens beyond those drawn are left out",
        (True, True): "Special tokens and those beyond the ones drawn are left out",
    }[special != SHOWN, missing]
    if not gone:
        return "Each row sums to 1."
    if special == RENORMALISED:
        return f"{gone}, and each row is renormalised: divided by what remains, so that it sums to 1 again."
    return f"{gone}, and with them the attention they got: a row sums to less than 1."


def looked_at(maps: Maps, query: int) -> np.ndarray:
    """How much one query looks at each key, `[key]`, the mean of all maps. Raises IndexError."""
    return maps.mean[query]


def looked_by(maps: Maps, key: int) -> np.ndarray:
    """How much each query looks at one key, `[query]`, the mean of all maps; it sums to anything."""
    return maps.mean[:, key]


def to_csv(maps: Maps) -> str:
    """A table: layer, head and query of each row, and a column for each key. What is masked is empty."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["layer", "head", "query", *map(safe_cell, maps.keys)])
    for (layer, head), rows in zip(maps.which, maps.weights, strict=True):
        for query, row in zip(maps.queries, rows, strict=True):
            cells = ("" if np.isnan(weight) else f"{weight:.6f}" for weight in row)
            writer.writerow([layer, head or "mean", safe_cell(query), *cells])
    return out.getvalue()
