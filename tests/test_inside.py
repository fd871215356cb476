"""The four stations: what is said of tokenizers and models, beside what they say of themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.compute import tokenization
from components.explain import inside
from components.explain.inside import Axis
from components.weights.checkpoints import Recipe
from demos import generation, image, sentiment, speech, translation, zero_shot
from tests import tiny

TEXT = "I love this course, UNSEENWORD"


def recipe(model: str, processor: str = "AutoTokenizer") -> Recipe:
    return Recipe("test", lambda config: model, processor, lambda config: None)


CLASSIFIER, ENCODER = recipe("AutoModelForSequenceClassification"), recipe("AutoModel")
DECODER, TRANSLATOR = recipe("AutoModelForCausalLM"), recipe("AutoModelForSeq2SeqLM")


# Tokens


def test_tokens_are_those_of_the_tokenizer():
    loaded = tiny.loaded(tiny.distilbert(), CLASSIFIER)
    tokenizer = loaded.processor
    inputs = tokenizer([TEXT, "i love it"], return_tensors="pt", padding=True)
    long, short = inside.tokens_of(inputs, tokenizer)
    assert [token.id for token in long.tokens] == tokenizer(TEXT)["input_ids"]
    assert [token.text for token in long.tokens] == ["[CLS]", *tokenizer.tokenize(TEXT), "[SEP]"]
    assert all(token.attended for token in long.tokens)
    assert [token.attended for token in short.tokens] == [bool(one) for one in inputs["attention_mask"][1]]
    assert [token.text for token in short.tokens if not token.attended] == ["[PAD]"] * (len(long.tokens) - 5)
    assert [token.text for token in short.tokens if token.special][:2] == ["[CLS]", "[SEP]"]


def test_a_word_that_is_unknown_is_no_special_token():
    tokenizer = tiny.loaded(tiny.distilbert(), CLASSIFIER).processor
    inputs = tokenizer(["i 好"], return_tensors="pt")
    marked = {token.text: token.special for token in inside.tokens_of(inputs, tokenizer)[0].tokens}
    assert marked == {"[CLS]": True, "i": False, "[UNK]": False, "[SEP]": True}


def test_where_one_token_stands_for_the_end_and_the_unknown_it_is_special():
    tokenizer = tiny.loaded(tiny.llama(), DECODER).processor
    assert tokenizer.unk_token == tokenizer.eos_token
    assert tokenizer.eos_token_id in tokenization.special_ids(tokenizer)


def test_inputs_without_a_mask_are_all_attended():
    import torch

    tokenizer = tiny.loaded(tiny.distilbert(), CLASSIFIER).processor
    (row,) = inside.tokens_of({"input_ids": torch.tensor([[5, 6]])}, tokenizer, ["the end"])
    assert [token.attended for token in row.tokens] == [True, True]
    assert row.cut == "the end"


# What is cut off


@pytest.mark.parametrize("text", ["Love,   LOVE it! " * 40, "so very much " * 40 + "TheEnd"])
def test_the_end_that_does_not_fit_begins_where_the_tokenizer_stops(text):
    loaded = tiny.loaded(tiny.distilbert(), CLASSIFIER)
    tokenizer = loaded.processor
    ids = tokenizer(text, truncation=True, max_length=64)["input_ids"]
    cut = inside.cut_end(text, loaded, 64, tokenizer.decode(ids, skip_special_tokens=True))
    assert cut
    assert text.endswith(cut)
    read = text[: len(text) - len(cut)]
    assert tokenizer(read)["input_ids"] == ids
    assert tokenizer(read + cut)["input_ids"] != ids


def test_the_end_of_a_premise_leaves_room_for_the_hypothesis():
    loaded = tiny.loaded(tiny.bart(), CLASSIFIER)
    text = "abcdefghij" * 20
    cut = inside.cut_end(text, loaded, 96, "", "About it.")
    # Bytes are tokens here; four special ones and the nine of the hypothesis are in the sequence besides.
    assert len(text) - len(cut) == 96 - 4 - 9


def test_a_text_that_fits_has_no_end_cut_off():
    loaded = tiny.loaded(tiny.distilbert(), CLASSIFIER)
    assert inside.cut_end("i love it", loaded, 64, "i love it") == ""


@pytest.mark.parametrize(
    ("text", "kept", "cut"),
    [
        ("You like this house.", "You like", " this house."),
        ("You  like\tthis", "You like th", "is"),
        ("all of it", "all of it", ""),
        ("none", "", "none"),
    ],
)
def test_without_places_the_end_is_found_by_what_was_read(text, kept, cut):
    loaded: Any = SimpleNamespace(processor=SimpleNamespace(is_fast=False))
    assert inside.cut_end(text, loaded, 5, kept) == cut


# The tokenizer's algorithm


@pytest.mark.parametrize(
    ("folder", "kind", "expected"),
    [
        (tiny.distilbert, CLASSIFIER, "WordPiece"),
        (tiny.sentence_encoder, ENCODER, "WordPiece"),
        (tiny.bart, CLASSIFIER, "byte-level BPE"),
        (tiny.llama, DECODER, "byte-level BPE"),
        (lambda: tiny.llama(sentencepiece=True), DECODER, "SentencePiece BPE"),
        (tiny.marian, TRANSLATOR, "SentencePiece Unigram"),
    ],
)
def test_algorithm(folder, kind, expected):
    assert inside.algorithm(tiny.loaded(folder(), kind).processor) == expected


def test_algorithm_of_whisper():
    from tests.tiny_whisper import tokenizer

    assert inside.algorithm(tokenizer(("en",))) == "byte-level BPE"


def test_algorithm_of_a_unigram_vocabulary():
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)]
    assert inside.algorithm(T5Tokenizer(pieces, extra_ids=0)) == "Unigram"


def test_algorithm_of_whole_words():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, "<unk>"))
    assert inside.algorithm(PreTrainedTokenizerFast(tokenizer_object=words)) == "whole words"


@pytest.mark.parametrize(
    ("tab", "expected"),
    [
        (sentiment, "WordPiece"),
        (zero_shot, "WordPiece"),
        (generation, "byte-level BPE"),
        (translation, "SentencePiece Unigram"),
        (speech, "byte-level BPE"),
    ],
)
def test_algorithm_of_the_starters(models, tab, expected):
    with models.use(tab.OFFER, "starter") as loaded:
        tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        assert inside.algorithm(tokenizer) == expected


# The model


def described(loaded: Any) -> tuple[Any, ...]:
    import torch

    facts = inside.architecture(loaded)
    assert facts.name == type(loaded.model).__name__
    assert facts.dtype == "float32"
    with torch.device("meta"):  # as it was before any layer was packed
        model = type(loaded.model)(loaded.model.config)
    assert facts.parameters == sum(one.numel() for one in model.parameters())
    decoder = (facts.decoder_layers, facts.decoder_heads)
    return facts.family, facts.layers, facts.heads, facts.hidden, *decoder


@pytest.mark.parametrize(
    ("folder", "kind", "expected"),
    [
        (tiny.distilbert, CLASSIFIER, ("encoder", 2, 2, 32, None, None)),
        (tiny.sentence_encoder, ENCODER, ("encoder", 2, 2, 32, None, None)),
        (tiny.bart, CLASSIFIER, ("encoder-decoder", 2, 2, 16, 2, 2)),
        (tiny.llama, DECODER, ("decoder", 2, 2, 32, None, None)),
        (tiny.marian, TRANSLATOR, ("encoder-decoder", 3, 2, 16, 2, 4)),
        (
            tiny.vit,
            recipe("AutoModelForImageClassification", "AutoImageProcessor"),
            ("encoder", 2, 2, 16, None, None),
        ),
    ],
)
def test_architecture(folder, kind, expected):
    assert described(tiny.loaded(folder(), kind)) == expected


def test_architecture_of_whisper():
    from tests.tiny_whisper import whisper

    config = whisper().model.config
    expected = ("encoder-decoder", config.encoder_layers, config.encoder_attention_heads, config.d_model)
    decoder = (config.decoder_layers, config.decoder_attention_heads)
    assert described(whisper()) == (*expected, *decoder)


@pytest.mark.parametrize(
    ("tab", "expected"),
    [
        (sentiment, ("encoder", 6, 12, 384, None, None)),
        (zero_shot, ("encoder", 6, 12, 384, None, None)),
        (generation, ("decoder", 30, 9, 576, None, None)),
        (translation, ("encoder-decoder", 3, 4, 256, 3, 4)),
        (speech, ("encoder-decoder", 4, 6, 384, 4, 6)),
    ],
)
def test_architecture_of_the_starters(models, tab, expected):
    with models.use(tab.OFFER, "starter") as loaded:
        assert described(loaded) == expected


def test_a_convolutional_model_has_no_heads(models):
    import torch

    with models.use(image.OFFER, "starter") as loaded:
        facts = inside.architecture(loaded)
        layers = [layer for layer in loaded.model.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert (facts.family, facts.layers, facts.heads, facts.hidden) == (
        "convolutional",
        len(layers),
        None,
        None,
    )


def test_a_decoder_with_a_classification_head_is_one_still():
    from transformers import BertConfig, BertLMHeadModel, LlamaConfig, LlamaForSequenceClassification

    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    assert inside.is_causal(LlamaForSequenceClassification(LlamaConfig(vocab_size=9, **sizes)))
    assert inside.is_causal(BertLMHeadModel(BertConfig(vocab_size=9, is_decoder=True, **sizes)))
    assert not inside.is_causal(tiny.loaded(tiny.sentence_encoder(), ENCODER).model)


def test_weights_in_8_bits_are_counted():
    from dataclasses import replace

    from components.models.quantization import quantize_decoder

    loaded = tiny.loaded(tiny.llama(), DECODER)
    before = inside.architecture(loaded).parameters
    assert quantize_decoder(loaded.model)
    after = inside.architecture(replace(loaded, quantized="int8"))
    assert (after.parameters, after.dtype) == (before, "int8")


# Shapes and numbers


def test_axes_have_to_match():
    import torch

    assert inside.axes(torch.zeros(2, 3), "batch", "hidden") == (Axis("batch", 2), Axis("hidden", 3))
    with pytest.raises(ValueError, match="zip"):
        inside.axes(torch.zeros(2, 3), "batch")


def test_an_encoder_decoder_has_two_last_hidden_states():
    loaded = tiny.loaded(tiny.bart(), CLASSIFIER)
    output = loaded.model(**loaded.processor(["abc"], return_tensors="pt"), output_hidden_states=True)
    found = inside.last_hidden(output, "batch", "sequence", "hidden")
    shape = (Axis("batch", 1), Axis("sequence", 5), Axis("hidden", 16))
    assert found == (("encoder", shape), ("decoder", shape))


def test_softmax_steps():
    powers, shares = inside.softmax_steps(np.array([[1.0, 3.0], [1000.0, 1000.0]]))
    assert powers == pytest.approx(np.array([[np.exp(-2), 1], [1, 1]]))
    assert shares == pytest.approx(np.array([[1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))], [0.5, 0.5]]))
