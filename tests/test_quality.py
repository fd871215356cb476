"""The benchmark's reading, counting and printing, on tiny data and without models."""

from __future__ import annotations

import json

import pytest

from benchmarks import quality
from benchmarks.quality import Row
from components.errors import CheckpointError


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


def test_a_label_may_stand_for_two_classes():
    assert quality.class_indices("crane", {0: "tench", 1: "crane", 2: "crane"}) == {1, 2}
    assert quality.class_indices("heron", {0: "tench"}) == set()


def test_a_background_class_shifts_the_numbers():
    names = {i: f"class {i}" for i in range(1001)}
    assert quality.class_indices("class 7", names) == {6}


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
