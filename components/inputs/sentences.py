"""Sentences: where does a text split, so that a translator gets one sentence, or one clause, at a time?"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import sentencex

# What sentencex 1.0 takes for an end in French, and for none in English.
TITLE = re.compile(r"(?:^|[\s(«“\"'’])(?:MM?|Mme|Mlle|Mgr|Me|Dr|Pr|St|Ste)s?\.\s*$")
MEASURE = re.compile(
    r"(?<=\d)\s?(?:[kcmµ]?m[²³]?|[kmcd]?[gl]|ha|in|ft|yd|mi|lbs?|oz|h|s|min|sec)\.\s+(?=[A-ZÀ-Þ])"
)
AT_ONCE = 2000  # characters that sentencex gets: its time grows faster than what it reads
CLOSE = re.compile(r"[。！？][\"'”’»）)\]]*$")
# Where a long sentence is taken apart, best first.
CLAUSES = tuple(
    map(
        re.compile,
        (
            r"[;:；：]\s+|\s[–—-]\s|[—；：]",
            r",\s+(?=(?:and|but|or|so|because|which|while|et|mais|ou|car|donc|qui|que|und|aber|y|pero)\b)",
            r"[,，、]\s*(?!\d)",
            r"\s+(?=(?:and|but|or|because|which|while|when|et|mais|ou|car|donc|und|aber|y|pero)\s)",
        ),
    )
)
ANYWHERE = (re.compile(r"\s+"), re.compile(r"."))


def split_sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a line, each with the white space behind it: together they are the line.

    language: its code; of one that sentencex does not know it takes the rules of a related one.
    """
    found: list[str] = []
    french = language[:2] == "fr"
    start = 0
    while start < len(text):
        pieces = sentencex.segment(language, text[start : start + AT_ONCE])
        # The last one of several may go on.
        pieces = pieces[:-1] if start + AT_ONCE < len(text) and len(pieces) > 1 else pieces
        for piece in pieces:
            # White space ends a sentence, or a full-width mark: the stop in example.Com does not.
            last = found[-1][-20:] if found else ""
            goes_on = last and (not _ends(last) or (french and TITLE.search(last)))
            if goes_on or (found and not piece.strip()):
                found[-1] += piece
            else:
                found.append(piece)
        start += sum(map(len, pieces))
    return [part for sentence in found for part in _after(MEASURE, sentence)]


def _ends(sentence: str) -> bool:
    return sentence[-1:].isspace() or CLOSE.search(sentence) is not None


def _after(pattern: re.Pattern[str], text: str) -> list[str]:
    """The text cut behind each place that the pattern finds."""
    ends = [0, *(match.end() for match in pattern.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(ends) if start < end]


def split_clauses(sentence: str, count: Callable[[str], int], well: int, most: int) -> list[str]:
    """A sentence cut near its middle, at the best place there, until no piece has more tokens than `well`.

    Between words that belong together it is cut only where it has more than `most`. Together the pieces are
    the sentence; count: tokens of a text.
    """
    tokens = count(sentence)
    if tokens <= well or len(sentence) < 2:
        return [sentence]
    middle, places = len(sentence) / 2, list[int]()
    for pattern in CLAUSES if tokens <= most else (*CLAUSES, *ANYWHERE):
        places = [match.end() for match in pattern.finditer(sentence) if 0 < match.end() < len(sentence)]
        places = [place for place in places if abs(place - middle) <= 0.3 * len(sentence)]
        if places:
            break
    else:
        return [sentence]
    place = min(places, key=lambda at: abs(at - middle))
    pieces = sentence[:place], sentence[place:]
    return [part for piece in pieces for part in split_clauses(piece, count, well, most)]
