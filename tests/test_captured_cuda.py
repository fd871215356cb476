"""Captured steps on a real GPU: real graphs, beside generate and beside the same steps without capture."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from components.compute import captured, decoding, windows
from components.compute.decoding import Engine, Request, Sampling, Step
from components.models.device import release_memory
from components.models.manager import Loaded
from components.progress import never
from tests import tiny_whisper
from tests.test_captured import MORE, alike, heard, of_more
from tests.test_decoding import MOST, OTHERS, PROMPT, TOGETHER, end_tokens, in_turn, of_kind, rows_of
from tests.tiny_whisper import SECONDS, noise

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: graphs were not captured"
)
CAPTURED = [*TOGETHER, *(kind for kind in MORE if kind != "Falcon")]


def on_gpu(kind: str, dtype: torch.dtype = torch.float32) -> Loaded:
    loaded = of_more(kind) if kind in MORE else of_kind(kind)
    device = torch.device("cuda")
    return replace(loaded, model=loaded.model.to(device, dtype), device=device, dtype=dtype, _shared={})


def prompt(loaded: Loaded, rows: int = 1, text: str = PROMPT) -> torch.Tensor:
    ids = loaded.processor(text, return_tensors="pt")["input_ids"]
    return ids.to(loaded.device).expand(rows, -1)


def write(
    engine: Engine, loaded: Loaded, text: str = PROMPT, rows: int = 1, warm: float = 0.0, seed: int = 0
) -> Iterator[Step]:
    sampling = Sampling(warm, top_k=20 if warm else 0, repetition_penalty=1.2 if warm else 1.0, seed=seed)
    return engine.write(Request(loaded, prompt(loaded, rows, text), MOST, sampling, never))


def theirs(loaded: Loaded, text: str = PROMPT) -> list[int]:
    ids = prompt(loaded, text=text)
    with torch.inference_mode():
        output = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=MOST, do_sample=False, pad_token_id=0
        )
    row = output[0, ids.shape[1] :].tolist()
    ends = end_tokens(loaded.model)
    return row[: next((i for i, token in enumerate(row) if token in ends), len(row))]


def graphs(engine: Engine) -> captured.Graphs:
    texts = engine._joint.captured
    assert texts
    return texts._steps._graphs


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Llama", torch.float32), ("GPT2", torch.float32), *((kind, torch.float64) for kind in CAPTURED)],
)
def test_greedy_is_token_for_token_what_generate_gives(kind, dtype):
    loaded = on_gpu(kind, dtype)
    engine = Engine(loaded)
    for _ in range(2):
        steps = in_turn([write(engine, loaded, text) for text in (PROMPT, *OTHERS)], 2)
        assert [rows_of(one) for one in steps] == [[theirs(loaded, text)] for text in (PROMPT, *OTHERS)]
    assert rows_of(list(write(engine, loaded, rows=3))) == [theirs(loaded)] * 3
    assert not graphs(engine).refused and any(graphs(engine)._replays.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_captured(dtype):
    loaded = on_gpu("Llama", dtype)
    engine = Engine(loaded)
    steps = list(write(engine, loaded, rows=3))
    assert all(0 <= token.probability <= 1 for step in steps for token in step if token)
    assert not graphs(engine).refused


def test_sampling_and_lengths_that_outgrow_their_columns_are_as_without_capture(monkeypatch):
    monkeypatch.setattr(captured, "COLUMNS", 16)
    loaded = on_gpu("Llama")

    def all_texts(engine: Engine) -> list[list[list[int]]]:
        asked = [(PROMPT, 2, 0.0), (OTHERS[0], 1, 1.0), (OTHERS[2], 3, 1.5), (OTHERS[3], 1, 0.0)]
        running = [write(engine, loaded, *one, seed=i) for i, one in enumerate(asked)]
        return [rows_of(steps) for steps in in_turn(running, 3)]

    engine = Engine(loaded)
    got = all_texts(engine)
    assert len(graphs(engine)._replays) > 2
    monkeypatch.setattr(decoding, "capturer", lambda device: None)
    assert got == all_texts(Engine(loaded))


def test_a_capture_while_other_threads_use_the_device():
    loaded = on_gpu("Llama")
    expected = [theirs(loaded)]
    end, failed = threading.Event(), list[BaseException]()

    def load() -> None:
        try:
            while not end.is_set():
                weights = [torch.randn(512, 512).pin_memory().to("cuda") for _ in range(20)]
                float(torch.stack(weights).sum())
                del weights
                torch.cuda.empty_cache()
        except BaseException as error:
            failed.append(error)

    other = threading.Thread(target=load)
    other.start()
    try:
        for _ in range(5):
            engine = Engine(loaded)
            assert rows_of(list(write(engine, loaded))) == expected
            assert not graphs(engine).refused
    finally:
        end.set()
        other.join()
    assert not failed


def test_what_does_not_bear_it_falls_back_and_others_are_captured_still():
    loaded = on_gpu("Llama")
    expected = [theirs(loaded)]
    engine = Engine(loaded)

    def look(module: Any, inputs: Any, output: Any) -> None:
        output.logits.sum().item()

    handle = loaded.model.register_forward_hook(look)
    assert rows_of(list(write(engine, loaded))) == expected
    assert graphs(engine).refused
    handle.remove()
    again = Engine(loaded)
    assert rows_of(list(write(again, loaded))) == expected
    assert not graphs(again).refused


def broken() -> None:
    """Past the look beforehand, the device itself refuses to wait for a number while it records."""
    captured.check = lambda step, device: None  # type: ignore[assignment]
    loaded = on_gpu("Llama")
    expected = [theirs(loaded)]
    engine = Engine(loaded)

    def look(module: Any, inputs: Any, output: Any) -> None:
        output.logits.sum().item()

    handle = loaded.model.register_forward_hook(look)
    assert rows_of(list(write(engine, loaded))) == expected
    assert graphs(engine).refused
    assert loaded.compute(torch.cuda.current_stream) == torch.cuda.default_stream()
    handle.remove()
    assert rows_of(list(write(engine, loaded))) == expected


def test_a_capture_that_breaks_on_the_device_falls_back():
    """In a process of its own, since Torch does not clear up after it."""
    process = multiprocessing.get_context("spawn").Process(target=broken)
    process.start()
    process.join(300)
    assert process.exitcode == 0


def test_memory_goes_with_the_model():
    warm = on_gpu("Llama")
    list(write(Engine(warm), warm))  # workspaces of libraries, which stay
    del warm
    release_memory()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    loaded = on_gpu("Llama")
    engine = loaded.share(Engine)
    list(write(engine, loaded))
    assert loaded.kept > 0
    del engine, loaded
    release_memory()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_windows_of_sound_are_decoded_as_without_capture(monkeypatch):
    loaded = tiny_whisper.whisper(("en", "fr", "de"))
    device = torch.device("cuda")
    loaded = replace(loaded, model=loaded.model.to(device), device=device, _shared={})
    sounds = [noise(SECONDS - 0.2 * i, seed=i) for i in range(6)]
    engine = windows.Engine(loaded)
    got = heard(engine, sounds)
    assert engine.kept_bytes > 0
    monkeypatch.setattr(windows, "capturer", lambda device: None)
    assert alike(got, heard(windows.Engine(loaded), sounds))
