"""Catalogue: every checkpoint that the tabs offer, as large as it is and in the form it has on the hub.

python -m benchmarks.catalogue
python -m benchmarks.catalogue --only whisper-base.en --only opus-mt

Each is made with random weights (see tests/repositories.py), served by a hub on this machine, and used in its
tabs through the app's own manager, by a process of its own that finds an empty cache; and once more when the
model was let go. One at a time is on the disk; the largest takes 5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import PATIENCE, ROOT, environment
from components.weights.checkpoints import Hub
from demos import generation, image, masked, sentiment, speech, tokenizers, translation, zero_shot
from tests import repositories
from tests.hub_server import HubServer
from tests.repositories import ending

TOKENS = 20  # that generation writes
HEADER = ("tab", "checkpoint", "fetched", "left on the hub", "first use", "second use", "memory")
FORMS = ("checkpoint", "commit", "weights", "numbers", "size", "other formats", "not seen")
WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".ot", ".onnx", ".tflite")


@dataclass(frozen=True)
class Use:
    """A checkpoint in a process of its own.

    seconds, busy: from the click to the answer, without imports, of each use, by the clock and of processors;
    memory: the most that the process or one that it started had in memory, in bytes; problem: the sentence
    that came instead of an answer.
    """

    seconds: list[float]
    busy: list[float]
    memory: int
    answer: str
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """A checkpoint in one tab. fetched, left: bytes by format."""

    tab: str
    name: str
    fetched: dict[str, int]
    left: dict[str, int]
    use: Use


# Each takes the name of a checkpoint and the manager, and gives something of the answer to show.


def _sentiment(name: str, models: Any) -> str:
    return sentiment.run(sentiment.EXAMPLES[0], name, models).rows[0].scores[0][0]


def _zero_shot(name: str, models: Any) -> str:
    asked = zero_shot.TEXT, zero_shot.LABELS, False, zero_shot.TEMPLATE
    return zero_shot.run(*asked, name, models).scores[0][0]


def _generation(name: str, models: Any) -> str:
    *_, last = generation.run(generation.validate(generation.PROMPT, TOKENS), name, models)
    return last.sequences[0]


def _translation(name: str, models: Any) -> str:
    return translation.run("You like this house", name, models).sentences[0].target


def _speech(name: str, models: Any) -> str:
    *_, last = speech.run(str(speech.CLIP), "segment", None, "transcribe", name, models)
    return last.text


def _image(name: str, models: Any) -> str:
    import gradio as gr

    return image.run(gr.media.get_image(image.EXAMPLES[0]), 5, name, models).scores[0][0]


def _masked(name: str, models: Any) -> str:
    before, after = masked.split_at_gap(masked.EXAMPLES[0])
    return masked.fill(before, after, name, models, lambda step: None, lambda: False).scores[0][0]


def _tokenizers(name: str, models: Any) -> str:
    (found,) = tokenizers.compare(tokenizers.TEXT, [name], tokenizers.Shelf(models))
    if isinstance(found, tokenizers.Lacking):
        raise tokenizers.CheckpointError(found.reason)
    return f"{len(found.tokens.tokens)} tokens of {found.vocabulary:,}"


TABS: dict[str, tuple[Callable[[str, Any], str], tuple[Any, ...]]] = {
    "sentiment": (_sentiment, (sentiment.OFFER,)),
    "zero_shot": (_zero_shot, (zero_shot.OFFER,)),
    "generation": (_generation, (generation.OFFER,)),
    "translation": (_translation, (translation.OFFER,)),
    "speech": (_speech, (speech.OFFER,)),
    "image": (_image, (image.OFFER,)),
    "masked": (_masked, (masked.MASKED,)),
    "tokenizers": (_tokenizers, tokenizers.OFFERS),
}


def offered() -> list[tuple[str, Hub]]:
    """Each tab with each repository of the hub that it offers, those of one repository one after another."""
    found = [
        (tab, checkpoint.source)
        for tab, (_, offers) in TABS.items()
        for offer in offers
        for checkpoint in (offer.course, *offer.alternatives)
        if isinstance(checkpoint.source, Hub)
    ]
    first = list(dict.fromkeys(source.repo_id for _, source in found))
    return sorted(found, key=lambda pair: first.index(pair[1].repo_id))


def use(tab: str, name: str) -> Use:
    """Run a tab twice with a checkpoint in this process, with the manager that the app makes."""
    import app
    from components.errors import DemoError
    from components.settings import parse
    from components.weights.hub import HubStatus

    run, _ = TABS[tab]
    app.warm()
    models = app.create_manager(parse([], os.environ), HubStatus())
    seconds, busy, answer = [], [], ""
    try:
        for _ in range(2):
            started, worked = time.perf_counter(), _worked()
            answer = run(name, models)
            seconds.append(time.perf_counter() - started)
            busy.append(_worked() - worked)
            models.unload(name)
    except DemoError as error:
        return Use(seconds, busy, _peak(), answer, str(error))
    return Use(seconds, busy, _peak(), answer)


def _worked() -> float:
    """Seconds of a processor that this process and those that it has started and seen end have taken."""
    return sum(os.times()[:4])


def _peak() -> int:
    """Bytes that this process, or the largest that it started, had in memory at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    status = Path("/proc/self/status")
    if not status.exists():
        return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, children)
    # What the system calls the peak of a process has that of the process that started it in it.
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return max(int(line.split()[1]) * unit, children)


def in_a_process(tab: str, name: str, hub: str, home: Path) -> Use:
    """`use` in a fresh interpreter, which finds the hub at that address and its cache in that folder.

    Raises RuntimeError with its last words if it breaks down.
    """
    variables = {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.catalogue", "--use", tab, name],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if done.returncode:
        raise RuntimeError(f"{name} in {tab}: {done.stderr.strip()[-500:]}")
    return Use(**json.loads(done.stdout.splitlines()[-1]))


def measure(tab: str, source: Hub, hub: HubServer, folder: Path, home: Path) -> Row:
    """Use the repository in this folder, which the hub has, with a cache that is empty at first."""
    before = len(hub.log)
    used = in_a_process(tab, source.repo_id, hub.url, home)
    fetched: Counter[str] = Counter()
    asked = set()
    for request in hub.log[before:]:
        path = request.path.partition("/resolve/")[2].partition("/")[2]
        if request.method == "GET" and path:
            fetched[ending(path)] += request.sent
            asked.add(path)
    left: Counter[str] = Counter()
    for file in folder.rglob("*"):
        if file.is_file() and file.relative_to(folder).as_posix() not in asked:
            left[ending(file.name)] += file.stat().st_size
    return Row(tab, source.repo_id, dict(fetched), dict(left), used)


def rows(only: Sequence[str] = (), small: bool = False, tell: Callable[[Row], None] = print) -> list[Row]:
    """Measure what is offered, and tell each row when it is there.

    only: names of repositories, or parts of names, if not all are meant.

    small: with checkpoints of a few thousand parameters in the same form.
    """
    facts, done = repositories.facts(), []
    chosen = [
        pair
        for pair in offered()
        if not only
        or pair[1].repo_id in only
        or any(part in pair[1].repo_id for part in only if part not in facts)
    ]
    for name in dict.fromkeys(source.repo_id for _, source in chosen):
        with tempfile.TemporaryDirectory(prefix="catalogue-") as place, HubServer() as hub:
            folder, known = Path(place) / "repository", facts[name]
            repositories.make(known, folder, small)
            for tab, source in chosen:
                if source.repo_id == name:
                    hub.add(name, folder, revision=source.revision)
                    if known.is_converted and not hub.repositories[name].pull_requests:
                        repositories.make(known, Path(place) / "converted", small, converted=True)
                        hub.add_pull_request(name, Path(place) / "converted")
                    with tempfile.TemporaryDirectory(dir=place) as home:
                        done.append(measure(tab, source, hub, folder, Path(home)))
                    tell(done[-1])
    return done


def heading(names: Sequence[str] = HEADER) -> str:
    return f"{line(names)}\n{line(['---'] * len(names))}"


def forms() -> str:
    """What each repository holds on the hub, as a table."""
    lines = [heading(FORMS)]
    for known in repositories.facts().values():
        taken = known.weights
        others = [path for path in known.files if ending(path) in WEIGHTS and path != taken]
        bot = known.conversion["ref"] if known.is_converted and known.conversion else ""
        written = (f"`{known.commit[:7]}`" if re.match("[0-9a-f]{7}", known.commit) else known.commit,
                   f"`{taken}`" + f", or the bot's safetensors in {bot}" * bool(bot),
                   known.dtype,
                   _stated(known.files[taken]),
                   ", ".join(sorted({ending(path) for path in others})) or "none",
                   known.unseen)  # fmt: skip
        lines.append(line((known.name, *written)))
    return "\n".join(lines)


def _stated(size: int | None) -> str:
    if size is None:
        return "not seen"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cells(row: Row) -> tuple[str, ...]:
    """One row of the table. Of what is left on the hub, formats of weights only."""
    pairs = zip(row.use.seconds, row.use.busy, strict=True)
    seconds = [f"{taken:.1f} s ({worked:.1f} s)" for taken, worked in pairs]
    if row.use.problem:
        seconds.append(f"no: {row.use.problem}")
    return (
        row.tab,
        row.name,
        _sizes(row.fetched),
        ", ".join(kind for kind in WEIGHTS if kind in row.left) or "nothing",
        *[*seconds, ""][:2],
        f"{row.use.memory / 1e6:,.0f} MB",
    )


def _sizes(sent: dict[str, int]) -> str:
    """Bytes of the formats of weights, and of all else."""
    parts = [f"{sent[kind] / 1e6:,.1f} MB {kind}" for kind in WEIGHTS if kind in sent]
    other = sum(size for kind, size in sent.items() if kind not in WEIGHTS)
    return ", ".join([*parts, f"{other / 1e6:,.1f} MB else"])


def wrong(row: Row) -> str | None:
    """What speaks against a row: no answer, or a file fetched that nothing here reads."""
    formats = {kind for kind in WEIGHTS if kind in row.fetched}
    if row.use.problem:
        return f"{row.tab}: {row.name} does not answer"
    if ".safetensors" in formats and len(formats) > 1:
        return f"{row.tab}: {row.name} was fetched in several formats: {', '.join(sorted(formats))}"
    if formats - {".safetensors", ".bin"}:
        return f"{row.tab}: of {row.name} {', '.join(sorted(formats))} was fetched"
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; ends with status 1 where something is wrong with a row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalogue", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="a name, or a part of several")
    parser.add_argument("--small", action="store_true", help="tiny checkpoints of the same form")
    parser.add_argument("--forms", action="store_true", help="only what each repository holds on the hub")
    parser.add_argument("--use", nargs=2, metavar=("TAB", "NAME"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.use:
        print(json.dumps(vars(use(*given.use))))
        return
    if given.forms:
        print(forms())
        return
    print(heading(), flush=True)
    done = rows(given.only, given.small, lambda row: print(line(cells(row)), flush=True))
    if not done:
        sys.exit("No checkpoint has such a name.")
    if problems := [problem for row in done if (problem := wrong(row))]:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
