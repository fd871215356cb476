"""The training scripts, on next to nothing: they run, resume, and write what the app loads."""

import json
import random
import sys

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from components import wheels
from training import sentiment, translation
from training.common import averaged, load_progress, read_pairs, save_progress, warmup_cosine

WORDS = [
    ("the", "le"),
    ("cat", "chat"),
    ("dog", "chien"),
    ("house", "maison"),
    ("sees", "voit"),
    ("Tom", "Tom"),
]


@pytest.fixture
def pairs(tmp_path):
    draw = random.Random(0)
    rows = [[draw.choice(WORDS) for _ in range(draw.randint(2, 6))] for _ in range(300)]
    lines = ["\t".join(" ".join(word[side] for word in row) for side in (0, 1)) for row in rows]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_pairs_are_read_without_stray_carriage_returns(tmp_path):
    (tmp_path / "rows.tsv").write_bytes(b"0\ta\r b\r\n1\tc\n")
    assert read_pairs(tmp_path / "rows.tsv") == [("0", "a b"), ("1", "c")]


def test_the_rate_goes_up_and_comes_down_to_nothing():
    rates = [warmup_cosine(step, 10, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1 and rates[100] == pytest.approx(0)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_the_mean_of_weights_is_their_mean():
    model, mean = torch.nn.Linear(1, 1), None
    for value in (1.0, 2.0, 6.0):
        torch.nn.init.constant_(model.weight, value)
        mean = averaged(mean, model)
    assert mean["weights"]["weight"].item() == pytest.approx(3.0)


def test_names_are_swapped_in_both_sentences_or_in_neither():
    rename = translation.Renamer([("Tom sees Mary", "Tom voit Marie"), ("Ann is here", "Ann est là")], seed=0)
    seen = {rename("Tom sees Mary", "Tom voit Marie") for _ in range(50)}
    assert len(seen) > 5
    for english, french in seen:
        assert english.split()[0] == french.split()[0]
        assert english.endswith("sees Mary") and french.endswith("voit Marie")


def test_translation_trains_resumes_and_loads(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(translation, "VOCABULARY", 280)
    out = tmp_path / "out"
    common = ["--data", str(pairs), "--out", str(out), "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["training.translation", *common, "--steps", "6"])
    monkeypatch.setattr(translation, "BATCH_TOKENS", 200)
    monkeypatch.setattr(translation, "SAVE_EVERY", 2)

    def interrupted(work, model, optimizer, progress):
        save_progress(work, model, optimizer, progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(translation, "save_progress", interrupted)
        translation.main()
    begun = []

    def watched(work, model, optimizer):
        progress = load_progress(work, model, optimizer)
        begun.append((progress["step"], progress["batch"]))
        return progress

    monkeypatch.setattr(translation, "load_progress", watched)
    translation.main()
    assert begun == [(2, 2)]
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForSeq2SeqLM.from_pretrained(out)
    assert type(tokenizer).__name__ == "MarianTokenizer" and tokenizer.target_lang == "fr"
    assert model.dtype == torch.float16
    text = "Łódź 1984, the cat"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert json.loads((out / "curve.json").read_text())[0]["step"] == 0
    assert not (out / "work").exists()


def test_batches_hold_every_pair_once(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(translation, "VOCABULARY", 280)
    monkeypatch.setattr(translation, "BATCH_TOKENS", 200)
    rows = read_pairs(pairs / "train.tsv")
    tokenizer = translation.train_vocabulary(rows, tmp_path)
    batches = list(translation.batches(rows, tokenizer, seed=3))
    assert sum(len(batch["labels"]) for batch in batches) == len(rows)
    assert all(batch["input_ids"].numel() <= 200 and batch["labels"].numel() <= 200 for batch in batches)
    again = list(translation.batches(rows, tokenizer, seed=3))
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(batches, again, strict=True))


def test_sentiment_trains_and_merges_into_a_classifier(tmp_path, monkeypatch, starter_cache):
    rows = [f"{i % 2}\t{('dull', 'lovely')[i % 2]} film" for i in range(64)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("label\tsentence\n" + "\n".join(rows), encoding="utf-8")
    out = tmp_path / "out"
    monkeypatch.setattr(sentiment, "BATCH", 16)
    monkeypatch.setattr(sentiment, "WARMUP", 1)
    arguments = ["training.sentiment", "--data", str(tmp_path), "--out", str(out), "--epochs", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    sentiment.main()
    base = wheels.location(wheels.MINILM, starter_cache)
    wheels.merge_adapter(base, out, tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    with torch.inference_mode():
        logits = model(**tokenizer(["a lovely film", "a dull film"], return_tensors="pt")).logits
    assert logits.argmax(-1).tolist() == [1, 0]
