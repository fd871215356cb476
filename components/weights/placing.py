"""Placing: how do weights that a commit does not have come into its folder in huggingface_hub's cache?

They stand there as those of any other commit do, so that whatever reads, counts or clears the cache finds
them: files of a pull request as links, converted ones as files.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from components.progress import Alone, Report
from components.weights import locks, pickles
from components.weights.checkpoints import Recipe
from components.weights.formats import ORIGIN, Origin, held


def take_over(path: Path, folder: Path, origin: Origin) -> None:
    """Put a file of the commit of a pull request into the folder of the commit that was asked for."""
    (folder / ORIGIN).write_text(json.dumps(asdict(origin)), encoding="utf-8")
    link = folder / path.name
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(os.path.relpath(path.resolve(), folder))
    except OSError:  # a system without links
        shutil.copyfile(path, link.with_name(f"{link.name}.copy"))
        link.with_name(f"{link.name}.copy").replace(link)


def convert(
    name: str, recipe: Recipe, folder: Path, pickled: list[Path], brought: bool, report: Report, alone: Alone
) -> None:
    """Make safetensors of pickled weights in the folder, once for all processes.

    name: of the repository; brought: by us, so that they go afterwards: half of the disk that both take;
    alone: entered to ask a model for its ties. Raises CheckpointError.
    """
    repository = folder.parent.parent
    lock = repository.parent / ".locks" / repository.name / f"{folder.name}.conversion.lock"
    out = repository / f"converting-{folder.name}"
    with locks.alone(lock, report, "waiting for another process to convert it"):
        if any(path.suffix == ".safetensors" for path in held(folder)):
            return  # another process was first
        with alone(report):
            tied = pickles.tied_names(recipe, folder)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        try:
            made = pickles.convert(pickled, name, out, tied, report)
            (folder / ORIGIN).unlink(missing_ok=True)  # of an attempt that did not come to its end
            for path in made:
                path.replace(folder / path.name)
        except pickles.UnusableError:
            _forget(repository, pickled if brought else [])
            raise
        finally:
            shutil.rmtree(out, ignore_errors=True)
        _forget(repository, pickled if brought else [])


def _forget(repository: Path, blobs: list[Path]) -> None:
    """Delete downloads, but for those that another program has put into a folder."""
    used = {path.resolve() for path in repository.glob("snapshots/*/*.bin")}
    for blob in blobs:
        if blob.resolve() not in used:
            blob.unlink(missing_ok=True)
