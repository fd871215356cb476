"""Alone: what a model needs with no server around it, and what other engines need for the same.

    python -m benchmarks.alone

Reads a JSON object a line, {"measure": name, "folder": ..., ...}, and answers each with one:
{"seconds": [of each item], "answers": [one for each item]}. Models stay loaded in between; at the end
of its input it ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks import limits

Measured = dict[str, list[Any]]


def timed(work: Callable[[Any], Any], items: Iterable[Any]) -> Measured:
    """Does `work` with each item, one after another."""
    seconds, answers = [], []
    for item in items:
        started = time.perf_counter()
        answers.append(work(item))
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "answers": answers}


@cache
def model_of(folder: str, kind: str) -> Any:
    """On the device and in the number format that the app would choose."""
    import transformers

    from components.models.device import best_device, best_dtype
    from components.models.loading import stored_dtype

    device = best_device()
    dtype = best_dtype(device, stored_dtype(Path(folder)))
    return getattr(transformers, kind).from_pretrained(folder, dtype=dtype).to(device).eval()


@cache
def processor_of(folder: str, kind: str = "AutoTokenizer") -> Any:
    import transformers

    return getattr(transformers, kind).from_pretrained(folder)


# The machine


def machine() -> Measured:
    """Threads, device and number format that torch works with; the processor and its vector instructions."""
    import torch

    from components.models.device import best_device, best_dtype, device_name
    from components.models.matrices import processor

    device = best_device()
    dtype = str(best_dtype(device)).removeprefix("torch.")
    values = [torch.get_num_threads(), device_name(device), device.type, dtype]
    return timed(lambda value: value, [*values, processor(), torch.backends.cpu.get_cpu_capability()])


def read_rate(folder: str) -> Measured:
    """Bytes a second that the device reads, whatever the folder; see benchmarks/limits.py."""
    return timed(lambda measure: measure(), [limits.read_rate])


def weights_read(folder: str, kind: str, quantize: str = "none") -> Measured:
    """Bytes of weights that a pass of the model reads."""
    load = (
        model_of.__wrapped__ if quantize != "none" else model_of
    )  # what is quantized is of no use to others
    return timed(lambda model: limits.weights_read(model, quantize), [load(folder, kind)])


def imports() -> Measured:
    """What a program has that says `import torch, transformers`; the rest comes with what is used."""

    def work(name: str) -> None:
        __import__(name)

    return timed(work, ["torch", "transformers"])


def from_pretrained(folder: str, kind: str) -> Measured:
    """Model and tokenizer from the disk, each time again."""

    def work(load: Callable[[], Any]) -> None:
        load()

    return timed(
        work, [partial(model_of.__wrapped__, folder, kind), partial(processor_of.__wrapped__, folder)]
    )


# Encoders


def classify(folder: str, texts: Sequence[str], batch: int) -> Measured:
    """Sequence classification in batches of similar lengths; an answer is the label numbers of a batch."""
    import torch

    model, tokenizer = model_of(folder, "AutoModelForSequenceClassification"), processor_of(folder)
    ordered = sorted(texts, key=len) if batch > 1 else list(texts)

    def work(part: list[str]) -> list[int]:
        inputs = tokenizer(part, padding=True, truncation=True, return_tensors="pt").to(model.device)
        return model(**inputs).logits.argmax(-1).tolist()

    with torch.inference_mode():
        return timed(work, [ordered[i : i + batch] for i in range(0, len(ordered), batch)])


def embed(folder: str, groups: Sequence[list[str]]) -> Measured:
    """Each group of sentences through an encoder as one batch; answers: the sizes."""
    import torch

    model, tokenizer = model_of(folder, "AutoModel"), processor_of(folder)

    def work(sentences: list[str]) -> int:
        inputs = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(model.device)
        return len(model(**inputs).last_hidden_state.mean(1).cpu())

    with torch.inference_mode():
        return timed(work, groups)


def classify_images(folder: str, paths: Sequence[str], batch: int) -> Measured:
    """Image classification in batches, reading and resizing included; answers: label numbers."""
    import torch
    from PIL import Image

    model = model_of(folder, "AutoModelForImageClassification")
    processor = processor_of(folder, "AutoImageProcessor")

    def work(part: Sequence[str]) -> list[int]:
        pictures = [Image.open(path).convert("RGB") for path in part]
        pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        return model(pixel_values=pixels.to(model.device, model.dtype)).logits.argmax(-1).tolist()

    with torch.inference_mode():
        return timed(work, [paths[i : i + batch] for i in range(0, len(paths), batch)])


# Decoders


def generate(folder: str, prompts: Sequence[str], most: int) -> Measured:
    """Greedy `generate`, a prompt at a time; answers: the continuations."""
    import torch

    model, tokenizer = model_of(folder, "AutoModelForCausalLM"), processor_of(folder)

    def work(prompt: str) -> str:
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        output = model.generate(**inputs, max_new_tokens=most, do_sample=False)
        return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    with torch.inference_mode():
        return timed(work, prompts)


def bare_loop(folder: str, prompts: Sequence[str], most: int) -> Measured:
    """The likeliest token, again and again, with the key/value cache and nothing else.

    With `most` 1 that is one prefill. Answers: how many tokens.
    """
    import torch

    model, tokenizer = model_of(folder, "AutoModelForCausalLM"), processor_of(folder)

    def work(prompt: str) -> int:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
        cache = None
        for done in range(most):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
            if ids.item() == model.config.eos_token_id:
                return done
        return most

    with torch.inference_mode():
        return timed(work, prompts)


def count_tokens(folder: str, texts: Sequence[str]) -> Measured:
    """How many tokens each text has."""
    return timed(lambda text: len(processor_of(folder)(text)["input_ids"]), texts)


def translate(folder: str, groups: Sequence[list[str]]) -> Measured:
    """Each group of sentences through `generate` as one batch; answers: the translations."""
    import torch

    model, tokenizer = model_of(folder, "AutoModelForSeq2SeqLM"), processor_of(folder)

    def work(sentences: list[str]) -> list[str]:
        inputs = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(model.device)
        return tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)

    with torch.inference_mode():
        return timed(work, groups)


# Other engines for decoders


@cache
def _llama_cpp(file: str, threads: int) -> Any:
    from llama_cpp import Llama

    return Llama(file, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)


def llama_cpp(file: str, prompts: Sequence[str], most: int, threads: int) -> Measured:
    """Greedy continuations by llama.cpp, a prompt at a time; answers: how many tokens."""
    model = _llama_cpp(file, threads)

    def work(prompt: str) -> int:
        model.reset()  # or it would keep what it has read of the same prompt
        return model.create_completion(prompt, max_tokens=most, temperature=0)["usage"]["completion_tokens"]

    return timed(work, prompts)


def to_ctranslate2(folder: str, target: str) -> Measured:
    """A Hugging Face folder as one of CTranslate2."""
    from ctranslate2.converters import TransformersConverter

    return timed(lambda target: TransformersConverter(folder).convert(target), [target])


@cache
def _ctranslate2(folder: str, compute: str, threads: int) -> Any:
    import ctranslate2

    return ctranslate2.Generator(folder, device="cpu", compute_type=compute, intra_threads=threads)


def ctranslate2_generate(
    folder: str, tokenizer: str, prompts: Sequence[str], most: int, compute: str, threads: int
) -> Measured:
    """Greedy continuations by CTranslate2, of all prompts as one batch; answers: how many tokens in all.

    folder: of its own format; tokenizer: of the checkpoint that it was made from.
    """
    model, tokens_of = _ctranslate2(folder, compute, threads), processor_of(tokenizer)

    def work(batch: Sequence[str]) -> int:
        tokens = [tokens_of.convert_ids_to_tokens(tokens_of(prompt)["input_ids"]) for prompt in batch]
        written = model.generate_batch(
            tokens, max_length=most, sampling_topk=1, include_prompt_in_result=False
        )
        return sum(len(one.sequences_ids[0]) for one in written)

    return timed(work, [prompts])


# Speech


def transcribe(folder: str, paths: Sequence[str]) -> Measured:
    """`generate` with timestamps, as it does a recording of any length; answers: the transcripts."""
    import torch

    from components.inputs.audio import RATE, decode

    model = model_of(folder, "AutoModelForSpeechSeq2Seq")
    processor = processor_of(folder, "AutoProcessor")

    def work(path: str) -> str:
        recording = decode(path, 3600)
        short = recording.seconds <= 30
        inputs = processor(
            recording.samples,
            sampling_rate=RATE,
            return_tensors="pt",
            truncation=short,
            padding="max_length" if short else "longest",
            return_attention_mask=True,
        )
        ids = model.generate(
            inputs["input_features"].to(model.device, model.dtype),
            attention_mask=inputs["attention_mask"].to(model.device),
            return_timestamps=True,
        )
        return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()

    with torch.inference_mode():
        return timed(work, paths)


def encode_speech(folder: str, paths: Sequence[str]) -> Measured:
    """Only the encoder, over each recording in windows of 30 s; answers: how many windows."""
    import torch

    from components.inputs.audio import RATE, decode

    model = model_of(folder, "AutoModelForSpeechSeq2Seq")
    extract = processor_of(folder, "AutoProcessor").feature_extractor

    def work(path: str) -> int:
        samples = decode(path, 3600).samples
        windows = [samples[i : i + 30 * RATE] for i in range(0, len(samples), 30 * RATE)]
        for window in windows:
            features = extract(window, sampling_rate=RATE, return_tensors="pt").input_features
            model.get_encoder()(features.to(model.device, model.dtype)).last_hidden_state.cpu()
        return len(windows)

    with torch.inference_mode():
        return timed(work, paths)


@cache
def _faster_whisper(folder: str, device: str, compute: str) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(folder, device=device, compute_type=compute, cpu_threads=os.cpu_count() or 1)


def faster_whisper(
    folder: str, paths: Sequence[str], device: str, compute: str, beams: int, batch: int = 0
) -> Measured:
    """faster-whisper with its defaults but for the beams; batch: of its batched pipeline, 0: the other one.

    Answers: the transcripts.
    """
    from faster_whisper import BatchedInferencePipeline

    model = _faster_whisper(folder, device, compute)
    many = {"batch_size": batch} if batch else {}
    write = (BatchedInferencePipeline(model) if batch else model).transcribe

    def work(path: str) -> str:
        segments, _ = write(path, language="en", beam_size=beams, **many)
        return "".join(segment.text for segment in segments).strip()

    return timed(work, paths)


MEASURES: dict[str, Callable[..., Measured]] = {
    measure.__name__: measure
    for measure in (
        machine,
        read_rate,
        weights_read,
        imports,
        from_pretrained,
        classify,
        embed,
        classify_images,
        generate,
        bare_loop,
        count_tokens,
        translate,
        transcribe,
        encode_speech,
        faster_whisper,
        llama_cpp,
        to_ctranslate2,
        ctranslate2_generate,
    )
}


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(MEASURES[asked.pop("measure")](**asked)), file=answers, flush=True)


if __name__ == "__main__":
    main()
