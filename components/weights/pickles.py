"""Pickles: how do weights in PyTorch's own format become safetensors, without trusting what is in the file?

A pickle is a program. The one that reads it here, unpickling.py, is a process of its own that
can do little; what it has written is looked at before anything else gets it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.errors import CheckpointError
from components.progress import Progress, Report, unreported
from components.weights import unpickling
from components.weights.checkpoints import Recipe
from components.weights.formats import INDEX, PICKLE, WEIGHTS

log = logging.getLogger("tour")

MOST_SAID = 50_000  # bytes
LOOK = 0.1  # seconds from one look at how far it is to the next
WORKSPACE = 1_000_000_000  # bytes beside twice the largest file
STARTING, SLOWEST = 120.0, 5e6  # seconds to start in, and bytes that are at least converted in a second after
# Variables without which a program may not start; all others, and what they tell, stay here.
KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "PATH")
SENTENCES = {
    "objects": "is not a plain list of weights, and nothing else is read from it",
    "damaged": "is damaged",
    "packed": "is compressed, as no list of weights is",
    "large": "claims to hold more than its size",
    "kinds": "holds weights that are sparse, quantized or of a rare type, which are not loaded here",
}


class UnusableError(CheckpointError):
    """The file is no good, and will be none the next time."""


def convert(
    sources: Sequence[Path],
    name: str,
    folder: Path,
    tied: dict[str, str],
    report: Report = unreported,
    *,
    seconds: float | None = None,
    memory: int | None = None,
) -> list[Path]:
    """Safetensors of pickled weights, written to an empty folder; a list of them and, of shards, the index.

    name: of the repository, for messages; tied: names of tensors that the model ties to others again, and to
    which: left out where the file has them as one; seconds, memory: limits, in bytes for the second, by the
    sizes of the files if not given. Reports bytes written of about as many. What report raises ends it.
    Raises UnusableError for a file that holds more than tensors, or less than it claims, CheckpointError
    if there is no time or room.
    """
    from safetensors import SafetensorError

    sizes = [source.stat().st_size for source in sources]
    total = sum(sizes)
    seconds = STARTING + total / SLOWEST if seconds is None else seconds
    targets = [folder / _target(number, len(sources)) for number in range(len(sources))]
    order = {
        "path": [str(Path(entry).resolve()) for entry in sys.path],
        "sources": [str(source.resolve()) for source in sources],
        "targets": [str(target) for target in targets],
        "tied": tied,
        "memory": 2 * max(sizes) + WORKSPACE if memory is None else memory,
        "bytes": 2 * total,
        "seconds": int(seconds) + 1,
    }

    def tell() -> None:
        written = sum(path.stat().st_size for path in targets if path.exists())
        report(Progress("converting", min(written, total), total))

    what = f"{PICKLE} of {name}" if len(sources) == 1 else f"The weights of {name}"
    told = _run([sys.executable, "-I", unpickling.__file__, json.dumps(order)], folder, tell, seconds)
    if told is None:
        raise CheckpointError(
            f"{what} took longer than {seconds:.0f} seconds to convert. Try again later, or choose a "
            "checkpoint with safetensors."
        )
    if told.get("errno") in (errno.ENOSPC, errno.EDQUOT):
        raise CheckpointError(
            f"The disk is full; {name} stopped while it was converted. Make room. Try again."
        )
    if reason := SENTENCES.get(str(told.get("refused"))):
        raise UnusableError(f"{what} {reason}. Choose a checkpoint with safetensors.")
    try:
        if told:
            raise OSError(f"ended with {told}")
        names = {target: _names(target) for target in targets}
    except (OSError, SafetensorError) as error:
        log.warning("%s is not converted: %s", name, error)
        raise CheckpointError(
            f"{what} could not be converted. Choose a checkpoint with safetensors."
        ) from error
    tell()
    if len(targets) == 1:
        return targets
    index = folder / INDEX
    where = {tensor: target.name for target, tensors in names.items() for tensor in tensors}
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}), encoding="utf-8")
    return [*targets, index]


def tied_names(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Parameters that a model of this folder's config.json ties to others by itself, and to which.

    None for a configuration that makes no model: all weights are kept then. No weights are made.
    """
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model_class = getattr(transformers, recipe.model(config.to_dict()))
        with torch.device("meta"):
            model = model_class.from_config(config, trust_remote_code=False)
    except Exception:  # whatever is wrong with it, loading the model says it
        log.info("the ties of %s are not known", folder, exc_info=True)
        return {}
    return dict(model.all_tied_weights_keys)


def _run(command: list[str], folder: Path, tell: Callable[[], None], seconds: float) -> dict[str, Any] | None:
    """What the program says, {} if it ended well, None if it took too long; it never outlives this call."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    ends = time.monotonic() + seconds
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            while _is_running(process):
                tell()
                if time.monotonic() > ends:
                    return None
        finally:
            process.kill()
        # What is in the pipe, at most: a program that says more waits until its time is up.
        said = process.stdout.read(MOST_SAID).decode("utf-8", "replace") if process.stdout else ""
    if process.returncode == 0 and not said:
        return {}
    log.warning("unpickling ended with %s: %s", process.returncode, said[-2000:])
    try:
        return dict(json.loads(said.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return {"ended": process.returncode}


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(LOOK)
    except subprocess.TimeoutExpired:
        return True
    return False


def _target(number: int, count: int) -> str:
    return WEIGHTS if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"


def _names(path: Path) -> list[str]:
    """Of the tensors in a file. Raises SafetensorError or OSError if it is none."""
    from safetensors import safe_open

    if path.is_symlink():
        raise OSError(f"{path.name} is a link")
    with safe_open(path, "pt") as weights:
        return list(weights.keys())
