"""What of a text is translated, and what stands around it."""

import pytest

from components.inputs.layout import Segment, parts, shielded, unshielded
from components.inputs.sentences import split_sentences


def laid_out(text):
    """The parts of a text: what is translated in a list of its own; line breaks in it as they were."""
    hidden, kept = shielded(text)
    found = []
    for part in parts(hidden, split_sentences):
        if isinstance(part, str):
            found.append(unshielded(part, kept))
        else:
            assert all(part.text[at] == " " for at, _ in part.breaks)
            found.append([unshielded(part.text, kept), *(mark for _, mark in part.breaks)])
    return found


def put_together(text):
    hidden, kept = shielded(text)
    whole = ""
    for part in parts(hidden, split_sentences):
        if isinstance(part, Segment):
            breaks = dict(part.breaks)
            part = "".join(breaks.get(at, mark) for at, mark in enumerate(part.text))
        whole += part
    return unshielded(whole, kept)


@pytest.mark.parametrize(
    "text",
    [
        "?",
        "…",
        "12/05/2024",
        "2024-05-12 10:30",
        "😀👍🏽",
        "$ 3.50",
        "---",
        "https://a.org/b?c=d",
        "{name}",
        "%s",
    ],
)
def test_what_has_no_letters_or_is_shielded_stays(text):
    assert not any(isinstance(part, list) for part in laid_out(text))
    assert "".join(laid_out(text)) == text


@pytest.mark.parametrize(
    "marker",
    [
        "- ",
        "* ",
        "• ",
        "– ",
        "1. ",
        "12) ",
        "(3) ",
        "a) ",
        "(b) ",
        "iv. ",
        "IV) ",
        "# ",
        "### ",
        "> ",
        "> > ",
        "- [ ] ",
        "* [x] ",
        "1.2.3 ",
        "2.1) ",
        "  - ",
        "\t* ",
        "    3. ",
    ],
)
def test_markers_of_lists_and_indentation_stay(marker):
    assert laid_out(f"{marker}Buy some milk") == [marker, ["Buy some milk"]]
    assert laid_out(f"{marker}One.\n{marker}Two.\n") == [marker, ["One."], "\n", marker, ["Two."], "\n"]


@pytest.mark.parametrize(
    "text", ["A. Smith came.", "1984 was cold.", "3.5 apples fell.", "I. Newton fell.", "-5 is cold."]
)
def test_words_and_numbers_are_no_markers(text):
    assert laid_out(text) == [[text]]


WRAPPED = (
    "The weather is nice today and we would\nlike to go for a walk in the park. After\n"
    "that we will eat at home with all our\nfriends."
)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n    ", " \n"])
def test_lines_of_a_wrapped_paragraph_are_read_together(end):
    found = laid_out(WRAPPED.replace("\n", end))
    assert found == [
        ["The weather is nice today and we would like to go for a walk in the park.", end],
        " ",
        ["After that we will eat at home with all our friends.", end, end],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nbird",
        "Two dogs run on the beach\nA man stands in a blue shirt\nA child sits down",
        "Dear Anna,\n\nthank you.",
        "Title of it all\n\nsome text here.",
        "- one of them\n- another one",
    ],
)
def test_lines_that_stand_alone_are_read_alone(text):
    assert not any(isinstance(part, list) and len(part) > 1 for part in laid_out(text))


@pytest.mark.parametrize(
    "thing",
    [
        "https://a.org/b?c=d#e",
        "www.a-b.fr/c",
        "a.b+c@d-e.org",
        "{name}",
        "{{ name }}",
        "${HOME}",
        "$HOME",
        "%s",
        "%(name)s",
        "%1$s",
        "%d",
        "%.2f",
        "`a b. C`",
        "main()",
        "snake_case",
        "/usr/local/bin",
        "example.org",
        "&nbsp;",
        "@someone",
        "#topic",
    ],
)
def test_what_must_not_change_is_shielded(thing):
    hidden, kept = shielded(f"See {thing}, or ask.")
    assert list(kept.values()) == [thing]
    assert len(hidden) == len("See , or ask.") + 1
    assert laid_out(f"See {thing}, or ask.") == [[f"See {thing}, or ask."]]


@pytest.mark.parametrize(
    "text", ["50% of us", "a {b", "He is 5'3\".", "and/or", "e.g. this", "I'm at home.", "R&D; x"]
)
def test_words_are_not_shielded(text):
    assert shielded(text)[1] == {}


@pytest.mark.parametrize("thing", ["😀", "👩‍👩‍👧", "🇫🇷", ":-)", "<b>", "</p>", "```\nx = 1\n```"])
def test_what_stands_apart_parts_a_text(thing):
    assert laid_out(f"Good day {thing} See you.") == [["Good day"], " ", thing, " ", ["See you."]]


@pytest.mark.parametrize(
    "text",
    [
        WRAPPED,
        " \n\n a\tb\t\n",
        "x\u2028y\x85z\x0c",
        "\U000f0000 a \U00100003",
        "1.\n2.\n",
        "```",
        "",
        "\r\n a. b! \r\n",
    ],
)
def test_nothing_is_lost(text):
    assert put_together(text) == text
