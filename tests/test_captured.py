"""Steps that are captured: the same texts as without, whoever comes and goes, and a way back where it fails.

The operations are recorded and done again on the CPU, see recorded.py; test_captured_cuda.py has real graphs.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from components.compute import captured, decoding, windows
from components.compute.captured import NotCapturable
from components.compute.decoding import Engine, Request, Sampling, Step
from components.models.manager import Loaded
from components.progress import never
from tests import tiny, tiny_whisper
from tests.recorded import Recorded
from tests.test_decoding import (
    IN_TURNS,
    MOST,
    OTHERS,
    PROMPT,
    TOGETHER,
    endless,
    in_turn,
    is_empty,
    of_kind,
    ours,
    prompt,
    rows_of,
    shapes,
    theirs,
)
from tests.test_windows import batches, finish, heard, window
from tests.tiny_whisper import SECONDS, noise

# What else people load, and where it may differ: positions, heads, biases, norms.
MORE: dict[str, dict[str, Any]] = {
    "GPTNeoX": {"rotary_pct": 0.5},
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8},
    "Phi": {},
    "Gemma": {"head_dim": 16, "num_key_value_heads": 1},
    "Falcon": {},
}

GREEDY = Sampling()


def of_more(kind: str, **settings: Any) -> Loaded:
    torch.manual_seed(5)
    loaded = of_kind("Llama")
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "initializer_range": tiny.WIDE}
    usual = {} if "n_embd" in MORE[kind] else usual
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(loaded.processor), **{**usual, **ends, **MORE[kind], **settings}
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval().double()
    return replace(loaded, model=model, _shared={})


@pytest.fixture
def loaded() -> Loaded:
    return of_kind("Llama")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns for texts of a few tokens, so that they outgrow them."""
    monkeypatch.setattr(captured, "COLUMNS", 8)


def engine_of(loaded: Loaded, capture: Recorded | None = None, **options: Any) -> tuple[Engine, Recorded]:
    capture = capture or Recorded()
    return Engine(loaded, capture=capture, **options), capture


def write(
    engine: Engine,
    loaded: Loaded,
    sampling: Sampling = GREEDY,
    rows: int = 1,
    text: str = PROMPT,
    stopped: Callable[[], bool] = never,
) -> Iterator[Step]:
    return engine.write(Request(loaded, prompt(loaded, rows, text), MOST, sampling, stopped))


def written(engine: Engine, loaded: Loaded, *more: Any, **options: Any) -> list[list[int]]:
    return rows_of(list(write(engine, loaded, *more, **options)))


# The same texts


@pytest.mark.parametrize("kind", TOGETHER)
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_is_token_for_token_what_generate_gives(kind, rows):
    loaded = of_kind(kind)
    engine, capture = engine_of(loaded)
    assert written(engine, loaded, rows=rows) == theirs(loaded, rows)
    assert capture.made == 1 and capture.replayed > 3


@pytest.mark.parametrize("kind", [kind for kind in MORE if kind != "Falcon"])
def test_greedy_in_more_architectures(kind):
    loaded = of_more(kind)
    engine, capture = engine_of(loaded)
    assert written(engine, loaded) == theirs(loaded)
    assert [
        rows_of(steps) for steps in in_turn([write(engine, loaded, text=text) for text in OTHERS], 2)
    ] == [theirs(loaded, text=text) for text in OTHERS]
    assert capture.replayed > 10


@pytest.mark.parametrize("kind", IN_TURNS)
def test_what_takes_no_steps_together_is_not_captured(kind):
    loaded = of_kind(kind)
    engine, capture = engine_of(loaded)
    assert written(engine, loaded) == theirs(loaded)
    assert capture.made == 0


def test_positions_that_depend_on_the_longest_text_are_not_captured():
    loaded = of_kind("Llama")
    loaded.model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    engine, capture = engine_of(loaded)
    written(engine, loaded)
    assert capture.made == 0


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(1.3, top_k=20, top_p=0.9, repetition_penalty=1.4, seed=2**32 - 1),
        Sampling(repetition_penalty=1.3),
    ],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_sampling_and_processors_are_those_without_capture(loaded, sampling, rows):
    engine, capture = engine_of(loaded)
    assert written(engine, loaded, sampling, rows) == ours(loaded, sampling, rows)
    assert capture.replayed


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.7, top_k=9, seed=4)])
def test_probabilities_are_those_without_capture(loaded, sampling):
    engine, _ = engine_of(loaded)
    without = decoding.decode(loaded, prompt(loaded), MOST, sampling)
    for step, other in zip(write(engine, loaded, sampling), without, strict=True):
        for token, wanted in zip(step, other, strict=True):
            assert (token and token.id) == (wanted and wanted.id)
            assert token is None or token.probability == pytest.approx(wanted.probability, abs=1e-5)


def test_a_draw_on_the_device_is_that_of_multinomial():
    shares = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)).mul(2).softmax(-1)
    for seed in range(20):
        waits = torch.empty_like(shares).exponential_(generator=torch.Generator().manual_seed(seed))
        drawn = torch.multinomial(shares, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
        assert torch.equal(decoding.soonest(shares, waits), drawn)


# Who comes and goes


@pytest.mark.parametrize("kind", ["Llama", "OPT"])
@pytest.mark.parametrize("late", [0, 3])
def test_texts_of_several_lengths_that_come_and_go_and_outgrow_their_columns(kind, late, narrow, monkeypatch):
    monkeypatch.setattr(captured, "MOST_GRAPHS", 3)
    loaded = of_kind(kind)
    asked = [
        (PROMPT, 2, 0.0),
        (OTHERS[0], 1, 1.0),
        (OTHERS[1], 3, 1.5),
        (OTHERS[2], 1, 0.0),
        (OTHERS[3], 2, 0.8),
    ]
    expected = [
        ours(loaded, Sampling(warm, seed=i), rows, text) for i, (text, rows, warm) in enumerate(asked)
    ]
    engine, capture = engine_of(loaded)
    for _ in range(2):
        running = [
            write(engine, loaded, Sampling(warm, seed=i), rows, text)
            for i, (text, rows, warm) in enumerate(asked)
        ]
        assert [rows_of(steps) for steps in in_turn(running, late)] == expected
        assert is_empty(engine)
    assert capture.made > 3 and capture.replayed > 20


def test_who_stops_or_leaves_does_not_disturb_the_others(loaded, narrow):
    expected = [ours(endless(loaded), Sampling(), text=text) for text in OTHERS]
    engine, capture = engine_of(loaded)
    stop = False
    running = [
        write(engine, loaded, text=text, stopped=(lambda: stop) if i == 1 else never)
        for i, text in enumerate(OTHERS)
    ]
    steps = [[next(one), next(one)] for one in running]
    stop = True
    running[2].close()  # type: ignore[attr-defined]
    assert list(running[1]) == []
    for i in (0, 3):
        steps[i] += running[i]
        assert rows_of(steps[i]) == expected[i]
    assert is_empty(engine) and capture.replayed


def test_a_captured_step_calls_nothing_of_the_model(loaded):
    engine, capture = engine_of(endless(loaded))
    written(engine, loaded)
    calls = shapes(loaded.model)
    before = capture.made, capture.replayed
    written(engine, loaded, rows=1, text=OTHERS[0])
    assert calls == [(1, prompt(loaded, text=OTHERS[0]).shape[1])]
    assert (capture.made, capture.replayed) == (before[0], before[1] + MOST - 1)


def test_the_first_token_comes_before_the_cache_is_copied(loaded):
    engine, _ = engine_of(loaded)
    running = write(engine, loaded)
    next(running)
    assert engine._joint._cache is None and engine._joint._joining
    running.close()  # type: ignore[attr-defined]
    assert is_empty(engine) and not engine._joint._joining


def test_what_is_no_number_in_the_memory_of_others_before_does_not_reach_a_text(loaded):
    expected = theirs(loaded, 3)
    engine, capture = engine_of(loaded)
    written(engine, loaded)
    steps = engine._joint.captured
    assert steps and steps._memory is not None
    for rows in (1, 3):
        with torch.inference_mode():
            steps._memory.fill_(float("nan"))
        assert written(engine, loaded, rows=rows) == expected[:rows]
    assert capture.replayed


def test_one_more_row_in_the_same_memory_needs_no_new_place(loaded, narrow):
    engine, _ = engine_of(loaded)
    written(engine, loaded, rows=4)
    steps = engine._joint.captured
    assert steps
    memory = steps._memory
    written(engine, loaded, rows=2)
    written(engine, loaded, rows=1, text=OTHERS[2])
    assert steps._memory is memory


# The way back


def test_a_model_that_reads_numbers_of_the_device_is_stepped_through_as_before(loaded, caplog):
    expected = theirs(loaded)

    def look(module: Any, inputs: Any, output: Any) -> None:
        assert float(output.logits.sum()) == float(output.logits.sum())

    loaded.model.register_forward_hook(look)
    engine, capture = engine_of(loaded)
    with caplog.at_level(logging.WARNING):
        assert written(engine, loaded) == expected
        assert written(engine, loaded, rows=3) == expected * 3
    assert capture.made == 0
    assert len([one for one in caplog.records if "not captured" in one.getMessage()]) == 1
    assert engine.kept_bytes == 0


def test_a_model_that_counts_by_the_cache_is_found_out_by_its_logits(loaded, caplog):
    """Its positions are Python's numbers: captured, they would stay those of the first step."""
    expected = theirs(loaded)
    forward = loaded.model.forward

    def counting(position_ids: Any = None, **named: Any) -> Any:
        return forward(position_ids=None, **named)

    engine, capture = engine_of(loaded)
    loaded.model.forward = counting
    assert written(engine, loaded) == expected
    assert capture.replayed == 1
    assert "apart from the model's" in caplog.text


@pytest.mark.parametrize("alibi", [True, False])
def test_falcon_makes_tensors_of_numbers_in_each_step_and_falls_back(alibi):
    loaded = of_more("Falcon", alibi=alibi)
    engine, capture = engine_of(loaded)
    assert written(engine, loaded) == theirs(loaded)
    assert capture.made == 0


def test_without_memory_for_a_capture_its_rows_are_stepped_through_as_before(loaded, narrow):
    expected = theirs(loaded)
    tries = []

    def full() -> None:
        tries.append(0)
        raise torch.OutOfMemoryError("none left")

    engine, capture = engine_of(endless(loaded), Recorded(full))
    written(engine, loaded)
    before = len(tries)
    assert before >= 2, "one for each number of columns"
    written(engine, loaded)
    assert len(tries) == before, "and none again"
    capture._before = lambda: None
    assert written(engine, loaded, rows=2)[0][: len(expected[0])] == expected[0]
    assert capture.replayed


def test_without_memory_for_the_logits_either(loaded, monkeypatch):
    expected = theirs(loaded, 1)

    def full(rows: int, like: Any) -> None:
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(captured, "Outputs", full)
    engine, capture = engine_of(loaded)
    assert written(engine, loaded) == expected
    assert capture.made == 0


@pytest.mark.parametrize("left", [0, 20_000])
def test_without_room_the_cache_grows_as_before(left):
    loaded = replace(of_kind("Llama"), left=lambda: left)
    expected = theirs(loaded)
    engine, capture = engine_of(loaded)
    assert written(engine, loaded) == expected
    assert written(engine, loaded, rows=3) == expected * 3
    assert (capture.made, engine.kept_bytes) == (0, 0)


def test_who_comes_when_there_is_no_room_for_more_takes_all_back_to_a_cache_that_grows(loaded):
    expected = [theirs(endless(loaded), text=text) for text in OTHERS]
    one = 2 * 2 * captured.COLUMNS * 16 * 8  # keys and values of two layers, 16 numbers of 8 bytes
    engine, capture = engine_of(replace(loaded, left=lambda: int(one / captured.SHARE)))
    running = [write(engine, loaded, text=text) for text in OTHERS]
    assert [rows_of(steps) for steps in in_turn(running, 4)] == expected
    assert 0 < capture.replayed < 5
    assert is_empty(engine)
    assert written(engine, loaded, text=OTHERS[0]) == expected[0], "and the next one alone is captured again"
    assert capture.replayed > MOST / 2


def test_an_error_in_a_step_is_handled_as_before(loaded):
    expected = [theirs(loaded, text=text) for text in OTHERS]
    engine, _ = engine_of(loaded)
    written(engine, loaded)
    replays = engine._joint.captured._steps._graphs  # type: ignore[union-attr]
    broken = False
    usual = replays.get

    def get(key: Any) -> Any:
        if broken:
            raise RuntimeError("the device is lost")
        return usual(key)

    replays.get = get  # type: ignore[method-assign]
    running = [write(engine, loaded, text=text) for text in OTHERS[:2]]
    steps = [[next(one), next(one)] for one in running]
    broken = True
    for i in (0, 1):
        steps[i] += running[i]
        assert rows_of(steps[i]) == expected[i]
    assert is_empty(engine)


# Windows of sound


def alike(some: list[windows.Decoded], others: list[windows.Decoded]) -> bool:
    facts = [
        [(one.tokens, one.language, round(one.logprob, 3), round(one.no_speech, 3)) for one in decoded]
        for decoded in (some, others)
    ]
    return facts[0] == facts[1] and len(some) == len(others)


def test_windows_of_sound_are_decoded_as_without_capture():
    loaded = tiny_whisper.whisper(("en", "fr", "de"))
    sounds = [noise(SECONDS - 0.2 * i, seed=i) for i in range(6)]
    wanted = heard(windows.Engine(loaded), sounds, words=True)
    capture = Recorded()
    engine = windows.Engine(loaded, capture)
    assert alike(heard(engine, sounds, words=True), wanted)
    assert capture.made > 2 and capture.replayed > 20
    sizes = batches(loaded)
    made = capture.made
    assert alike(heard(engine, sounds, words=True), wanted)
    assert sizes == [] and capture.made == made, "the second time all of it is captured"
    for attentions, others in zip(
        heard(engine, sounds, words=True)[2].attentions, wanted[2].attentions, strict=True
    ):
        torch.testing.assert_close(attentions, others, atol=1e-4, rtol=1e-4)


def test_memory_of_windows_stays_counts_and_goes_with_the_model(monkeypatch):
    monkeypatch.setattr(windows, "capturer", lambda device: Recorded())
    loaded = tiny_whisper.whisper()
    finish(loaded.share(windows.Engine), window(noise(SECONDS)))
    keys = loaded.share(windows.Engine)._cache._sound[0][0]
    assert loaded.kept > keys.nbytes
    ends = [weakref.ref(one) for one in (keys, loaded.model)]
    del keys, loaded
    gc.collect()
    assert [end() for end in ends] == [None] * 2


def test_without_room_the_memory_of_windows_goes_as_before():
    loaded = replace(tiny_whisper.whisper(), left=lambda: 0)
    capture = Recorded()
    engine = windows.Engine(loaded, capture)
    assert alike(
        finish(engine, window(noise(SECONDS))), finish(windows.Engine(loaded), window(noise(SECONDS)))
    )
    assert (capture.made, loaded.kept, engine._cache._sound) == (0, 0, [])


def test_a_decoder_that_reads_numbers_of_the_device_is_stepped_through_as_before(caplog):
    loaded = tiny_whisper.whisper()
    wanted = finish(windows.Engine(loaded), window(noise(SECONDS)))

    def look(module: Any, inputs: Any, output: Any) -> None:
        assert bool(output.last_hidden_state.isfinite().all())

    loaded.model.get_decoder().register_forward_hook(look)
    capture = Recorded()
    engine = windows.Engine(loaded, capture)
    for _ in range(2):
        assert alike(finish(engine, window(noise(SECONDS))), wanted)
    assert (capture.made, engine.kept_bytes, engine._cache._sound) == (0, 0, [])
    assert caplog.text.count("not captured") == 1


# Memory


def test_what_stays_with_a_model_counts_and_goes_with_it(monkeypatch):
    loaded = replace(of_kind("Llama"), _shared={})
    made: list[Recorded] = []

    def capturer(device: Any) -> Recorded:
        made.append(Recorded())
        return made[-1]

    monkeypatch.setattr(decoding, "capturer", capturer)
    assert loaded.kept == 0
    ours(loaded, Sampling())
    texts = loaded.share(Engine)._joint.captured
    assert texts
    logits = texts._steps._outputs.logits
    assert loaded.kept == texts._memory.nbytes + logits.nbytes + 1000 * made[0].made
    ends = [weakref.ref(one) for one in (texts._memory, logits, loaded.model)]
    del texts, logits, loaded
    made.clear()
    gc.collect()
    assert [end() for end in ends] == [None] * 3


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda x: x.sum().item(), "reads"),
        (lambda x: x[x > 0], "reads"),
        (lambda x: x.nonzero(), "reads"),
        (lambda x: x.index_put_((x > 0,), torch.zeros(3)), "reads"),
        (lambda x: bool((x > 0).all()), "reads"),
        (lambda x: x + torch.rand(3), "random"),
        (lambda x: torch.nn.functional.dropout(x, 0.5, training=True), "random"),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0]), "Python's"),
    ],
)
def test_what_cannot_be_captured_is_found_out_before(step, why):
    x = torch.ones(3)
    with torch.inference_mode(), pytest.raises(NotCapturable, match=why):
        captured.check(lambda: step(x), torch.device("cpu"))


def test_a_tensor_elsewhere_cannot_be_captured():
    with pytest.raises(NotCapturable, match="cpu"):
        captured.check(lambda: torch.ones(3).add_(1), torch.device("meta"))


def test_dropout_at_rest_is_certain():
    x = torch.ones(3)
    captured.check(lambda: torch.nn.functional.dropout(x, 0.5, training=False), torch.device("cpu"))


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 4), (9, 12), (32, 32), (33, 64), (65, 96)])
def test_rows_that_are_captured(count, rows):
    assert captured.rows_for(count) == rows
