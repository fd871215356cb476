"""Subwords: how do BPE and WordPiece learn a vocabulary from counted words, one merge at a time?

Both begin with the letters and merge a pair of neighbours again and again; they differ in which pair,
and in how a word is split afterwards. BPE: Sennrich et al. 2016; WordPiece: Schuster and Nakajima 2012;
both as in chapter 6 of the Hugging Face LLM course. Nothing is looked up: everything is counted anew at
each step, so that each step can be shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from typing import Any

from components.errors import InputError
from components.inputs import given

UNKNOWN = "[UNK]"
INSIDE_WORD = "##"  # before a WordPiece token that does not begin a word
MOST_WORDS = 200
MOST_LETTERS = 30  # of a word
MOST_COUNT = 1_000_000
MOST_MERGES = 100
SEPARATORS = re.compile(r"[\s,]+")

Pair = tuple[str, str]
Split = tuple[str, ...]
Corpus = tuple[tuple[str, int], ...]  # each word and how often it occurs


class Method(StrEnum):
    """Which pair is merged, and how words are split with what was learnt."""

    BPE = "BPE"
    WORDPIECE = "WordPiece"  # by score, as the course explains it
    WORDPIECE_BY_COUNT = "WordPiece of the library"  # by count, as the tokenizers library trains it


@dataclass(frozen=True)
class Candidate:
    """A pair of neighbours. count: how often it occurs; first, second: how often each of its tokens does."""

    pair: Pair
    count: int
    first: int
    second: int

    @property
    def score(self) -> Fraction:
        """What WordPiece merges by: high where two tokens occur together and seldom without each other."""
        return Fraction(self.count, self.first * self.second)


@dataclass(frozen=True)
class Learnt:
    """What training gives: the tokens there were at first, the unknown one before them, and the merges."""

    corpus: Corpus
    method: Method
    alphabet: tuple[str, ...]
    merges: tuple[Pair, ...]

    def vocabulary(self, merges: int) -> tuple[str, ...]:
        """The tokens after so many merges; the place of each is its id."""
        made = (joined(pair, self.method) for pair in self.merges[:merges])
        return tuple(dict.fromkeys((*self.alphabet, *made)))


@dataclass(frozen=True)
class State:
    """Training after some merges. splits: of each word; candidates: all pairs, the next to merge first.

    tied: how many pairs are as good as the first, itself included.
    """

    splits: tuple[Split, ...]
    candidates: tuple[Candidate, ...]
    tied: int


@dataclass(frozen=True)
class Applied:
    """One merge on the way from letters to tokens. merge: its number from 1 on, 0 for the letters."""

    merge: int
    tokens: Split


@dataclass(frozen=True)
class Matched:
    """One look at what is left of a word. token: the longest in the vocabulary it begins with, or None."""

    rest: str
    token: str | None


def parse_corpus(text: str | None) -> Corpus:
    """One word and its count a line; the counts of a repeated word are added.

    Raises InputError, which names the line.
    """
    counts: Counter[str] = Counter()
    lines = [(i, line) for i, line in enumerate(given.text(text).splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError("There are no words yet. Write one word and its count a line, such as: hug 10")
    if len(lines) > MOST_WORDS:
        raise InputError(f"That is {len(lines):,} lines; at most {MOST_WORDS} are taken. Leave some out.")
    for i, line in lines:
        word, count = _parse_line(i, line)
        counts[word] += count
    return tuple(counts.items())


def _parse_line(i: int, line: str) -> tuple[str, int]:
    parts = SEPARATORS.split(line.strip())
    if len(parts) != 2 or not all(parts):
        raise InputError(
            f"Line {i} (“{line.strip()[:40]}”) is not one word and its count. Write it like this: hug 10"
        )
    word, count = parts
    if len(word) > 2 and word[0] in '"“' and word[-1] in '"”':
        word = word[1:-1]
    if len(word) > MOST_LETTERS:
        raise InputError(f"The word in line {i} has {len(word):,} letters; at most {MOST_LETTERS} are taken.")
    if not re.fullmatch(r"\d{1,7}", count) or not 1 <= int(count) <= MOST_COUNT:
        raise InputError(
            f"The count in line {i} is {count[:20]}; it must be a whole number from 1 to {MOST_COUNT:,}."
        )
    return word, int(count)


def letters(word: str, method: Method) -> Split:
    """A word as it is split before the first merge."""
    mark = "" if method is Method.BPE else INSIDE_WORD
    return tuple(mark * (i > 0) + letter for i, letter in enumerate(word))


def joined(pair: Pair, method: Method) -> str:
    """The token that a pair becomes."""
    first, second = pair
    return first + (second if method is Method.BPE else second.removeprefix(INSIDE_WORD))


def merged(split: Split, pair: Pair, token: str) -> Split:
    """A split with each occurrence of the pair made one token, from left to right."""
    if pair[0] not in split:
        return split
    out: list[str] = []
    i = 0
    while i < len(split):
        found = split[i : i + 2] == pair
        out.append(token if found else split[i])
        i += 2 if found else 1
    return tuple(out)


def first_tokens(corpus: Corpus, method: Method) -> tuple[str, ...]:
    """The vocabulary before the first merge, in the order of ids.

    The library's trainers put all letters first, in the order of their code points. Tokens with ## follow
    as they are met.
    """
    split = [letters(word, method) for word, _ in corpus]
    if method is Method.WORDPIECE:
        begin, inside = {word[0] for word in split}, {token for word in split for token in word[1:]}
        return (UNKNOWN, *sorted(begin), *sorted(inside))
    plain = sorted({letter for word, _ in corpus for letter in word})
    return tuple(dict.fromkeys((UNKNOWN, *plain, *(token for word in split for token in word))))


def train(
    corpus: Corpus,
    method: Method,
    merges: int = MOST_MERGES,
    size: int | None = None,
    alphabet: tuple[str, ...] | None = None,
) -> Learnt:
    """Merge until there are so many merges, or so many tokens in the vocabulary, or no pair is left.

    alphabet: the tokens before the first merge in the order of their ids, by which BPE breaks ties, if
    not those of `first_tokens`.
    """
    alphabet = alphabet or first_tokens(corpus, method)
    ids = {token: i for i, token in enumerate(alphabet)}
    splits = [letters(word, method) for word, _ in corpus]
    done: list[Pair] = []
    while len(done) < merges and (size is None or len(ids) < size):
        best = _best(*_counts(corpus, splits), method, ids)
        if best is None:
            break
        token = joined(best, method)
        ids.setdefault(token, len(ids))
        splits = [merged(split, best, token) for split in splits]
        done.append(best)
    return Learnt(corpus, method, alphabet, tuple(done))


def state(learnt: Learnt, merges: int) -> State:
    """Training after so many merges."""
    splits = [letters(word, learnt.method) for word, _ in learnt.corpus]
    for pair in learnt.merges[:merges]:
        token = joined(pair, learnt.method)
        splits = [merged(split, pair, token) for split in splits]
    ids = {token: i for i, token in enumerate(learnt.vocabulary(merges))}
    found = sorted(_candidates(learnt.corpus, splits), key=_order(learnt.method, ids))
    by_score = learnt.method is Method.WORDPIECE
    worth = [one.score if by_score else one.count for one in found]
    return State(tuple(splits), tuple(found), worth.count(worth[0]) if worth else 0)


def _counts(corpus: Corpus, splits: Sequence[Split]) -> tuple[Counter[Pair], Counter[str]]:
    """How often each pair of neighbours and each token occurs, in the order in which they are met."""
    pairs: Counter[Pair] = Counter()
    tokens: Counter[str] = Counter()
    for (_, count), split in zip(corpus, splits, strict=True):
        for token in split:
            tokens[token] += count
        for pair in pairwise(split):
            pairs[pair] += count
    return pairs, tokens


def _best(pairs: Counter[Pair], tokens: Counter[str], method: Method, ids: dict[str, int]) -> Pair | None:
    """The first of the candidates in their order, found without making them: this is what training takes."""
    if method is not Method.WORDPIECE:
        return min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]), default=None)
    best, over, under = None, 0, 1
    for pair, count in pairs.items():
        product = tokens[pair[0]] * tokens[pair[1]]
        if count * under > over * product:
            best, over, under = pair, count, product
    return best


def _candidates(corpus: Corpus, splits: Sequence[Split]) -> list[Candidate]:
    """All pairs of neighbours in the order in which they are met."""
    pairs, tokens = _counts(corpus, splits)
    return [Candidate(pair, n, tokens[pair[0]], tokens[pair[1]]) for pair, n in pairs.items()]


def _order(method: Method, ids: dict[str, int]) -> Callable[[Candidate], Any]:
    """What sorts candidates, the one to merge first.

    By count, ties go to the lower id of the first token, then of the second, as in the tokenizers library.
    By score, which that library does not know, they go to the pair that is met first, as in the course.
    """
    if method is Method.WORDPIECE:
        return lambda one: -one.score
    return lambda one: (-one.count, ids[one.pair[0]], ids[one.pair[1]])


def apply_merges(word: str, learnt: Learnt, merges: int) -> tuple[Applied, ...]:
    """How BPE splits a word: the letters, then each merge that changes something, in the order learnt.

    A letter outside the vocabulary becomes the unknown token; what stands around it is split as ever.
    """
    split = tuple(letter if letter in learnt.alphabet else UNKNOWN for letter in word)
    steps = [Applied(0, split)]
    for number, pair in enumerate(learnt.merges[:merges], 1):
        after = merged(split, pair, joined(pair, learnt.method))
        if after != split:
            split = after
            steps.append(Applied(number, split))
    return tuple(steps)


def match_longest(word: str, learnt: Learnt, merges: int) -> tuple[Matched, ...]:
    """How WordPiece splits a word: from the left, each time the longest token of the vocabulary.

    Where none fits the last one has no token, and the whole word is unknown.
    """
    vocabulary = set(learnt.vocabulary(merges))
    looks: list[Matched] = []
    start = 0
    while start < len(word):
        mark = INSIDE_WORD if start else ""
        ends = range(len(word), start, -1)
        token = next((found for end in ends if (found := mark + word[start:end]) in vocabulary), None)
        looks.append(Matched(mark + word[start:], token))
        if token is None:
            break
        start += len(token) - len(mark)
    return tuple(looks)


def tokenize(word: str, learnt: Learnt, merges: int) -> Split:
    """The tokens of a word after so many merges."""
    if learnt.method is Method.BPE:
        return apply_merges(word, learnt, merges)[-1].tokens
    tokens = tuple(look.token for look in match_longest(word, learnt, merges))
    return tuple(token for token in tokens if token) if None not in tokens else (UNKNOWN,)
