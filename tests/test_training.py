"""The training scripts, on next to nothing: they run, resume, and write what the app loads."""

import gzip
import json
import random
import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from components.weights import wheels
from training import common, entailment, masked, sentiment, teacher, translation, variations
from training.common import averaged, bucketed, load_progress, read_pairs, save_progress, train, warmup_cosine

WORDS = [
    ("the", "le"),
    ("cat", "chat"),
    ("dog", "chien"),
    ("house", "maison"),
    ("sees", "voit"),
    ("Tom", "Tom"),
]
NLI = [
    {
        "premise": "A man sleeps.",
        "hypothesis": "A man is resting.",
        "label": "entailment",
        "source": "snli_dev",
    },
    {"premise": "A dog runs.", "hypothesis": "A dog sleeps.", "label": "contradiction", "source": "snli_dev"},
    {
        "premise": "A cat sat there.",
        "hypothesis": "The cat is old.",
        "label": "neutral",
        "source": "mnli_15k",
    },
]


@pytest.fixture
def data(tmp_path):
    """A folder with a little of everything that the scripts read."""
    draw = random.Random(0)
    for split, count in (("train", 300), ("dev", 12)):
        rows = [[draw.choice(WORDS) for _ in range(draw.randint(2, 6))] for _ in range(count)]
        lines = ["\t".join(" ".join(word[side] for word in row) for side in (0, 1)) for row in rows]
        write(tmp_path / "en-fr" / f"{split}.tsv", lines)
        films = [f"{i % 2}\t{('a dull', 'a lovely')[i % 2]} film about number {i}" for i in range(64)]
        write(tmp_path / "sentiment" / f"{split}.tsv", ["label\tsentence", *films])
        write(tmp_path / "nli" / f"{split}.jsonl", [json.dumps(row) for row in NLI * 8])
    write(tmp_path / "zero_shot" / "few.jsonl", [json.dumps({"text": one, "label": one}) for one in "ab"])
    return tmp_path


def write(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def call(monkeypatch, script, data, out, *more):
    arguments = [script.__name__, "--data", str(data), "--out", str(out), "--seed", "1", *more]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()


# What they share


def test_pairs_are_read_without_stray_carriage_returns(tmp_path):
    (tmp_path / "rows.tsv").write_bytes(b"0\ta\r b\r\n1\tc\n")
    assert read_pairs(tmp_path / "rows.tsv") == [("0", "a b"), ("1", "c")]


def test_the_rate_goes_up_and_comes_down_to_nothing():
    rates = [warmup_cosine(step, 10, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1 and rates[100] == pytest.approx(0)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_the_mean_of_weights_is_their_mean():
    mean = None
    for value in (1.0, 2.0, 6.0):
        mean = averaged(mean, {"weight": torch.full((1,), value)})
    assert mean["weights"]["weight"].item() == pytest.approx(3.0)


def test_batches_are_of_like_lengths_and_hold_every_row_once():
    rows = ["x" * (1 + i % 7) for i in range(50)]
    batches = bucketed(rows, len, 8, seed=1)
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    assert all(max(map(len, batch)) - min(map(len, batch)) <= 2 for batch in batches)
    assert batches == bucketed(rows, len, 8, seed=1) != bucketed(rows, len, 8, seed=2)


def line(work, interrupt=None, monkeypatch=None):
    """A line fitted in 40 steps; with dropout, so that the seeds count."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

    def loss_of(batch):
        return (model(batch).squeeze() - batch.sum(-1)).square().mean()

    def epoch(number):
        generator = torch.Generator().manual_seed(number)
        return [torch.rand(4, 2, generator=generator) for _ in range(7)]

    curve = train(
        model,
        epoch,
        loss_of,
        steps=40,
        peak_rate=0.01,
        warmup=3,
        seed=5,
        work=work,
        evaluate=lambda: {"weight": model[0].weight[0, 0].item()},
        evaluate_every=20,
    )
    return curve, model


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "SAVE_EVERY", 9)
    whole, model = line(tmp_path / "a")

    def interrupted(work, weights, optimizer, progress):
        save_progress(work, weights, optimizer, progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(common, "save_progress", interrupted)
        line(tmp_path / "b")
    assert load_progress(
        tmp_path / "b", dict(model.named_parameters()), torch.optim.AdamW(model.parameters())
    )
    whole, model = line(tmp_path / "c")
    resumed, other = line(tmp_path / "b")
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert [point["step"] for point in resumed] == [point["step"] for point in whole] == [1, 20, 40]
    assert resumed[-1]["weight"] == whole[-1]["weight"]


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="the loss is nan at step 0"):
        train(
            model,
            lambda number: [None],
            lambda batch: model(torch.ones(1)).sum() * float("nan"),
            steps=2, peak_rate=1, warmup=1, seed=0, work=tmp_path,
        )  # fmt: skip


# Translation


def test_names_and_numbers_are_swapped_in_both_sentences_or_in_neither():
    pairs = [("Tom sees Mary", "Tom voit Marie"), ("Ann is here", "Ann est là")]
    rename = variations.Renamer(pairs, seed=0)
    seen = {rename("Tom sees Mary 12 times", "Tom voit Marie 12 fois") for _ in range(50)}
    assert len({english.split()[0] for english, _ in seen}) > 5
    assert len({english.split()[3] for english, _ in seen}) > 5
    for english, french in seen:
        assert english.split()[0] == french.split()[0] and english.split()[3] == french.split()[3]
        assert english.split()[1:3] == ["sees", "Mary"] and french.split()[1:3] == ["voit", "Marie"]
        assert english.split()[3].isdigit()
    # A number with a fraction, a time, and the one are left: they change with the language.
    fixed = ("At 2:30 he paid 1.5 for 1 cat", "À 2:30 il a payé 1.5 pour 1 chat")
    assert {rename(*fixed) for _ in range(20)} == {fixed}


def test_the_aligner_finds_which_words_belong_together(data):
    words = {word: i for i, word in enumerate(sorted({w for pair in WORDS for w in pair}))}
    pairs = read_pairs(data / "en-fr" / "train.tsv")
    rows = [tuple([words[word] for word in side.split()] for side in pair) for pair in pairs]
    aligner = translation.Aligner(len(words))
    aligner.learn(rows)
    source, target = (
        [words[word] for word in side.split()] for side in ("the dog sees Tom", "Tom voit le chien")
    )
    alignment = aligner(source, target)
    assert alignment.shape == (4, 4) and alignment.sum(1) == pytest.approx(np.ones(4))
    assert alignment.argmax(1).tolist() == [3, 2, 0, 1]


def small(monkeypatch):
    monkeypatch.setattr(translation, "VOCABULARY", 280)
    monkeypatch.setattr(translation, "FROM_SCRATCH", (6, 200, 1e-3, 2))
    monkeypatch.setattr(translation, "RESUMED", (3, 200, 1e-3, 2))
    monkeypatch.setattr(translation, "BARE_WORDS", 4)
    monkeypatch.setattr(translation, "MAX_TOKENS", 20)  # what is hardly trained does not come to an end


@pytest.mark.parametrize("source", ["en", "fr"])
def test_translation_trains_and_loads(data, tmp_path, monkeypatch, source, capsys):
    small(monkeypatch)
    out = tmp_path / "out"
    call(monkeypatch, translation, data, out, "--from", source)
    assert "BLEU" in capsys.readouterr().out
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForSeq2SeqLM.from_pretrained(out)
    assert type(tokenizer).__name__ == "MarianTokenizer"
    assert {tokenizer.source_lang, tokenizer.target_lang} == {"en", "fr"} and tokenizer.source_lang == source
    assert model.dtype == torch.float16
    text = "Łódź 1984, the cat"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert json.loads((out / "curve.json").read_text())[0]["step"] == 1
    assert not (out / "work").exists()

    # It goes on from there with the same vocabulary, and its curve with it.
    further = tmp_path / "further"
    call(monkeypatch, translation, data, further, "--from", source, "--resume", str(out))
    assert (further / "vocab.json").read_text() == (out / "vocab.json").read_text()
    assert (further / "source.spm").read_bytes() == (further / "target.spm").read_bytes()
    assert [point["step"] for point in json.loads((further / "curve.json").read_text())] == [1, 2]
    one, other = (load_file(folder / "model.safetensors")["model.shared.weight"] for folder in (out, further))
    assert one.shape == other.shape and not torch.equal(one, other)

    # And from a mean with the one before it, which had fewer pieces.
    model = AutoModelForSeq2SeqLM.from_pretrained(further, dtype=torch.float32)
    model.resize_token_embeddings(len(one) + 3)
    before = model.model.shared.weight.detach().clone()
    translation.mix(model, out)
    mean = 0.75 * other.float() + 0.25 * one.float()
    torch.testing.assert_close(model.model.shared.weight.detach(), torch.cat([mean, before[len(one) :]]))


def test_batches_of_pairs_hold_every_pair_once(data, tmp_path, monkeypatch):
    small(monkeypatch)
    rows = read_pairs(data / "en-fr" / "train.tsv")
    tokenizer = translation.train_vocabulary(rows, ["en", "fr"], tmp_path)
    aligner = translation.Aligner(tokenizer.vocab_size)
    batches = list(translation.batches(rows, tokenizer, aligner, seed=3, tokens=200))
    assert sum(len(batch["labels"]) for batch in batches) == len(rows)
    assert all(batch["input_ids"].numel() <= 200 and batch["labels"].numel() <= 200 for batch in batches)
    again = list(translation.batches(rows, tokenizer, aligner, seed=3, tokens=200))
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(batches, again, strict=True))
    batch = batches[0]
    assert torch.equal(batch["decoder_input_ids"][:, 1:][batch["labels"][:, 1:] != -100],
                       batch["labels"][:, :-1][batch["labels"][:, 1:] != -100])  # fmt: skip
    shares = batch["alignment"].sum(-1)
    assert torch.allclose(shares, (batch["labels"] != -100).float())
    assert not (batch["alignment"].sum(1) * (1 - batch["attention_mask"])).any()


@pytest.fixture
def trained_pieces(data, tmp_path, monkeypatch):
    """Pairs, and the SentencePiece model of a vocabulary that was learnt from them and lacks nearly all."""
    small(monkeypatch)
    monkeypatch.setattr(translation, "CHARACTERS", "")
    monkeypatch.setattr(translation, "OPENING", "")
    monkeypatch.setattr(translation, "BARE_WORDS", 0)
    rows = read_pairs(data / "en-fr" / "train.tsv")
    translation.train_vocabulary(rows, ["en", "fr"], tmp_path)
    monkeypatch.undo()
    return rows, (tmp_path / "source.spm").read_bytes()


def test_a_vocabulary_gets_what_it_lacks_behind_what_it_has(trained_pieces, tmp_path):
    rows, before = trained_pieces
    old = translation.sentencepiece.SentencePieceProcessor(model_proto=before)
    tokenizer = translation.complete_vocabulary(before, rows, ["fr", "en"], tmp_path)
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[old.id_to_piece(i)] for i in range(len(old))] == list(range(len(old)))
    assert len(vocabulary) == tokenizer.spm_source.get_piece_size() == tokenizer.vocab_size > len(old) + 300
    for text in (
        "I have 88 books (a big one), Salt & pepper: “I am tired.”",
        "« Œuvre » – l’été 1 234,56 € à 10:45 – Łódź, ÇÀ ÉÈÊ ÿ £5 20° 3×4",
        "".join(map(chr, range(0x21, 0x7F))),
    ):
        pieces = tokenizer.tokenize(text)
        assert not [piece for piece in pieces if piece.startswith("<0x")]
        assert [vocabulary[piece] for piece in pieces] == tokenizer(text).input_ids[:-1]
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert {"the", "dog", "▁(", "("} <= vocabulary.keys()
    for side in rows[0]:
        assert tokenizer.tokenize(side) == old.encode(side, out_type=str)
    again = translation.complete_vocabulary(
        (tmp_path / "source.spm").read_bytes(), rows, ["fr", "en"], tmp_path
    )
    assert again.get_vocab() == vocabulary


def test_a_grown_model_answers_as_before(trained_pieces, tmp_path):
    rows, before = trained_pieces
    torch.manual_seed(0)
    (tmp_path / "old").mkdir()
    for side in ("source.spm", "target.spm"):
        (tmp_path / "old" / side).write_bytes(before)
    pieces = translation.sentencepiece.SentencePieceProcessor(model_proto=before)
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    (tmp_path / "old" / "vocab.json").write_text(json.dumps(vocabulary))
    old = translation.new_model(translation.MarianTokenizer.from_pretrained(tmp_path / "old"))
    old.save_pretrained(tmp_path / "old")
    tokenizer = translation.complete_vocabulary(before, rows, ["en", "fr"], tmp_path)
    grown = translation.grown_model(tmp_path / "old", tokenizer)
    assert grown.config.vocab_size == tokenizer.vocab_size == grown.final_logits_bias.shape[-1]
    assert grown.lm_head.weight.data_ptr() == grown.model.shared.weight.data_ptr()
    ids = tokenizer("the cat sees Tom", return_tensors="pt").input_ids
    with torch.inference_mode():
        one, other = (
            model.eval()(input_ids=ids, decoder_input_ids=ids).logits
            for model in (old.to(torch.float32), grown)
        )
    assert torch.allclose(one, other[..., : one.shape[-1]], atol=1e-5)
    new = grown.model.shared.weight[one.shape[-1] :]
    assert new.isfinite().all() and len({tuple(row) for row in new.tolist()}) == len(new)


PLAIN_PAIRS = [
    ("Tom sees three dogs and a cat.", "Tom voit trois chiens et un chat."),
    ('He said, "Good."', "Il dit : « Bon. »"),
    ("A man is sitting here.", "Un homme est assis ici."),
    ("The dog or the cat?", "Le chien ou le chat ?"),
    ("Mary doesn't see the dog!", "Marie ne voit pas le chien !"),
] * 20


def contents(text):
    """What both sides must have alike: digits, marks that are no end of a sentence, whatever is copied."""
    return sorted(re.findall(r"\d+|[()\[\]{}<>|&+/@#$%€£°_~`*“”‘\"^]|[–—]", text))


@pytest.mark.parametrize("french_first", [False, True])
def test_varied_pairs_stay_parallel_and_differ(french_first):
    vary = variations.Varied(PLAIN_PAIRS, 0, ["Okonkwo", "Zoltan"], french_first)
    made = [vary(*pair) for pair in PLAIN_PAIRS * 30]
    for english, french in made:
        guillemets = str.maketrans({"«": "“", "»": "”"} if french_first else {})
        alike = contents(english), contents(french.translate(guillemets))
        assert alike[0] == alike[1], (english, french)
    assert len(set(made)) > len(made) / 3
    everything = "".join(english for english, _ in made)
    for wanted in '()[]“”‘’"&%$€:;–#+/°0123456789':
        assert wanted in everything
    assert "Okonkwo" in everything and "Zoltan" in everything
    assert any(english.split()[0] == "a" for english, _ in made), "some begin with a small letter"
    assert any(english[-1].isalpha() for english, _ in made), "some have no last mark"
    vary.random.seed(5)
    first = [vary(*pair) for pair in PLAIN_PAIRS]
    vary.random.seed(5)
    assert first == [vary(*pair) for pair in PLAIN_PAIRS]


def test_words_that_are_each_others_translation_are_found(data):
    pairs = read_pairs(data / "en-fr" / "train.tsv")
    found = variations.anchors(pairs)
    assert found == {"cat": "chat", "dog": "chien", "house": "maison", "sees": "voit", "tom": "tom"}
    assert variations.anchors(pairs[:9]) == {}, "what is rare is not known"


def test_rare_names_are_those_of_people(tmp_path):
    assert variations.rare_names(tmp_path) == []
    (tmp_path / "ner").mkdir()
    row = {"tokens": ["Okonkwo", "saw", "Rome", "McX"], "tags": ["B-PER", "O", "B-LOC", "I-PER"]}
    with gzip.open(tmp_path / "ner" / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    assert variations.rare_names(tmp_path) == ["Okonkwo"]


# Sentiment


def test_the_calibration_error_of_logits_that_are_too_sure_is_large():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 2, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    honest, too_sure = (sentiment.calibration_error(one, labels) for one in (logits, 3 * logits))
    assert honest < 0.03 < too_sure


@pytest.fixture
def quick(monkeypatch):
    for script in (sentiment, entailment, masked, teacher):
        monkeypatch.setattr(script, "BATCH", 16)
        monkeypatch.setattr(script, "WARMUP", 1)


def merged(starter_cache, out, to, kind):
    wheels.merge_adapter(wheels.location(wheels.MINILM, starter_cache), out, to)
    return AutoTokenizer.from_pretrained(to), kind.from_pretrained(to, dtype=torch.float32)


def test_sentiment_trains_and_merges_into_a_classifier(
    data, tmp_path, monkeypatch, starter_cache, quick, capsys
):
    out = tmp_path / "out"
    call(monkeypatch, sentiment, data, out, "--epochs", "8")
    assert "calibration error" in capsys.readouterr().out
    tokenizer, model = merged(starter_cache, out, tmp_path / "merged", AutoModelForSequenceClassification)
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    with torch.inference_mode():
        inputs = tokenizer(["a lovely film", "a dull film"], return_tensors="pt")
        assert model(**inputs).logits.argmax(-1).tolist() == [1, 0]
    assert json.loads((out / "curve.json").read_text())[-1]["accuracy"] > 0.9
    call(monkeypatch, sentiment, data, out, "--epochs", "1", "--scratch")
    assert "accuracy" in json.loads((out / "scratch.json").read_text())[-1]
    assert not [path for path in out.iterdir() if path.is_dir()]


def test_the_loss_is_least_where_the_answer_is_what_the_teachers_say(monkeypatch):
    def loss(positive, said):
        logits = torch.tensor([[0.0, np.log(said / (1 - said))]])
        monkeypatch.setattr(sentiment, "logits_of", lambda model, tokenizer, texts: logits)
        model = type("Model", (), {"device": torch.device("cpu")})
        return sentiment.loss_of(model, None, [("a film", positive)], 0.0).item()

    assert loss(0.7, 0.6) > loss(0.7, 0.7) < loss(0.7, 0.8)
    assert loss(0.7, 0.6) == pytest.approx(-0.7 * np.log(0.6) - 0.3 * np.log(0.4))


def test_teachers_label_the_phrases_and_new_ones_for_the_next_starter(
    data, tmp_path, monkeypatch, starter_cache, quick, capsys
):
    first, labels, out = tmp_path / "first", tmp_path / "labels", tmp_path / "out"
    call(monkeypatch, sentiment, data, first, "--epochs", "8")
    monkeypatch.setattr(teacher, "SHORTEST", 4)
    call(
        monkeypatch,
        teacher,
        data,
        labels,
        "--first",
        str(first),
        "--steps",
        "6",
        "--redrawn",
        "40",
        "--everyday",
        "9",
    )
    assert "teacher on dev: accuracy" in capsys.readouterr().out
    given = sentiment.labelled(data / "sentiment" / "train.tsv")
    soft = sentiment.labelled(labels / "soft.tsv")
    assert [text for text, _ in soft[: len(given)]] == [text for text, _ in given]
    # One half is the label, the other what the teacher says of it.
    for (_, label), (_, share) in zip(given, soft, strict=False):
        assert label / 2 - 0.02 < share < label / 2 + 0.52
    fresh = {text for text, _ in soft[len(given) :]}
    assert 20 < len(fresh) <= 49 and fresh.isdisjoint(text for text, _ in given)
    sentences = {english.lower() for english, _ in read_pairs(data / "en-fr" / "train.tsv")}
    assert len(fresh & sentences) == 9
    assert all(0 < share < 1 for _, share in soft)
    assert not (labels / "work").exists()
    asked = ("--epochs", "4", "--soft", str(labels / "soft.tsv"))
    call(monkeypatch, sentiment, data, out, *asked)
    assert json.loads((out / "curve.json").read_text())[-1]["accuracy"] > 0.9

    # Its weights, those after a few steps more, and the mean of both.
    def weights(folder):
        return load_file(folder / "adapter_model.safetensors")

    ended = {}
    kept = sentiment.averaged

    def seen(mean, now):
        ended["now"] = {name: weight.detach().clone() for name, weight in now.items()}
        return kept(mean, now)

    monkeypatch.setattr(sentiment, "averaged", seen)
    call(monkeypatch, sentiment, data, tmp_path / "mean", *asked, "--more", "3")
    before, mean = weights(out), weights(tmp_path / "mean")
    after = {
        re.sub(r"\.default|\.modules_to_save", "", name): weight for name, weight in ended["now"].items()
    }
    assert set(before) == set(mean) == set(after)
    for name, weight in mean.items():
        assert weight.float() == pytest.approx((before[name].float() + after[name]) / 2, abs=1e-3)
    assert any(not torch.equal(before[name].float(), after[name]) for name in before)
    short, long = (json.loads((folder / "curve.json").read_text()) for folder in (out, tmp_path / "mean"))
    steps = [point["step"] for point in long]
    assert steps == sorted(steps) and steps[-1] == short[-1]["step"] + 3


def test_a_redrawn_phrase_keeps_most_of_its_words(starter_cache):
    folder, tokenizer = common.encoder()
    filler = teacher.taught(AutoModelForMaskedLM.from_pretrained(folder), teacher.FILLER)
    text = "the story is long and the actors are good in it"
    new = teacher.redrawn(filler, tokenizer, [text] * 30, seed=0)
    assert new == teacher.redrawn(filler, tokenizer, [text] * 30, seed=0)
    kept = [sum(a == b for a, b in zip(text.split(), one.split(), strict=False)) for one in new]
    assert len(set(new)) > 20 and 5 < np.mean(kept) < 10.5


def test_entailment_trains_and_merges_into_a_classifier(
    data, tmp_path, monkeypatch, starter_cache, quick, capsys
):
    out = tmp_path / "out"
    call(monkeypatch, entailment, data, out, "--epochs", "8")
    said = capsys.readouterr().out
    assert "accuracy on 24 pairs of dev: 1.0000" in said
    assert re.search(r"zero-shot accuracy on few: (0\.0|0\.5|1\.0)000", said)
    tokenizer, model = merged(starter_cache, out, tmp_path / "merged", AutoModelForSequenceClassification)
    with torch.inference_mode():
        inputs = tokenizer(
            [r["premise"] for r in NLI], [r["hypothesis"] for r in NLI], padding=True, return_tensors="pt"
        )
        found = model(**inputs).logits.argmax(-1).tolist()
    assert [model.config.id2label[one] for one in found] == [row["label"] for row in NLI]


def test_a_text_gets_the_label_that_it_entails_most(tmp_path, monkeypatch):
    said = {"sun": "sun", "rain": "rain", "snow": "rain"}
    write(tmp_path / "few.jsonl", [json.dumps({"text": one, "label": one}) for one in said])

    def logits(model, tokenizer, rows):
        return torch.tensor([[5.0, 0.0, float(said[text] in sentence)] for text, sentence, _ in rows])

    monkeypatch.setattr(entailment, "logits_of", logits)
    assert entailment.zero_shot_accuracy(None, None, tmp_path / "few.jsonl") == pytest.approx(2 / 3)


def test_the_gap_filler_trains_and_merges_into_a_masked_model(
    data, tmp_path, monkeypatch, starter_cache, quick, capsys
):
    out = tmp_path / "out"
    call(monkeypatch, masked, data, out)
    assert "top-5" in capsys.readouterr().out
    tokenizer, model = merged(starter_cache, out, tmp_path / "merged", AutoModelForMaskedLM)
    assert torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    inputs = tokenizer("the cat sees the [MASK]", return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[0, inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
    known = [tokenizer.convert_tokens_to_ids(word) for word in ("cat", "dog", "house")]
    assert logits[known].mean() > logits.mean()
