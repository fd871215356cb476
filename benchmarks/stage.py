"""Stage: what the rows of the speed table share, and the processes that each of them sets up."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.load import Burst
from benchmarks.processes import Server, Worker, server, worker
from benchmarks.quality import read_labelled, read_records, read_references
from benchmarks.rounds import Side, alternate, evenly
from components.errors import CheckpointError
from components.progress import unreported
from components.settings import parse
from components.weights import sources
from components.weights.checkpoints import Offer
from components.weights.wheels import SMOLLM2, WHISPER, Wheel
from demos import generation, image, sentiment, speech, translation, zero_shot

ROUNDS = 5
PAUSE = 0.5  # seconds between recordings that are joined
TABS = (sentiment, zero_shot, generation, translation, speech, image)
NO_EVENT_TABLE = {"GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9)}  # as app.py has it


@dataclass(frozen=True)
class Bench:
    """What all rows share. data: PATH; folders: tab -> weights of its starter; scratch: for new files."""

    data: Path
    folders: Mapping[str, str]
    scratch: Path
    rounds: int = ROUNDS

    def texts(self, most: int) -> list[str]:
        return evenly([text for _, text in read_labelled(self.data / "sentiment" / "dev.tsv")], most)

    def readings(self) -> list[dict[str, Any]]:
        """Recordings: path, text and seconds of each."""
        folder = self.data / "speech"
        rows = read_records(folder / "manifest.jsonl")
        return [{**row, "path": str(folder / row["file"])} for row in rows]

    def pictures(self) -> list[str]:
        folder = self.data / "image"
        return [str(folder / row["file"]) for row in read_records(folder / "manifest.jsonl")]

    def sentences(self, most: int) -> list[str]:
        return evenly(list(read_references(self.data / "en-fr" / "dev.tsv")), most)

    def labelled(self, most: int) -> tuple[list[str], str]:
        """Texts, and their ten labels with commas between them."""
        rows = read_records(self.data / "zero_shot" / "clinc_domains.jsonl")
        return evenly([row["text"] for row in rows], most), ", ".join(sorted({row["label"] for row in rows}))


class Stage:
    """The processes of one row: started when first asked for, at rest between questions, ended with it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._stack = ExitStack()
        # One of each; a method with a cache would keep the stage.
        self.ours = cache(self._ours)
        self.plain = cache(self._plain)
        self.gradio = cache(self._gradio)
        self._worker = cache(self._start_worker)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def alternate(
        self, sides: Mapping[str, Side], rounds: int | None = None, warm_up: Iterable[Side] | None = None
    ) -> dict[str, list[Burst]]:
        """In as many rounds as were asked for, or at most `rounds`."""
        return alternate(sides, min(self.bench.rounds, rounds or self.bench.rounds), warm_up)

    def alone(self, measure: str, tab: str, **values: Any) -> Burst:
        """A measure of benchmarks/alone.py on the weights of a tab."""
        return self._worker("torch").ask(measure, folder=self.bench.folders[tab], **values)

    def machine(self) -> list[Any]:
        """Threads, device name, device type and number format of torch, processor, vector instructions."""
        return [answer.data for answer in self._worker("torch").ask("machine").answers]

    def precision(self) -> str:
        """The number format of the app here, float32 on the CPU."""
        return str(self.machine()[3])

    def on_cpu(self) -> bool:
        return self.machine()[2] == "cpu"

    def faster_whisper(self, paths: Sequence[str], compute: str, beams: int = 5, batch: int = 0) -> Burst:
        """faster-whisper on the files that the starter was made from, in a process without torch."""
        return self._worker("ctranslate2").ask(
            "faster_whisper",
            folder=str(ctranslate2_folder(self.bench.scratch)),
            paths=paths,
            device="cpu" if self.on_cpu() else "cuda",
            compute=compute,
            beams=beams,
            batch=batch,
        )

    def llama_cpp(self, prompts: Sequence[str], most: int, threads: int) -> Burst:
        """llama.cpp on the file that the starter was made from, in a process without torch."""
        file = str(gguf_file(self.bench.scratch))
        return self._worker("llama.cpp").ask(
            "llama_cpp", file=file, prompts=prompts, most=most, threads=threads
        )

    def ctranslate2(self, prompts: Sequence[str], most: int, compute: str) -> Burst:
        """CTranslate2 on the starter's weights, all prompts as one batch."""
        folder, target = self.bench.folders["generation"], self.bench.scratch / "ctranslate2"
        if not target.exists():
            require("ctranslate2")
            self._worker("torch").ask("to_ctranslate2", folder=folder, target=str(target))
        return self._worker("ctranslate2").ask(
            "ctranslate2_generate",
            folder=str(target),
            tokenizer=folder,
            prompts=prompts,
            most=most,
            compute=compute,
            threads=self.machine()[0],
        )

    def _ours(self, *options: str) -> Server:
        """The app, with further options."""
        return self._stack.enter_context(app(*options))

    def _plain(self) -> Server:
        return self._stack.enter_context(plain(self.bench.folders))

    def _gradio(self) -> Server:
        """Where only the tab that does nothing is used, with Gradio's table of events off as in the app."""
        return self._stack.enter_context(plain(self.bench.folders, **NO_EVENT_TABLE))

    def _start_worker(self, kind: str) -> Worker:
        return self._stack.enter_context(worker())


def app(*options: str) -> Any:
    """The app on its starters, as a server to enter."""
    cache_folder = str(parse([], os.environ).cache)
    return server(["app.py", "--checkpoints", "starter", "--cache", cache_folder, *options])


def plain(folders: Mapping[str, str], **variables: str) -> Any:
    """The app that a user would write, as a server to enter."""
    return server(["-m", "benchmarks.plain", json.dumps(dict(folders))], **variables)


def require(package: str) -> None:
    """Raises RuntimeError with what to do where a peer is not installed."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise RuntimeError(f"{package} is missing: pip install -r benchmarks/speed-requirements.txt")


def ctranslate2_folder(scratch: Path) -> Path:
    """The speech starter as it came, before it was converted. Raises RuntimeError if it cannot be had."""
    require("faster-whisper")
    return next(_unpacked(WHISPER, scratch).rglob("model.bin")).parent


def gguf_file(scratch: Path) -> Path:
    """The generation starter as it came, before it was converted. Raises RuntimeError if it cannot be had."""
    require("llama-cpp")
    return next(_unpacked(SMOLLM2, scratch).rglob("*.gguf"))


def _unpacked(wheel: Wheel, scratch: Path) -> Path:
    """The folder of a wheel's files. Raises RuntimeError if it cannot be downloaded."""
    target = scratch / wheel.package
    if not target.exists():
        wanted = scratch / "wheel.txt"
        wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(wanted)]
        # Into a folder of its own, where it is unpacked and nothing of it runs.
        done = subprocess.run(
            [*pip, "--target", str(target), *options], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{wheel.package} could not be downloaded: {done.stderr.strip()[-300:]}")
    return target


def starter_folders() -> dict[str, str]:
    """Tab -> the local folder of its starter, made first where it is not there. Raises CheckpointError."""
    starters = parse([], os.environ).cache / "starters"

    def folder(offer: Offer) -> Path:
        if offer.starter is None:
            raise CheckpointError(f"There is no starter beside {offer.course.name}.")
        # Only what comes from the hub asks how much memory there is.
        return sources.fetch(offer.starter, starters, unreported, lambda: 0, bytes_per_parameter=4)

    return {tab.DEMO.name: str(folder(tab.OFFER).resolve()) for tab in TABS}


def word_error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Share of words that differ, case and punctuation aside, over all texts together."""
    import jiwer

    def plain(text: str) -> str:
        return " ".join(re.findall(r"[\w']+", text.lower()))

    return jiwer.wer([plain(text) for text in reference], [plain(text) for text in hypothesis])


def join_clips(paths: Sequence[Path], target: Path, length: float) -> tuple[int, float]:
    """Writes recordings with pauses between them, and again from the first, while `length` seconds allow.

    Returns how many were written, and their seconds. Raises ValueError where their rates differ or the
    first does not fit.
    """
    import numpy as np
    import soundfile

    clips = [soundfile.read(path, dtype="float32", always_2d=True) for path in paths]
    if len({rate for _, rate in clips}) != 1:
        raise ValueError("recordings can be joined where all have one rate")
    rate, room = clips[0][1], int(length * clips[0][1])
    parts: list[np.ndarray] = []
    pause = np.zeros(int(PAUSE * rate), np.float32)
    while len(clip := clips[len(parts) % len(clips)][0]) + len(pause) <= room:
        parts.append(np.concatenate([clip.mean(1), pause]))
        room -= len(parts[-1])
    if not parts:
        raise ValueError("the first recording does not fit into what was asked for")
    joined = np.concatenate(parts)
    soundfile.write(target, joined, rate)
    return len(parts), len(joined) / rate
