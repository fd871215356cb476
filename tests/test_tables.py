"""Texts from files, their longest length, and what is said of those that were cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.compute.tokenization import length, longest_input, padded, tokenized, truncation_remarks
from components.errors import InputError
from components.inputs.tables import Asked, Reading, preview, read, safe_cell
from components.weights.checkpoints import Recipe
from tests import tiny

RECIPE = Recipe(
    "test", lambda config: "AutoModelForSequenceClassification", "AutoTokenizer", lambda config: None
)


def read_texts(path: Path) -> list[str]:
    return list(read(path).texts)


def written(tmp_path, name: str, content: str | bytes):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_lines_of_a_text_file(tmp_path):
    assert read_texts(written(tmp_path, "a.txt", "One, two\r\nthree\n\nvier")) == [
        "One, two",
        "three",
        "",
        "vier",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_encodings(tmp_path, encoding):
    assert read_texts(written(tmp_path, "a.txt", "Müller’s café".encode(encoding))) == ["Müller’s café"]


@pytest.mark.parametrize(
    "content",
    [
        'id,text\n1,"Good, really"\n2,Bad\n',
        "id;text\n1;Good, really\n2;Bad\n",
        "id\ttext\n1\tGood, really\n2\tBad\n",
        'stars,Sentence,date\n5,"Good, really",2024-01-01\n1,Bad,2024-01-02\n',
        '\ufeffid,TEXT\n1,"Good, really"\n2,Bad\n',
    ],
)
def test_the_text_column_of_a_csv_file(tmp_path, content):
    assert read_texts(written(tmp_path, "a.CSV", content)) == ["Good, really", "Bad"]


def test_without_a_header_the_column_with_the_words(tmp_path):
    content = "1,the film was good,2024\n2,the film was bad,2024\n"
    assert read_texts(written(tmp_path, "a.csv", content)) == ["the film was good", "the film was bad"]


def test_a_csv_file_with_one_column(tmp_path):
    assert read_texts(written(tmp_path, "a.csv", "text\nI love it\nI hate it\n")) == [
        "I love it",
        "I hate it",
    ]
    assert read_texts(written(tmp_path, "b.csv", "I love it\nI hate it\n")) == ["I love it", "I hate it"]


def test_quoted_line_ends_and_quotes(tmp_path):
    content = 'id,text\n1,"two\nlines"\n2,"he said ""no"", twice"\n'
    assert read_texts(written(tmp_path, "a.csv", content)) == ["two\nlines", 'he said "no", twice']


def test_doubled_quotes_far_down_the_file(tmp_path):
    rows = "".join(f'{i},"Row {i}, plain"\n' for i in range(400))
    content = f'id,text\n{rows}400,"he said ""no"", twice"\n'
    assert read_texts(written(tmp_path, "a.csv", content))[-1] == 'he said "no", twice'


def test_one_column_keeps_its_commas(tmp_path):
    content = "text\nI love it, really\nI hate it\nSo, so, bad, this\n"
    assert read_texts(written(tmp_path, "a.csv", content)) == [
        "I love it, really",
        "I hate it",
        "So, so, bad, this",
    ]


def test_short_and_blank_rows(tmp_path):
    content = "id,text\n1,good\n\n2\n , \n3,bad\n"
    found = read(written(tmp_path, "a.csv", content))
    assert (found.texts, found.rows) == (("good", "bad"), (2, 6))
    assert found.remarks == ("Rows too short to have a text, which were left out: 1.",)


@pytest.mark.parametrize(
    ("content", "texts", "short", "without", "long"),
    [
        ("text,id\ngood,1\nbad\n", ["good", "bad"], 1, 0, 0),
        ("id,text,note\n1,good,x\n2,bad\n3\n4,so so,y\n5,fine\n", ["good", "bad", "so so", "fine"], 2, 1, 0),
        ('id;text;note\n1;"good; really";x\n2;"bad\nso bad"\n', ["good; really", "bad\nso bad"], 1, 0, 0),
        ("id\ttext\tnote\n1\tgood\n2\tbad\tx\ty\n3\tso\tz\n", ["good", "bad", "so"], 1, 0, 1),
        ("text,id,note\ngood,1,a\nbad,2,b\n", ["good", "bad"], 0, 0, 0),
    ],
)
def test_a_row_with_too_few_cells_is_kept_whole_and_said(tmp_path, content, texts, short, without, long):
    found = read(written(tmp_path, "a.csv", content))
    assert list(found.texts) == texts
    counts = {"fewer cells": short, "too short": without, "more cells": long}
    for words, count in counts.items():
        said = [remark for remark in found.remarks if words in remark]
        assert [remark.endswith(f": {count}.") for remark in said] == [True] * bool(count)


@pytest.mark.parametrize("content", ["", "  \n \n"])
def test_an_empty_file(tmp_path, content):
    for name in ("a.txt", "a.csv"):
        with pytest.raises(InputError, match="empty"):
            read_texts(written(tmp_path, name, content))


def test_a_csv_file_of_nothing_but_commas(tmp_path):
    with pytest.raises(InputError):
        read_texts(written(tmp_path, "a.csv", ",,,\n,,,\n"))


def test_a_file_that_is_too_large(tmp_path):
    with pytest.raises(InputError, match=r"6\.0 MB; at most 5 MB"):
        read_texts(written(tmp_path, "a.txt", b"words \n" * (6_000_000 // 7)))


@pytest.mark.parametrize(
    "content", [bytes(range(256)) * 20, b"\x7fELF\0\0\1", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"]
)
def test_a_file_that_is_not_plain_text(tmp_path, content):
    with pytest.raises(InputError, match="UTF-8"):
        read_texts(written(tmp_path, "a.csv", content))


def test_a_quote_that_is_never_closed(tmp_path):
    content = 'id,text\n1,"' + "so very much " * 20_000
    found = read(written(tmp_path, "a.csv", content))
    assert "so very much" in found.texts[0]
    assert "line 2" in found.remarks[0]


@pytest.mark.parametrize(
    ("rows", "texts", "line"),
    [
        (['1,"never closed', "2,bad", '3,"fine, ok"'], ['"never closed', "bad", "fine, ok"], 2),
        (['1,"two', 'lines"', '2,"open', "3,bad"], ["two\nlines", '"open', "bad"], 4),
        (["1,good", '2,"a" b', "3,bad"], ["good", '"a" b', "bad"], 3),
        (["1,good"] * 300 + ['2,"open'] + ["3,bad"] * 300, ["good"] * 300 + ['"open'] + ["bad"] * 300, 302),
        (['1,"open'] * 200, ['"open'] * 200, 2),
    ],
)
def test_an_open_quotation_mark_costs_no_row_and_is_said(tmp_path, rows, texts, line):
    found = read(written(tmp_path, "a.csv", "\n".join(["id,text", *rows])))
    assert list(found.texts) == texts
    assert f"quotation mark in line {line} is never closed" in found.remarks[0]


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("Good film\nbad film", "utf-16", None),
        ("Good film\nbad film", "utf-16-le", None),
        ("Good film\nbad film", "utf-16-be", None),
        ("Schöner Film", "utf-32", None),
        ("L'été où j'étais à Orléans, c'était “génial”.", "cp1252", "windows-1252"),
        ("El niño comió piñas. ¿Sí?", "cp1252", "windows-1252"),
        ("Zażółć gęślą jaźń – książka", "cp1250", "windows-1250"),
        ("Привет, как дела? Фильм хороший", "cp1251", "windows-1251"),
        ("Привет, как дела? Фильм хороший", "koi8-r", "koi8-r"),
        ("今日は。元気ですか？映画は良かった", "shift_jis", "cp932"),
        ("这部电影很好看，我很喜欢。", "gb18030", "gb18030"),
        ("이 영화는 정말 좋았어요", "euc-kr", "cp949"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_each_encoding(tmp_path, text, encoding, said, name):
    found = read(written(tmp_path, name, text.encode(encoding)))
    assert "\n".join(found.texts) == text
    assert [said is not None and said in remark for remark in found.remarks] == [True] * bool(said)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x82", b"\x80"])
def test_one_bad_byte_does_not_spoil_a_file(tmp_path, bad):
    content = "Müller’s café\nschön\n".encode() + b"be" + bad + b" it\n" + "früh, né\n".encode()
    found = read(written(tmp_path, "a.txt", content))
    assert found.texts[:2] + found.texts[3:] == ("Müller’s café", "schön", "früh, né")
    assert found.texts[2].startswith("be") and found.texts[2].endswith(" it")
    assert "not UTF-8, the first in line 3" in found.remarks[0]


@pytest.mark.parametrize(
    ("content", "reading", "texts", "rows"),
    [
        ("sep=;\nid;text\n1;good, yes\n2;bad\n", Reading(";", True, 1), ("good, yes", "bad"), (3, 4)),
        ('"sep=|"\nid|text\n1|good\n', Reading("|", True, 1), ("good",), (3,)),
        ("sep=\t\r\nid\ttext\r\n1\tgood\r\n", Reading("\t", True, 1), ("good",), (3,)),
        ("a|b\n1|the text\n2|more text\n", Reading("|", True, 1), ("the text", "more text"), (2, 3)),
        (
            "film,stars\na good one,5\na bad one,1\n",
            Reading(",", True, 0),
            ("a good one", "a bad one"),
            (2, 3),
        ),
        ("5,a good one\n1,a bad one\n", Reading(",", False, 1), ("a good one", "a bad one"), (1, 2)),
        ("id,text\n1,good, really\n2,bad\n", Reading(",", True, 1), ("good, really", "bad"), (2, 3)),
        ("text,id\ngood, really,1\nbad,2\n", Reading(",", True, 0), ("good", "bad"), (2, 3)),
        ("plain line\nanother, one\n", Reading("", False, 0), ("plain line", "another, one"), (1, 2)),
        ("text\nCost; 3,5; high\n", Reading("", True, 0), ("Cost; 3,5; high",), (2,)),
    ],
)
def test_how_a_file_looks(tmp_path, content, reading, texts, rows):
    path = written(tmp_path, "a.csv", content)
    found = read(path)
    assert (found.texts, found.rows) == (texts, rows)
    seen = preview(path)
    assert seen.reading == reading
    assert len(seen.rows) == min(5, len(rows)) and all(len(row) == len(seen.columns) for row in seen.rows)


@pytest.mark.parametrize(
    ("asked", "texts"),
    [
        (Asked(), ("good; fine", "bad; poor")),
        (Asked(column=2), ("2024", "2025")),
        (Asked(header=False), ("a; b", "good; fine", "bad; poor")),
        (Asked(delimiter=";"), ("1,good", "2,bad")),
        (Asked(delimiter=""), ("1,good; fine,2024", "2,bad; poor,2025")),
        (Asked(delimiter=";", column=1, header=False), ("b,year", "fine,2024", "poor,2025")),
        (Asked(column=17), ("good; fine", "bad; poor")),
    ],
)
def test_a_visitor_may_read_it_otherwise(tmp_path, asked, texts):
    path = written(tmp_path, "a.csv", "id,a; b,year\n1,good; fine,2024\n2,bad; poor,2025\n")
    if asked.delimiter is not None and asked.header is None:
        asked = replace(asked, header=True)
    if asked == Asked(delimiter=";", header=True):
        asked = replace(asked, column=0)
    assert read(path, asked).texts == texts


def test_texts_with_more_cells_than_the_header_are_kept_whole_and_it_is_said(tmp_path):
    found = read(written(tmp_path, "a.csv", "id;text\n1;good; really; yes\n2;bad\n"))
    assert found.texts == ("good; really; yes", "bad")
    assert found.remarks == ("Rows with more cells than the first one, whose texts are kept whole: 1.",)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\r=1"])
def test_formulas_become_text(text):
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "good", "a=b", "'quoted", "1-2"])
def test_other_cells_stay(text):
    assert safe_cell(text) == text


def loaded(limit: float = 10**30, **config: Any) -> Any:
    return SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(**config)),
        processor=SimpleNamespace(model_max_length=limit),
    )


@pytest.mark.parametrize(
    ("config", "limit", "tokens"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 10**30, 512),
        ({"model_type": "bert", "max_position_embeddings": 512}, 128, 128),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 10**30, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512, 512),
        ({"model_type": "xlnet"}, 10**30, 512),
        ({"model_type": "xlnet", "max_position_embeddings": None}, 256, 256),
    ],
)
def test_longest_input(config, limit, tokens):
    assert longest_input(loaded(limit, **config)) == tokens


@pytest.mark.parametrize("kind", ["MPNet", "Roberta", "XLMRoberta", "Bert", "Camembert"])
def test_the_longest_input_goes_through_the_model(kind):
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    length = longest_input(loaded(model_type=config.model_type, max_position_embeddings=34, pad_token_id=1))
    with torch.inference_mode():
        assert model(torch.full((1, length), 5)).last_hidden_state.shape == (1, length, 16)


@pytest.fixture(scope="module")
def classifier() -> Any:
    return tiny.loaded(tiny.distilbert(), RECIPE)


TEXTS = ["i love it", "love " * 100, "hate", "x " * 62, "y " * 63]


def test_texts_as_tokens(classifier):
    encodings, kept = tokenized(TEXTS, classifier, 64)
    for text, encoding in zip(TEXTS, encodings, strict=True):
        assert encoding == dict(classifier.processor(text, truncation=True, max_length=64))
    assert list(map(length, encodings)) == [5, 64, 3, 64, 64]
    assert kept == [None, "love " * 61 + "love", None, None, "y " * 61 + "y"]


def test_padding_is_that_of_the_tokenizer(classifier):
    import torch

    encodings, _ = tokenized(TEXTS, classifier, 64)
    expected = classifier.processor(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    batch = padded(encodings, classifier)
    assert batch.keys() == expected.keys()
    for name, rows in batch.items():
        assert torch.equal(rows, expected[name])
    assert padded(encodings[2:3], classifier)["input_ids"].shape == (1, 3)


def test_remarks_on_what_was_cut():
    assert truncation_remarks([None, None], 64) == ()
    (one,) = truncation_remarks(["x" * 200 + "the end"], 64)
    assert one.startswith("The text was cut to the 64 tokens")
    assert one.endswith("the end”")
    assert len(one) < 200
    (some,) = truncation_remarks([None, "the end", "another", None], 64)
    assert some.startswith("2 of 4 texts were cut")
    assert "the end" in some
