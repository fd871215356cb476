"""Masked and causal: both sides of a gap beside direct calls of tokenizer and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import CheckpointError, InputError
from components.explain.masks import may_look
from components.inputs.gap import MOST_CHARACTERS, split_at_gap, window
from components.models.loading import weights_bytes
from components.models.manager import ModelManager
from components.weights.checkpoints import Checkpoint, Offer
from demos import masked
from tests import tiny, where

TEXT = "I love this ___ very much."
NO_HUB = "This needs a checkpoint of the hub."


def two(masked_folder: Path | None, causal_folder: Path | None) -> ModelManager:
    """A manager with a folder for each side; None for one that cannot be had."""

    folders = {"masked": masked_folder, "generation": causal_folder}

    def choose(offer: Offer, choice: str) -> tuple[Checkpoint, str]:
        folder = folders[offer.recipe.task]
        if folder is None:
            raise CheckpointError(NO_HUB)
        return tiny.checkpoint(folder, offer.recipe), ""

    return ModelManager(
        choose=choose,
        fetch=lambda checkpoint, report: _folder(folders, checkpoint),
        load=where.load,
        size=weights_bytes,
        free=lambda: 10**12,
    )


def _folder(folders: dict[str, Path | None], checkpoint: Checkpoint) -> Path:
    folder = folders[checkpoint.recipe.task]
    assert folder
    return folder


def last(text: str, models: ModelManager, **options: Any) -> masked.Result:
    return list(masked.run(text, "auto", "auto", models, **options))[-1]


def directly(folder: Path, text: str, is_masked: bool) -> tuple[list[float], list[int], Any]:
    """The ten highest probabilities at the mask, or after the text, with their ids; and the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = (AutoModelForMaskedLM if is_masked else AutoModelForCausalLM).from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt")
    place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id) if is_masked else -1
    with torch.inference_mode():
        best = model(**inputs).logits[0, place].softmax(-1).topk(10)
    return best.values.tolist(), best.indices.tolist(), tokenizer


# the gap


@pytest.mark.parametrize("mark", ["___", "__", "________", "[MASK]", "[mask]", "<mask>"])
def test_a_gap_may_be_written_in_several_ways(mark):
    assert split_at_gap(f" Ask {mark} now. ") == ("Ask ", " now.")


def test_a_gap_may_stand_at_either_end_and_a_single_underscore_is_none():
    assert split_at_gap("___ is here") == ("", " is here")
    assert split_at_gap("a_b and ___") == ("a_b and ", "")


@pytest.mark.parametrize("name", ["__init__", "snake__case", "__main", "a__", "__"])
@pytest.mark.parametrize("mark", ["___", "_____", "[MASK]", "<mask>"])
def test_two_underscores_are_no_gap_beside_one(name, mark):
    assert split_at_gap(f"The {name} of {mark} here") == (f"The {name} of ", " here")


@pytest.mark.parametrize("name", ["__init__", "snake__case", "__main", "a__"])
def test_two_underscores_of_a_name_are_no_gap(name):
    with pytest.raises(InputError, match="no gap"):
        split_at_gap(f"The {name} of it")
    assert split_at_gap(f"The {name} of __.") == (f"The {name} of ", ".")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no text yet"),
        (None, "no text yet"),
        (" \n", "no text yet"),
        ("no place", "There is no gap"),
        ("___ and ___", "There are 2 gaps"),
        ("___ [MASK] <mask>", "There are 3 gaps"),
        ("x" * MOST_CHARACTERS + " ___", f"at most {MOST_CHARACTERS:,}"),
    ],
)
def test_what_cannot_be_filled_is_said(text, says):
    with pytest.raises(InputError, match=says):
        split_at_gap(text)


def test_the_window_holds_the_place_and_as_much_as_fits():
    for length in range(1, 12):
        for room in range(1, 13):
            for place in range(length):
                part = window(length, place, room)
                assert part.start <= place < part.stop
                assert part.stop - part.start == min(length, room)
    assert window(20, 10, 4) == slice(8, 12)


# against direct calls


@pytest.mark.parametrize("folder", [tiny.masked_distilbert, tiny.masked_roberta], ids=["wordpiece", "bytes"])
def test_the_masked_side_is_what_the_model_says_at_the_mask(folder):
    side = last(TEXT, two(folder(), tiny.llama())).masked
    values, ids, tokenizer = directly(folder(), TEXT.replace("___", folder_mask(folder())), True)
    assert isinstance(side, masked.Side)
    assert [share for _, share in side.scores] == pytest.approx(values, abs=1e-6)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    # Bytes that are no characters keep their names in the vocabulary.
    decoded = [tokenizer.decode([one]) for one in ids]
    expected = [
        piece if "\ufffd" in text or not text.isprintable() else text
        for piece, text in zip(pieces, decoded, strict=True)
    ]
    assert [token for token, _ in side.scores] == expected
    assert side.tokens[side.place] == tokenizer.mask_token
    inputs = tokenizer(TEXT.replace("___", tokenizer.mask_token))["input_ids"]
    assert list(side.tokens) == tokenizer.convert_ids_to_tokens(inputs)


def folder_mask(folder: Path) -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(folder).mask_token)


@pytest.mark.parametrize("sentencepiece", [False, True])
def test_the_causal_side_is_what_comes_after_the_left_part(sentencepiece):
    folder = tiny.llama(sentencepiece=sentencepiece)
    side = last("i feel ___ it", two(None, folder)).causal
    values, ids, tokenizer = directly(folder, "i feel", False)
    assert isinstance(side, masked.Side)
    assert [share for _, share in side.scores] == pytest.approx(values, abs=1e-6)
    assert list(side.tokens) == tokenizer.convert_ids_to_tokens(tokenizer("i feel")["input_ids"])
    assert side.place == len(side.tokens) - 1
    pieces = tokenizer.convert_ids_to_tokens(ids)
    begins = [token.startswith(" ") for token, _ in side.scores]
    assert begins == [piece.startswith(("▁", "Ġ")) for piece in pieces]


def test_what_stands_after_the_gap_changes_the_masked_side_only():
    models = two(tiny.masked_distilbert(), tiny.llama())
    one, other = last("i love ___", models), last("i love ___ house", models)
    assert isinstance(one.causal, masked.Side) and isinstance(other.causal, masked.Side)
    assert isinstance(one.masked, masked.Side) and isinstance(other.masked, masked.Side)
    assert one.causal.scores == other.causal.scores
    assert one.masked.scores != other.masked.scores


def test_the_starters_answer_from_both_sides(models):
    """As their own weights say, asked directly."""
    import torch

    result = last("The capital of France is ___.", models)
    assert isinstance(result.causal, masked.Side) and isinstance(result.masked, masked.Side)
    texts = "The capital of France is", "The capital of France is [MASK]."
    for offer, side, text in zip(
        (masked.causal.OFFER, masked.MASKED), (result.causal, result.masked), texts, strict=True
    ):
        with models.use(offer) as loaded, torch.inference_mode():
            inputs = loaded.processor(text, return_tensors="pt")
            ids = inputs["input_ids"][0].tolist()
            place = ids.index(loaded.processor.mask_token_id) if offer is masked.MASKED else -1
            best = loaded.model(**inputs).logits[0, place].float().softmax(-1).topk(10)
            names = [loaded.processor.decode([one]) for one in best.indices.tolist()]
        assert [token for token, _ in side.scores] == names
        assert [share for _, share in side.scores] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert " Paris" in dict(result.causal.scores)
    drink = last("She drank a glass of ___.", models).masked
    assert isinstance(drink, masked.Side) and {"water", "tea"} <= dict(drink.scores).keys()


# too long, empty, and what does not fit


def test_a_text_longer_than_the_models_is_cut_around_the_gap():
    before, after = "this house was so very fun " * 8, " class about history" * 30
    result = last(f"{before}___{after}", two(tiny.masked_distilbert(), tiny.llama()))
    assert isinstance(result.masked, masked.Side) and isinstance(result.causal, masked.Side)
    assert len(result.masked.tokens) == 64
    assert (result.masked.tokens[0], result.masked.tokens[-1]) == ("[CLS]", "[SEP]")
    assert result.masked.tokens[result.masked.place] == "[MASK]"
    # As many of the words on either side of it as fit.
    words = f"{before}[MASK]{after}".split()
    start = words.index("[MASK]") - result.masked.place + 1
    assert list(result.masked.tokens[1:-1]) == words[start : start + 62]
    assert len(result.causal.tokens) == 128
    letters = before.rstrip().replace(" ", "Ġ")
    assert "".join(result.causal.tokens) == letters[-128:]
    assert "takes 64 tokens" in " ".join(result.masked.status.remarks)
    assert "takes 128 tokens" in " ".join(result.causal.status.remarks)
    assert {*result.masked.status.remarks, *result.causal.status.remarks} == set(result.status.remarks)


def test_nothing_before_the_gap():
    result = last("___ love", two(None, tiny.llama(sentencepiece=True)))
    assert isinstance(result.causal, masked.Side)
    assert result.causal.tokens == ("<s>",)
    assert "Nothing stands before the gap" in " ".join(result.causal.status.remarks)


def test_a_tokenizer_without_a_start_says_so():
    loaded = tiny.loaded(tiny.llama(), masked.causal.RECIPE)
    loaded.processor.bos_token = None
    with pytest.raises(InputError, match=r"Nothing stands before the gap.*Write a word"):
        masked.preprocess_causal("", loaded)


def test_a_tokenizer_without_a_mask_and_a_mask_of_its_own_in_the_text():
    loaded = tiny.loaded(tiny.masked_distilbert(), masked.RECIPE)
    loaded.processor.mask_token = "love"
    with pytest.raises(InputError, match=r"The text holds love.*Remove it"):
        masked.preprocess_masked("i love ", " it", loaded)
    loaded.processor.mask_token = None
    with pytest.raises(InputError, match="has no mask token"):
        masked.preprocess_masked("i ", " it", loaded)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("DistilBertForMaskedLM", True),
        ("RobertaForMaskedLM", True),
        ("BartForConditionalGeneration", False),
        ("DistilBertForSequenceClassification", False),
        ("LlamaForCausalLM", False),
        ("EvilForMaskedLM", False),
    ],
)
def test_which_checkpoints_fit(name, fits):
    reason = masked.RECIPE.fits({"architectures": [name]})
    assert (reason is None) is fits
    assert fits or (reason and name in reason and "distilbert/distilbert-base-uncased" in reason)
    assert masked.RECIPE.fits({}) is not None


def test_one_side_answers_without_the_other():
    only_causal = last(TEXT, two(None, tiny.llama()))
    assert isinstance(only_causal.causal, masked.Side) and only_causal.masked == NO_HUB
    assert only_causal.status == only_causal.causal.status
    only_masked = last(TEXT, two(tiny.masked_distilbert(), None))
    assert isinstance(only_masked.masked, masked.Side) and only_masked.causal == NO_HUB
    with pytest.raises(CheckpointError, match=NO_HUB):
        last(TEXT, two(None, None))


def test_both_statuses_become_one():
    result = last(TEXT, two(tiny.masked_distilbert(), tiny.llama()))
    assert isinstance(result.masked, masked.Side) and isinstance(result.causal, masked.Side)
    one, other = result.causal.status, result.masked.status
    assert result.status.checkpoint == f"{one.checkpoint} and {other.checkpoint}"
    assert result.status.run_seconds == pytest.approx(one.run_seconds + other.run_seconds)
    assert result.status.load_seconds == pytest.approx(one.load_seconds + other.load_seconds)
    assert result.status.device == one.device


# the masks


def attended(folder: Path, is_masked: bool, text: str) -> np.ndarray:
    """Where any layer and head of the model itself gives weight, `[query, key]`."""
    import torch
    import transformers

    kind = transformers.AutoModelForMaskedLM if is_masked else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        weights = model(**inputs, output_attentions=True).attentions
    return np.asarray(torch.stack(weights).amax((0, 1, 2)) > 0)


@pytest.mark.parametrize(("folder", "causal"), [(tiny.masked_distilbert, False), (tiny.llama, True)])
def test_the_attention_masks_are_those_of_the_models(folder, causal):
    seen = attended(folder(), not causal, "i love this house")
    assert np.array_equal(seen, may_look(len(seen), causal))


def test_a_mask_is_drawn_with_the_row_of_the_answer_outlined():
    result = last(TEXT, two(tiny.masked_distilbert(), tiny.llama()))
    assert isinstance(result.masked, masked.Side) and isinstance(result.causal, masked.Side)
    figure = masked.draw_mask(result.masked, False)
    assert np.asarray(figure.data[0].z).all()
    assert list(figure.layout.yaxis.ticktext) == list(result.masked.tokens)
    assert figure.layout.shapes[0].y0 == result.masked.place - 0.5
    assert figure.layout.yaxis.ticktext[result.masked.place] == "[MASK]"
    figure = masked.draw_mask(result.causal, True)
    count = min(len(result.causal.tokens), masked.MOST_DRAWN)
    assert np.array_equal(np.asarray(figure.data[0].z), np.tril(np.ones((count, count))))
    assert figure.layout.shapes[0].y1 == count - 0.5
    assert figure.data[0].customdata[0][1][1] == "may not look at"


# inside


def tiny_llama() -> str:
    return f"tiny/{tiny.llama().name}"


def whole_pass(folder: Path, text: str, is_masked: bool) -> tuple[Any, Any, list[int], Any]:
    """Logits `[sequence, vocabulary]`, hidden states, ids and tokenizer, by direct calls."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = (AutoModelForMaskedLM if is_masked else AutoModelForCausalLM).from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True)
    return output.logits[0], output.hidden_states[-1], inputs["input_ids"][0].tolist(), tokenizer


@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("folder", [tiny.masked_distilbert, tiny.masked_roberta])
def test_every_number_inside_is_that_of_a_direct_pass(folder, is_masked):
    models = two(folder(), tiny.llama())
    seen = masked.look_inside(masked.Ran("I love this ", " very much.", "a", "b"), models)[not is_masked]
    assert seen is not None
    if is_masked:
        text = f"I love this {folder_mask(folder())} very much."
        logits, hidden, ids, tokenizer = whole_pass(folder(), text, True)
        place = ids.index(tokenizer.mask_token_id)
    else:
        logits, hidden, ids, tokenizer = whole_pass(tiny.llama(), "I love this", False)
        place = len(ids) - 1
    assert [token.id for token in seen.tokens.tokens] == ids
    assert seen.place == place
    assert [axis.size for axis in seen.hidden] == list(hidden.shape)
    here = logits[place].double().numpy()
    powers = np.exp(here - here.max())
    order = np.argsort(-here)[:10]
    assert [i for _, i, *_ in seen.best] == order.tolist()
    for _, i, logit, power, share in seen.best:
        assert logit == pytest.approx(here[i], abs=1e-4)
        assert power == pytest.approx(powers[i], abs=1e-4)
        assert share == pytest.approx(powers[i] / powers.sum(), abs=1e-5)
    assert seen.highest == pytest.approx(here.max(), abs=1e-4)
    assert seen.total == pytest.approx(powers.sum(), rel=1e-4)
    assert seen.vocabulary == len(here)
    page = masked.draw_inside(seen)
    assert f"at position {place + 1} of {len(ids)}" in page
    for _, i, logit, power, share in seen.best:
        for shown in (f"{i}", f"{logit:.4f}", f"{power:.4f}", f"{share:.4f}"):
            assert f"<td>{shown}</td>" in page


def test_inside_of_a_side_that_did_not_answer():
    left, right = masked.look_inside(masked.Ran("I love ", "", None, "b"), two(None, tiny.llama()))
    assert left is None and right is not None
    assert "did not answer" in masked.draw_inside(left)
    assert "A decoder" in masked.draw_inside(right)


def test_inside_the_encoder_is_called_one():
    models = two(tiny.masked_distilbert(), None)
    left, right = masked.look_inside(masked.Ran("I love ", "", "a", None), models)
    assert right is None and "An encoder" in masked.draw_inside(left)


# the page


def test_texts_of_visitors_and_checkpoints_are_shown_as_text():
    models = two(tiny.masked_distilbert(), tiny.llama())
    page = masked.draw(last("<b>bold</b> ___ <img src=x>", models))
    assert "<b>" not in page and "<img" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page and "has not read “&lt;img src=x&gt;”" in page


def test_the_tab_shows_one_side_and_then_both():
    page = tiny.tab(masked.DEMO, two(tiny.masked_distilbert(), tiny.llama()))
    steps = [step for step in page.press(TEXT, "auto") if isinstance(step[0], str)]
    assert "comes next" in steps[0][0] or len(steps) == 1
    answer, left, right, ran, problem, status = steps[-1]
    assert ran == masked.Ran("I love this ", " very much.", "tiny/masked-distilbert", tiny_llama())
    assert answer.count("<section>") == 2 and answer.count('class="bar"') == 2 * masked.TOP
    assert left["visible"] and right["visible"] and problem == ""
    assert "tiny/masked-distilbert" in status and "tiny/llama" in status


def test_the_tab_without_the_hub():
    page = tiny.tab(masked.DEMO, two(None, tiny.llama()))
    answer, left, right, ran, problem, status = page.press(TEXT, "auto")[-1]
    assert (ran.masked, ran.causal) == (None, tiny_llama())
    assert NO_HUB in answer and answer.count('class="bar"') == masked.TOP
    assert not left["visible"] and right["visible"] and problem == ""
    assert "tiny/llama" in status


def test_the_tab_says_what_is_wrong_with_a_text():
    page = tiny.tab(masked.DEMO, two(None, tiny.llama()))
    *_, problem, status = page.press("no gap here", "auto")[-1]
    assert "There is no gap" in problem and status == ""


def test_the_endpoint():
    page = tiny.tab(masked.DEMO, two(None, tiny.llama()))
    answer = page.endpoint("fill_gap")(TEXT)
    assert answer["masked"] == {"label": None, "confidences": [], "problem": NO_HUB, "remarks": []}
    tokens = answer["causal"]["confidences"]
    assert len(tokens) == masked.TOP and answer["causal"]["label"] == tokens[0]["label"]
    assert sum(token["confidence"] for token in tokens) <= 1


def test_both_checkpoints_can_be_chosen():
    page = tiny.tab(masked.DEMO, two(None, tiny.llama()))
    shown = {
        block["props"].get("label"): block["props"] for block in page.app.get_config_file()["components"]
    }
    choices = [list(choice) for choice in shown["Masked checkpoint"]["choices"]]
    assert ["Course: distilbert/distilbert-base-uncased", "course"] in choices
    assert ["Starter: MiniLM that fills gaps", "starter"] in choices
    names = [choice[0] for choice in shown["Causal checkpoint"]["choices"]]
    assert "Starter: SmolLM2-135M-Instruct (Q4_1)" in names


def test_the_causal_model_is_that_of_text_generation():
    from demos import generation

    assert masked.causal.OFFER is generation.OFFER
