"""Numbers that do not fit into 16 bits: every tab answers as in float32, says so, and remembers it.

Half precision runs on the CPU here, as it would on an accelerator: what overflows, overflows in any place.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from components.compute.decoding import Sampling, decode
from components.compute.windows import Engine, Window
from components.errors import InputError, NotFinite
from components.models import finite
from components.models.eager import twin
from components.models.loading import load, weights_bytes
from components.models.manager import LOADED_IN_FULL, Loaded, ModelManager, Place, TooNarrow
from components.models.status import Status
from components.page import events
from components.progress import never
from demos import generation, image, masked, sentiment, speech, translation, zero_shot
from tests import tiny
from tests.tiny_whisper import noise, whisper

TEXT = "I love this very much."


def large(folder: Path, to: Path, weight: str, most: float = 60_000.0) -> Path:
    """A copy whose weights of that name fit into float16, and what is computed with them does not."""
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, to / folder.name))
    weights = load_file(copy / "model.safetensors")
    weights[weight] *= most / weights[weight].abs().max()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


class Narrow:
    """A manager whose models are in float16, with float32 beside. loads: number formats, in order."""

    def __init__(self, *folders: Path, in_full: bool = True) -> None:
        self.loads: list[str] = []
        self.passes: list[str] = []
        half, whole = self.place(torch.float16), self.place(torch.float32)
        each = {"masked": folders[0], "generation": folders[-1]}

        def folder_of(task: str) -> Path:
            return each.get(task, folders[0])

        self.models = ModelManager(
            choose=lambda offer, choice: (
                tiny.checkpoint(folder_of(offer.recipe.task), offer.recipe),
                "",
            ),
            fetch=lambda checkpoint, report: folder_of(checkpoint.recipe.task),
            load=half.load if in_full else whole.load,
            size=half.size,
            free=half.free,
            full=lambda: whole if in_full else None,
        )

    def place(self, dtype: Any) -> Place:
        def read(checkpoint: Any, folder: Path) -> Loaded:
            self.loads.append(str(dtype).removeprefix("torch."))
            loaded = load(checkpoint, folder, torch.device("cpu"), dtype)
            loaded.model.register_forward_pre_hook(lambda *_: self.passes.append(loaded.precision))
            return loaded

        return Place(read, weights_bytes, lambda: 10**12)


def watched(folder: Path, recipe: Any) -> tuple[Loaded, Any]:
    """A tiny model in float32, and its inputs for a text."""
    loaded = tiny.loaded(folder, recipe)
    return loaded, loaded.processor(TEXT, return_tensors="pt")


def give(loaded: Loaded, change: Callable[[Any], None]) -> None:
    """From now on the model's output is changed like that before anybody sees it."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        change(output)

    loaded.model.register_forward_hook(hook, prepend=True)


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize("part", ["logits", "last_hidden_state"])
def test_nan_and_infinity_are_seen_wherever_a_model_gives_them(part, number):
    logits = part == "logits"
    folder, recipe = (
        (tiny.distilbert(), sentiment.RECIPE)
        if logits
        else (tiny.sentence_encoder(), zero_shot.OFFER.starter.recipe)
    )
    loaded, inputs = watched(folder, recipe)
    give(loaded, lambda output: output[part][0, -1:].fill_(float(number)))
    with pytest.raises(NotFinite):
        loaded.compute(lambda: loaded.model(**inputs))
    with pytest.raises(NotFinite), loaded.watching():
        loaded.model(**inputs)
    loaded.model(**inputs)  # nobody watches


def test_minus_infinity_rules_out_a_token_but_not_all_of_them():
    loaded, inputs = watched(tiny.llama(), generation.OFFER.course.recipe)
    give(loaded, lambda output: output.logits[..., :5].fill_(-float("inf")))
    logits = loaded.compute(lambda: loaded.model(**inputs)).logits
    assert logits.isneginf().any()
    steps = list(decode(loaded, inputs["input_ids"], 3, Sampling()))
    assert len(steps) == 3 and all(token and token.id >= 5 for (token,) in steps)
    give(loaded, lambda output: output.logits[0, 1].fill_(-float("inf")))
    with pytest.raises(NotFinite):
        loaded.compute(lambda: loaded.model(**inputs))


def test_minus_infinity_is_no_logit_of_a_class():
    loaded, inputs = watched(tiny.distilbert(), sentiment.RECIPE)
    give(loaded, lambda output: output.logits[0, 1].fill_(-float("inf")))
    with pytest.raises(NotFinite):
        loaded.compute(lambda: loaded.model(**inputs))


def test_of_several_passes_in_a_step_none_is_forgotten():
    loaded, inputs = watched(tiny.distilbert(), sentiment.RECIPE)
    bad = iter([True, False])
    give(loaded, lambda output: output.logits.fill_(float("nan")) if next(bad) else None)
    with pytest.raises(NotFinite):
        loaded.compute(lambda: (loaded.model(**inputs), loaded.model(**inputs)))


def test_a_step_that_is_stopped_leaves_nothing_for_the_next():
    loaded, inputs = watched(tiny.distilbert(), sentiment.RECIPE)
    bad = iter([True, False])
    give(loaded, lambda output: output.logits.fill_(float("nan")) if next(bad) else None)

    def stopped() -> None:
        loaded.model(**inputs)
        raise InputError("Stopped.")

    with pytest.raises(InputError):
        loaded.compute(stopped)
    loaded.compute(lambda: loaded.model(**inputs))


def test_what_shows_its_attention_is_watched_as_well():
    loaded, inputs = watched(tiny.distilbert(), sentiment.RECIPE)
    give(loaded, lambda output: output.logits.fill_(float("nan")))
    with pytest.raises(NotFinite):
        loaded.compute(lambda: loaded.share(twin)(**inputs, output_attentions=True))


# Tabs


def last(steps: Any) -> Any:
    return list(steps)[-1] if isinstance(steps, Iterator) else steps


def written(models: ModelManager, sampling: Sampling, sequences: int = 1) -> tuple[Any, Status]:
    request = generation.Request("So today", 8, sequences, sampling, "completion")
    result = last(generation.run(request, "auto", models))
    return result.sequences, result.status


def classified(models: ModelManager) -> tuple[Any, Status]:
    result = sentiment.run(TEXT, "auto", models)
    return dict(result.rows[0].scores), result.status


def sorted_in(models: ModelManager) -> tuple[Any, Status]:
    result = zero_shot.run(TEXT, "sport, politics", False, zero_shot.TEMPLATE, "auto", models)
    return dict(result.scores), result.status


def translated(models: ModelManager) -> tuple[Any, Status]:
    result = translation.run("You like this house.", "auto", models)
    return result.text, result.status


def filled(models: ModelManager) -> tuple[Any, Status]:
    result = last(masked.run("I ___ this.", "auto", "auto", models))
    assert isinstance(result.masked, masked.Side) and isinstance(result.causal, masked.Side)
    return dict(result.masked.scores), result.status


def named(models: ModelManager) -> tuple[Any, Status]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        Image.fromarray(np.arange(4800, dtype=np.uint8).reshape(40, 40, 3)).save(path)
        result = image.run(str(path), 3, "auto", models)
    return dict(result.scores), result.status


BART, HEAD = "classification_head.out_proj.weight", "lm_head.weight"
ENDS = "encoder.layer.1.output.LayerNorm.weight"
SAMPLED = Sampling(0.9, 20, 0.9, 1.2, 3)
CASES: dict[str, tuple[Callable[[], Path], str, Callable[[ModelManager], tuple[Any, Status]]]] = {
    "sentiment": (tiny.distilbert, "classifier.weight", classified),
    "zero-shot by pairs": (tiny.bart, BART, sorted_in),
    "zero-shot by similarity": (tiny.sentence_encoder, ENDS, sorted_in),
    "translation": (tiny.marian, "model.shared.weight", translated),
    "image": (tiny.vit, "classifier.weight", named),
    "masked": (tiny.masked_distilbert, "vocab_transform.weight", filled),
    "generation": (tiny.llama, HEAD, lambda models: written(models, Sampling())),
    "generation, sampled": (tiny.llama, HEAD, lambda models: written(models, SAMPLED, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_overflows_is_repeated_in_float32_once_said_and_remembered(tmp_path, case):
    make, weight, run = CASES[case]
    folders = [large(make(), tmp_path, weight)]
    if case == "masked":
        folders.append(tiny.llama())
    narrow = Narrow(*folders)
    answer, status = run(narrow.models)
    right, _ = run(Narrow(*folders, in_full=False).models)
    assert answer == (pytest.approx(right, abs=1e-6) if isinstance(right, dict) else right)
    assert LOADED_IN_FULL in status.remarks
    assert "float32" in status.dtype
    wide = narrow.loads.count("float32")
    assert wide == 1 and narrow.loads[0] == "float16"
    narrow.passes.clear()
    again, status = run(narrow.models)
    assert again == answer and LOADED_IN_FULL in status.remarks, "remembered"
    assert narrow.loads.count("float32") == 1
    assert "float16" not in narrow.passes or case == "masked"  # its other side fits


@pytest.mark.parametrize("case", ["sentiment", "generation", "generation, sampled", "translation"])
def test_a_model_that_gives_no_numbers_in_float32_either_says_so(tmp_path, case):
    make, weight, run = CASES[case]
    broken = Narrow(large(make(), tmp_path, weight, float("nan")))
    with pytest.raises(NotFinite, match=r"not finite \(NaN or infinity\).*another checkpoint") as told:
        run(broken.models)
    assert type(told.value) is NotFinite
    assert broken.loads == ["float16", "float32"]
    with pytest.raises(NotFinite):
        run(broken.models)
    assert broken.loads == ["float16", "float32"]
    assert not any(row.users for row in broken.models.snapshot())


def test_a_broken_side_of_a_gap_leaves_the_other(tmp_path):
    broken = Narrow(
        large(tiny.masked_distilbert(), tmp_path, "vocab_transform.weight", float("nan")), tiny.llama()
    )
    result = last(masked.run("I ___ this.", "auto", "auto", broken.models))
    assert result.masked == finite.SENTENCE
    assert isinstance(result.causal, masked.Side)


def test_a_drawer_that_overflows_is_filled_in_float32(tmp_path):
    narrow = Narrow(large(tiny.distilbert(), tmp_path, "classifier.weight"))
    name = f"tiny/{tiny.distilbert().name}"
    (drawn, problem) = events.guarded(
        "sentiment",
        lambda: sentiment.draw_inside(sentiment.look_inside(sentiment.Ran((TEXT,), name), narrow.models)),
        ("",),
    )
    assert problem == "" and "float32" in drawn and "nan" not in drawn.lower()
    assert narrow.loads == ["float16", "float32"]


def test_of_those_who_write_together_only_the_one_without_numbers_fails():
    loaded = tiny.loaded(tiny.llama(), generation.OFFER.course.recipe)
    bad = loaded.processor("it", return_tensors="pt")["input_ids"]
    good = loaded.processor("so", return_tensors="pt")["input_ids"]
    assert bad.shape == good.shape
    alone = list(decode(loaded, good, 6, Sampling()))

    def spoil(module: Any, inputs: Any, named: Any, output: Any) -> None:
        ids = named["input_ids"]
        if ids.shape == (1, good.shape[1]) and torch.equal(ids, bad):
            output.logits.fill_(float("nan"))

    loaded.model.register_forward_hook(spoil, with_kwargs=True)
    first, second = decode(loaded, good, 6, Sampling()), decode(loaded, bad, 6, Sampling())
    steps = [next(first)]
    with pytest.raises(NotFinite):
        next(second)
    together = [*steps, *first]
    assert [[token and token.id for token in step] for step in together] == [
        [token and token.id for token in step] for step in alone
    ]
    assert [step[0].probability for step in together if step[0]] == pytest.approx(
        [step[0].probability for step in alone if step[0]], abs=1e-4
    )


def test_a_window_of_sound_without_numbers_fails_alone(monkeypatch):
    loaded = whisper()
    windows = [
        Window(noise(1, seed), None, "transcribe", False, never, lambda decoded: False) for seed in (1, 2, 3)
    ]
    engine = loaded.share(Engine)
    step = engine._cache.step

    def spoil(tokens: Any, read: Any) -> Any:
        logits = step(tokens, read)
        for row in engine._rows:
            if row.window is windows[1] and row.read == 3:
                logits[row.slot] = float("nan")
        return logits

    monkeypatch.setattr(engine._cache, "step", spoil)
    for window in windows:
        engine.submit(window)
    while not all(window.done for window in windows):
        engine.wait([window for window in windows if not window.done])
    assert [type(window.error) for window in windows] == [type(None), NotFinite, type(None)]
    assert windows[0].decoded and windows[2].decoded and not any(window.alone for window in windows)


def test_speech_that_overflows_is_repeated_in_float32(tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise(2), 16_000, subtype="FLOAT")
    formats: list[Any] = []

    def lend(dtype: Any) -> Callable[[Any, Path], Loaded]:
        def read(checkpoint: Any, folder: Path) -> Loaded:
            formats.append(dtype)
            loaded = whisper()
            with torch.no_grad():
                head = loaded.model.get_output_embeddings().weight
                head.mul_(60_000 / head.abs().max())
            return replace(loaded, checkpoint=checkpoint, model=loaded.model.to(dtype), dtype=dtype)

        return read

    def size(folder: Path) -> int:
        return 1

    def asked(first: Any) -> Any:
        models = ModelManager(
            lambda offer, choice: (tiny.checkpoint(Path("whisper"), offer.recipe), ""),
            lambda checkpoint, report: Path("whisper"),
            lend(first),
            size,
            lambda: 10**12,
            full=lambda: Place(lend(torch.float32), size, lambda: 10**12),
        )
        return last(speech.run(str(path), "segment", "en", "transcribe", "auto", models))

    right, once_more = asked(torch.float32), asked(torch.float16)
    assert formats == [torch.float32, torch.float16, torch.float32]
    assert (once_more.text, once_more.segments) == (right.text, right.segments)
    assert LOADED_IN_FULL in once_more.status.remarks


# What is lent


def test_a_model_kept_in_memory_is_kept_in_float32(tmp_path):
    narrow = Narrow(large(tiny.distilbert(), tmp_path, "classifier.weight"))
    narrow.models.preload(sentiment.OFFER)
    classified(narrow.models)
    (row,) = narrow.models.snapshot()
    assert (row.dtype, row.pinned) == ("float32", True)


def test_a_visitor_at_work_keeps_the_model_in_16_bits_until_done(tmp_path):
    narrow = Narrow(large(tiny.distilbert(), tmp_path, "classifier.weight"))
    with narrow.models.use(sentiment.OFFER) as loaded:
        classified(narrow.models)
        assert loaded.precision == "float16"
        assert sorted(row.dtype for row in narrow.models.snapshot()) == ["float16", "float32"]


def test_where_there_is_no_float32_the_sentence_is_all(tmp_path):
    broken = Narrow(large(tiny.distilbert(), tmp_path, "classifier.weight", float("nan")), in_full=False)
    with pytest.raises(NotFinite) as told:
        classified(broken.models)
    assert not isinstance(told.value, TooNarrow)
    assert broken.loads == ["float32"]


# bfloat16, of which numpy knows nothing


def in_brain_float(*folders: Path) -> ModelManager:
    narrow = Narrow(*folders)
    narrow.models._main = narrow.place(torch.bfloat16)
    return narrow.models


def insides_of_sentiment() -> Iterator[Any]:
    models = in_brain_float(tiny.distilbert())
    ran = sentiment.Ran((TEXT,), sentiment.run(TEXT, "auto", models).status.checkpoint)
    yield sentiment.draw_inside(sentiment.look_inside(ran, models))
    yield sentiment.attribute(ran, models)
    yield sentiment.code(ran, models, False)


def insides_of_zero_shot() -> Iterator[Any]:
    for folder in (tiny.bart(), tiny.sentence_encoder()):
        models = in_brain_float(folder)
        asked = zero_shot.validate(TEXT, "sport, fun", zero_shot.TEMPLATE, False)
        result = zero_shot.run(TEXT, "sport, fun", False, zero_shot.TEMPLATE, "auto", models)
        ran = zero_shot.Ran(asked, result.status.checkpoint)
        yield zero_shot.draw_inside(zero_shot.look_inside(ran, models))
        yield zero_shot.attribute(ran, models)
        yield zero_shot.code(ran, models, False)


def insides_of_image() -> Iterator[Any]:
    models, path = in_brain_float(tiny.vit()), gr.media.get_image(image.EXAMPLES[0])
    ran = image.Ran(path, 3, image.run(path, 3, "auto", models).status.checkpoint)
    yield image.draw_inside(image.look_inside(ran, models))
    yield image.code(ran, models, False)


def insides_of_masked() -> Iterator[Any]:
    models = in_brain_float(tiny.masked_distilbert(), tiny.llama())
    result = last(masked.run("I ___ this.", "auto", "auto", models))
    names = (side.status.checkpoint for side in (result.masked, result.causal))
    yield masked.look_inside(masked.Ran("I ", " this.", *names), models)


def insides_of_generation() -> Iterator[Any]:
    models = in_brain_float(tiny.llama())
    for sampling in (Sampling(), SAMPLED):
        ran = last(generation.run(generation.Request("So", 6, 2, sampling, "completion"), "auto", models)).ran
        yield (seen := generation.look_inside(ran, models))
        yield generation.draw_inside(seen)
        yield last(generation.branch(seen, 0, 1, models))
        yield generation.look_at_attention(ran, models)
        yield generation.code(ran, models, False)


def insides_of_translation() -> Iterator[Any]:
    models = in_brain_float(tiny.marian())
    result = translation.run("You like this house.", "auto", models)
    ran = translation.Ran(result.parts, result.status.checkpoint, tuple(result.sentences))
    yield translation.draw(translation.attend(result.sentences[0], "auto", models))
    yield translation.draw_inside(translation.look_inside(ran, 0, models))
    yield translation.code(ran, models, False)


def insides_of_speech() -> Iterator[Any]:
    def load(checkpoint: Any, folder: Path) -> Loaded:
        loaded = whisper(("en", "fr"))
        model = loaded.model.to(torch.bfloat16)
        return replace(loaded, checkpoint=checkpoint, model=model, dtype=torch.bfloat16)

    models = in_brain_float(Path("whisper"))
    models._main = Place(load, lambda folder: 1, lambda: 10**12)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "noise.wav")
        soundfile.write(path, noise(3), 16_000, subtype="FLOAT")
        result = last(speech.run(path, "word", None, "transcribe", "auto", models))
        pieces = tuple(replace(piece, words=()) for piece in result.pieces)
        ran = speech.Ran(path, "word", None, "transcribe", result.status.checkpoint, pieces)
        yield speech.look_inside(ran, models)


@pytest.mark.parametrize(
    "insides",
    [
        insides_of_sentiment,
        insides_of_zero_shot,
        insides_of_image,
        insides_of_masked,
        insides_of_generation,
        insides_of_translation,
        insides_of_speech,
    ],
)
def test_a_tab_and_what_is_inside_it_runs_in_bfloat16(insides):
    shown = list(insides())
    assert shown and all(shown)
    assert all("dtype=torch.bfloat16" in one for one in shown if isinstance(one, str) and "import" in one)
