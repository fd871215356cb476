"""Where a text splits into sentences."""

import pytest

from components.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("You like this house", ["You like this house"]),
        ("The weather is nice. Shall we go?", ["The weather is nice.", "Shall we go?"]),
        ("Stop! Wait… Go.", ["Stop!", "Wait…", "Go."]),
        ("Wait... What?", ["Wait...", "What?"]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("Mr. Smith and Dr. Jones met. They spoke.", ["Mr. Smith and Dr. Jones met.", "They spoke."]),
        ("M. Dupont habite ici. Mme. Durand aussi.", ["M. Dupont habite ici.", "Mme. Durand aussi."]),
        ("J. R. R. Tolkien wrote it. I read it.", ["J. R. R. Tolkien wrote it.", "I read it."]),
        ("So am I. You too.", ["So am I.", "You too."]),
        ("It costs 3.50 euros. Cheap.", ["It costs 3.50 euros.", "Cheap."]),
        ("See e.g. Paris. It is large.", ["See e.g. Paris.", "It is large."]),
        ("He came at 5 p.m. and left.", ["He came at 5 p.m. and left."]),
        ("It ended at 5 p.m. We left.", ["It ended at 5 p.m.", "We left."]),
        ("He said “No way.” Then he left.", ["He said “No way.”", "Then he left."]),
        ("(It rained.) We stayed.", ["(It rained.)", "We stayed."]),
        ('"Come!" she said. "Now!"', ['"Come!" she said.', '"Now!"']),
        ("See www.example.com for more. Thanks.", ["See www.example.com for more.", "Thanks."]),
        ("今日は。元気ですか？はい。", ["今日は。", "元気ですか？", "はい。"]),
        ("  Two   spaces.   Here.  ", ["Two   spaces.", "Here."]),
        ("...", ["..."]),
        ("Did you go? No. I stayed.", ["Did you go?", "No.", "I stayed."]),
        ("Room no. 5 is free. Take it.", ["Room no. 5 is free.", "Take it."]),
    ],
)
def test_one_line(text, sentences):
    assert split_sentences(text) == [sentences]


def test_paragraphs_are_lines():
    assert split_sentences("One. Two.\n\nThree.\r\nFour") == [["One.", "Two."], [], ["Three."], ["Four"]]


@pytest.mark.parametrize("text", ["", "\n", "   "])
def test_nothing_gives_no_sentence(text):
    assert [sentence for row in split_sentences(text) for sentence in row] == []


@pytest.mark.parametrize(
    "text",
    [
        "A. B! C? (D.) “E.” f. g… H\tI.\n\n J.\u2028K. L。M！ N",
        "Mr. . ! ? x.  Y  .Z",
        "«Oui !» dit-il. «Non ?» Elle rit… puis s'en va.",
    ],
)
def test_nothing_but_white_space_is_lost(text):
    joined = "".join(sentence for row in split_sentences(text) for sentence in row)
    assert "".join(joined.split()) == "".join(text.split())
