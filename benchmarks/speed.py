"""Speed: how fast is the app next to what a user would write or install instead, on the same weights?

    python -m benchmarks.speed PATH [--only sentiment,speech] [--rounds 5] [--avx2] [--device cpu]

PATH is the folder of benchmarks/quality.py. Both sides run as processes of their own on 127.0.0.1, take
the same load one after the other in each round, and rest while the other works. Files are uploaded
before the clock starts; faster-whisper, llama.cpp and CTranslate2 work in processes without HTTP, which
is in their favour. What takes long and only stands beside (the other peers for speech, eight visitors of
the plain app) is measured once. The rows for speech and generation need benchmarks/speed-requirements.txt.
--avx2 keeps torch, its libraries and CTranslate2 from using AVX-512, as on a machine that has none;
llama.cpp uses what it was compiled for.
Beside a row that is bound by reading weights stands how fast that could be.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import limits, startup
from benchmarks.load import Burst, drive, upload
from benchmarks.processes import busy, peak_memory, settle, share_of_a_core, worker
from benchmarks.rounds import (
    Row,
    Side,
    alike,
    at_least,
    at_most,
    cells,
    evenly,
    heading,
    line,
    milliseconds,
    note,
    rates,
    seconds,
)
from benchmarks.stage import (
    ROUNDS,
    Bench,
    Stage,
    app,
    join_clips,
    plain,
    starter_folders,
    word_error_rate,
)
from components.errors import DemoError
from components.models.device import best_device
from demos import speech, zero_shot

DEVICES = ("cpu", "cuda", "mps")
ROUNDS_BESIDE = 1  # of numbers that only stand beside, where each takes long
PACKAGES = ("torch", "transformers", "gradio", "faster-whisper", "ctranslate2", "llama-cpp-python")
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "CT2_FORCE_CPU_ISA": "AVX2",
}
BUDGET = 1.5  # GB
REST = 30.0  # seconds
SPEECH_CLIPS = 8
LONG_SPEECH = 240.0  # seconds
TOKENS = 64  # of each continuation
SENTENCES = 20
QUANTIZED = ("int8", "int4")
PROMPTS = (
    "So today, I just feel like",
    "In this course, we will teach you how to",
    "The three most important things about attention are",
    "Once upon a time, in a library where nobody read,",
    "The best way to learn a language is",
    "When the rain had stopped, the children",
    "A model with many layers can",
    "The history of printing begins with",
)


def data_of(burst: Burst) -> list[Any]:
    """The first output of each answer of an endpoint."""
    return [answer.data[0] for answer in burst.answers]


def measure_sentiment(stage: Stage) -> Iterator[Row]:
    """Requests a second under a crowd, and the wait of a single visitor."""

    def sides(texts: list[str], clients: int, batch: int) -> dict[str, Side]:
        return {
            "plain": partial(drive, stage.plain().url, "sentiment", [[text] for text in texts], clients),
            "ours": partial(
                drive, stage.ours().url, "sentiment", [[text, "auto"] for text in texts], clients
            ),
            "gradio": partial(drive, stage.gradio().url, "noop", [[text] for text in texts], clients),
            "alone": partial(stage.alone, "classify", "sentiment", texts=texts, batch=batch),
        }

    texts = stage.bench.texts(160)
    few = sides(texts[:32], 32, 32)
    many = stage.alternate(sides(texts, 32, 32), warm_up=few.values())
    labels = [[answer["label"] for answer in data_of(many[side][-1])] for side in ("plain", "ours")]
    yield Row(
        "sentiment, 32 clients at once",
        "requests/s",
        "plain app",
        rates(many["plain"]),
        rates(many["ours"]),
        at_least(2.5),
        beside=(
            note("Gradio alone", rates(many["gradio"]), "requests/s"),
            note("sorted batches of 32 without HTTP", rates(many["alone"], len(texts)), "requests/s"),
            alike(labels, "labels the same"),
        ),
    )
    one = stage.alternate(sides(texts[:20], 1, 1))
    yield Row(
        "sentiment, one client",
        "ms",
        "plain app",
        milliseconds(one["plain"]),
        milliseconds(one["ours"]),
        at_most(0.8),
        beside=(
            note("Gradio alone", milliseconds(one["gradio"]), "ms"),
            note("model alone", milliseconds(one["alone"]), "ms"),
            limits.one_pass(stage, "sentiment", "AutoModelForSequenceClassification"),
        ),
    )


def measure_zero_shot(stage: Stage) -> Iterator[Row]:
    """Ten labels: a pass for each in the plain app."""
    template = zero_shot.TEMPLATE

    def sides(texts: list[str], labels: str, clients: int) -> dict[str, Side]:
        asked = [[text, labels, False, template, "auto"] for text in texts]
        groups = [[text, *(template.format(label) for label in labels.split(", "))] for text in texts]
        return {
            "plain": partial(drive, stage.plain().url, "zero_shot", [a[:2] for a in asked], clients),
            "ours": partial(drive, stage.ours().url, "zero_shot", asked, clients),
            "alone": partial(stage.alone, "embed", "zero_shot", groups=groups),
        }

    for clients, requests in ((1, 10), (16, 48)):
        texts, labels = stage.bench.labelled(requests)
        few = sides(texts[:clients], labels, clients)
        done = stage.alternate(sides(texts, labels, clients), warm_up=few.values())
        best = [[answer["label"] for answer in data_of(done[side][-1])] for side in ("plain", "ours")]
        yield Row(
            f"zero-shot with {labels.count(',') + 1} labels, {clients} client{'s' * (clients > 1)}",
            "requests/s",
            "plain app",
            rates(done["plain"]),
            rates(done["ours"]),
            at_least(2),
            beside=(
                note("a batch for each text without HTTP", rates(done["alone"]), "requests/s"),
                alike(best, "best labels the same"),
            ),
        )


def measure_speech(stage: Stage) -> Iterator[Row]:
    """Eight clips: from eight clients at once, and one after another."""
    rows = stage.bench.readings()[:SPEECH_CLIPS]
    work = f"speech, {len(rows)} clips of {sum(row['seconds'] for row in rows):.0f} s in all"
    ways = {f"{work}, at once": len(rows), f"{work}, one by one": 1}
    yield from _speech(stage, ways, [row["path"] for row in rows], [row["text"] for row in rows])


def measure_long_speech(stage: Stage) -> Iterator[Row]:
    """One recording much longer than Whisper's window."""
    rows = stage.bench.readings()
    path = stage.bench.scratch / "long.wav"
    used, length = join_clips([Path(row["path"]) for row in rows], path, LONG_SPEECH)
    reading = " ".join(rows[i % len(rows)]["text"] for i in range(used))
    yield from _speech(stage, {f"speech, {length:.0f} s in one file": 1}, [str(path)], [reading])


def _speech(stage: Stage, ways: Mapping[str, int], paths: list[str], readings: list[str]) -> Iterator[Row]:
    """A row for each way: what it is called, and from how many clients at once."""
    url, plain_url, full = stage.ours().url, stage.plain().url, stage.precision()
    asked = [[file, "none", "transcribe", "auto"] for file in upload(url, map(Path, paths))]
    uploaded = [[file] for file in upload(plain_url, map(Path, paths))]
    warm_up = [[file, "none", "transcribe", "auto"] for file in upload(url, [speech.CLIP])]
    done = stage.alternate(
        {
            **{work: partial(drive, url, "transcribe", asked, clients) for work, clients in ways.items()},
            "peer": partial(stage.faster_whisper, paths, full),
        },
        warm_up=[
            partial(drive, url, "transcribe", warm_up),
            partial(stage.faster_whisper, [str(speech.CLIP)], full),
        ],
    )
    others: dict[str, Side] = {
        f"faster-whisper {full}, 1 beam": partial(stage.faster_whisper, paths, full, beams=1),
        "int8": partial(stage.faster_whisper, paths, "int8"),
        "int8, 1 beam": partial(stage.faster_whisper, paths, "int8", beams=1),
        f"{full}, batches of 8": partial(stage.faster_whisper, paths, full, batch=8),
        "pipeline in the plain app": partial(drive, plain_url, "transcribe", uploaded, max(ways.values())),
        "`generate` alone": partial(stage.alone, "transcribe", "speech", paths=paths),
        "encoder alone": partial(stage.alone, "encode_speech", "speech", paths=paths),
    }
    beside = stage.alternate(others, ROUNDS_BESIDE, warm_up=[])
    notes = [note(name, seconds(bursts), "s") for name, bursts in beside.items()]
    generated = [answer.data for answer in beside["`generate` alone"][-1].answers]
    heard = word_error_rate(readings, [answer.data for answer in done["peer"][-1].answers])
    for work in ways:
        ours = data_of(done[work][-1])
        to_generate, to_readings = word_error_rate(generated, ours), word_error_rate(readings, ours)
        same = f"word error rate to `generate` {100 * to_generate:.1f} %"
        told = f"to the readings {100 * to_readings:.1f} %, of faster-whisper {100 * heard:.1f} %"
        # `generate` cuts a long recording elsewhere than we do.
        also = (same, to_generate == 0 or len(paths) == 1)
        peer, needed = f"faster-whisper {full}", seconds(done["peer"])
        yield Row(work, "s", peer, needed, seconds(done[work]), at_most(1), (also,), (told, *notes))
        notes = []  # once is enough


def measure_generation(stage: Stage) -> Iterator[Row]:
    """Tokens a second of one visitor and of eight, and the wait for the first token."""
    url, plain_url = stage.ours().url, stage.plain().url
    alone = partial(stage.alone, tab="generation")

    def ours(prompts: Sequence[str], tokens: int = TOKENS, where: str = url) -> Side:
        asked = [[prompt, tokens, 1, 0, 50, 0.95, 0, "auto"] for prompt in prompts]
        return partial(drive, where, "generate", asked, len(prompts))

    def theirs(prompts: Sequence[str]) -> Side:
        asked = [[prompt, TOKENS] for prompt in prompts]
        return partial(drive, plain_url, "generate", asked, len(prompts))

    sides: dict[str, Side] = {
        "plain": theirs(PROMPTS[:1]),
        "ours": ours(PROMPTS[:1]),
        "ours, 8": ours(PROMPTS),
        "generate": partial(alone, "generate", prompts=PROMPTS[:1], most=TOKENS),
        "loop": partial(alone, "bare_loop", prompts=PROMPTS[:1], most=TOKENS),
    }
    on_cpu = stage.on_cpu()  # quantized weights are a choice there only, and the peers are set up for it
    if on_cpu:
        threads = stage.machine()[0]
        sides |= {
            **{kind: ours(PROMPTS[:1], where=stage.ours("--quantize", kind).url) for kind in QUANTIZED},
            "llama.cpp": partial(stage.llama_cpp, PROMPTS[:1], TOKENS, threads),
            "llama.cpp, 1 thread": partial(stage.llama_cpp, PROMPTS[:1], TOKENS, 1),
            "llama.cpp, 8": partial(stage.llama_cpp, PROMPTS, TOKENS, threads),
            "CTranslate2 float32": partial(stage.ctranslate2, PROMPTS[:1], TOKENS, "float32"),
            "CTranslate2 int8": partial(stage.ctranslate2, PROMPTS[:1], TOKENS, "int8"),
            "CTranslate2 float32, 8": partial(stage.ctranslate2, PROMPTS, TOKENS, "float32"),
        }
    done = stage.alternate(sides)
    plain_8 = stage.alternate({"plain, 8": theirs(PROMPTS)}, ROUNDS_BESIDE, warm_up=[])["plain, 8"]

    def texts(burst: Burst) -> list[str]:
        firsts = [data[0] if isinstance(data, list) else data for data in (a.data for a in burst.answers)]
        return [first["sequences"][0] if isinstance(first, dict) else first for first in firsts]

    def tokens_per_second(bursts: Sequence[Burst]) -> tuple[float, ...]:
        counts = [alone("count_tokens", texts=texts(burst)).answers for burst in bursts]
        totals = [sum(answer.data for answer in each) for each in counts]
        return tuple(total / burst.seconds for total, burst in zip(totals, bursts, strict=True))

    plain_rate, rate = tokens_per_second(done["plain"]), tokens_per_second(done["ours"])
    looped = _counted(done["loop"])
    others = (
        note("`generate` alone", tokens_per_second(done["generate"]), "tokens/s"),
        note("bare loop", looped, "tokens/s"),
    )
    same = texts(done["ours"][-1]) == texts(done["plain"][-1])
    also = (("same text" if same else "another text", same),)
    work = f"generation, one visitor, {TOKENS} tokens"
    yield Row(
        work, "tokens/s", "plain app", plain_rate, rate, at_least(1.1), also, (*others, limits.tokens(stage))
    )
    if on_cpu:
        for kind in QUANTIZED:
            similar = texts(done[kind][-1]) == texts(done["plain"][-1])
            told = ("same text" if similar else "another text", limits.tokens(stage, quantize=kind))
            small = tokens_per_second(done[kind])
            yield Row(f"{work}, {kind}", "tokens/s", "plain app", plain_rate, small, at_least(1.4), (), told)
        beside = ("llama.cpp, 1 thread", "CTranslate2 float32", "CTranslate2 int8")
        peers = tuple(note(name, _counted(done[name]), "tokens/s") for name in beside)
        yield Row(work, "tokens/s", "llama.cpp", _counted(done["llama.cpp"]), rate, at_least(0.8), (), peers)
        with_4 = tokens_per_second(done["int4"])
        yield Row(
            f"{work}, int4", "tokens/s", "llama.cpp", _counted(done["llama.cpp"]), with_4, at_least(0.8)
        )
    together = f"generation, {len(PROMPTS)} visitors at once"
    rate_8 = tokens_per_second(done["ours, 8"])
    beside_8 = (
        note("plain app", tokens_per_second(plain_8), "tokens/s"),
        limits.tokens(stage, len(PROMPTS)),
    )
    yield Row(together, "tokens/s", "ours, one visitor", rate, rate_8, at_least(3), beside=beside_8)
    if on_cpu:
        batch = (
            note("CTranslate2 float32, one batch", _counted(done["CTranslate2 float32, 8"]), "tokens/s"),
        )
        one_by_one = "llama.cpp, one after another"
        theirs_8 = _counted(done["llama.cpp, 8"])
        yield Row(together, "tokens/s", one_by_one, theirs_8, rate_8, at_least(1), beside=batch)
        with busy():
            beset = stage.alternate(
                {name: sides[name] for name in ("llama.cpp, 1 thread", "llama.cpp", "ours")}
            )
        yield Row(
            f"{work}, beside a process that keeps a core busy",
            "tokens/s",
            "llama.cpp",
            _counted(beset["llama.cpp"]),
            tokens_per_second(beset["ours"]),
            at_least(0.8),
            beside=(note("llama.cpp, 1 thread", _counted(beset["llama.cpp, 1 thread"]), "tokens/s"),),
        )
    for prompt in (PROMPTS[0], " ".join(stage.bench.texts(15))):
        length = alone("count_tokens", texts=[prompt]).answers[0].data
        waits = stage.alternate(
            {
                "prefill": partial(alone, "bare_loop", prompts=[prompt] * 5, most=1),
                "ours": partial(_one_by_one, ours([prompt], tokens=2), 5),
                "gradio": partial(drive, stage.gradio().url, "noop", [[prompt]] * 5),
            }
        )
        yield Row(
            f"generation, first token after a prompt of {length}",
            "ms",
            "one prefill",
            milliseconds(waits["prefill"]),
            milliseconds(waits["ours"], first=True),
            at_most(1.2),
            beside=(note("Gradio alone", milliseconds(waits["gradio"]), "ms"),),
        )


def _counted(bursts: Sequence[Burst]) -> tuple[float, ...]:
    """A rate for each, where an answer says how many tokens it has."""
    return tuple(sum(answer.data for answer in burst.answers) / burst.seconds for burst in bursts)


def _one_by_one(side: Side, times: int) -> Burst:
    bursts = [side() for _ in range(times)]
    return Burst(sum(seconds(bursts)), tuple(answer for burst in bursts for answer in burst.answers))


def measure_translation(stage: Stage) -> Iterator[Row]:
    """Twenty sentences, each from a visitor of its own, and all in one text."""
    sentences = stage.bench.sentences(SENTENCES)
    alone = partial(stage.alone, "translate", "translation", groups=[sentences])
    ways = {
        f"translation, {len(sentences)} sentences, a visitor each": sentences,
        f"translation, {len(sentences)} sentences, one text": ["\n".join(sentences)],
    }
    for work, texts in ways.items():
        done = stage.alternate(
            {
                "plain": partial(drive, stage.plain().url, "translate", [[t] for t in texts], len(texts)),
                "ours": partial(
                    drive, stage.ours().url, "translate", [[t, "auto"] for t in texts], len(texts)
                ),
                "alone": alone,
            }
        )
        lines = ["\n".join(data_of(done[side][-1])).splitlines() for side in ("plain", "ours")]
        yield Row(
            work,
            "sentences/s",
            "plain app",
            rates(done["plain"], len(sentences)),
            rates(done["ours"], len(sentences)),
            at_least(2),
            beside=(
                note("one batch without HTTP", rates(done["alone"], len(sentences)), "sentences/s"),
                alike(lines, "translations the same"),
                "ours draws the attention of the first sentence as well",
            ),
        )


def measure_image(stage: Stage) -> Iterator[Row]:
    """Pictures from sixteen clients."""
    paths = evenly(stage.bench.pictures(), 16)
    ours, theirs = (upload(where.url, map(Path, paths)) * 4 for where in (stage.ours(), stage.plain()))
    done = stage.alternate(
        {
            "plain": partial(drive, stage.plain().url, "classify_image", [[file] for file in theirs], 16),
            "ours": partial(drive, stage.ours().url, "classify_image", [[f, 5, "auto"] for f in ours], 16),
            "gradio": partial(drive, stage.gradio().url, "noop", [["a text"]] * len(ours), 16),
            "alone": partial(stage.alone, "classify_images", "image", paths=paths, batch=16),
            "single": partial(stage.alone, "classify_images", "image", paths=paths, batch=1),
        }
    )
    best = [[answer["label"] for answer in data_of(done[side][-1])] for side in ("plain", "ours")]
    yield Row(
        "image, 16 clients at once",
        "requests/s",
        "plain app",
        rates(done["plain"]),
        rates(done["ours"]),
        at_least(2),
        beside=(
            note("Gradio alone", rates(done["gradio"]), "requests/s"),
            note("batches of 16 without HTTP", rates(done["alone"], len(paths)), "requests/s"),
            note("one by one without HTTP", rates(done["single"]), "requests/s"),
            alike(best, "best labels the same"),
        ),
    )


def measure_first_click(stage: Stage) -> Iterator[Row]:
    """A fresh app whose page is open and at rest, next to loading alone with torch and transformers there.

    The app imports before the first click what Transformers would at the first `from_pretrained`.
    """
    asked = [[stage.bench.texts(1)[0], "auto"]]
    again: list[Burst] = []
    imported: list[Burst] = []

    def ours() -> Burst:
        with app() as fresh:
            settle(fresh.process)
            first = drive(fresh.url, "sentiment", asked)
            again.append(drive(fresh.url, "sentiment", asked))
            return first

    def theirs() -> Burst:
        with worker() as fresh:
            fresh.ask("imports")
            asked = {"folder": stage.bench.folders["sentiment"], "kind": "AutoModelForSequenceClassification"}
            first = fresh.ask("from_pretrained", **asked)
            imported.append(fresh.ask("from_pretrained", **asked))
            return first

    done = stage.alternate({"theirs": theirs, "ours": ours})
    yield Row(
        "first click, model on disk",
        "s",
        "`from_pretrained` alone",
        seconds(done["theirs"]),
        seconds(done["ours"]),
        at_most(1.2),
        beside=(
            note("second click", seconds(again), "s"),
            note("`from_pretrained` with everything imported", seconds(imported), "s"),
        ),
    )


def measure_page_up(stage: Stage) -> Iterator[Row]:
    """From starting app.py until its page has been read."""
    done = stage.alternate(
        {
            "theirs": lambda: Burst(startup.seconds_to_import_gradio(), ()),
            "ours": lambda: Burst(startup.seconds_to_page(), ()),
        }
    )
    theirs, ours = seconds(done["theirs"]), seconds(done["ours"])
    yield Row("page up", "s", "`import gradio`", theirs, ours, at_most(1.5))


def measure_rest(stage: Stage) -> Iterator[Row]:
    """What an app takes of a core that was used once and that nobody uses now."""

    def at_rest(started: Any, name: str, asked: list[Any]) -> Burst:
        with started as fresh:
            drive(fresh.url, name, [asked])
            settle(fresh.process)
            return Burst(100 * share_of_a_core(fresh.process, REST), ())

    text = stage.bench.texts(1)[0]
    done = stage.alternate(
        {
            "theirs": lambda: at_rest(plain(stage.bench.folders), "sentiment", [text]),
            "ours": lambda: at_rest(app(), "sentiment", [text, "auto"]),
        }
    )
    theirs, ours = seconds(done["theirs"]), seconds(done["ours"])
    little = statistics.median(ours) < 2
    yield Row("at rest", "% of a core", "plain app", theirs, ours, at_most(1), also=(("under 2 %", little),))


def measure_memory(stage: Stage) -> Iterator[Row]:
    """What a fresh app grows by while every tab is visited twice."""
    clip, picture = stage.bench.readings()[0]["path"], stage.bench.pictures()[0]
    text, labels = stage.bench.labelled(1)
    peaks, at_start = list[float](), list[float]()
    grown: tuple[list[float], ...] = ([], [])
    for _ in range(stage.bench.rounds):
        with app("--memory-budget", str(BUDGET)) as fresh:
            sound, image_file = upload(fresh.url, [Path(clip), Path(picture)])
            visits: dict[str, list[Any]] = {
                "sentiment": [text[0], "auto"],
                "zero_shot": [text[0], labels, False, zero_shot.TEMPLATE, "auto"],
                "generate": [PROMPTS[0], TOKENS, 1, 0, 50, 0.95, 0, "auto"],
                "translate": [stage.bench.sentences(1)[0], "auto"],
                "transcribe": [sound, "none", "transcribe", "auto"],
                "classify_image": [image_file, 5, "auto"],
            }
            settle(fresh.process)
            before = fresh.process.memory_info().rss
            with peak_memory(fresh.process) as peak:
                for number_of_visit in range(2):
                    for name, values in visits.items():
                        drive(fresh.url, name, [values])
                    settle(fresh.process)
                    grown[number_of_visit].append((fresh.process.memory_info().rss - before) / 1e6)
            peaks.append((peak.bytes - before) / 1e6)
            at_start.append(before / 1e6)
    budget = tuple([BUDGET * 1e3] * len(peaks))
    beside = (note("before the first visit the app holds", at_start, "MB"),)
    work = "memory, all tabs visited twice"
    yield Row(f"{work}, most at any time", "MB", "budget", budget, tuple(peaks), at_most(1), beside=beside)
    first, second = map(tuple, grown)
    yield Row(f"{work}, kept afterwards", "MB", "after once", first, second, at_most(1.05))


ROWS: dict[str, Callable[[Stage], Iterator[Row]]] = {
    "sentiment": measure_sentiment,
    "zero_shot": measure_zero_shot,
    "speech": measure_speech,
    "long_speech": measure_long_speech,
    "generation": measure_generation,
    "translation": measure_translation,
    "image": measure_image,
    "first_click": measure_first_click,
    "page_up": measure_page_up,
    "rest": measure_rest,
    "memory": measure_memory,
}


# Output


def description(stage: Stage, rounds: int) -> str:
    """The machine and the versions, in a paragraph."""
    threads, device, _, dtype, processor, instructions = stage.machine()
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores of {processor}, load {load:.1f} before; torch on {device} with {threads} "
        f"threads and {instructions}, {dtype}; "
        f"{', '.join(versions)}. Medians of {rounds} rounds after a warm-up, with the range of the ratio."
    )


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises SystemExit with a sentence for what cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description="How fast is the app next to its alternatives?"
    )
    parser.add_argument("path", type=Path, help="folder with the data")
    parser.add_argument("--only", default=",".join(ROWS), help="comma separated; all if not given")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each measurement")
    parser.add_argument("--avx2", action="store_true", help="without AVX-512")
    parser.add_argument("--device", choices=DEVICES, help="the best one if not given")
    options = parser.parse_args(given)
    options.only = [name.strip().replace("-", "_") for name in options.only.split(",") if name.strip()]
    unknown = [name for name in options.only if name not in ROWS]
    if unknown or not options.only:
        parser.error(f"--only takes {', '.join(ROWS)}, not {', '.join(unknown) or 'nothing'}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not options.path.is_dir():
        parser.error(f"there is no folder {options.path}")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of all processes that are measured
    if options.device and (found := best_device().type) != options.device:
        parser.error(f"the app would run on {found} here, not on {options.device}")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if something could not be measured."""
    options = arguments(sys.argv[1:] if given is None else given)
    if options.avx2:
        os.environ.update(AVX2)  # for the processes that are started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended as well
    failed = False
    with tempfile.TemporaryDirectory(prefix="speed-") as scratch:
        bench = Bench(options.path.resolve(), starter_folders(), Path(scratch), options.rounds)
        with Stage(bench) as stage:
            print(f"{description(stage, options.rounds)}\n\n{heading()}", flush=True)
        for name in options.only:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            try:
                # Processes of its own for each, so that none is slowed down by what went before.
                with Stage(bench) as stage:
                    for row in ROWS[name](stage):
                        print(line(cells(row)), flush=True)
            except (DemoError, RuntimeError, ValueError, OSError) as error:
                failed = True
                print(f"{name} was not measured: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
