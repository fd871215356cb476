"""What looks like a control token in a text is text, in every tab and in every program."""

from __future__ import annotations

from typing import Any

import pytest

from components.compute import tokenization
from components.explain import snippets
from components.models.control import control_tokens, keep_as_text
from components.weights import causal
from components.weights.checkpoints import Checkpoint, Hub
from demos import generation, masked, sentiment, tokenizers, translation, zero_shot
from tests import tiny

TYPED = [
    "a good [SEP] film",
    "[CLS] good [PAD][UNK]",
    "good</s>bad",
    "<s>i love it</s> <pad>",
    "one <|endoftext|> two",
    "[MASK] [mask]",
]
TOKENIZERS = {
    "WordPiece": (tiny.distilbert, sentiment.RECIPE),
    "pairs": (tiny.bart, zero_shot.RECIPE),
    "bytes": (tiny.llama, causal.RECIPE),
    "SentencePiece": (tiny.marian, translation.RECIPE),
}


def read(kind: str) -> Any:
    make, recipe = TOKENIZERS[kind]
    return tiny.loaded(make(), recipe)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TYPED)
def test_a_loaded_tokenizer_keeps_as_text_what_is_typed(kind, text):
    tokenizer = read(kind).processor
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    unknown = {tokenizer.unk_token_id}
    assert not set(ids) & (set(tokenizer.all_special_ids) - unknown)
    around = tokenizer("x")["input_ids"]
    assert len(tokenizer(text)["input_ids"]) - len(ids) == len(around) - len(
        tokenizer("x", add_special_tokens=False)["input_ids"]
    ), "its own are put around a text as ever"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_looks_like_a_control_token_is_found(kind):
    tokenizer = read(kind).processor
    for token in tokenizer.all_special_tokens:
        assert control_tokens(f"so {token}!", tokenizer) == (token,)
    assert control_tokens("nothing [of] <that> kind", tokenizer) == ()


def test_a_separator_in_a_text_is_read_with_the_rest():
    models = tiny.manager(tiny.distilbert())
    loaded = read("WordPiece")
    typed, plain = "i love this [SEP] i hate that", "i love this"
    (encoding,), _ = tokenization.tokenized([typed], loaded, 64)
    ids = encoding["input_ids"]
    assert ids.count(loaded.processor.sep_token_id) == 1 and ids[-1] == loaded.processor.sep_token_id
    assert sentiment.run(typed, "auto", models).rows[0].scores != sentiment.run(plain, "auto", models).rows[0]


@pytest.mark.parametrize("text", ["i love [SEP] this", "[CLS] hate", "so </s> so"])
def test_programs_keep_it_as_text_too(text):
    from tests.test_snippets import at, labelled, ran

    folder = tiny.distilbert()
    models, loaded = tiny.manager(folder), read("WordPiece")
    result = sentiment.run(text, "auto", models)
    program = sentiment.code(sentiment.Ran((text,), "auto"), models, False)
    typed = bool(control_tokens(text, loaded.processor))
    assert ("split_special_tokens=True" in program) == typed
    where = snippets.replace(at(loaded), control=typed)
    (row,) = labelled(ran(snippets.sentiment(where, [text], limit=64, sigmoid=False)))
    assert dict(result.rows[0].scores) == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("prompt", ["i <|endoftext|> you", "</s> so", "<s>"])
def test_a_completion_takes_it_as_text_and_so_does_its_program(prompt):
    from tests.test_snippets import at, ran

    folder = tiny.llama()
    models, loaded = tiny.manager(folder), read("bytes")
    request = generation.validate(prompt, 5, 1, temperature=0)
    *_, result = generation.run(request, "auto", models)
    assert result.ran and not set(result.ran.prompt[1:]) & set(loaded.processor.all_special_ids)
    program = generation.code(result.ran, models, False)
    assert ("split_special_tokens" in program) == bool(control_tokens(prompt, loaded.processor))
    where = snippets.replace(at(loaded), control=True)
    own = snippets.generation(where, prompt, 5, 1, request.sampling, positions=128, ends=[1])
    assert ran(own)["texts"] == list(result.sequences)


@pytest.mark.parametrize("label", ["[SEP]", "</s>", "<s>sport</s>"])
def test_labels_with_it_are_labels(label):
    models = tiny.manager(tiny.bart())
    scores = dict(zero_shot.run("a text", [label, "sport"], False, "It is {}.", "auto", models).scores)
    assert set(scores) == {label, "sport"}
    loaded = read("pairs")
    request = zero_shot.validate("a text", [label], "It is {}.", False)
    (pair,), _ = zero_shot.preprocess(request, loaded)
    (plain,), _ = zero_shot.preprocess(zero_shot.validate("a text", ["sport"], "It is {}.", False), loaded)
    end = loaded.processor.eos_token_id
    assert pair["input_ids"].count(end) == plain["input_ids"].count(end)


@pytest.mark.parametrize("text", ["a house </s> of <pad>", "</s>"])
def test_a_translation_reads_it_to_its_end(text):
    loaded = read("SentencePiece")
    (encoding,), _ = translation.preprocess([text], loaded)
    ids = encoding["input_ids"]
    assert ids.count(loaded.processor.eos_token_id) == 1 and ids[-1] == loaded.processor.eos_token_id


@pytest.mark.parametrize("make", [tiny.masked_distilbert, tiny.masked_roberta])
@pytest.mark.parametrize("before", ["i love [SEP] ", "[CLS] a ", "", "so </s>"])
@pytest.mark.parametrize("after", [" this", " [SEP] this [PAD]", "<s>."])
def test_of_a_text_with_a_gap_only_the_gap_is_a_mask(make, before, after):
    loaded = tiny.loaded(make(), masked.RECIPE)
    tokenizer = loaded.processor
    ids, place, kept = masked.preprocess_masked(before, after, loaded)
    plain, at, _ = masked.preprocess_masked("i love ", " this", loaded)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert ids[place] == plain[at] == tokenizer.mask_token_id and kept is None
    assert [one for one in ids if one in special] == [one for one in plain if one in special]
    how = {"add_special_tokens": False, "split_special_tokens": True}
    left, right = (tokenizer(side, **how)["input_ids"] for side in (before, after))
    if control_tokens(before + after, tokenizer):
        assert (ids[1:place], ids[place + 1 : -1]) == (left, right)


def test_tokenizers_show_special_tokens_and_say_so():
    checkpoint = Checkpoint("tiny", Hub("tiny/one"), tokenizers.RECIPE)
    ready = tokenizers.Ready(tokenizers.read(checkpoint, tiny.distilbert()), "WordPiece")
    found = tokenizers.through("i love [SEP] this", "tiny", ready)
    assert found.control == ("[SEP]",)
    assert [token.text for token in found.tokens.tokens if token.special] == ["[CLS]", "[SEP]", "[SEP]"]
    assert "stands in the text as [SEP] becomes" in tokenizers.draw_compared("i love [SEP] this", [found])
    plain = tokenizers.through("i love this", "tiny", ready)
    assert "stands in the text as" not in tokenizers.draw_compared("i love this", [plain])


def test_a_call_may_ask_for_control_tokens():
    tokenizer = keep_as_text(read("WordPiece").processor)
    with_control = tokenizer("[SEP]", add_special_tokens=False, split_special_tokens=False)["input_ids"]
    assert with_control == [tokenizer.sep_token_id]
    assert len(tokenizer("[SEP]", add_special_tokens=False)["input_ids"]) > 1, "and is asked anew each time"
