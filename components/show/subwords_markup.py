"""Markup for subwords: how does training stand after some merges, and how is a word split then?

Words come from visitors: they are shown as text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from components.explain import subwords
from components.explain.inside import Token, Tokens
from components.explain.subwords import Learnt, Method, State
from components.show.inside_markup import number_table, sentence, stations, token_chips
from components.show.inside_markup import readable as with_spaces

MOST_PAIRS = 12  # that are shown
RULES = {
    Method.BPE: "BPE merges the pair of neighbours that occurs most often. Of pairs that occur equally often "
    "it takes the one whose first token has the lower id, then whose second has: as the tokenizers library "
    "does, whose merges are the same.",
    Method.WORDPIECE: "WordPiece merges the pair with the highest score: how often the pair occurs, divided "
    "by how often its first and its second token occur, multiplied. Tokens that are rare without each other "
    "come first. Of equal scores it takes the pair that is met first. This is the course's account: the "
    "original training program was never published.",
    Method.WORDPIECE_BY_COUNT: "The WordPieceTrainer of the tokenizers library knows no score: it trains "
    "BPE, by how often a pair occurs, on tokens with ##, and only splits words as WordPiece does. It keeps "
    "every letter without ## as well. It numbers the tokens with ## in another order at each run, so where "
    "pairs occur equally often its choice may differ from this one, which numbers them as they are met.",
}
SPLITTING = {
    Method.BPE: "BPE splits a word into letters and applies the merges in the order in which they were "
    "learnt. A letter that training never saw becomes [UNK]; the rest of the word is split as ever.",
    Method.WORDPIECE: "WordPiece keeps only the vocabulary: it takes the longest token that the word begins "
    "with, then the longest with ## that goes on, to the end. If none fits, the whole word becomes [UNK].",
}
SPLITTING[Method.WORDPIECE_BY_COUNT] = SPLITTING[Method.WORDPIECE]


def readable(token: str) -> str:
    """A token with every code point to be seen, such as the joiners inside of an emoji."""
    seen = (letter if letter.isprintable() else f"U+{ord(letter):04X}" for letter in token)
    return with_spaces("".join(seen))


def draw_state(learnt: Learnt, merges: int) -> str:
    """Training after so many merges, as HTML: what comes next, the words, the pairs, the vocabulary."""
    now = subwords.state(learnt, merges)
    return _headline(learnt, merges, now) + stations(
        _draw_splits(learnt, now),
        _draw_pairs(learnt, now),
        _draw_vocabulary(learnt, merges),
        titles=("Words as they are split", "Pairs of neighbours", "Vocabulary"),
    )


def _headline(learnt: Learnt, merges: int, now: State) -> str:
    total = len(learnt.merges)
    if merges == total:
        why = "every word is one token" if not now.candidates else "as far as was asked for"
        words, small = f"{total} merges", why
    else:
        first, second = learnt.merges[merges]
        made = subwords.joined((first, second), learnt.method)
        words = f"{readable(first)} + {readable(second)} → {readable(made)}"
        small = f"merge {merges + 1} of {total}"
    return f'<p class="answer">{html.escape(words)} <span>{html.escape(small)}</span></p>'


def _draw_splits(learnt: Learnt, now: State) -> str:
    pair = now.candidates[0].pair if now.candidates else None
    rows = "".join(
        f"<span>{count:,} ×</span>{_draw_split(split, pair)}"
        for (_, count), split in zip(learnt.corpus, now.splits, strict=True)
    )
    return f'<div class="splits" tabindex="0">{rows}</div>'


def _draw_split(split: Sequence[str], pair: subwords.Pair | None = None) -> str:
    """Tokens as chips; those that the pair would merge are marked."""
    chosen: set[int] = set()
    for i in range(len(split) - 1):
        if tuple(split[i : i + 2]) == pair and i not in chosen:
            chosen |= {i, i + 1}
    chips = "".join(
        f'<span class="token{" chosen" if i in chosen else ""}"><b>{html.escape(readable(token))}</b></span>'
        for i, token in enumerate(split)
    )
    return f'<div class="tokens">{chips}</div>'


def _draw_pairs(learnt: Learnt, now: State) -> str:
    by_score = learnt.method is Method.WORDPIECE
    if not now.candidates:
        return sentence("No word has two tokens any more: there is nothing left to merge.")
    head = ["pair", "occurs", *(["its first", "its second", "score"] if by_score else []), "would make"]
    rows = []
    for one in now.candidates[:MOST_PAIRS]:
        row = [" ".join(map(readable, one.pair)), f"{one.count:,}"]
        if by_score:
            row += [f"{one.first:,}", f"{one.second:,}", f"{float(one.score):.4g}"]
        rows.append([*row, readable(subwords.joined(one.pair, learnt.method))])
    what = "score" if by_score else "count"
    tie = f" {now.tied} pairs share the highest {what}." if now.tied > 1 else ""
    more = len(now.candidates) - MOST_PAIRS
    rest = f'<p class="remark">and {more:,} more</p>' if more > 0 else ""
    said = sentence(f"The pair in the first row is merged next.{tie}")
    return said + number_table(head, rows) + rest + sentence(RULES[learnt.method])


def _draw_vocabulary(learnt: Learnt, merges: int) -> str:
    vocabulary = learnt.vocabulary(merges)
    tokens = tuple(Token(readable(token), i, token == subwords.UNKNOWN) for i, token in enumerate(vocabulary))
    said = f"{len(vocabulary)} tokens with their ids: {subwords.UNKNOWN}, the letters, then what was merged."
    return sentence(said) + token_chips([Tokens(tokens)])


def draw_words(words: Sequence[str], learnt: Learnt, merges: int) -> str:
    """Each word, its tokens with their ids, and how they were found, as HTML."""
    ids = {token: i for i, token in enumerate(learnt.vocabulary(merges))}
    parts = []
    for word in words:
        tokens = subwords.tokenize(word, learnt, merges)
        chips = token_chips(
            [Tokens(tuple(Token(readable(t), ids[t], t == subwords.UNKNOWN) for t in tokens))]
        )
        way = _bpe_way if learnt.method is Method.BPE else _wordpiece_way
        parts.append(f"<h4>{html.escape(readable(word))}</h4>{chips}{way(word, learnt, merges)}")
    return "".join(parts) + sentence(SPLITTING[learnt.method])


def _bpe_way(word: str, learnt: Learnt, merges: int) -> str:
    rows = []
    for step in subwords.apply_merges(word, learnt, merges):
        pair = learnt.merges[step.merge - 1] if step.merge else ()
        what = f"merge {step.merge}: {' '.join(map(readable, pair))}" if pair else "letters"
        rows.append(f"<span>{html.escape(what)}</span>{_draw_split(step.tokens)}")
    return f'<div class="splits">{"".join(rows)}</div>'


def _wordpiece_way(word: str, learnt: Learnt, merges: int) -> str:
    rows = []
    for look in subwords.match_longest(word, learnt, merges):
        found = _draw_split([look.token]) if look.token else "<em>no token begins it</em>"
        rows.append(f"<span>{html.escape(readable(look.rest))}</span>{found}")
    return f'<div class="splits">{"".join(rows)}</div>'
