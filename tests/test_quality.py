"""The benchmark's reading, counting and printing, on tiny data and without models."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.quality import Row
from components.errors import CheckpointError
from components.inputs.sentences import split_sentences
from demos import image, masked, sentiment, speech, translation, zero_shot


def write(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_labelled_rows_survive_stray_carriage_returns(tmp_path):
    path = write(
        tmp_path / "dev.tsv",
        b"\xef\xbb\xbflabel\tcontent\r\n0\tdull \r\n1\tvery\rgood\n\r\n1\tna\xc3\xafve\xe2\x80\xa8charm",
    )
    assert quality.read_labelled(path) == [(0, "dull"), (1, "very good"), (1, "naïve charm")]


def test_records_are_one_object_a_line(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "a\\tb", "label": "x"}\r\n\n{"text": "c", "label": "y"}')
    assert [row["label"] for row in quality.read_records(path)] == ["x", "y"]


def test_references_of_a_sentence_are_grouped_in_order(tmp_path):
    path = write(tmp_path / "dev.tsv", b"Hi.\tSalut.\nGo.\tVa.\nHi.\tBonjour.\r\nHi.\tSalut.\nGo.\tVa.\n")
    grouped = quality.read_references(path)
    assert list(grouped.items()) == [("Hi.", ["Salut.", "Bonjour."]), ("Go.", ["Va."])]
    assert quality.reference_streams(list(grouped.values())) == [["Salut.", "Va."], ["Bonjour.", None]]


def test_chunks_keep_every_line_and_stay_below_the_limit():
    lines = ["aaaa", "bb", "c", "dddddd", "e"]
    runs = list(quality.chunks(lines, 8))
    assert [line for run in runs for line in run] == lines
    assert runs == [["aaaa", "bb"], ["c"], ["dddddd"], ["e"]]
    assert all(len("\n".join(run)) <= 8 for run in runs)
    assert list(quality.chunks([], 8)) == []


def test_chunks_refuse_a_line_that_fits_in_none():
    with pytest.raises(ValueError, match="limit of 8"):
        list(quality.chunks(["a" * 8], 8))


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (8, 10, 0.4902, 0.9433),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # the example of Newcombe 1998
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_of_known_cases(right, total, low, high):
    assert quality.wilson(right, total) == pytest.approx((low, high), abs=5e-5)


def test_accuracy_counts_what_was_right():
    row = quality.accuracy("t", "c", "accuracy", [True, True, False, True], 2.0)
    assert (row.value, row.items, row.seconds) == (0.75, 4, 2.0)
    assert row.low is not None and row.high is not None and row.low < 0.75 < row.high


def test_error_interval_holds_the_rate_and_narrows_with_equal_clips():
    low, high = quality.error_interval([0, 1, 2, 5], [10, 10, 10, 10])
    assert 0 <= low < 0.2 < high <= 0.5
    assert quality.error_interval([1, 1, 1], [10, 10, 10]) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("scores", "positive"),
    [
        ([("POSITIVE", 0.7), ("NEGATIVE", 0.3)], True),
        ([("NEGATIVE", 0.9), ("POSITIVE", 0.1)], False),
        ([("neutral", 0.6), ("positive", 0.1), ("negative", 0.3)], False),
        ([("LABEL_1", 0.6), ("LABEL_0", 0.4)], True),
        ([("3 stars", 0.4), ("4 stars", 0.2), ("5 stars", 0.15), ("1 star", 0.24), ("2 stars", 0.01)], True),
    ],
)
def test_labels_of_other_checkpoints_have_two_sides(scores, positive):
    assert quality.is_positive(scores) is positive


def test_labels_without_two_sides_are_refused():
    with pytest.raises(ValueError, match="positive and a negative"):
        quality.is_positive([("joy", 0.8), ("anger", 0.2)])


def test_scores_are_compared_by_label_up_to_rounding():
    quality.check_scores((("a", 0.60001), ("b", 0.39999)), (("a", 0.6), ("b", 0.4)))
    with pytest.raises(RuntimeError, match=r"gives b 0\.45000 and the tab 0\.40000"):
        quality.check_scores((("a", 0.6), ("b", 0.45)), (("a", 0.6), ("b", 0.4)))
    with pytest.raises(RuntimeError, match="different labels"):
        quality.check_scores((("a", 1.0),), (("a", 0.6), ("b", 0.4)))


def test_a_label_may_stand_for_two_classes():
    assert quality.class_indices("crane", {0: "tench", 1: "crane", 2: "crane"}) == {1, 2}
    assert quality.class_indices("heron", {0: "tench"}) == set()


def test_a_background_class_shifts_the_numbers():
    names = {i: f"class {i}" for i in range(1001)}
    assert quality.class_indices("class 7", names) == {6}


class Lender:
    """Lends whatever a test needs of a loaded model, and keeps which checkpoints were asked for."""

    def __init__(self, **loaded):
        self.loaded = SimpleNamespace(checkpoint=SimpleNamespace(name="tiny"), **loaded)
        self.asked: list[str] = []

    @contextmanager
    def use(self, offer, choice):
        self.asked.append(choice)
        yield self.loaded


def test_sentiment_goes_through_the_tab_in_one_run(tmp_path, monkeypatch):
    write(tmp_path / "sentiment" / "dev.tsv", b"label\tcontent\n1\tgood\n0\tbad\n1\tgood , bad\n0\tdull\n")
    write(tmp_path / "en-fr" / "dev.tsv", b"Hi.\tSalut.\nGo.\tVa.\nGo.\tVas-y.\n")
    calls = []

    def run(text, choice, models):
        calls.append(choice)
        sides = [("POSITIVE", 0.9), ("NEGATIVE", 0.1)], [("POSITIVE", 0.1), ("NEGATIVE", 0.9)]
        return SimpleNamespace(
            rows=[SimpleNamespace(scores=sides["bad" in t]) for t in sentiment.validate(text).texts]
        )

    monkeypatch.setattr(sentiment, "run", run)
    models = Lender()
    row, error, sure = quality.measure_sentiment(tmp_path, "auto", models, None)
    assert (row.value, row.items, row.checkpoint) == (0.5, 4, "tiny")
    assert (error.measure, error.value) == ("calibration error", pytest.approx(0.4))
    assert (sure.measure, sure.value, sure.items) == ("sure answers", 0, 2)
    # What "auto" chose is used by its name from then on.
    assert (models.asked, calls) == (["auto"], ["tiny", "tiny"])


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy():
    confidence = np.array([0.95, 0.95, 0.65, 0.65, 1.0])
    right = np.array([True, False, True, True, True])
    # Of the last bin three items, 2.9 sure and 2 right; of that from 0.6 two, 1.3 sure and 2 right.
    assert quality.calibration_error(confidence, right) == pytest.approx((0.9 + 0.7) / 5)
    assert quality.calibration_error(np.ones(3), np.ones(3, bool)) == 0
    low, high = quality.calibration_interval(list(confidence), list(right))
    assert 0 <= low < 0.32 < high <= 1


def test_names_and_numbers_are_kept_or_lost():
    grouped = {
        "Anna sees 12 cats in Bonn.": ["Anna voit 12 chats à Bonn.", "À Bonn, Anna voit 12 chats."],
        "Mary is here.": ["Marie est là."],
    }
    # Bonn, 12 and Anna, in that order of their letters; Mary has another name in French.
    assert quality.kept_names(grouped, ["Anna voit 12 chats.", "Mary est là."]) == [True, True, False]


def test_a_target_word_is_linked_to_what_it_looks_at_most():
    # Two source words of one and two tokens, two target words of two and one.
    weights = np.array([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]])
    links = quality.aligned(weights, (range(2), range(2, 3)), (range(1), range(1, 3)))
    assert links == {(1, 0), (0, 1)}


def test_the_hand_made_alignments_are_of_words_that_are_there():
    lines = [line.split("\t") for line in quality.read_lines(quality.ALIGNED)]
    assert len(lines) == 20
    for source, target, links in lines:
        places = [tuple(map(int, link.split("-"))) for link in links.split()]
        assert len(set(places)) == len(places)
        assert all(one < len(source.split()) and other < len(target.split()) for one, other in places)
        assert len({one for one, _ in places}) >= len(source.split()) - 2


@pytest.mark.parametrize("choice", ["starter", "Marian fr-en, small"])
def test_the_head_that_aligns_best_is_named(models, choice):
    (row,) = quality.measure_alignment(Path(), choice, models, 5)
    assert row.measure.startswith("alignment error, layer ") and row.items == 5
    assert 0 < row.value < 0.4


def test_the_word_in_the_gap_is_looked_for_among_the_answers(tmp_path, monkeypatch):
    write(tmp_path / "en-fr" / "dev.tsv", b"cats\tx\ndogs\tx\nunknown-like\tx\n")
    answers = {"cats": ("birds", "cats"), "dogs": ("dogs", "fish")}

    def fill(before, after, choice, models, report, stopped):
        assert (before, after, choice) == ("", "", "tiny")
        return SimpleNamespace(scores=tuple((f" {word}", 0.5) for word in answers[order.pop(0)]))

    order = [str(s) for s in np.random.default_rng(0).permutation(["cats", "dogs", "unknown-like"])]
    order.remove("unknown-like")
    monkeypatch.setattr(masked, "fill", fill)
    tokenizer = SimpleNamespace(tokenize=lambda word: [word] if word.strip() in answers else [word, "##s"])
    first, five = quality.measure_masked(tmp_path, "auto", Lender(processor=tokenizer), None)
    assert (first.measure, first.value, first.items) == ("top-1", 0.5, 2)
    assert (five.measure, five.value) == ("top-5", 1.0)


def test_zero_shot_takes_all_labels_of_the_file_even_with_a_limit(tmp_path, monkeypatch):
    for dataset in quality.ZERO_SHOT_SETS:
        lines = [{"text": f"about {name}", "label": name} for name in ("work", "home", "travel")]
        write(tmp_path / "zero_shot" / f"{dataset}.jsonl", "\n".join(map(json.dumps, lines)).encode())

    def run(text, labels, multi_label, template, choice, models):
        names = zero_shot.parse_labels(labels)
        assert names == ("home", "travel", "work") and template == zero_shot.TEMPLATE and not multi_label
        best = "home" if "home" in text else "travel"
        return SimpleNamespace(
            scores=tuple((n, float(n == best)) for n in sorted(names, key=lambda n: n != best))
        )

    monkeypatch.setattr(zero_shot, "run", run)
    monkeypatch.setattr(quality, "_most_similar", lambda texts, labels, loaded: ["work"] * len(texts))
    config = SimpleNamespace(id2label={0: "CONTRADICTION", 1: "ENTAILMENT"})
    rows = list(
        quality.measure_zero_shot(tmp_path, "course", Lender(model=SimpleNamespace(config=config)), 2)
    )
    assert [(row.task, row.measure, row.value, row.items) for row in rows] == [
        (f"zero-shot, {dataset}", measure, 0.5, 2)
        for dataset in quality.ZERO_SHOT_SETS
        for measure in ("accuracy", "accuracy, plain similarity")
    ]


def test_zero_shot_refuses_labels_that_the_tab_would_split(tmp_path):
    write(tmp_path / "zero_shot" / "clinc_domains.jsonl", b'{"text": "a", "label": "home, garden"}')
    with pytest.raises(ValueError, match="labels with commas"):
        list(quality.measure_zero_shot(tmp_path, "auto", Lender(), None))


def translated(monkeypatch, answers: dict[str, str], pair: tuple[str, str]) -> None:
    """Each sentence is translated as in `answers`, by a checkpoint for these two languages."""

    def run_many(texts, choice, models):
        assert sum(map(len, texts)) <= translation.MOST_CHARACTERS
        return [
            SimpleNamespace(text=" ".join(answers[one.strip()] for one in split_sentences(text)))
            for text in texts
        ]

    monkeypatch.setattr(translation, "run_many", run_many)
    monkeypatch.setattr(translation, "language_pair", lambda loaded: pair)


def test_translations_stay_with_their_lines_and_any_reference_counts(tmp_path, monkeypatch):
    rows = [
        ("Is it far? I am so tired now.", "Est-ce loin ? Je suis si fatigué."),
        ("The cat sleeps on the warm mat.", "Le chat dort sur le tapis."),
        ("Is it far? I am so tired now.", "C'est loin ? Je suis très fatigué maintenant."),
    ]
    write(tmp_path / "en-fr" / "dev.tsv", "\r\n".join(map("\t".join, rows)).encode())
    french = {
        "Is it far?": "C'est loin ?",
        "I am so tired now.": "Je suis très fatigué maintenant.",
        "The cat sleeps on the warm mat.": "Le chat dort sur le tapis.",
    }
    translated(monkeypatch, french, ("en", "fr"))
    monkeypatch.setattr(translation, "MOST_CHARACTERS", 40)
    chrf, bleu = quality.measure_translation(tmp_path, "auto", Lender(), None)
    assert (chrf.measure, bleu.measure, bleu.items) == ("chrF", "BLEU", 2)
    assert chrf.value == pytest.approx(100) and bleu.value == pytest.approx(100)


def test_translations_of_french_are_held_against_english(tmp_path, monkeypatch):
    rows = [
        ("We have to go home now.", "Il faut rentrer maintenant."),
        ("You have to go home now.", "Il faut rentrer maintenant."),
        ("You have to go home now.", "Tu dois rentrer maintenant."),
    ]
    write(tmp_path / "en-fr" / "dev.tsv", "\n".join(map("\t".join, rows)).encode())
    translated(monkeypatch, {french: english for english, french in rows}, ("fra", "eng"))
    chrf, bleu = quality.measure_translation(tmp_path, "auto", Lender(), None)
    assert (bleu.measure, bleu.items) == ("BLEU", 2)
    assert chrf.value == pytest.approx(100) and bleu.value == pytest.approx(100)


def test_translation_into_another_language_is_not_measured(tmp_path, monkeypatch):
    write(tmp_path / "en-fr" / "dev.tsv", b"Hi.\tSalut.\n")
    monkeypatch.setattr(translation, "language_pair", lambda loaded: ("en", "de"))
    with pytest.raises(ValueError, match="translates en to de"):
        list(quality.measure_translation(tmp_path, "auto", Lender(), None))


def test_word_error_rate_is_over_all_words_and_ignores_case_and_marks(tmp_path, monkeypatch):
    clips = {"a.wav": "Five little words, right here.", "b.wav": "Mister Brown isn't in."}
    said = {"a.wav": "five little WORDS right", "b.wav": "Mr. Brown is not in"}
    lines = [json.dumps({"file": name, "text": text}) for name, text in clips.items()]
    write(tmp_path / "speech" / "manifest.jsonl", "\n".join(lines).encode())

    def run(path, timestamps, language, task, choice, models):
        yield SimpleNamespace(text="five")
        yield SimpleNamespace(text=said[Path(path).name])

    monkeypatch.setattr(speech, "run", run)
    (row,) = quality.measure_speech(tmp_path, "auto", Lender(processor=object()), None)
    # One of five words and none of "mister brown is not in" is wrong.
    assert row.value == pytest.approx(1 / 10)
    assert row.items == 2


def test_pictures_are_compared_by_class_number(tmp_path, monkeypatch):
    lines = [json.dumps({"file": f"{i}.jpg", "class_index": i, "label": "other words"}) for i in (3, 7)]
    write(tmp_path / "image" / "manifest.jsonl", "\n".join(lines).encode())
    names = {i: f"class {i}" for i in range(1000)}

    def run(path, top_k, choice, models):
        assert top_k == 5
        order = [3, 1, 7, 4, 5]
        return SimpleNamespace(scores=tuple((names[i], 0.2) for i in order))

    monkeypatch.setattr(image, "run", run)
    model = SimpleNamespace(config=SimpleNamespace(id2label=names))
    top1, top5 = quality.measure_image(tmp_path, "auto", Lender(model=model), None)
    assert (top1.measure, top1.value, top5.measure, top5.value) == ("top-1", 0.5, "top-5", 1.0)
    model.config.id2label = {0: "cat", 1: "dog"}
    with pytest.raises(ValueError, match="2 classes"):
        list(quality.measure_image(tmp_path, "auto", Lender(model=model), None))


def test_table_lines_up():
    rows = [
        Row("sentiment", "small", "accuracy", 0.8761, 0.8526, 0.8963, 872, 10.0),
        Row("translation", "Marian, small", "BLEU", 36.84, None, None, 5, 2.5),
    ]
    lines = quality.table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "sentiment",
        "small",
        "accuracy",
        "87.6 %",
        "85.3 to 89.6",
        "872",
        "10.0",
        "87.2",
    ]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")][3:5] == ["36.8", ""]
    assert [cell.endswith(":") for cell in lines[1].strip("| ").split(" | ")] == [False] * 3 + [True] * 5


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--tasks", "sentiment,poetry"], "not poetry"),
        (["--tasks", ","], "not nothing"),
        (["--checkpoint", "owner/name"], "fits one task"),
        (["--limit", "0"], "at least 1"),
    ],
)
def test_arguments_that_cannot_be_used(given, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        quality.arguments([str(tmp_path), *given])
    assert sentence in capsys.readouterr().err


def test_arguments_want_a_folder(tmp_path, capsys):
    with pytest.raises(SystemExit):
        quality.arguments([str(tmp_path / "none")])
    assert "there is no folder" in capsys.readouterr().err


def test_arguments_default_to_everything(tmp_path):
    options = quality.arguments([str(tmp_path)])
    assert (options.tasks, options.checkpoint, options.limit) == (list(quality.TASKS), "auto", None)
    assert quality.arguments([str(tmp_path), "--tasks", "zero-shot"]).tasks == ["zero_shot"]


def test_main_prints_what_was_measured_and_says_what_was_not(tmp_path, capsys, monkeypatch):
    def measured(path, choice, models, limit):
        yield Row("a", "small", "accuracy", 0.5, 0.1, 0.9, limit, 1.0)

    def gone(path, choice, models, limit):
        yield Row("b", "small", "accuracy", 0.25, 0.1, 0.9, limit, 1.0)
        raise CheckpointError("It cannot be had.")

    monkeypatch.setattr(quality, "TASKS", {"a": measured, "b": gone})
    file = tmp_path / "rows.json"
    assert quality.main([str(tmp_path), "--limit", "4", "--json", str(file)]) == 1
    printed = capsys.readouterr()
    assert "50.0 %" in printed.out and "25.0 %" in printed.out
    assert "b was not measured: It cannot be had." in printed.err
    assert [row["value"] for row in json.loads(file.read_text())] == [0.5, 0.25]
    assert quality.main([str(tmp_path), "--limit", "4", "--tasks", "a"]) == 0
