"""Where a text splits into sentences."""

import pytest

from components.inputs.sentences import split_clauses, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("You like this house", ["You like this house"]),
        ("The weather is nice. Shall we go?", ["The weather is nice.", "Shall we go?"]),
        ("Stop! Wait… Go.", ["Stop!", "Wait… Go."]),
        ("Wait... What?", ["Wait...", "What?"]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("Mr. Smith and Dr. Jones met. They spoke.", ["Mr. Smith and Dr. Jones met.", "They spoke."]),
        ("J. R. R. Tolkien wrote it. I read it.", ["J. R. R. Tolkien wrote it.", "I read it."]),
        ("So am I. You too.", ["So am I.", "You too."]),
        ("It costs 3.50 euros. Cheap.", ["It costs 3.50 euros.", "Cheap."]),
        ("See e.g. Paris. It is large.", ["See e.g. Paris.", "It is large."]),
        ("He came at 5 p.m. and left.", ["He came at 5 p.m. and left."]),
        ("It ended at 5 p.m. We left.", ["It ended at 5 p.m.", "We left."]),
        ("He said “No way.” Then he left.", ["He said “No way.”", "Then he left."]),
        ('"Come!" she said. "Now!"', ['"Come!" she said.', '"Now!"']),
        ("See www.example.com for more. Thanks.", ["See www.example.com for more.", "Thanks."]),
        ("今日は。元気ですか？はい。", ["今日は。", "元気ですか？", "はい。"]),
        ("  Two   spaces.   Here.  ", ["Two   spaces.", "Here."]),
        ("...", ["..."]),
        ("Did you go? No. I stayed.", ["Did you go?", "No. I stayed."]),
        ("Room no. 5 is free. Take it.", ["Room no. 5 is free.", "Take it."]),
    ],
)
def test_one_line(text, sentences):
    assert stripped(text) == sentences


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("en", "You like plan B. The house is big.", ["You like plan B.", "The house is big."]),
        ("en", "We saw cats, etc. The house is big.", ["We saw cats, etc.", "The house is big."]),
        ("en", "He joined the U.S. Army in May.", ["He joined the U.S. Army in May."]),
        ("en", "We met on Jan. 5 in Paris. It rained.", ["We met on Jan. 5 in Paris.", "It rained."]),
        ("en", "It is 3 m. The wall is tall.", ["It is 3 m.", "The wall is tall."]),
        ("en", "It has 5 kg. She ran 12 km. Fine.", ["It has 5 kg.", "She ran 12 km.", "Fine."]),
        ("en", "It is 2 m. tall and 1 ft. wide.", ["It is 2 m. tall and 1 ft. wide."]),
        ("en", "Open example.Com now. Yes.", ["Open example.Com now.", "Yes."]),
        ("fr", "« Oui ! » dit-il. « Non. » Elle rit.", ["« Oui ! » dit-il.", "« Non. »", "Elle rit."]),
        ("fr", "Le mur fait 3 m. Il est haut.", ["Le mur fait 3 m.", "Il est haut."]),
        ("fr", "M. Dupont habite ici. Mme. Durand aussi.", ["M. Dupont habite ici.", "Mme. Durand aussi."]),
        ("fr", "MM. Petit et Mlle. Blanc. Oui.", ["MM. Petit et Mlle. Blanc.", "Oui."]),
        ("de", "Am 5. Mai kam der Dr. Er blieb.", ["Am 5. Mai kam der Dr. Er blieb."]),
        ("xx", "One here. Two there.", ["One here.", "Two there."]),
    ],
)
def test_languages(language, text, sentences):
    assert stripped(text, language) == sentences


def stripped(text, language="en"):
    found = split_sentences(text, language)
    assert "".join(found) == text
    return [sentence.strip() for sentence in found if sentence.strip()]


@pytest.mark.parametrize("text", ["", "   "])
def test_nothing_gives_no_sentence(text):
    assert stripped(text) == []


def test_a_long_line_is_cut_where_its_sentences_end():
    text = "It was such a long and lovely day. " * 200
    assert stripped(text) == ["It was such a long and lovely day."] * 200


@pytest.mark.parametrize(
    ("sentence", "pieces"),
    [
        ("one two three, four five six", ["one two three, ", "four five six"]),
        ("one two; three, four, five six", ["one two; ", "three, four, five six"]),
        ("one two three and four five six", ["one two three ", "and four five six"]),
        ("it costs 1,000 and more of that", ["it costs 1,000 ", "and more of that"]),
    ],
)
def test_clauses(sentence, pieces):
    assert split_clauses(sentence, words, 4, 20) == pieces


def words(text):
    return len(text.split())


def test_words_are_kept_together_until_there_is_no_other_way():
    text = "one two three four five six seven eight"
    assert split_clauses(text, words, 4, 8) == [text]
    assert split_clauses(text, words, 4, 7) == ["one two three four ", "five six seven eight"]
    assert "".join(split_clauses("x" * 100, len, 9, 18)) == "x" * 100
    assert max(map(len, split_clauses("x" * 100, len, 9, 18))) <= 18


@pytest.mark.parametrize(
    "text",
    [
        "A. B! C? (D.) “E.” f. g… H\tI.\n\n J.\u2028K. L。M！ N",
        "Mr. . ! ? x.  Y  .Z",
        "«Oui !» dit-il. «Non ?» Elle rit… puis s'en va.",
    ],
)
def test_nothing_is_lost(text):
    for language in ("en", "fr", "ja"):
        assert "".join(split_sentences(text, language)) == text
        assert "".join(split_clauses(text, len, 3, 6)) == text
