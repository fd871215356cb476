"""The sentiment tab beside a direct call of a tiny DistilBERT."""

from __future__ import annotations

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from components.compute import tokenization
from components.errors import Cancelled, InputError
from components.inputs import tables
from demos import sentiment
from tests import tiny

TEXT = "I love this course so much"
MANY = [
    "I love it",
    "I hate this house so very much",
    "not so",
    "we have been waiting for this my whole life",
    "x",
    "The weather is very very very very very very very very very very very fun",
]


@pytest.fixture
def models():
    return tiny.manager(tiny.distilbert())


@pytest.fixture(scope="module")
def loaded():
    return tiny.loaded(tiny.distilbert(), sentiment.RECIPE)


def direct(text: str, folder=None, **options: Any) -> dict[str, float]:
    """Label and probability by a plain call of tokenizer and model."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = folder or tiny.distilbert()
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", **options)
    with torch.no_grad():
        shares = torch.softmax(model(**inputs).logits[0], -1)
    return {model.config.id2label[i]: float(share) for i, share in enumerate(shares)}


NO_FILE = (None, None, None, None)  # nor how it is read


def near(expected: dict[str, float]) -> Any:
    return pytest.approx(expected, abs=1e-4)  # a batch adds up in another order


# validate


def test_each_line_is_a_text():
    assert sentiment.validate(" one \n\n two\r\nthree ") == tables.Texts(("one", "two", "three"), (1, 3, 4))


def test_a_file_goes_before_the_box(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,good\n2, \n3,bad\n")
    assert sentiment.validate("from the box", str(path)) == tables.Texts(("good", "bad"), (2, 4))


@pytest.mark.parametrize("text", ["", "   ", "\n\t\n", None, "\u3000\n"])
def test_no_text(text):
    with pytest.raises(InputError, match=r"no text yet.*Type"):
        sentiment.validate(text)


def test_a_file_of_blank_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\n\n  \n")
    with pytest.raises(InputError, match="no text"):
        sentiment.validate(None, str(path))


def test_too_many_texts():
    most = sentiment.MOST_TEXTS
    assert len(sentiment.validate("good\n" * most).texts) == most
    with pytest.raises(InputError, match=f"{most + 1} texts; at most {most}"):
        sentiment.validate("good\n" * (most + 1))


# preprocess, forward, postprocess


def test_preprocess_cuts_long_texts(loaded):
    long = "love " * 100
    encodings, kept = sentiment.preprocess(["i love it", long], loaded)
    assert [len(encoding["input_ids"]) for encoding in encodings] == [5, 64]
    assert encodings[0] == dict(loaded.processor("i love it"))
    assert kept[0] is None
    assert kept[1] == " ".join(["love"] * 62)


def test_a_text_of_exactly_the_limit_is_not_cut(loaded):
    assert sentiment.preprocess(["love " * 62], loaded)[1] == [None]
    assert sentiment.preprocess(["love " * 63], loaded)[1] != [None]


def test_forward_gives_float_logits_on_the_cpu(loaded):
    import torch

    encodings, _ = sentiment.preprocess(MANY, loaded)
    logits = sentiment.forward(tokenization.padded(encodings, loaded), loaded)
    assert logits.shape == (len(MANY), 2)
    assert logits.dtype == torch.float32
    assert logits.device.type == "cpu"
    assert not logits.requires_grad


def test_postprocess_is_a_softmax_likeliest_first(loaded):
    import torch

    rows = sentiment.postprocess(torch.tensor([[0.0, 3.0], [1.0, 1.0]]), loaded.model.config)
    assert rows[0] == (
        ("POSITIVE", pytest.approx(0.952574, abs=1e-6)),
        ("NEGATIVE", pytest.approx(0.047426, abs=1e-6)),
    )
    assert dict(rows[1]) == pytest.approx({"NEGATIVE": 0.5, "POSITIVE": 0.5})
    assert all(isinstance(score, float) for row in rows for _, score in row)


# run


@pytest.mark.parametrize("text", [TEXT, "not so", "a < b & {c}", "ça va très bien 🙂"])
def test_one_text_is_what_a_direct_call_gives(models, text):
    result = sentiment.run(text, "auto", models)
    (row,) = result.rows
    assert row.text == text
    assert row.kept is None
    assert dict(row.scores) == near(direct(text))
    assert row.scores[0][1] >= row.scores[1][1]


def test_many_texts_of_different_lengths_keep_their_order(models):
    rows = sentiment.run("\n".join(MANY), "auto", models).rows
    assert [row.text for row in rows] == MANY
    for row in rows:
        assert dict(row.scores) == near(direct(row.text))
    assert len({row.scores[0][1] for row in rows}) == len(MANY), "they are told apart"


def test_more_texts_than_a_batch(models):
    texts = [f"{'very ' * (i % 7)}much {i}" for i in range(67)]
    rows = sentiment.run("\n".join(texts), "auto", models).rows
    assert [row.text for row in rows] == texts
    for i in (0, 5, 32, 66):
        assert dict(rows[i].scores) == near(direct(texts[i]))


def shapes(models: Any) -> list[tuple[int, int]]:
    """A list that grows by the shape of each batch, once the model is loaded."""
    seen: list[tuple[int, int]] = []
    with models.use(sentiment.OFFER) as loaded:
        loaded.model.register_forward_pre_hook(
            lambda module, inputs, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
        )
    return seen


def test_a_batch_holds_at_most_what_the_settings_say(models):
    seen = shapes(models)
    sentiment.run("\n".join(["love it"] * 10), "auto", models, batch=4)
    assert sorted(rows for rows, _ in seen) == [2, 4, 4]
    tiny.tab(sentiment.DEMO, models, batch=3).press("\n".join(["love it"] * 4), *NO_FILE)
    assert sorted(rows for rows, _ in seen[3:]) == [1, 3]


def test_similar_lengths_go_together(models):
    seen = shapes(models)
    sentiment.run("\n".join(["love " * (i % 40) + "it" for i in range(80)]), "auto", models)
    longest = [width for _, width in seen]
    assert longest == sorted(longest)
    assert longest[0] < 20 < longest[-1] == 42


class After:
    """A visitor who presses Stop when the model has computed so many batches."""

    def __init__(self, seen: list[Any], batches: int) -> None:
        self.seen, self.batches = seen, batches

    def __call__(self) -> bool:
        return len(self.seen) >= self.batches


def test_a_stopped_run_shows_what_is_done(models, monkeypatch):
    monkeypatch.setattr(sentiment, "AT_A_TIME", 8)
    texts = [f"{'very ' * (9 - i % 9)}much {i}" for i in range(1234)]
    seen = shapes(models)
    stopped = After(seen, 5)
    result = sentiment.run("\n".join(texts), "auto", models, stopped=stopped, batch=4)
    assert len(seen) == 5, "not one batch more"
    assert [row.text for row in result.rows] == texts[:16], "of the third eight only half was done"
    assert result.status.remarks == ("Stopped after 16 of 1,234 texts.",)
    assert dict(result.rows[9].scores) == near(direct(texts[9]))


def test_a_run_that_is_stopped_before_anything_is_done(models):
    seen = shapes(models)
    with pytest.raises(Cancelled):
        sentiment.run("\n".join(MANY), "auto", models, stopped=After(seen, 1), batch=2)
    assert len(seen) == 1


def test_the_status_names_checkpoint_device_and_times(models):
    status = sentiment.run(TEXT, "auto", models).status
    assert status.checkpoint == f"tiny/{tiny.distilbert().name}"
    assert (status.source, status.device, status.dtype) == ("hub", "CPU", "float32")
    assert status.load_seconds > 0
    assert status.run_seconds > 0
    assert status.remarks == ()


def test_a_long_text_is_cut_and_it_is_said(models):
    long = "love " * 61 + "hate " * 40
    result = sentiment.run(f"{TEXT}\n{long}", "auto", models)
    assert dict(result.rows[1].scores) == near(direct(long, truncation=True, max_length=64))
    (remark,) = result.status.remarks
    assert "1 of 2 texts were cut to the 64 tokens" in remark
    assert "love love hate”" in remark


def test_a_text_from_a_file(models, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(f"{TEXT}\nnot so\n")
    rows = sentiment.run("", "auto", models, file=str(path)).rows
    assert [row.text for row in rows] == [TEXT, "not so"]


def test_the_choice_goes_to_the_manager(models):
    sentiment.run(TEXT, "owner/name@v1", models)
    assert models.asked == ["owner/name@v1"]


def test_bad_input_loads_nothing(models):
    with pytest.raises(InputError):
        sentiment.run(" ", "auto", models)
    assert models.asked == []


def test_threads_share_a_tokenizer_without_harm(models):
    """Fast tokenizers keep padding and truncation as state."""
    texts = [f"{'so ' * (i % 9 + 1)}{'love' if i % 2 else 'hate'}" for i in range(24)]
    expected = [dict(sentiment.run(text, "auto", models).rows[0].scores) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda text: sentiment.run(text, "auto", models), texts))
    assert [dict(result.rows[0].scores) for result in results] == [
        pytest.approx(one, abs=1e-6) for one in expected
    ]


def test_one_label_is_a_sigmoid():
    import torch

    folder = tiny.distilbert(("toxic",))
    loaded = tiny.loaded(folder, sentiment.RECIPE)
    encodings, _ = sentiment.preprocess([TEXT], loaded)
    with torch.no_grad():
        logit = loaded.model(**tokenization.padded(encodings, loaded)).logits[0, 0]
    (row,) = sentiment.run(TEXT, "auto", tiny.manager(folder)).rows
    assert row.scores == (("toxic", pytest.approx(float(logit.sigmoid()), abs=1e-4)),)


def test_labels_that_do_not_exclude_each_other():
    import torch

    folder = tiny.distilbert(("joy", "anger", "fear"), "multi_label_classification")
    loaded = tiny.loaded(folder, sentiment.RECIPE)
    encodings, _ = sentiment.preprocess([TEXT], loaded)
    with torch.no_grad():
        shares = loaded.model(**tokenization.padded(encodings, loaded)).logits[0].sigmoid().tolist()
    (row,) = sentiment.run(TEXT, "auto", tiny.manager(folder)).rows
    assert dict(row.scores) == near(dict(zip(("joy", "anger", "fear"), shares, strict=True)))
    assert sum(score for _, score in row.scores) != pytest.approx(1, abs=0.01)


def test_a_checkpoint_for_pairs_of_many_labels():
    labels = tuple(f"{i} stars" for i in range(1, 6))
    (row,) = sentiment.run(TEXT, "auto", tiny.manager(tiny.distilbert(labels))).rows
    assert dict(row.scores) == near(direct(TEXT, tiny.distilbert(labels)))
    assert [score for _, score in row.scores] == sorted((score for _, score in row.scores), reverse=True)


def test_a_classifier_on_a_decoder_without_a_padding_token(tmp_path):
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny.llama())
    assert tokenizer.pad_token is None
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    config = GPT2Config(vocab_size=len(tokenizer), initializer_range=0.5, eos_token_id=1, **sizes)
    model = GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = sentiment.run("short\na longer text", "auto", tiny.manager(tmp_path)).rows
    for row in rows:
        with torch.no_grad():
            shares = model(**tokenizer(row.text, return_tensors="pt")).logits[0].softmax(-1).tolist()
        assert dict(row.scores) == near({"LABEL_0": shares[0], "LABEL_1": shares[1]})


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"architectures": ["DistilBertForSequenceClassification"]}, True),
        ({"architectures": ["BertForMaskedLM"]}, False),
        ({"architectures": None}, False),
        ({}, False),
    ],
)
def test_which_checkpoints_fit(config, fits):
    reason = sentiment.RECIPE.fits(config)
    assert (reason is None) is fits
    if reason:
        assert "ForSequenceClassification" in reason
        assert "such as distilbert/" in reason


def test_csv_holds_all_rows_and_no_formulas(models):
    rows = sentiment.run('=1+1\nI said "love", twice', "auto", models).rows
    table = list(csv.reader(io.StringIO(sentiment.to_csv(rows))))
    assert table[0] == ["row", "text", "label", "NEGATIVE", "POSITIVE"]
    assert table[1][:2] == ["1", "'=1+1"]
    assert table[2][:2] == ["2", 'I said "love", twice']
    for line, row in zip(table[1:], rows, strict=True):
        assert line[2] == row.scores[0][0]
        assert {"NEGATIVE": float(line[3]), "POSITIVE": float(line[4])} == near(dict(row.scores))


@pytest.mark.parametrize(
    ("text", "hardly"),
    [
        ("今日は。元気ですか？", True),
        ("这部电影很好看", True),
        ("Привет, как дела?", True),
        ("ελληνικά είναι", True),
        ("مرحبا كيف حالك", True),
        ("이 영화는 정말 좋았어요", True),
        ("😀😀👍", True),
        ("สวัสดี", True),
        ("I love it 😀", False),
        ("Das Frühstück war köstlich", False),
        ("I met Иван yesterday", False),
        ("42", False),
    ],
)
def test_a_text_that_the_vocabulary_hardly_has_is_remarked_on(starters, text, hardly):
    result = sentiment.run(text, "starter", starters)
    assert any(tokenization.UNSURE in remark for remark in result.status.remarks) == hardly
    assert any(tokenization.UNSURE in remark for remark in result.rows[0].remarks) == hardly
    both = sentiment.run(f"{text}\nGood.", "starter", starters)
    assert any("hardly knows" in remark for remark in both.status.remarks) == hardly


@pytest.fixture(scope="module")
def starters(starter_cache):
    """The app's own manager with its starters."""
    import os
    from dataclasses import replace

    import app
    from components.settings import parse
    from components.weights.hub import HubStatus

    return app.create_manager(
        replace(parse([], os.environ), checkpoints="starter", keep_alive=-1), HubStatus()
    )


# The tab


def test_the_endpoint_takes_one_text(models):
    endpoint = tiny.tab(sentiment.DEMO, models).endpoint("sentiment")
    assert tiny.confidences(endpoint(TEXT)) == near(direct(TEXT))
    assert tiny.confidences(endpoint("I love\nit")) == near(direct("I love it")), "line ends do not split"
    assert models.asked == ["auto", "auto"]
    assert endpoint(TEXT, "starter") == endpoint(TEXT, checkpoint="starter")


@pytest.mark.parametrize("text", ["", "  ", None])
def test_the_endpoint_says_what_is_missing(models, text):
    import gradio as gr

    endpoint = tiny.tab(sentiment.DEMO, models).endpoint("sentiment")
    with pytest.raises(gr.Error, match="There is no text yet"):
        endpoint(text)


def test_the_button_shows_one_text_as_bars(models):
    *_, (answer, table, download, _, problem, status) = tiny.tab(sentiment.DEMO, models).press(TEXT, *NO_FILE)
    assert "POSITIVE" in answer
    assert "NEGATIVE" in answer
    assert (table["visible"], download["visible"], problem) == (False, False, "")
    assert "tiny/distilbert" in status


def test_the_button_shows_many_texts_as_a_table(models):
    *_, (answer, table, download, _, problem, status) = tiny.tab(sentiment.DEMO, models).press(
        "\n".join(MANY), *NO_FILE
    )
    assert "6 texts" in answer
    assert [row[0] for row in table["value"]["data"]] == MANY
    assert table["visible"]
    with open(download["value"], newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    assert [(row["row"], row["text"]) for row in lines] == [(str(i), one) for i, one in enumerate(MANY, 1)]
    with open(download["value"], "rb") as file:
        assert file.read(3) == b"\xef\xbb\xbf", "or a spreadsheet takes it for an old encoding"
    assert problem == ""
    assert "loaded in" in status


def test_a_file_is_previewed_and_read_as_the_visitor_says(models, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\nfilm;verdict;id\nFilm one;i love it;1\nFilm two, the second;i hate it;2\n")
    tab = tiny.tab(sentiment.DEMO, models)
    (look,) = [fn for fn in tab.app.fns.values() if fn.name == "handler" and len(fn.inputs) == 1]
    how, delimiter, column, header, rows, said, problem = look.fn(str(path))
    assert how["visible"] and (delimiter, header, column["value"]) == (";", True, 0)
    assert column["choices"] == [("film", 0), ("verdict", 1), ("id", 2)]
    assert rows["value"]["headers"] == ["film", "verdict", "id"]
    assert rows["value"]["data"][0] == ["Film one", "i love it", "1"]
    assert (said, problem) == ("", "")
    other, without = tab.pick(str(path), ",", True, 0)
    assert other[1] == ","
    assert without[1] == "," and without[2]["value"] == 0
    *_, (_, table, *_) = tab.press("from the box", str(path), ";", True, 1)
    assert [row[0] for row in table["value"]["data"]] == ["i love it", "i hate it"]
    *_, (_, table, *_) = tab.press("from the box", str(path), ";", False, 1)
    assert [row[0] for row in table["value"]["data"]] == ["verdict", "i love it", "i hate it"]
    *_, last = look.fn(str(tmp_path / "gone.csv"))
    assert "no longer on this server" in last


def test_the_button_shows_a_problem_and_the_app_goes_on(models):
    tab = tiny.tab(sentiment.DEMO, models)
    *_, last = tab.press(" ", *NO_FILE)
    assert last[0] is None
    assert all(hidden["value"] is None and not hidden["visible"] for hidden in last[1:3])
    assert "There is no text yet" in last[4]
    assert last[5] == ""
    assert "POSITIVE" in tab.press(TEXT, *NO_FILE)[-1][0]


def test_an_unexpected_error_is_shown_with_a_number(models, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sentiment.tables, "read", lambda path, asked: path.read_bytes())
    *_, last = tiny.tab(sentiment.DEMO, models).press("", str(tmp_path / "gone.txt"), None, None, None)
    assert "number" in last[4]
    assert str(tmp_path) not in last[4]
    assert "gone.txt" in caplog.text
