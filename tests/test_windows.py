"""Windows: the engine writes what generate writes, whoever shares it, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from components.compute import windows
from components.compute.windows import Decoded, Engine, Window
from components.models import eager
from components.models.manager import Loaded
from components.progress import never
from tests import tiny_whisper
from tests.tiny_whisper import SECONDS, generated, noise, text_tokens


def window(samples: np.ndarray, language: str | None = None, **more: Any) -> Window:
    options: dict[str, Any] = {"task": "transcribe", "words": False, "stopped": never, "loops": believed}
    return Window(samples, language, **(options | more))


def believed(decoded: Decoded) -> bool:
    return False


def finish(engine: Engine, *several: Window) -> list[Decoded]:
    for one in several:
        engine.submit(one)
    while left := [one for one in several if not one.done]:
        engine.wait(left)
    for one in several:
        if one.error:
            raise one.error
    return [one.decoded for one in several if one.decoded]


def is_at_rest(engine: Engine) -> bool:
    return not (engine._led or engine._rows or engine._waiting or engine._cache._sound or engine._cache._text)


def batches(loaded: Loaded) -> list[int]:
    """Grows by the number of rows each time the decoder runs."""
    sizes: list[int] = []
    loaded.model.get_decoder().register_forward_pre_hook(
        lambda module, inputs, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    return sizes


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("settings", [{}, {"max_initial_timestamp_index": 5, "suppress_tokens": "most"}])
def test_one_window_is_what_generate_writes_in_english(seed, settings):
    if settings:
        first = text_tokens(
            tiny := tiny_whisper.whisper(seed=seed), generated(tiny, noise(SECONDS, seed))[0], 1
        )
        used = [token for token in first if token < windows_begin(tiny)]
        settings = settings | {"suppress_tokens": used[:2], "begin_suppress_tokens": first[:1]}
    loaded = tiny_whisper.whisper(seed=seed, **settings)
    (decoded,) = finish(Engine(loaded), window(noise(SECONDS, seed)))
    wanted = text_tokens(loaded, generated(loaded, noise(SECONDS, seed))[0], 1)
    assert list(decoded.tokens) == wanted and len(wanted) > 3
    assert not settings or wanted != first


def windows_begin(loaded: Loaded) -> int:
    return loaded.model.generation_config.no_timestamps_token_id + 1


@pytest.mark.parametrize("task", ["transcribe", "translate"])
@pytest.mark.parametrize("language", ["fr", None])
def test_one_window_is_what_generate_writes_in_many_languages(language, task):
    loaded = tiny_whisper.whisper(("en", "fr", "de"))
    (decoded,) = finish(Engine(loaded), window(noise(SECONDS), language, task=task))
    direct = generated(loaded, noise(SECONDS), language=language, task=task)
    assert list(decoded.tokens) == text_tokens(loaded, direct[0], 3)
    detected = loaded.model.detect_language(tiny_whisper.features(loaded, noise(SECONDS)))
    assert decoded.language == (language or loaded.processor.tokenizer.decode(detected).strip("<|>"))


@pytest.mark.parametrize("codes", [(), ("en", "fr", "de")])
def test_further_tries_are_drawn_at_higher_temperatures_and_always_alike(codes):
    loaded = tiny_whisper.whisper(codes)
    tries: list[Decoded] = []

    def loops(decoded: Decoded) -> bool:
        tries.append(decoded)
        return len(tries) % 6 < until

    language, until = "fr" if codes else None, 6
    options = {"language": "fr", "task": "transcribe"} if codes else {}
    (decoded,) = finish(Engine(loaded), window(noise(SECONDS), language, loops=loops))
    first = generated(loaded, noise(SECONDS), **options)
    assert list(tries[0].tokens) == text_tokens(loaded, first[0], 3 if codes else 1)
    tried = [*tries, decoded]
    assert [one.temperature for one in tried] == list(windows.TEMPERATURES)
    assert len({one.tokens for one in tried}) == len(tried)
    assert all(one.no_speech == tries[0].no_speech for one in tried)
    # The hotter, the less likely.
    assert tried[0].logprob > tried[2].logprob > tried[5].logprob
    tries, until = [], 3
    (third,) = finish(Engine(loaded), window(noise(SECONDS), language, loops=loops))
    assert third.tokens == tried[2].tokens and third.temperature == windows.TEMPERATURES[2]


def test_log_probability_and_no_speech_are_those_of_one_pass():
    loaded = tiny_whisper.whisper()
    (decoded,) = finish(Engine(loaded), window(noise(SECONDS)))
    direct = generated(loaded, noise(SECONDS), output_scores=True, return_dict_in_generate=True)
    steps = [step[0].log_softmax(-1) for step in direct["scores"]]
    wanted = np.mean([step[token].item() for step, token in zip(steps, decoded.tokens, strict=True)])
    assert decoded.logprob == pytest.approx(float(wanted), abs=1e-5)
    with torch.inference_mode():
        start = torch.tensor([[loaded.model.generation_config.decoder_start_token_id]])
        logits = loaded.model(tiny_whisper.features(loaded, noise(SECONDS)), decoder_input_ids=start).logits
    no_speech = logits[0, 0].softmax(-1)[windows_begin(loaded) - 2]
    assert decoded.no_speech == pytest.approx(float(no_speech), abs=1e-6)


def heard(engine: Engine, sounds: list[Any], words: bool = False) -> list[Decoded]:
    """The first three at once, each further one a few steps later than the one before.

    words: for the third one, which is in German; the second one counts as a loop.
    """
    late = [window(sound) for sound in sounds[3:]]
    asked = 0

    def join() -> bool:
        """Asked once a turn: another window comes after every fourth."""
        nonlocal asked
        asked += 1
        if asked % 4 == 0 and asked // 4 <= len(late):
            engine.submit(late[asked // 4 - 1])
        return False

    early = [
        window(sounds[0], stopped=join),
        window(sounds[1], loops=lambda decoded: True),
        window(sounds[2], language="de", words=words),
    ]
    decoded = finish(engine, *early)
    while left := [one for one in late if not one.done]:
        engine.wait(left)
    return [*decoded, *(one.decoded for one in late if one.decoded)]


def test_windows_that_join_and_leave_at_any_time_change_nothing_for_the_others():
    loaded = tiny_whisper.whisper(("en", "fr", "de"))
    sounds = [noise(SECONDS - 0.2 * i, seed=i) for i in range(7)]
    alone = [finish(Engine(loaded), window(sound))[0] for sound in sounds]
    sizes = batches(loaded)
    engine = Engine(loaded)
    together = heard(engine, sounds)
    assert [list(one.tokens) for one in (together[0], *together[3:])] == [
        list(alone[i].tokens) for i in (0, 3, 4, 5, 6)
    ]
    assert together[0].logprob == pytest.approx(alone[0].logprob, abs=1e-5)
    tried = finish(Engine(loaded), window(sounds[1], loops=lambda decoded: True))
    assert together[1].tokens == tried[0].tokens != alone[1].tokens
    german = generated(loaded, sounds[2], language="de", task="transcribe")
    assert list(together[2].tokens) == text_tokens(loaded, german[0], 3)
    steps = sizes[: -2 * (tiny_whisper.MOST_TOKENS + 1)]  # those of generate are the last
    assert max(steps) > 4 and min(steps) == 1  # they did share their steps
    assert is_at_rest(engine)


@pytest.mark.parametrize("codes", [(), ("en", "fr")])
def test_token_ends_are_those_of_generate_and_the_model_stays_as_it_was(codes):
    loaded, sound = tiny_whisper.whisper(codes), noise(1.5)
    engine = Engine(loaded)
    beside = window(noise(SECONDS, seed=5), words=True)
    decoded, _ = finish(engine, window(sound, words=True), beside)
    assert loaded.model.config._attn_implementation == "sdpa"
    ends = windows.token_ends(loaded.model, decoded, sound.size)

    twin = tiny_whisper.whisper(codes)  # generate leaves another attention behind
    options = {"language": decoded.language, "task": "transcribe"} if codes else {}
    direct = generated(
        twin,
        sound,
        attention_mask=torch.ones(1, sound.size // windows.HOP, dtype=torch.long),
        return_token_timestamps=True,
        return_dict_in_generate=True,
        **options,
    )
    np.testing.assert_allclose(ends, direct["token_timestamps"][0, 3 if codes else 1 :], atol=1e-6)
    assert max(ends) > 0.5


def test_an_aligner_shares_the_weights():
    model = tiny_whisper.whisper().model
    twin = eager.eager(model)
    assert twin is not model and eager.eager(twin) is twin
    assert twin.config._attn_implementation == "eager"
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_no_more_rows_than_there_is_room_for(monkeypatch):
    loaded = tiny_whisper.whisper()
    monkeypatch.setattr(windows, "MOST_BYTES", 1)
    engine, sizes = Engine(loaded), batches(loaded)
    assert engine.ahead == 1
    decoded = finish(engine, *(window(noise(SECONDS, seed=i)) for i in range(5)))
    assert len(decoded) == 5 and max(sizes) == 2
    monkeypatch.undo()
    assert Engine(loaded).ahead == windows.MOST_ROWS // 2


def test_a_sound_that_cannot_be_read_fails_alone(monkeypatch):
    loaded = tiny_whisper.whisper()
    engine = Engine(loaded)
    engine._start_at_once = 4  # as on an accelerator
    extract = loaded.processor.feature_extractor.__call__

    def extractor(sounds: list[np.ndarray], **options: Any) -> Any:
        if any(sound[0] == 7 for sound in sounds):
            raise ValueError("broken")
        return extract(sounds, **options)

    monkeypatch.setattr(loaded.processor, "feature_extractor", extractor)
    bad = noise(SECONDS)
    bad[0] = 7
    several = [window(sound) for sound in (noise(SECONDS), bad, noise(SECONDS, seed=1))]
    with pytest.raises(ValueError, match="broken"):
        finish(engine, *several)
    assert [one.error is None for one in several] == [True, False, True]
    assert is_at_rest(engine)
    (again,) = finish(engine, window(noise(SECONDS)))
    assert several[0].decoded == again


def test_a_step_that_fails_for_several_is_tried_again_one_by_one():
    loaded = tiny_whisper.whisper()
    wanted = [finish(Engine(loaded), window(noise(SECONDS, seed=i)))[0].tokens for i in range(3)]
    engine, rows = Engine(loaded), []

    def full(module: Any, inputs: Any, named: Any) -> None:
        rows.append(len(named["input_ids"]))
        if rows[-1] > 1:
            raise torch.OutOfMemoryError("full")

    loaded.model.get_decoder().register_forward_pre_hook(full, with_kwargs=True)
    decoded = finish(engine, *(window(noise(SECONDS, seed=i)) for i in range(3)))
    assert [one.tokens for one in decoded] == wanted
    assert rows[0] == 3 and set(rows[1:]) == {1}
    assert is_at_rest(engine)


def test_an_error_that_stays_is_that_of_its_own_window():
    loaded = tiny_whisper.whisper()

    def fails(decoded: Decoded) -> bool:
        raise RuntimeError("mine")

    good, bad = window(noise(SECONDS)), window(noise(SECONDS, seed=1), loops=fails)
    with pytest.raises(RuntimeError, match="mine"):
        finish(engine := Engine(loaded), good, bad)
    assert good.error is None and good.decoded
    assert good.decoded.tokens == finish(engine, window(noise(SECONDS)))[0].tokens


def test_what_is_stopped_leaves_and_the_others_go_on():
    loaded = tiny_whisper.whisper()
    (wanted,) = finish(Engine(loaded), window(noise(SECONDS)))
    engine, sizes = Engine(loaded), batches(loaded)
    kept = window(noise(SECONDS))
    dropped = window(noise(SECONDS, seed=1), stopped=lambda: len(sizes) > 4)
    never_begun = window(noise(SECONDS, seed=2), stopped=lambda: True)
    finish(engine, dropped, never_begun, kept)
    assert kept.decoded is not None and kept.decoded.tokens == wanted.tokens
    assert dropped.done and dropped.decoded is None and dropped.error is None
    assert never_begun.done and never_begun.decoded is None
    assert sizes[:5] == [2] * 5 and set(sizes[5:]) == {1}
    assert is_at_rest(engine)


def test_windows_withdrawn_between_turns_leave_nothing_behind():
    loaded = tiny_whisper.whisper()
    engine = Engine(loaded)
    left, done = window(noise(SECONDS)), window(noise(SECONDS, seed=1), stopped=lambda: bool(engine._rows))
    engine.submit(left)
    engine.submit(done)
    engine.wait([done])
    assert engine._rows and engine._cache._sound  # nobody leads, and one is under way
    engine.withdraw([left])
    assert left.done and is_at_rest(engine)


def together(work: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_visitors_lead_in_turn_and_each_has_its_own_result():
    loaded = tiny_whisper.whisper()
    wanted = [finish(Engine(loaded), window(noise(SECONDS, seed=i)))[0].tokens for i in range(8)]
    engine, sizes, others = loaded.share(Engine), batches(loaded), set(threading.enumerate())
    answers: dict[int, Any] = {}
    ready = threading.Barrier(8)

    def visit(i: int) -> None:
        ready.wait(30)
        for _ in range(2):  # the second time while others are at their first
            (decoded,) = finish(engine, window(noise(SECONDS, seed=i)))
            answers.setdefault(i, []).append(decoded.tokens)

    together([lambda i=i: visit(i) for i in range(8)])  # type: ignore[misc]
    assert answers == {i: [wanted[i]] * 2 for i in range(8)}
    assert max(sizes) > 1
    assert is_at_rest(engine) and set(threading.enumerate()) <= others


def test_a_follower_takes_the_lead_when_the_leader_stops():
    loaded = tiny_whisper.whisper()
    engine, leading, joined = loaded.share(Engine), threading.Event(), threading.Event()
    first = window(noise(SECONDS), stopped=joined.is_set)
    second = window(noise(SECONDS, seed=1))
    leading_now, leaders = "", list[str]()
    run = loaded.turns.run

    def led(step: Callable[[], Any]) -> Any:
        def noted() -> Any:
            nonlocal leading_now
            leading_now = name
            return step()

        name = threading.current_thread().name
        return run(noted)

    def note(*_: Any) -> None:
        leaders.append(leading_now)
        leading.set()
        joined.wait(30)

    loaded.turns.run = led  # type: ignore[method-assign]
    loaded.model.get_decoder().register_forward_pre_hook(note)

    def follow() -> None:
        leading.wait(30)
        engine.submit(second)
        joined.set()
        engine.wait([second])

    threads = [
        threading.Thread(target=lambda: finish(engine, first), name="first"),
        threading.Thread(target=follow, name="second"),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert first.done and first.decoded is None
    assert second.decoded is not None and is_at_rest(engine)
    assert leaders == ["first"] + ["second"] * tiny_whisper.MOST_TOKENS


def test_everything_is_computed_in_turns_of_one_step():
    loaded = tiny_whisper.whisper()
    engine = Engine(loaded)
    inside: list[bool] = []
    for module in (loaded.model.get_encoder(), loaded.model.get_decoder(), loaded.model.proj_out):
        module.register_forward_pre_hook(
            lambda *_: inside.append(loaded.turns._taken and torch.is_inference_mode_enabled())
        )
    entered = 0
    enter = loaded.turns.__class__.__enter__

    class Counted(loaded.turns.__class__):  # type: ignore[misc, name-defined]
        def __enter__(self) -> None:
            nonlocal entered
            entered += 1
            enter(self)

    loaded.turns.__class__ = Counted
    (decoded,) = finish(engine, window(noise(SECONDS)))
    assert inside and all(inside)
    assert entered == 1 + len(decoded.tokens)  # the encoder's, and one for each token
    assert not loaded.turns._taken


def test_half_precision():
    loaded = tiny_whisper.whisper()
    loaded.model.to(torch.bfloat16)
    loaded = tiny_whisper.lent(loaded.model, loaded.processor)
    sounds = [noise(SECONDS, seed=i) for i in range(2)]
    decoded = finish(Engine(loaded), *(window(sound, words=True) for sound in sounds))
    for sound, one in zip(sounds, decoded, strict=True):
        assert one.tokens and len(windows.token_ends(loaded.model, one, sound.size)) == len(one.tokens)
