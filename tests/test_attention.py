"""Attention: hand-made weights, and what the views make of them."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest

from components.explain import attention
from components.explain.attention import (
    ALL_HEADS,
    ALL_LAYERS,
    LEFT_OUT,
    MEAN,
    MOST_DRAWN,
    RENORMALISED,
    SHOWN,
    Attention,
    View,
    look,
)
from components.show.attention_markup import words_panel

SOURCE = ("▁You", "▁like", "s", ".", "</s>")
TARGET = ("<pad>", "▁Tu", "▁aim", "es")
WORDS = ("You", "likes.")


def weights(layers: int, heads: int, queries: int, keys: int, causal: bool = False) -> np.ndarray:
    """Random rows that sum to 1, `[layers, heads, query, key]`."""
    made = np.random.default_rng(layers * heads).random((layers, heads, queries, keys)) + 0.1
    if causal:
        made = np.tril(made)
    return (made / made.sum(-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def example() -> Attention:
    return Attention(
        weights(3, 2, 5, 5),
        weights(2, 4, 4, 4, causal=True),
        weights(2, 4, 4, 5),
        SOURCE,
        TARGET,
        frozenset({"</s>", "<pad>"}),
    )


def long(source: int, target: int) -> Attention:
    """Tokens that are all words, and an end."""
    return Attention(
        weights(2, 2, source, source),
        weights(2, 2, target, target, causal=True),
        weights(2, 2, target, source),
        (*(f"▁s{i}" for i in range(source - 1)), "</s>"),
        ("<pad>", *(f"▁t{i}" for i in range(target - 1))),
        frozenset({"</s>", "<pad>"}),
    )


# Words


@pytest.mark.parametrize(
    ("tokens", "spans"),
    [
        (SOURCE, [(0, 1), (1, 4), (4, 5)]),
        (TARGET, [(0, 1), (1, 2), (2, 4)]),
        (("un", "▁a"), [(0, 1), (1, 2)]),
        ((">>fra<<", "▁a", "b"), [(0, 1), (1, 3)]),
        (("▁", "Y", "ou"), [(0, 3)]),
        (("<pad>", "a", "b"), [(0, 1), (1, 3)]),
        (("</s>",), [(0, 1)]),
        ((), []),
    ],
)
def test_words_begin_at_the_mark_and_special_tokens_stand_alone(tokens, spans):
    found = attention.words(tokens, {"</s>", "<pad>"})
    assert [(span.start, span.stop) for span in found] == spans


def test_merging_sums_over_keys_and_averages_over_queries():
    rows = np.array([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375], [0.25, 0.0, 0.75]])
    spans = (range(0, 1), range(1, 3))
    merged = attention.merge(rows, spans, spans)
    assert np.allclose(merged, [[0.5, 0.5], [0.1875, 0.8125]])
    assert np.allclose(merged.sum(-1), 1)


def test_merging_words_of_one_token_changes_nothing():
    rows = weights(2, 3, 4, 5)
    singles = [tuple(range(i, i + 1) for i in range(n)) for n in (4, 5)]
    assert np.array_equal(attention.merge(rows, *singles), rows)
    assert attention.merge(rows, *singles).dtype == np.float32


# Choosing


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("head", [1, 2])
def test_one_layer_and_one_head(example, layer, head):
    maps = look(example, View("encoder", layer, head, special=SHOWN))
    assert maps.which == ((layer, head),)
    assert np.array_equal(maps.weights, example.encoder[None, layer - 1, head - 1])
    assert attention.title(maps) == f"Encoder self-attention, layer {layer} of 3, head {head}"
    assert attention.names(maps) == (f"head {head}",)


def test_the_mean_of_heads(example):
    maps = look(example, View("cross", 2, MEAN, special=SHOWN))
    assert maps.which == ((2, None),)
    assert np.allclose(maps.weights[0], example.cross[1].mean(0))
    assert attention.title(maps) == "Cross-attention, layer 2 of 2, mean of heads"


def test_all_heads_of_a_layer(example):
    maps = look(example, View("cross", 1, ALL_HEADS, special=SHOWN))
    assert maps.which == ((1, 1), (1, 2), (1, 3), (1, 4))
    assert np.array_equal(maps.weights, example.cross[0])
    assert attention.names(maps) == ("head 1", "head 2", "head 3", "head 4")
    assert attention.title(maps) == "Cross-attention, layer 1 of 2, all heads"


def test_the_means_of_all_layers(example):
    maps = look(example, View("encoder", ALL_LAYERS, MEAN, special=SHOWN))
    assert maps.which == ((1, None), (2, None), (3, None))
    assert np.allclose(maps.weights, example.encoder.mean(1))
    assert attention.names(maps) == ("layer 1", "layer 2", "layer 3")
    assert attention.title(maps) == "Encoder self-attention, all layers, mean of heads"


def test_one_head_of_all_layers(example):
    maps = look(example, View("encoder", ALL_LAYERS, 2, special=SHOWN))
    assert np.array_equal(maps.weights, example.encoder[:, 1])
    assert attention.names(maps) == ("layer 1", "layer 2", "layer 3")


def test_all_heads_of_all_layers_a_layer_after_the_other(example):
    maps = look(example, View("cross", ALL_LAYERS, ALL_HEADS, special=SHOWN))
    assert np.array_equal(maps.weights, example.cross.reshape(8, 4, 5))
    assert attention.names(maps)[:5] == ("1.1", "1.2", "1.3", "1.4", "2.1")
    assert "2.3 is head 3 of layer 2" in attention.how_to_read(maps)


def test_a_layer_and_a_head_that_there_are_not_become_the_last(example):
    maps = look(example, View("cross", 3, 9, special=SHOWN))
    assert maps.which == ((2, 4),)
    assert np.array_equal(maps.weights[0], example.cross[1, 3])


@pytest.mark.parametrize(
    ("kind", "queries", "keys"),
    [("encoder", SOURCE, SOURCE), ("decoder", TARGET, TARGET), ("cross", TARGET, SOURCE)],
)
def test_each_kind_has_its_queries_and_keys(example, kind, queries, keys):
    maps = look(example, View(kind, 1, 1, special=SHOWN))
    assert maps.queries == tuple(token.replace("▁", "␣") for token in queries)
    assert maps.keys == tuple(token.replace("▁", "␣") for token in keys)
    sums = np.nansum(maps.weights, -1)
    assert np.allclose(sums, 1, atol=1e-4)


# Special tokens


def test_special_tokens_are_left_out_on_both_sides(example):
    maps = look(example, View("cross", 1, 1, special=LEFT_OUT))
    assert np.array_equal(maps.weights[0], example.cross[0, 0, 1:, :4])
    assert maps.queries == ("␣Tu", "␣aim", "es")
    assert maps.keys == ("␣You", "␣like", "s", ".")
    assert (maps.weights.sum(-1) < 0.999).all()
    assert "a row sums to less than 1" in attention.how_to_read(maps)


def test_renormalised_rows_sum_to_one_again(example):
    maps = look(example, View("cross", 1, 1, special=RENORMALISED))
    kept = example.cross[0, 0, 1:, :4]
    assert np.allclose(maps.weights[0], kept / kept.sum(-1, keepdims=True))
    assert "renormalised: divided by what remains" in attention.how_to_read(maps)


def test_a_row_that_gave_everything_to_special_tokens_stays_empty():
    rows = np.array([[0.0, 0.0, 1.0], [0.25, 0.25, 0.5]])
    kept = attention.left_out(rows, [0, 1], [0, 1], renormalise=True)
    assert np.array_equal(kept, [[0, 0], [0.5, 0.5]])


def test_special_tokens_shown_say_that_rows_sum_to_one(example):
    said = attention.how_to_read(look(example, View("encoder", 1, 1, special=SHOWN)))
    assert "Each row sums to 1." in said
    assert "left out" not in said


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_words_with_special_tokens_still_sum_to_one(example, kind):
    maps = look(example, View(kind, ALL_LAYERS, ALL_HEADS, words=True, special=SHOWN))
    assert np.allclose(np.nansum(maps.weights, -1), 1, atol=1e-4)
    assert "Subwords are merged into words" in attention.how_to_read(maps)


def test_words_without_special_tokens(example):
    maps = look(example, View("encoder", 1, 1, words=True))
    assert maps.queries == maps.keys == WORDS
    matrix = example.encoder[0, 0]
    expected = [
        [matrix[0, 0], matrix[0, 1:4].sum()],
        [matrix[1:4, 0].mean(), matrix[1:4, 1:4].sum(-1).mean()],
    ]
    assert np.allclose(maps.weights[0], expected)


def test_a_word_that_is_only_the_mark_is_seen():
    one = Attention(*(np.ones((1, 1, 1, 1), np.float32),) * 3, ("▁",), ("▁",), frozenset())
    for words in (False, True):
        assert look(one, View("encoder", 1, 1, words)).queries == ("␣",)


def test_tokens_for_bytes_become_the_characters_of_a_word():
    tokens = ("▁caf", "<0xC3>", "<0xA9>", "<0x3C>", "▁<0x", "<0xFF>")
    one = Attention(*(np.full((1, 1, 6, 6), 1 / 6, np.float32),) * 3, tokens, tokens, frozenset())
    assert look(one, View("encoder", 1, 1, words=True)).keys == ("café<", "<0x\ufffd")
    assert look(one, View("encoder", 1, 1)).keys[1] == "<0xC3>"


def test_nothing_but_special_tokens():
    one = Attention(
        *(np.ones((1, 1, 1, 1), np.float32),) * 3, ("</s>",), ("<pad>",), frozenset({"</s>", "<pad>"})
    )
    for special in attention.SPECIAL:
        for words in (False, True):
            for kind in attention.KINDS.values():
                maps = look(one, View(kind, 1, MEAN, words, special))
                assert maps.weights.shape == ((1, 1, 1) if special == SHOWN else (1, 0, 0))
    assert "all tokens here are special" in words_panel(look(one, View("cross", 1, MEAN)), "query:0")


# The causal triangle


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("special", attention.SPECIAL)
def test_what_the_decoder_cannot_see_is_blank_and_nothing_else(example, words, special):
    maps = look(example, View("decoder", 1, ALL_HEADS, words, special))
    size = len(maps.queries)
    masked = np.triu(np.ones((size, size), bool), 1)
    assert np.array_equal(np.isnan(maps.weights), np.broadcast_to(masked, maps.weights.shape))
    assert "Blank cells are not zeros" in attention.how_to_read(maps)


@pytest.mark.parametrize("kind", ["encoder", "cross"])
def test_nothing_is_blank_in_the_others(example, kind):
    maps = look(example, View(kind, ALL_LAYERS, ALL_HEADS))
    assert not np.isnan(maps.weights).any()
    assert "Blank" not in attention.how_to_read(maps)


# Long sentences


def test_a_short_sentence_is_whole(example):
    assert attention.first(example) is example
    assert attention.first(long(MOST_DRAWN, MOST_DRAWN)).left_off == (0, 0)


def test_of_a_long_sentence_the_first_tokens():
    whole = long(100, 90)
    cut = attention.first(whole)
    assert cut.left_off == (36, 26)
    assert cut.source_tokens == whole.source_tokens[:64]
    assert cut.target_tokens == whole.target_tokens[:64]
    assert np.array_equal(cut.encoder, whole.encoder[:, :, :64, :64])
    assert np.array_equal(cut.decoder, whole.decoder[:, :, :64, :64])
    assert np.array_equal(cut.cross, whole.cross[:, :, :64, :64])
    assert cut.encoder.base is None, "the large one can go"
    assert np.allclose(cut.decoder.sum(-1), 1), "these only look back"


@pytest.mark.parametrize(
    ("kind", "cut", "sums"),
    [
        ("encoder", "Only the first 64 of 100 source tokens", "Tokens beyond those drawn are left out"),
        ("decoder", "Only the first 64 of 90 translation tokens", "Each row sums to 1."),
        ("cross", "of 90 translation and 100 source tokens", "Tokens beyond those drawn are left out"),
    ],
)
def test_that_it_is_cut_is_said(kind, cut, sums):
    said = attention.how_to_read(look(attention.first(long(100, 90)), View(kind, 1, 1, special=SHOWN)))
    assert cut in said
    assert sums in said


def test_only_the_translation_is_long():
    said = attention.how_to_read(look(attention.first(long(10, 70)), View("cross", 1, 1, special=SHOWN)))
    assert "Only the first 64 of 70 translation tokens" in said
    assert "Each row sums to 1." in said


def test_rows_of_a_long_sentence_renormalised():
    maps = look(attention.first(long(100, 90)), View("cross", 1, 1, special=RENORMALISED))
    assert np.allclose(maps.weights.sum(-1), 1, atol=1e-4)
    assert "Special tokens and those beyond the ones drawn are left out" in attention.how_to_read(maps)


# One word


def test_where_a_word_looked_and_who_looked_at_one(example):
    maps = look(example, View("cross", ALL_LAYERS, MEAN, words=True))
    mean = maps.weights.mean(0)
    assert np.array_equal(attention.looked_at(maps, 1), mean[1])
    assert np.array_equal(attention.looked_by(maps, 0), mean[:, 0])


def chips(panel: str) -> list[tuple[str, str, str, str]]:
    """Of each button its name, whether it is pressed, its text and its number."""
    pattern = r'value="(\w+:\d+)" aria-pressed="(\w+)"[^>]*><b>(.*?)</b>(?:<small>(.*?)</small>)?'
    return re.findall(pattern, panel)


def test_a_query_that_is_pressed_shades_the_keys(example):
    maps = look(example, View("cross", 2, 3, words=True))
    panel = words_panel(maps, "query:1")
    row = attention.looked_at(maps, 1)
    assert chips(panel) == [
        ("query:0", "false", "Tu", ""),
        ("query:1", "true", "aimes", ""),
        ("key:0", "false", "You", f"{row[0]:.2f}"),
        ("key:1", "false", "likes.", f"{row[1]:.2f}"),
    ]
    assert f"“aimes” looked most at “likes.” {row[1]:.2f}" in panel
    assert panel.count("background: rgb(") == 2
    assert "background: rgb(253, 231, 37); color: #000" in panel, "the largest weight is the end of viridis"


def test_a_key_that_is_pressed_shades_the_queries(example):
    maps = look(example, View("cross", 2, 3, words=True))
    column = attention.looked_by(maps, 0)
    panel = words_panel(maps, "key:0")
    assert [chip[3] for chip in chips(panel)] == [f"{column[0]:.2f}", f"{column[1]:.2f}", "", ""]
    assert "“You” was looked at most by" in panel
    assert "they sum to anything" in panel


def test_what_followed_is_told_of_the_translation_only(example):
    assert "; then “aimes” was written." in words_panel(look(example, View("cross", 1, 1, True)), "query:0")
    assert "was written" not in words_panel(look(example, View("encoder", 1, 1, True)), "query:0")


def test_what_is_masked_has_no_number(example):
    maps = look(example, View("decoder", 1, 1, special=SHOWN))
    numbers = [chip[3] for chip in chips(words_panel(maps, "query:1"))]
    row = example.decoder[0, 0, 1]
    assert numbers == ["", "", "", "", f"{row[0]:.2f}", f"{row[1]:.2f}", "", ""]


@pytest.mark.parametrize("picked", ["query:9", "key:7", "other:1", "", "query:-1", "query:x"])
def test_a_button_that_there_is_not_becomes_the_first_query(example, picked):
    maps = look(example, View("cross", 1, 1, words=True))
    assert words_panel(maps, picked) == words_panel(maps, "query:0")


def test_markup_in_tokens_stays_text():
    tokens = ("▁<b>x</b>", "▁`${alert(1)}`")
    two = Attention(*(np.full((1, 1, 2, 2), 0.5, np.float32),) * 3, tokens, tokens, frozenset())
    panel = words_panel(look(two, View("encoder", 1, 1, words=True)), "query:0")
    assert "<b>x" not in panel
    assert "&lt;b&gt;x&lt;/b&gt;" in panel


def test_the_mean_of_several_maps_is_said(example):
    assert "The mean of the maps above." in words_panel(look(example, View("cross", 1, ALL_HEADS)), "query:0")
    assert "mean of the maps" not in words_panel(look(example, View("cross", 1, MEAN)), "query:0")


# The table


def test_the_table_has_a_row_for_each_query_of_each_map(example):
    maps = look(example, View("decoder", 2, ALL_HEADS, special=SHOWN))
    head, *rows = csv.reader(io.StringIO(attention.to_csv(maps)))
    assert head == ["layer", "head", "query", "<pad>", "␣Tu", "␣aim", "es"]
    assert len(rows) == 4 * 4
    assert [row[:3] for row in rows[:5]] == [
        ["2", "1", "<pad>"],
        ["2", "1", "␣Tu"],
        ["2", "1", "␣aim"],
        ["2", "1", "es"],
        ["2", "2", "<pad>"],
    ]
    assert rows[1][5:] == ["", ""], "masked cells are empty, not 0"
    assert [float(cell) for cell in rows[3][3:]] == pytest.approx(example.decoder[1, 0, 3].tolist(), abs=1e-6)


def test_the_table_of_a_mean_holds_no_formula():
    tokens = ("▁=1+1", "▁b")
    two = Attention(*(np.full((1, 1, 2, 2), 0.5, np.float32),) * 3, tokens, tokens, frozenset())
    table = attention.to_csv(look(two, View("encoder", 1, MEAN, words=True)))
    assert table.splitlines() == [
        "layer,head,query,'=1+1,b",
        "1,mean,'=1+1,0.500000,0.500000",
        "1,mean,b,0.500000,0.500000",
    ]
