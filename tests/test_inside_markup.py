"""What is inside, on the page: each number written out, and everything of others shown as text."""

from __future__ import annotations

import re

import numpy as np
import pytest

from components.explain.attribution import Attributions, Carried
from components.explain.inside import Architecture, Axis, Token, Tokens
from components.show import inside_markup as markup

EVIL = "<img src=x onerror=alert(1)>"


def row(*texts: str, cut: str = "") -> Tokens:
    return Tokens(tuple(Token(text, i) for i, text in enumerate(texts)), cut)


def cells(page: str) -> list[list[str]]:
    return [
        re.findall(r"<td>(.*?)</td>", one) for one in re.findall(r"<tr>(.*?)</tr>", page) if "<td>" in one
    ]


@pytest.mark.parametrize(
    ("token", "shown"),
    [("Ġlove", "␣love"), ("▁a", "␣a"), ("Ċ", "↵"), ("\n", "↵"), ("\t", "⇥"), ("", "∅"), ("##ly", "##ly")],
)
def test_marks_of_spaces_are_signs(token, shown):
    assert markup.readable(token) == shown


def test_chips_mark_special_tokens_padding_and_the_cut_end():
    tokens = (Token("[CLS]", 101, special=True), Token("love", 2293), Token("[PAD]", 0, True, attended=False))
    page = markup.token_chips([Tokens(tokens, "the rest")])
    first, second, third = re.findall(r'<span class="token ([^"]*)"', page)
    assert (first, second, third) == ("special", "", "special padding")
    assert "<small>2293</small>" in page
    assert "attention mask 0" in page
    assert "<del>the rest</del>" in page


def test_a_long_row_tells_how_many_more_there_are():
    page = markup.token_chips([row(*"x" * (markup.SHOWN + 7), cut="y" * 400)])
    assert page.count("<small>") == markup.SHOWN
    assert "and 7 more tokens" in page
    assert f"<del>{'y' * 300} …</del>" in page


def test_what_others_write_is_text():
    page = markup.token_chips([row(EVIL, cut=EVIL)]) + markup.sentence(EVIL) + markup.shape([Axis(EVIL, 1)])
    page += markup.logit_table([EVIL], [1.0]) + markup.compete_table([EVIL], np.array([1.0]), EVIL)
    page += markup.alone_table([EVIL], np.array([[1.0, 2.0]]), (EVIL, EVIL))
    page += markup.stations("", titles=[EVIL])
    page += markup.architecture_facts(Architecture(EVIL, "encoder", 1, 1, 1, 1, EVIL))
    assert "<img" not in page
    assert page.count("&lt;img") > 8


def test_facts():
    encoder = markup.architecture_facts(Architecture("Bert", "encoder", 6, 12, 384, 22713216, "float32"))
    assert "<dt>layers</dt><dd>6</dd>" in encoder
    assert "22,713,216" in encoder
    both = markup.architecture_facts(Architecture("Bart", "encoder-decoder", 12, 16, 1024, 1, "x", 6, 8))
    assert "<dd>12 in the encoder, 6 in the decoder</dd>" in both
    assert "<dd>16 in the encoder, 8 in the decoder</dd>" in both
    other = markup.architecture_facts(Architecture("Net", "convolutional", 49, None, None, 1, "x"))
    assert "<dt>convolutions</dt><dd>49</dd>" in other
    assert "heads" not in other


def test_shapes_name_their_axes():
    axes = [Axis("batch", 2), Axis("sequence", 16), Axis("hidden", 768)]
    page = markup.hidden_states(axes, "decoder")
    assert "[2, 16, 768]" in page
    assert "batch × sequence × hidden" in page
    assert "of its decoder" in page


def test_softmax_step_by_step():
    """The numbers of the course, chapter 2."""
    page = markup.to_probabilities_table(["NEGATIVE", "POSITIVE"], [-1.5607, 1.6123], [0.0402, 0.9598], False)
    assert cells(page) == [
        ["POSITIVE", "1", "1.6123", "1.0000", "0.9598"],
        ["NEGATIVE", "0", "-1.5607", "0.0419", "0.0402"],
    ]
    assert "1.6123, changes nothing" in page
    assert "sum to 1.0419" in page


def test_only_the_likeliest_of_many_labels():
    count = markup.MOST_LABELS + 3
    page = markup.to_probabilities_table([str(i) for i in range(count)], [0.0] * count, [0.1] * count, True)
    assert len(cells(page)) == markup.MOST_LABELS
    assert "and 3 more" in page


def test_labels_that_compete():
    page = markup.compete_table(["a", "b"], np.array([0.2, 0.1]), "cosine", 0.05)
    assert cells(page) == [
        ["a", "0.2000", "4.0000", "1.0000", "0.8808"],
        ["b", "0.1000", "2.0000", "0.1353", "0.1192"],
    ]
    assert "temperature of 0.05" in page
    assert "temperature" not in markup.compete_table(["a"], np.array([0.2]), "logit")


def test_labels_alone():
    page = markup.alone_table(["a", "b"], np.array([[1.0, 3.0], [2.0, 2.0]]), ("contradiction", "entailment"))
    assert cells(page) == [
        ["a", "1.0000", "3.0000", "0.1353", "1.0000", "0.8808"],
        ["b", "2.0000", "2.0000", "1.0000", "1.0000", "0.5000"],
    ]
    assert "here 1.3808" in page


def test_cosines_from_0_up():
    assert cells(markup.clipped_table(["a", "b"], np.array([-0.2, 0.4]))) == [
        ["a", "-0.2000", "0.0000"],
        ["b", "0.4000", "0.4000"],
    ]


# Attribution


def carried(values: list[float], attention: list[float] | None = None, delta: float = 0.0) -> Carried:
    tokens = Tokens(
        tuple(Token(text, i, special=not i) for i, text in enumerate(("[CLS]", EVIL, "Ġhate")))[: len(values)]
    )
    return Carried(
        tokens=tokens,
        labels=("no", "yes"),
        chosen=1,
        score="the logit of yes",
        attributions=Attributions(np.array(values), 2.5, 0.5, delta, 32),
        attention=None if attention is None else np.array(attention),
        position="“[CLS]”",
    )


def test_attribution_is_never_told_by_colour_alone():
    page = markup.attribution(carried([0.0, 3.0, -1.5]))
    blue, orange = f"rgba({markup.BLUE}, 0.500)", f"rgba({markup.ORANGE}, 0.250)"
    assert blue in page
    assert orange in page
    assert page.index(blue) < page.index("<small>+3.00</small>") < page.index(orange)
    assert "<small>−1.50</small>" in page
    assert ": -1.5000" in page
    assert "Blue and +" in page


def test_the_sums_stand_below():
    page = markup.attribution(carried([0.0, 3.0, -1.5], delta=-0.5))
    assert dict(cells(page)) == {
        "of the text": "2.5000",
        "of padding in its place": "0.5000",
        "the difference": "2.0000",
        "sum over all tokens": "1.5000",
        "convergence delta": "-0.5000",
        "steps": "32",
    }
    assert markup.ROUGH in page
    assert markup.ROUGH not in markup.attribution(carried([0.0, 3.0, -1.0]))


def test_attention_is_beside_it_with_what_it_is_not():
    page = markup.attribution(carried([0.0, 1.0, 1.0], [0.5, 0.3, 0.2]))
    assert [f"<small>{share} %</small>" in page for share in ("50.0", "30.0", "20.0")] == [True] * 3
    assert "sum to 1.0000" in page
    assert "Attention is not an explanation" in page
    for address in ("1902.10186", "1908.04626", "1703.01365"):
        assert f'href="https://arxiv.org/abs/{address}"' in page
    assert "rgb(253, 231, 37)" in page, "the end of viridis for the most"
    assert markup.NO_ATTENTION in markup.attribution(carried([0.0, 1.0, 1.0]))


def test_tokens_of_a_visitor_are_text():
    page = markup.attribution(carried([0.0, 1.0, 1.0], [0.5, 0.3, 0.2]))
    assert "<img" not in page
    assert "␣hate" in page


def test_no_token_counts():
    page = markup.attribution(carried([0.0, 0.0], [0.0, 0.0]))
    assert "<small>+0.00</small>" in page


def test_small_numbers_get_a_digit_more():
    page = markup.attribution(carried([0.0, 0.064, -0.0281]))
    assert "<small>+0.064</small>" in page
    assert "<small>−0.028</small>" in page
