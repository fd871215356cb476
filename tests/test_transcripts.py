from __future__ import annotations

import re
from itertools import pairwise

import pytest

from components.compute.transcripts import Segment, to_srt, to_vtt

SPOKEN = [Segment(" Hello there.", 0.0, 1.5), Segment("Goodbye", 3599.9996, 3661.25)]


def test_srt():
    assert to_srt(SPOKEN) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n01:00:00,000 --> 01:01:01,250\nGoodbye\n"
    )


def test_vtt():
    assert to_vtt(SPOKEN) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n01:00:00.000 --> 01:01:01.250\nGoodbye\n"
    )


def test_nothing_said():
    for segments in ([], [Segment("", 0, 1), Segment(" \n", 1, 2)]):
        assert to_srt(segments) == ""
        assert to_vtt(segments) == "WEBVTT\n"


def test_numbers_do_not_count_empty_cues():
    srt = to_srt([Segment("a", 0, 1), Segment(" ", 1, 2), Segment("b", 2, 3)])
    assert [line for line in srt.splitlines() if line.isdigit()] == ["1", "2"]


def test_text_that_would_break_the_format():
    segment = Segment("a --> b\n\n<i>c</i> & d", 0, 1)
    assert to_vtt([segment]).splitlines()[3] == "a --&gt; b &lt;i&gt;c&lt;/i&gt; &amp; d"
    assert to_srt([segment]).splitlines()[2] == "a → b <i>c</i> & d"


def test_times_never_go_back():
    segments = [Segment("a", 1.0, 3.0), Segment("b", 2.0, 2.5), Segment("c", 5.0, 5.0), Segment("d", -1, 6)]
    times = [line for line in to_vtt(segments).splitlines() if "-->" in line]
    assert times == [
        "00:00:01.000 --> 00:00:03.000",
        "00:00:03.000 --> 00:00:03.001",
        "00:00:05.000 --> 00:00:05.001",
        "00:00:05.001 --> 00:00:06.000",
    ]


def test_more_than_99_hours():
    assert "123:00:00,000 --> 123:00:01,000" in to_srt([Segment("late", 123 * 3600, 123 * 3600 + 1)])


LONG = (
    "Printing, in the only sense with which we are at present concerned, differs from most if not from all "
    "the arts and crafts represented in the Exhibition, and that is all there is to say about it."
)


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        "Forty-two letters are on this line, indeed",
        "One more than forty-two letters is on this.",
        "word " * 60,
        "x" * 200,
        f"See https://example.org/{'a' * 90} for it. Then go on, and on, and on, and on, and on, and on.",
        "No. " * 40,
        "字" * 130,
    ],
)
def test_cues_have_two_lines_of_42_letters_and_lose_nothing(text):
    segment = Segment(text, 10.0, 30.0)
    blocks = to_srt([segment, Segment("And so on.", 30.0, 31.0)]).strip().split("\n\n")
    said, times = "", []
    for number, block in enumerate(blocks, 1):
        count, time, *lines = block.splitlines()
        assert int(count) == number and 1 <= len(lines) <= 2
        assert all(0 < len(line) <= 42 for line in lines)
        said += "".join(lines)
        hours, minutes, seconds = zip(*(part.split(":") for part in time.split(" --> ")), strict=True)
        assert set(hours) | set(minutes) == {"00"}
        times.append(tuple(float(one.replace(",", ".")) for one in seconds))
    assert re.sub(r"\s", "", said) == re.sub(r"\s", "", text) + "Andsoon."
    assert times[0][0] == 10 and times[-2][1] == 30 and times[-1] == (30, 31)
    assert all(start < end for start, end in times)
    assert all(one[1] == other[0] for one, other in pairwise(times))


def test_cues_end_with_clauses_and_lines_are_of_about_the_same_length():
    cues = [block.splitlines()[1:] for block in to_vtt([Segment(LONG, 0, 12)]).split("\n\n")[1:]]
    assert cues[0] == ["Printing, in the only sense with", "which we are at present concerned,"]
    assert [lines[-1][-1] for lines in cues] == [",", ",", "."]
    assert all(abs(len(lines[0]) - len(lines[-1])) < 12 for lines in cues)


def test_escapes_are_not_counted_and_not_cut():
    text = "a < b & c > d " * 8
    lines = [line for line in to_vtt([Segment(text, 0, 9)]).splitlines()[1:] if line and " --> " not in line]
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text).replace("&", "&amp;").replace(
        "<", "&lt;"
    ).replace(">", "&gt;")
