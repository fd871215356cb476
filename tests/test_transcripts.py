from __future__ import annotations

from components.transcripts import Segment, to_srt, to_text, to_vtt

SPOKEN = [Segment(" Hello there.", 0.0, 1.5), Segment("Goodbye", 3599.9996, 3661.25)]


def test_srt():
    assert to_srt(SPOKEN) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n01:00:00,000 --> 01:01:01,250\nGoodbye\n"
    )


def test_vtt():
    assert to_vtt(SPOKEN) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n01:00:00.000 --> 01:01:01.250\nGoodbye\n"
    )


def test_text():
    assert to_text(SPOKEN) == "Hello there.\nGoodbye\n"


def test_nothing_said():
    for segments in ([], [Segment("", 0, 1), Segment(" \n", 1, 2)]):
        assert to_srt(segments) == ""
        assert to_vtt(segments) == "WEBVTT\n"
        assert to_text(segments) == ""


def test_numbers_do_not_count_empty_cues():
    srt = to_srt([Segment("a", 0, 1), Segment(" ", 1, 2), Segment("b", 2, 3)])
    assert [line for line in srt.splitlines() if line.isdigit()] == ["1", "2"]


def test_text_that_would_break_the_format():
    segment = Segment("a --> b\n\n<i>c</i> & d", 0, 1)
    assert to_vtt([segment]).splitlines()[3] == "a --&gt; b &lt;i&gt;c&lt;/i&gt; &amp; d"
    assert to_srt([segment]).splitlines()[2] == "a → b <i>c</i> & d"
    assert to_text([segment]) == "a --> b <i>c</i> & d\n"


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
