"""Texts from files, their longest length, and what is said of those that were cut."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from components.checkpoints import Recipe
from components.errors import InputError
from components.tables import (
    length,
    longest_input,
    padded,
    read_texts,
    safe_cell,
    tokenized,
    truncation_remarks,
)
from tests import tiny

RECIPE = Recipe(
    "test", lambda config: "AutoModelForSequenceClassification", "AutoTokenizer", lambda config: None
)


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
    assert read_texts(written(tmp_path, "a.csv", content)) == ["good", "bad"]


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


@pytest.mark.parametrize("content", ["Good".encode("utf-16"), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_a_file_that_is_not_plain_text(tmp_path, content):
    with pytest.raises(InputError, match="UTF-8"):
        read_texts(written(tmp_path, "a.csv", content))


def test_a_quote_that_is_never_closed(tmp_path):
    content = 'id,text\n1,"' + "so very much " * 20_000
    try:
        texts = read_texts(written(tmp_path, "a.csv", content))
    except InputError:
        return
    assert any("so very much" in text for text in texts)


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
