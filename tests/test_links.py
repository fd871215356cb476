"""Links to a tab as it is filled in: what is in them, and what is taken from those that others made."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.page import linking
from components.page.links import LONGEST, MOST, Parameter, decode, encode

TEXT, FLAG = Parameter("text", "Text"), Parameter("flag", "Several labels may be right")
COUNT = Parameter("number", "Top-k", least=1, most=20, step=1, whole=True)
SHARE = Parameter("number", "Top-p", least=0.05, most=1, step=0.05)
SEED = Parameter("number", "Seed", whole=True)
MODE = Parameter("choice", "Mode", ("completion", "chat"))
LAYER = Parameter("choice", "Layer", ("mean", 1, 2))
CHECKPOINT = Parameter("choice", "Checkpoint", ("auto", "course"), free=True)
STARTERS = Parameter("choices", "Tokenizers of", ("Sentiment", "Translation"))
PICTURE = Parameter("media", "Picture")
ALL = {
    "text": TEXT,
    "multi_label": FLAG,
    "top_k": COUNT,
    "top_p": SHARE,
    "seed": SEED,
    "mode": MODE,
    "layer": LAYER,
    "checkpoint": CHECKPOINT,
    "starters": STARTERS,
    "image": PICTURE,
}
# Characters that a text box may hold: no control characters but line and tab, no halves of characters.
WRITTEN = st.text(
    st.one_of(st.characters(exclude_categories=("Cs", "Cc")), st.sampled_from("\n\t&=?#%+<>\"'é漢🤗")),
    max_size=200,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": WRITTEN,
    "multi_label": st.booleans(),
    "top_k": st.integers(1, 20),
    "top_p": st.integers(1, 20).map(lambda n: round(n * 0.05, 10)),
    "seed": st.integers(-(2**53), 2**53),
    "mode": st.sampled_from(MODE.known),
    "layer": st.sampled_from(LAYER.known),
    "checkpoint": st.from_regex(
        r"[A-Za-z0-9._-]{1,40}/[A-Za-z0-9._-]{1,40}(@[a-z0-9]{1,12})?", fullmatch=True
    ),
    "starters": st.sets(st.sampled_from(STARTERS.known)).map(
        lambda some: [one for one in STARTERS.known if one in some]
    ),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_written_is_read(values):
    query, left_out = encode("generation", ALL, values)
    assert left_out == ()
    assert decode(query, ALL) == values
    assert ("tab", "generation") in parse_qsl(query[1:])


@given(st.dictionaries(st.sampled_from([*ALL, "unknown", "tab"]), st.text(max_size=60)))
def test_any_query_is_read_without_an_error(pairs):
    for name, value in decode("?" + urlencode(pairs, errors="replace"), ALL).items():
        check(name, value)


@given(st.text(max_size=300))
def test_no_text_is_too_odd_to_be_a_query(query):
    for name, value in decode(query, ALL).items():
        check(name, value)


def check(name: str, value: Any) -> None:
    """A value that was read may stand in its component."""
    if name == "text":
        assert isinstance(value, str)
        assert len(value) <= LONGEST
        assert not any(ord(character) < 32 and character not in "\n\t" for character in value)
    elif name == "multi_label":
        assert isinstance(value, bool)
    elif name == "top_k":
        assert value in range(1, 21)
        assert isinstance(value, int)
    elif name == "top_p":
        assert 0.05 <= value <= 1
        assert round(value / 0.05, 6).is_integer()
    elif name == "seed":
        assert isinstance(value, int)
    elif name in ("mode", "layer"):
        assert value in ALL[name].known
    elif name == "checkpoint":
        assert isinstance(value, str)
        assert value.isprintable()
    else:
        assert name == "starters"
        assert set(value) <= set(STARTERS.known)


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("?top_k=7", {"top_k": 7}),
        ("top_k=7", {"top_k": 7}),
        ("?top_k=900", {"top_k": 20}),
        ("?top_k=-3", {"top_k": 1}),
        ("?top_k=7.6", {"top_k": 8}),
        ("?top_k=seven", {}),
        ("?top_k=nan", {}),
        ("?top_k=1e999", {}),
        ("?top_k=", {}),
        ("?top_p=0.33", {"top_p": 0.35}),
        ("?seed=1e300", {"seed": 2**53}),
        ("?mode=chat", {"mode": "chat"}),
        ("?mode=Chat", {}),
        ("?layer=2", {"layer": 2}),
        ("?multi_label=maybe", {}),
        ("?multi_label=1", {"multi_label": True}),
        ("?starters=Sentiment&starters=Speech", {"starters": ["Sentiment"]}),
        ("?starters=Speech", {}),
        ("?starters=", {"starters": []}),
        ("?checkpoint=owner/name", {"checkpoint": "owner/name"}),
        ("?checkpoint=a%0Ab", {}),
        ("?image=/etc/passwd", {}),
        ("?text=a&text=b", {"text": "b"}),
        ("?text=a%00b%1B", {"text": "ab"}),
        ("?text=a%0D%0Ab", {"text": "a\nb"}),
        ("?text=%FF", {"text": "\ufffd"}),
        ("?text=" + "a" * (LONGEST + 1), {}),
        ("?tab=sentiment&nothing=1", {}),
        ("?" + "&".join("text=a" for _ in range(500)), {}),
        ("", {}),
    ],
)
def test_a_bad_value_is_ignored_and_a_number_is_moved_into_its_range(query, read):
    assert decode(query, ALL) == read


def test_what_is_long_and_media_are_left_out_and_named():
    query, left_out = encode("image", ALL, {"text": "a" * (LONGEST + 1), "image": "/tmp/x.png", "top_k": 5})
    assert query == "?tab=image&top_k=5"
    assert left_out == ("Text", "Picture")


def test_what_is_not_there_is_not_missed():
    assert encode("image", ALL, {"image": None, "text": None, "top_k": None}) == ("?tab=image", ())


def test_a_link_stays_short_enough_for_proxies():
    wide = {"text": TEXT, "more": Parameter("text", "More")}
    query, left_out = encode("sentiment", wide, {"text": "漢" * 500, "more": "字" * 400})
    assert len(query) <= MOST
    assert left_out == ("Text",)
    assert decode(query, wide) == {"more": "字" * 400}


def test_halves_of_characters_do_no_harm():
    query, _ = encode("sentiment", ALL, {"text": "a\ud800b"})
    assert decode(query, ALL) == {"text": "a?b"}


@pytest.mark.parametrize("name", ["tab", "view", "page", "deep_link", "__theme"])
def test_names_that_mean_something_else_are_refused(name):
    with pytest.raises(ValueError, match=name):
        encode("sentiment", {name: TEXT}, {name: "x"})


def test_components_say_what_a_link_may_give_them():
    slider = linking.parameter(gr.Slider(0.5, 2, 1, step=0.05, label="Repetition penalty"))
    assert slider == Parameter("number", "Repetition penalty", least=0.5, most=2, step=0.05)
    assert linking.parameter(gr.Slider(1, 512, 40, step=1)).whole
    assert linking.parameter(gr.Number(0, precision=0, label="Seed")) == SEED
    assert linking.parameter(gr.Textbox(label="Text")) == TEXT
    assert linking.parameter(gr.Radio(["completion", "chat"], label="Mode")) == MODE
    assert (
        linking.parameter(gr.CheckboxGroup(["Sentiment", "Translation"], label="Tokenizers of")) == STARTERS
    )
    dropdown = gr.Dropdown(
        [("Automatic", "auto"), ("Course: x", "course")], label="Checkpoint", allow_custom_value=True
    )
    assert linking.parameter(dropdown) == CHECKPOINT
    assert linking.parameter(gr.Checkbox(label="Several labels may be right")) == FLAG
    assert linking.parameter(gr.Image(label="Picture")) == PICTURE
