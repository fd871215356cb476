"""Wording: how is a sentence written so that a checkpoint can read it, and its translation as it should be?

What a translator must not touch gets a stand-in, a name or a number that it will copy; marks that its
vocabulary lacks become plain ones; capitals become small. All that is undone in what it writes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from components.inputs.layout import KEY, NUMBER, Part, Segment, part_of

Lacks = Callable[[str], bool]  # whether a vocabulary lacks a character
Match = re.Match[str]

# The same in most languages of the Latin script, and frequent in texts that translators learn from.
NAMES = ("Tom", "Anna", "Boston", "Max", "Nina", "Berlin", "David", "Lisa", "Oscar", "Emma", "Bruno", "Linda")
NUMBERS = {  # by how many digits they have
    1: ["5", "4", "9", "3", "2"],
    2: ["50", "12", "25", "40", "34", "93", "15"],
    3: ["100", "250", "345", "400", "512", "145"],
    4: ["1945", "1952", "1000", "1934", "1923", "1941"],
}
ATTEMPTS = 3  # with names and numbers, with others, with numbers alone; then `around`
PLAIN = (
    dict.fromkeys("–—―", " - ")
    | dict.fromkeys("“”„‟«»", '"')
    | dict.fromkeys("‘’‚‛", "'")
    | {"…": "..."}
    | dict(zip("！？，．：；（）％", "!?,.:;()%", strict=True))
)
MARK = re.compile(r"\s*[–—―]\s*|«\s?|\s?»|[“”„‟‘’‚‛…！？，．：；（）％]")
AROUND = re.compile(rf"{KEY.pattern}|\s*[–—―]\s*|[«“„‟]\s?|\s?[»”]")
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"), "")
NUMERIC = re.compile(r"(?<!\w)[$€£]?\d+(?:[.,:/–-]\d+|[ \u00a0\u202f]\d{3}(?!\d))*(?:\s?[%€$£°])?(?!\w)")
LONG = re.compile(r"\d\D?\d")  # of one digit the other language may well make a word
GROUPING = "[ .,\u00a0\u202f]?"  # what may stand between the digits of a long number
COLON = re.compile(r"([ \u00a0\u202f]?[:;]\s+)")
ENCLOSED = tuple(
    re.compile(rf"({re.escape(first)}\s?)([^{re.escape(first + last)}]+?)(\s?{re.escape(last)}[.,;:!?…]*)")
    for first, last in ("“”", "«»", "„“", "‘’", "()", "[]", '""')
)


@dataclass(frozen=True)
class Wording:
    """What a model reads in place of a sentence, and how what it writes becomes what is shown.

    The fields besides `read` are arguments of `restored`.
    """

    read: str
    stand_ins: tuple[tuple[str, str], ...] = ()
    capitals: bool = False
    marks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    breaks: tuple[tuple[float, str], ...] = ()
    small: bool = False
    unended: bool = False

    def restored(self, written: str) -> str | None:
        how = (self.stand_ins, self.capitals, self.marks, self.breaks, self.small, self.unended)
        return restored(written, *how)


def restored(
    written: str,
    stand_ins: Sequence[tuple[str, str]] = (),
    capitals: bool = False,
    marks: Sequence[tuple[str, Sequence[str]]] = (),
    breaks: Sequence[tuple[float, str]] = (),
    small: bool = False,
    unended: bool = False,
) -> str | None:
    """What a model wrote with all in it that it was not shown; None if a stand-in is not in it just once, or
    if quotation marks or dashes are missing.

    stand_ins: words, and what they stand for; capitals: whether all letters are to be large; marks: plain
    ones, and those that they become in turn; breaks: line breaks, each in place of the space that is
    nearest to its share of the text, from 0 to 1; small, unended: of a part of a sentence, whether it is to
    begin with a small letter, and to have no full stop.
    """
    for number, (word, _) in enumerate(stand_ins):
        written, found = re.subn(rf"(?<![\w.]){re.escape(word)}(?!\w|[.,]\d)", chr(0xF0000 + number), written)
        if found != 1:
            return None
    if unended:
        written = re.sub(r"\s*[.!?…]+$", "", written)
    if small:
        written = written[:1].lower() + written[1:]
    if capitals:
        written = written.upper()
    for plain, others in marks:
        pattern = rf" ?{re.escape(plain)}" if others[0] in "！？，．：；" else re.escape(plain)
        first, *rest = re.split(pattern, written)
        if len(rest) < len(others) and plain in (" - ", '"'):
            return None
        written = first + "".join(others[i % len(others)] + part for i, part in enumerate(rest))
    start = 0
    for left, (share, line_break) in zip(range(len(breaks), 0, -1), breaks, strict=True):
        spaces = [place for place, mark in enumerate(written) if mark == " " and place >= start]
        # So many are left for those to come; without a space a line break ends the text.
        spaces = spaces[: max(1, len(spaces) - left + 1)] or [len(written)]
        place = min(spaces, key=lambda place: abs(place - share * len(written)))
        written = written[:place] + line_break + written[place + 1 :]
        start = place + len(line_break)
    for number, (_, original) in enumerate(stand_ins):
        written = written.replace(chr(0xF0000 + number), original)
    return written


def worded(
    segment: Segment, kept: dict[str, str], lacks: Lacks, pair: tuple[str, str], attempt: int = 0
) -> Wording | None:
    """How a sentence is written for a checkpoint; None if there are not enough stand-ins.

    kept: what stands for the keys in it; pair: codes of its language and of the other; attempt: from 0 on;
    from the second one on all numbers of some length get a stand-in, after the last one none does.
    """
    read, capitals = lowered(segment.text, pair[0])
    words = set(re.findall(r"\w+", read.casefold()))
    stand_ins: dict[str, str] = {}

    def stand_in(original: str, candidates: Sequence[str]) -> str:
        for word in candidates[attempt:]:
            if word.casefold() not in words and word not in stand_ins and not any(map(lacks, word)):
                stand_ins[word] = original
                return word
        raise LookupError

    def key(match: Match) -> str:
        number = attempt + 1 == ATTEMPTS or re.match(NUMBER, match[0])
        return stand_in(kept[match[0]], like(kept[match[0]]) if number else NAMES)

    def number(match: Match) -> str:
        again = attempt > 0 and LONG.search(match[0])
        return stand_in(match[0], like(match[0])) if again or any(map(lacks, match[0])) else match[0]

    try:
        read = NUMERIC.sub(number, read) if attempt < ATTEMPTS else read
        read, marks = plain(KEY.sub(key, read), lacks)
    except LookupError:
        return None
    breaks = tuple((at / len(segment.text), line_break) for at, line_break in segment.breaks)
    # A German noun keeps its capital.
    small = segment.part and read[:1].islower() and pair[1][:2] != "de"
    unended = segment.part and read[-1:] not in ".!?…"
    return Wording(read, tuple(stand_ins.items()), capitals, marks, breaks, small, unended)


def lost(text: str, translation: str) -> bool:
    """Whether a number of a text is not in its translation; marks between its digits may be others there."""
    numbers = [number for number in NUMERIC.findall(text) if LONG.search(number)]
    groups = ([GROUPING.join(group) for group in re.findall(r"\d+", number)] for number in numbers)
    patterns = (r"\D{0,3}".join(one) for one in groups)
    return not all(re.search(rf"(?<!\d){pattern}(?!\d)", translation) for pattern in patterns)


def like(number: str) -> Sequence[str]:
    """Numbers with as many digits, as far as there are some."""
    return NUMBERS.get(sum(map(str.isdigit, number)), NUMBERS[3])


def lowered(text: str, language: str) -> tuple[str, bool]:
    """A text that is all in capitals as one that is not, and whether it was."""
    cased = [mark for mark in text if mark.upper() != mark.lower()]
    if len(cased) < 4 or not all(map(str.isupper, cased)):
        return text, False
    small = text.lower()
    first = next(at for at, mark in enumerate(small) if mark.isalpha())
    small = small[:first] + small[first].upper() + small[first + 1 :]
    return (re.sub(r"\bi\b", "I", small) if language[:2] == "en" else small), True


def plain(text: str, lacks: Lacks) -> tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """Marks that a vocabulary lacks as plain ones, and for each plain one those that it stands for."""
    marks: dict[str, list[str]] = {}

    def replace(match: Match) -> str:
        mark = match[0].strip()
        if not lacks(mark):
            return match[0]
        marks.setdefault(PLAIN[mark], []).append(match[0])
        return PLAIN[mark]

    text = MARK.sub(replace, text.translate(INVISIBLE))
    others = {mark for mark in text if not mark.isascii() and not KEY.match(mark) and lacks(mark)}
    # Ligatures, full-width letters and the like.
    text = text.translate({ord(mark): unicodedata.normalize("NFKC", mark) for mark in others})
    return text, tuple((into, tuple(some)) for into, some in marks.items())


def taken_apart(segment: Segment, lacks: Lacks, split: Callable[[str], list[str]]) -> Iterator[Part]:
    """A sentence as what a checkpoint can read at once, and what stands between and around.

    Brackets and quotation marks around all of it are taken off, and it is cut behind a colon, if the
    vocabulary lacks them; split: what else it is cut into, together the same.
    """
    text = segment.text
    for pattern in ENCLOSED:
        match = pattern.fullmatch(text)
        if match and lacks(match[1].strip()):
            yield match[1]
            for part in part_of(segment, *match.span(2)):
                yield from [part] if isinstance(part, str) else taken_apart(part, lacks, split)
            yield match[3]
            return
    pieces = COLON.split(text) if any(mark in text and lacks(mark) for mark in ":;") else [text]
    pieces = [part for piece in pieces for part in split(piece)]
    start = 0
    for piece in pieces:
        yield from part_of(segment, start, start + len(piece), segment.part or len(pieces) > 1)
        start += len(piece)


def around(segment: Segment, lacks: Lacks) -> Iterator[Part]:
    """A sentence as the words between what is shielded in it, quotation marks and dashes, and these."""
    start = 0
    for match in AROUND.finditer(segment.text):
        if KEY.match(match[0]) or lacks(match[0].strip()):
            yield from part_of(segment, start, match.start(), True)
            yield from part_of(segment, *match.span(), True)
            start = match.end()
    yield from part_of(segment, start, len(segment.text), True)
