"""Sentences: where does a long text split, so that a translator gets one sentence at a time?"""

from __future__ import annotations

import re

# Titles and short forms whose full stop does not end a sentence, in English and French.
SHORT_FORMS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "sr",
        "jr",
        "st",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "cf",
        "no",
        "fig",
        "vol",
        "approx",
        "inc",
        "ltd",
        "co",
        "gen",
        "col",
        "sgt",
        "rev",
        "hon",
        "m",
        "mm",
        "mme",
        "mlle",
        "mgr",
        "p.ex",
        "env",
        "av",
        "apr",
    ]
)
BREAK = re.compile(r"(?<=[.!?…])(?P<close>[\"'”’»)\]]*)\s+|(?<=[。！？])\s*")


def split_sentences(text: str) -> list[list[str]]:
    """The sentences of each paragraph; paragraphs are lines. Nothing but white space is lost."""
    return [_split_line(line) for line in text.splitlines()]


def _split_line(line: str) -> list[str]:
    sentences, start = [], 0
    for match in BREAK.finditer(line):
        end = match.end("close") if match.group("close") is not None else match.start()
        following = line[match.end() :]
        if not following.strip() or _goes_on(line[start : match.start()], following):
            continue
        sentences.append(line[start:end].strip())
        start = match.end()
    rest = line[start:].strip()
    return [sentence for sentence in (*sentences, rest) if sentence]


def _goes_on(before: str, following: str) -> bool:
    """Whether the full stop belongs to a short form or an initial, or a small letter follows."""
    if following.lstrip("\"'“«([ ")[:1].islower():
        return True
    if not before.endswith("."):
        return False
    last = before[:-1].split()[-1:] or [""]
    word = last[0].lstrip("(\"'“").lower()
    if word == "no":  # number, or the answer
        return following.lstrip()[:1].isdigit()
    return word in SHORT_FORMS or (len(word) == 1 and word.isalpha() and word not in "ai")
