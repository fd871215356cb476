"""Training BPE and WordPiece step by step, beside the tokenizers library and counting by brute force."""

from __future__ import annotations

import json
import pickle
import random
from fractions import Fraction

import pytest

from components.errors import InputError
from components.explain import subwords
from components.explain.subwords import UNKNOWN, Corpus, Matched, Method, parse_corpus, state, tokenize, train

NOTES = parse_corpus("hug 10\npug 5\npun 12\nbun 4\nhugs 5")
ALPHABETS = ("ab", "abc", "abcdefgh", "aé😀ß", "xyz'-")
SEEDS = range(150)
ALL = 10**9  # merges, more than any corpus has


def a_corpus(random: random.Random) -> Corpus:
    """Words of a few letters, so that they repeat themselves and pairs tie."""
    letters = random.choice(ALPHABETS)
    words = ["".join(random.choices(letters, k=random.randint(1, 9))) for _ in range(random.randint(1, 15))]
    return tuple({word: random.randint(1, 6) for word in words}.items())


def some_words(random: random.Random, corpus: Corpus) -> list[str]:
    """Words of the letters of a corpus, some with one that it has not."""
    letters = sorted({letter for word, _ in corpus for letter in word}) + ["q"] * random.randint(0, 1)
    return ["".join(random.choices(letters, k=random.randint(1, 12))) for _ in range(20)]


def library(corpus: Corpus, kind: str, size: int = 30_000):
    """The library's tokenizer trained on the same words."""
    from tokenizers import Tokenizer, models, trainers

    model, trainer = getattr(models, kind), getattr(trainers, {"BPE": "Bpe"}.get(kind, kind) + "Trainer")
    trained = Tokenizer(model(unk_token=UNKNOWN))
    texts = (word for word, count in corpus for _ in range(count))
    trained.train_from_iterator(
        texts, trainer(vocab_size=size, special_tokens=[UNKNOWN], show_progress=False)
    )
    return trained


def by_id(trained) -> tuple[str, ...]:
    """Its vocabulary in the order of ids."""
    ids = trained.get_vocab()
    return tuple(sorted(ids, key=ids.__getitem__))


def merges_of(trained) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in json.loads(trained.to_str())["model"]["merges"])


# What the course shows


def test_bpe_of_the_course():
    learnt = train(NOTES, Method.BPE, 3)
    assert learnt.merges == (("u", "g"), ("u", "n"), ("h", "ug"))
    assert learnt.vocabulary(3) == (UNKNOWN, *"bghnpsu", "ug", "un", "hug")
    counts = {one.pair: one.count for one in state(learnt, 0).candidates}
    assert counts == {("u", "g"): 20, ("p", "u"): 17, ("u", "n"): 16, ("h", "u"): 15, ("g", "s"): 5} | {
        ("b", "u"): 4
    }
    splits = state(learnt, 3).splits
    assert splits == (("hug",), ("p", "ug"), ("p", "un"), ("b", "un"), ("hug", "s"))
    assert tokenize("bug", learnt, 3) == ("b", "ug")
    assert tokenize("mug", learnt, 3) == (UNKNOWN, "ug")
    assert tokenize("bug", learnt, 0) == ("b", "u", "g")


def test_wordpiece_of_the_course():
    learnt = train(NOTES, Method.WORDPIECE, 2)
    assert learnt.alphabet == (UNKNOWN, "b", "h", "p", "##g", "##n", "##s", "##u")
    assert learnt.merges == (("##g", "##s"), ("h", "##u"))
    first = state(learnt, 0)
    assert first.candidates[0].score == Fraction(1, 20) and first.tied == 1
    assert {one.score for one in first.candidates[1:]} == {Fraction(1, 36)}
    assert state(learnt, 1).tied == 6  # all that are left: the pair met first is taken
    assert tokenize("mug", learnt, 2) == (UNKNOWN,)
    assert tokenize("bugs", learnt, 2) == ("b", "##u", "##gs")


def test_a_score_is_the_count_over_those_of_both_tokens():
    """By the course's own formula hu ##g has 10 / (15 * 15), less than the 5 / (15 * 5) of hu ##gs."""
    scores = {one.pair: one.score for one in state(train(NOTES, Method.WORDPIECE, 2), 2).candidates}
    assert scores["hu", "##gs"] == Fraction(1, 15)
    assert scores["hu", "##g"] == Fraction(2, 45)
    assert train(NOTES, Method.WORDPIECE, 3).merges[2] == ("hu", "##gs")


# Beside the library


@pytest.mark.parametrize("seed", SEEDS)
def test_bpe_merges_as_the_library_does(seed):
    chance = random.Random(seed)
    corpus = a_corpus(chance)
    theirs, ours = library(corpus, "BPE"), train(corpus, Method.BPE, ALL)
    assert ours.merges == merges_of(theirs)
    assert ours.vocabulary(ALL) == by_id(theirs)
    for word in some_words(chance, corpus):
        assert list(tokenize(word, ours, ALL)) == theirs.encode(word).tokens
    # Stopped at a size, the library has the beginning of it.
    size = chance.randint(1, len(by_id(theirs)))
    assert train(corpus, Method.BPE, ALL, size=size).merges == merges_of(library(corpus, "BPE", size))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_librarys_wordpiece_trainer_is_bpe_with_marks(seed):
    corpus = a_corpus(random.Random(seed))
    theirs = by_id(library(corpus, "WordPiece"))
    alphabet = subwords.first_tokens(corpus, Method.WORDPIECE_BY_COUNT)
    plain = sum(not token.startswith("##") for token in alphabet)
    assert theirs[:plain] == alphabet[:plain]
    # Those with ## stand in another order at each run; with theirs, everything else is the same.
    assert set(theirs[: len(alphabet)]) == set(alphabet)
    same = train(corpus, Method.WORDPIECE_BY_COUNT, ALL, alphabet=theirs[: len(alphabet)])
    assert same.vocabulary(ALL) == theirs


def test_the_librarys_wordpiece_trainer_knows_no_score():
    theirs = by_id(library(NOTES, "WordPiece"))
    assert "##ug" in theirs and "##gs" not in theirs
    assert "##gs" in train(NOTES, Method.WORDPIECE).vocabulary(1)


@pytest.mark.parametrize("method", [Method.WORDPIECE, Method.WORDPIECE_BY_COUNT])
@pytest.mark.parametrize("seed", range(40))
def test_wordpiece_splits_words_as_the_library_does(seed, method):
    from tokenizers import Tokenizer, models

    chance = random.Random(seed)
    corpus = a_corpus(chance)
    learnt = train(corpus, method)
    merges = chance.randint(0, len(learnt.merges))
    ids = {token: i for i, token in enumerate(learnt.vocabulary(merges))}
    theirs = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN))
    for word in some_words(chance, corpus):
        assert list(tokenize(word, learnt, merges)) == theirs.encode(word).tokens


# Beside counting by hand


def brute_force(corpus: Corpus, merges: int) -> list[tuple[str, str]]:
    """WordPiece by score, written down another way: words spelt out as often as they occur."""
    words = [[word[0], *("##" + letter for letter in word[1:])] for word, n in corpus for _ in range(n)]
    done = []
    for _ in range(merges):
        best, highest = None, Fraction(0)
        for word in words:
            for i in range(len(word) - 1):
                a, b = word[i], word[i + 1]
                together = sum(
                    other[j] == a and other[j + 1] == b for other in words for j in range(len(other) - 1)
                )
                score = Fraction(together, sum(w.count(a) for w in words) * sum(w.count(b) for w in words))
                if score > highest:
                    best, highest = (a, b), score
        if best is None:
            break
        done.append(best)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [word[i] + word[i + 1][2:]]
                i += 1
    return done


@pytest.mark.parametrize("seed", range(40))
def test_wordpiece_merges_the_pair_of_the_highest_score(seed):
    chance = random.Random(seed)
    letters = chance.choice(ALPHABETS)
    words = {"".join(chance.choices(letters, k=chance.randint(1, 6))) for _ in range(5)}
    corpus = tuple((word, chance.randint(1, 4)) for word in sorted(words))
    assert list(train(corpus, Method.WORDPIECE, 6).merges) == brute_force(corpus, 6)


# Steps


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("seed", range(10))
def test_each_step_follows_from_the_one_before(seed, method):
    corpus = a_corpus(random.Random(seed))
    learnt = train(corpus, method)
    for i in range(len(learnt.merges) + 1):
        now = state(learnt, i)
        assert [split[0] + "".join(t.removeprefix("##") for t in split[1:]) for split in now.splits] == [
            word for word, _ in corpus
        ]
        assert {token for split in now.splits for token in split} <= set(learnt.vocabulary(i))
        if i < len(learnt.merges):
            assert now.candidates[0].pair == learnt.merges[i]
            assert learnt.vocabulary(i + 1)[: len(learnt.vocabulary(i))] == learnt.vocabulary(i)
        worth = [one.score if method is Method.WORDPIECE else one.count for one in now.candidates]
        assert worth == sorted(worth, reverse=True)
        assert now.tied == sum(value == worth[0] for value in worth)


def test_a_run_of_one_letter_is_merged_from_the_left():
    learnt = train((("aaaaa", 1),), Method.BPE)
    assert learnt.merges[0] == ("a", "a")
    assert state(learnt, 1).splits == (("aa", "aa", "a"),)
    assert tokenize("aaa", learnt, 1) == ("aa", "a")


def test_the_way_of_a_word_is_told():
    bpe = train(NOTES, Method.BPE, 3)
    assert [(step.merge, step.tokens) for step in subwords.apply_merges("hugs", bpe, 3)] == [
        (0, ("h", "u", "g", "s")),
        (1, ("h", "ug", "s")),
        (3, ("hug", "s")),
    ]
    piece = train(NOTES, Method.WORDPIECE, 2)
    assert subwords.match_longest("hugs", piece, 2) == (Matched("hugs", "hu"), Matched("##gs", "##gs"))
    assert subwords.match_longest("hum", piece, 2) == (Matched("hum", "hu"), Matched("##m", None))


def test_training_ends_where_it_is_told_to_or_nothing_is_left():
    assert len(train(NOTES, Method.BPE, 4).merges) == 4
    assert len(train(NOTES, Method.BPE, size=10).vocabulary(ALL)) == 10
    assert train(NOTES, Method.BPE, size=3).merges == ()
    whole = train(NOTES, Method.BPE)
    assert state(whole, ALL).splits == tuple((word,) for word, _ in NOTES)
    assert state(whole, ALL).candidates == () and state(whole, ALL).tied == 0
    assert train((("a", 3),), Method.WORDPIECE).merges == ()


def test_what_was_learnt_is_small_and_survives_a_session():
    learnt = train(NOTES, Method.WORDPIECE)
    assert pickle.loads(pickle.dumps(learnt)) == learnt
    assert len(pickle.dumps(learnt)) < 2000


# Input


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hug 10\n\n  pug\t5  ", (("hug", 10), ("pug", 5))),
        ('"hug", 10', (("hug", 10),)),
        ("hug,10\nhug 2", (("hug", 12),)),
        ("👩‍👩‍👧 3\né 1", (("👩‍👩‍👧", 3), ("é", 1))),
        ("10 10\n\" 2\n'' 1", (("10", 10), ('"', 2), ("''", 1))),
        ("<b> 1", (("<b>", 1),)),
    ],
)
def test_words_and_counts_are_read(text, words):
    assert parse_corpus(text) == words


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no words yet"),
        (" \n ", "no words yet"),
        ("hug 10\npug", r"Line 2 \(“pug”\) is not one word and its count"),
        ("hug 10\n\nNew York 5", "Line 3 .*New York 5"),
        (", 5", "Line 1"),
        ("hug -5", "count in line 1 is -5; it must be a whole number from 1 to 1,000,000"),
        ("hug 0", "is 0"),
        ("hug 2.5", "is 2.5"),
        ("hug ten", "is ten"),
        ("hug 1000001", "is 1000001"),
        ("hug " + "9" * 5000, "is 99999999999999999999;"),
        ("a" * 31 + " 5", "31 letters; at most 30"),
        ("\n".join(f"w{i} 1" for i in range(201)), "201 lines; at most 200"),
    ],
)
def test_what_is_no_list_of_words_is_said(text, says):
    with pytest.raises(InputError, match=says):
        parse_corpus(text)


def test_an_emoji_of_several_code_points_is_several_letters():
    family = "👩‍👧"
    learnt = train(((family, 2),), Method.BPE)
    assert subwords.letters(family, Method.BPE) == ("👩", "\u200d", "👧")
    assert tokenize(family, learnt, ALL) == (family,)
    assert tokenize(family, learnt, 0) == ("👩", "\u200d", "👧")
