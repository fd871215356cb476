"""How sentences are written for a checkpoint, and how translations become what they should be."""

import pytest

from components.inputs.layout import Segment, shielded
from components.inputs.wording import ATTEMPTS, Wording, around, lost, lowered, restored, taken_apart, worded


def lacks(mark):
    return mark in "678“”„«»–—：；！？();:%ﬁＡ"


def holds_all(mark):
    return False


def of(text, lacks=lacks, attempt=0, pair=("en", "fr")):
    hidden, kept = shielded(text)
    return worded(Segment(hidden), kept, lacks, pair, attempt)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("You like it.", "You like it."),
        ("Ask {name} now.", "Ask Tom now."),
        ("Ask Tom or %s now.", "Ask Tom or Anna now."),
        ("I have 88 books.", "I have 50 books."),
        ("I have 50 or 88 books.", "I have 50 or 12 books."),
        ("It was 1987 or 1945.", "It was 1952 or 1945."),
        ("It costs 67 % more.", "It costs 50 more."),
        ("I have 12 books.", "I have 12 books."),
        ("THE DOG AND I ARE HERE", "The dog and I are here"),
        ("NASA IS {big}", "Nasa is Tom"),
        ("He said “no” and left", 'He said "no" and left'),
        ("« Oui ! » dit-il", '"Oui !" dit-il'),
        ("It stopped—at last", "It stopped - at last"),
        ("Hello！", "Hello!"),
        ("soft\u00adhyphen ﬁsh Ａ", "softhyphen fish A"),
    ],
)
def test_what_is_read(text, read):
    assert of(text).read == read


@pytest.mark.parametrize("text", ["I have 88 books.", "He said “no” — and left！", "50 % of « that »"])
def test_what_the_vocabulary_holds_is_read_as_it_stands(text):
    assert of(text, holds_all) == Wording(text)


@pytest.mark.parametrize(
    ("text", "written", "target"),
    [
        ("Ask {name} now.", "Demande à Tom maintenant.", "Demande à {name} maintenant."),
        ("Ask {name} now.", "Demande maintenant.", None),
        ("Ask {name} now.", "Tom demande à Tom.", None),
        ("Ask {name} now.", "Demande à Tomas.", None),
        ("I have 88 books.", "J'ai 50 livres.", "J'ai 88 livres."),
        ("I have 88 books.", "J'ai 500 livres.", None),
        ("I have 88 books.", "J'ai 50,5 livres.", None),
        ("THE DOG OF {name}", "Le chien de Tom", "LE CHIEN DE {name}"),
        ("He said “no” and left", 'Il a dit "non" et partit', "Il a dit “non” et partit"),
        ("He said “no” and left", 'Il a dit "non et partit', None),
        ("He said « no » and left", 'Il a dit "non" et partit', "Il a dit « non » et partit"),
        ("It stopped—at last", "Il s'arrêta - enfin", "Il s'arrêta—enfin"),
        ("It stopped — at last", "Il s'arrêta enfin", None),
        ("Hello！", "Bonjour !", "Bonjour！"),
    ],
)
def test_what_is_written_is_restored(text, written, target):
    assert of(text).restored(written) == target


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([(0.5, "\n")], "un deux\ntrois quatre"),
        ([(0.0, "\n"), (0.1, "\n")], "un\ndeux\ntrois quatre"),
        ([(0.9, "\n"), (1.0, "\r\n  ")], "un deux\ntrois\r\n  quatre"),
        ([(0.5, "\n")] * 5, "un\ndeux\ntrois\nquatre\n\n"),
    ],
)
def test_line_breaks_come_back_each_in_place_of_a_space(shares, expected):
    assert restored("un deux trois quatre", breaks=shares) == expected


def test_a_part_of_a_sentence_goes_on_as_it_did():
    assert restored("Et il rit.", small=True, unended=True) == "et il rit"
    part = Segment("and he laughs", part=True)
    assert worded(part, {}, lacks, ("en", "fr")) == Wording("and he laughs", small=True, unended=True)
    assert worded(part, {}, lacks, ("en", "de")) == Wording("and he laughs", unended=True)


def test_each_attempt_has_other_stand_ins():
    read = [of("Ask {name} and %d.", attempt=attempt).read for attempt in range(ATTEMPTS)]
    assert len(set(read)) == ATTEMPTS
    assert read[-1].split()[1].isdigit()


@pytest.mark.parametrize("number", ["1,876", "28/07/1968", "10:45", "$12.50", "345", "06 123 456"])
def test_a_number_that_was_lost_gets_a_stand_in(number):
    text = f"We have {number} here."
    assert worded(Segment(text), {}, holds_all, ("en", "fr")) == Wording(text)
    again = worded(Segment(text), {}, holds_all, ("en", "fr"), 1)
    assert number not in again.read
    assert again.restored(again.read) == text
    assert worded(Segment(text), {}, holds_all, ("en", "fr"), ATTEMPTS) == Wording(text)
    assert lost(text, "Nous avons 1,86 ici.") and not lost(text, f"Nous avons {number} ici.")


@pytest.mark.parametrize(
    ("text", "translation"),
    [
        ("7 cats", "sept chats"),
        ("1,250.67 a month", "1 250,67 par mois"),
        ("At 10:45", "À 10 h 45"),
        ("On 8/11/1938", "Le 8.11.1938"),
        ("1250 people", "1 250 personnes"),
        ("No numbers", "Pas de nombres"),
    ],
)
def test_a_number_that_is_written_otherwise_is_not_lost(text, translation):
    assert not lost(text, translation)
    assert worded(Segment("7 cats"), {}, holds_all, ("en", "fr"), 1) == Wording("7 cats")


@pytest.mark.parametrize("translation", ["Le 8/1/1/1938", "Le 8/11/19388", "Le 11/1938", "Un jour"])
def test_a_number_with_other_digits_is_lost(translation):
    assert lost("On 8/11/1938", translation)


def test_more_things_than_stand_ins():
    assert of(" ".join("{a}" for _ in range(40))) is None


@pytest.mark.parametrize("text", ["OK", "NASA is big", "123", "iPhone", "", "漢字"])
def test_what_is_not_all_in_capitals_stays(text):
    assert lowered(text, "en") == (text, False)


def together(text, split=lambda one: [one], lacks=lacks):
    return [
        part if isinstance(part, str) else [part.text]
        for part in taken_apart(Segment(text), lacks, split)
        if part
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("“I am tired.”", ["“", ["I am tired."], "”"]),
        ("«\u00a0Oui\u00a0».", ["«\u00a0", ["Oui"], "\u00a0»."]),
        ("(a big one)", ["(", ["a big one"], ")"]),
        ("“Yes,” he said, “no.”", [["“Yes,” he said, “no.”"]]),
        ("Note: it is open; go.", [["Note"], ": ", ["it is open"], "; ", ["go."]]),
        ("It is 10:30 now.", [["It is 10:30 now."]]),
    ],
)
def test_marks_that_are_lacking_part_a_sentence(text, parts):
    assert together(text) == parts
    assert together(text, lacks=holds_all) == [[text]]


def test_around_what_is_dropped():
    hidden, kept = shielded("Ask {name} — he is here.")
    found = [
        kept.get(part, part) if isinstance(part, str) else [part.text]
        for part in around(Segment(hidden), lacks)
    ]
    assert [part for part in found if part] == [["Ask"], " ", "{name}", " — ", ["he is here."]]
