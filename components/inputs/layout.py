"""Layout: what of a text is to be translated, and what stands around it and stays as it is?"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import regex

# What a translator must not touch, as it stands in texts, by the names of its groups; see `shielded`.
SHIELDED = regex.compile(
    r"""
    (?P<apart>
        ```.*?(?:```|\Z)  (?# code between fences, over lines)
        | </?[A-Za-z][^<>\n]*> | <!--[^<>]*-->
        | (?<![\w:])[:;=]-?[()DPp](?!\w)
        | (?:\p{Regional_Indicator}{2}|[0-9\#*]\uFE0F?\u20E3
            |\p{Extended_Pictographic}[\uFE0E\uFE0F\p{Emoji_Modifier}]*
             (?:\u200D\p{Extended_Pictographic}[\uFE0E\uFE0F\p{Emoji_Modifier}]*)*)+
    )
    | (?P<name>
        `[^`\n]+`
        | (?:https?|ftp|file)://[^\s<>"“”]*[^\s<>"“”.,;:!?'’)\]»]
        | mailto:\S+
        | \bwww\.[^\s<>"“”]*[^\s<>"“”.,;:!?'’)\]»]
        | (?<![\w.+-])[\w.+-]++@[\w-]+(?:\.[\w-]+)+  (?# mail)
        | (?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|info|io|eu|fr|de|uk|es|ch)\b
          (?:/[^\s<>"“”]*[\w/])?
        | (?<![\w/<])(?:~|[A-Za-z]:)?(?:[/\\][\w.~-]+){2,}[/\\]?  (?# path of a file)
        | \b\w+\(\)  (?# name of a function)
        | \b\w*[a-z0-9]_\w+\b
        | \$[A-Za-z_]\w*
        | \$?\{\{?[^{}\n]{0,60}\}?\}
        | %(?:\(\w+\))?[-+#0]*\d*[scr](?!\w) | %\d+\$s
        | &(?:[A-Za-z]{2,8}|\#\d{1,6});
        | (?<!\w)[@\#]\w+
        | [\U000F0000-\U0010FFFD]  (?# our keys)
    )
    | (?P<number> %(?:\(\w+\)|\d+\$)?[-+#0]*\d*(?:\.\d+)?[diufgxXeE](?!\w) )
    """,
    regex.VERBOSE | regex.DOTALL,
)
# Private characters, each in place of something shielded: of what stands in a sentence as a name does, as a
# number does, or apart from it.
KEYS = {"name": 0xF0000, "number": 0xF8000, "apart": 0x100000}
NAME, NUMBER, APART = "[\U000f0000-\U000f7fff]", "[\U000f8000-\U000ffffd]", "[\U00100000-\U0010fffd]"
KEY = re.compile(f"{NAME}|{NUMBER}|{APART}")
BOUNDARY = re.compile(rf"(\t+|{APART}+)")
BETWEEN = ",;:，、；："  # marks behind a part of a sentence
LEFT_OVER = re.compile(r"\s*(?:[.,;:!?…)\]]+\s+)?")  # white space, and what ends a sentence before
# What stands before the words of a line: indentation, marks of quotations, lists and headings, numbering.
MARKER = regex.compile(
    r"""
    [^\S\n]* (?:>[^\S\n]*)*
    (?:(?:
        [-+*•◦▪‣·–—]
        | \(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{2,5})\)
        | (?:\d{1,3}|[a-z]|[ivx]{2,5}|[IVX]{2,5})\.
        | \d+(?:\.\d+)+[.)]? (?=[^\S\n]+\p{Lu})
        | \#{1,6}
        | \[[ xX]?\]
    )[^\S\n]+)*
    """,
    regex.VERBOSE,
)
LEAST_WIDTH = 30  # characters of the longest line of a wrapped paragraph
Split = Callable[[str], list[str]]


@dataclass(frozen=True)
class Segment:
    """A stretch of text that a model translates at once.

    text: without line breaks; breaks: the characters of it, by their places, that are spaces for the model
    and line breaks for the reader, each with the line end and the next line's indentation.
    """

    text: str
    breaks: tuple[tuple[int, str], ...] = ()
    part: bool = False  # of a sentence


Part = str | Segment  # what stays as it is, and what is translated


def shielded(text: str) -> tuple[str, dict[str, str]]:
    """The text with a key, a private character, in place of what no translator must touch, and those things
    by their keys. A text has at most 32,000 characters: so many keys there are.
    """
    kept: dict[str, str] = {}

    def key(match: regex.Match[str]) -> str:
        made = chr(KEYS[match.lastgroup or "name"] + len(kept))
        kept[made] = match[0]
        return made

    return SHIELDED.sub(key, text), kept


def unshielded(text: str, kept: dict[str, str]) -> str:
    """The text with the things in place of their keys."""
    return KEY.sub(lambda match: kept.get(match[0], match[0]), text)


def parts(text: str, split: Split) -> list[Part]:
    """A text as what stays and what is translated; together they are the text.

    split: the sentences of a line, each with the white space behind it. Lines that are one wrapped
    paragraph are read together. What has no letters stays.
    """
    return [part for unit in _units(text) for part in _split_unit(unit, split) if part]


def _units(text: str) -> Iterator[list[tuple[str, str, str]]]:
    """Lines that are read together, each as what stands before its words, these, and what is behind."""
    lines = [_apart(line) for line in text.splitlines(keepends=True)]
    for blank, group in groupby(lines, key=lambda line: not line[1]):
        if blank:
            yield from ([line] for line in group)
            continue
        block: list[tuple[str, str, str]] = []
        for line in group:
            if block and line[0].strip():
                yield from _joined(block)
                block = []
            block.append(line)
        yield from _joined(block)


def _apart(line: str) -> tuple[str, str, str]:
    """A line as what stands before its words, its words, and the white space behind them."""
    marker = MARKER.match(line)
    before = marker[0] if marker else ""
    words = line[len(before) :].rstrip()
    return before, words, line[len(before) + len(words) :]


def _joined(block: Sequence[tuple[str, str, str]]) -> Iterator[list[tuple[str, str, str]]]:
    """The lines of a block, a list item at most, those together that a writer or a program has wrapped.

    It has where the first word of each line would have been too much for the line before it; else a line
    goes on in the next where it begins with a capital and the next does not, or at a comma.
    """
    widths = [len(before) + len(words) for before, words, _ in block]
    firsts = [words.split()[0] for _, words, _ in block]
    width = max(widths)
    full = [had + 1 + len(first) > width for had, first in zip(widths, firsts[1:], strict=False)]
    small = [first[:1].islower() or not first[:1].isalpha() for first in firsts]
    wrapped = width >= LEAST_WIDTH and all(full) and any(small[1:])
    unit = [block[0]]
    capital = not small[0]
    for number, line in enumerate(block[1:], 1):
        last = unit[-1][1]
        goes_on = wrapped or (
            firsts[number][:1].islower()
            and (last.endswith(",") or (capital and len(last.split()) > 2 and last[-1] not in ".!?:;…"))
        )
        if goes_on:
            unit.append(line)
        else:
            yield unit
            unit = [line]
            capital = not small[number]
    yield unit


def _split_unit(unit: Sequence[tuple[str, str, str]], split: Split) -> Iterator[Part]:
    """Lines that are read together as parts."""
    before, text, behind = unit[0]
    yield before
    breaks = []
    for indentation, words, after in unit[1:]:
        breaks.append((len(text), behind + indentation))
        text += f" {words}"
        behind = after
    whole = Segment(text, tuple(breaks))
    start = 0
    for stretch in BOUNDARY.split(text):
        for sentence in split(stretch):
            yield from part_of(whole, start, start + len(sentence))
            start += len(sentence)
    yield behind


def part_of(whole: Segment, start: int, end: int, part: bool = False) -> Iterator[Part]:
    """The characters from start to end: what is translated of them, and what stands around that.

    part: whether they are a part of a sentence.
    """
    breaks = dict(whole.breaks)

    def as_it_was(first: int, last: int) -> str:
        return "".join(breaks.get(at, whole.text[at]) for at in range(first, last))

    piece = whole.text[start:end]
    if not translatable(piece):
        yield as_it_was(start, end)
        return
    left_over = LEFT_OVER.match(piece)
    first = start + (left_over.end() if left_over else 0)
    last = start + len(piece.rstrip(f"{string.whitespace}{BETWEEN}" if part else None))
    yield as_it_was(start, first)
    inside = tuple((at - first, mark) for at, mark in whole.breaks if first <= at < last)
    yield Segment(whole.text[first:last], inside, part)
    yield as_it_was(last, end)


def translatable(text: str) -> bool:
    """Whether there is a letter in it."""
    return any(map(str.isalpha, text))
