"""Hosting: does the app run on a Hugging Face Space, and what follows from that?

A Space is a container of which only the environment is known: its name, its cores and memory, its GPU if it
has one, and a folder /data if it has storage that outlives a restart.
https://huggingface.co/docs/hub/spaces-overview
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

STORAGE = Path("/data")  # where a Space has its persistent storage, if it has any
CORES, MEMORY = 2, "16Gi"  # of the free hardware, CPU basic
SHARE = 0.6  # of the memory for loaded models; the rest for the app, what visitors send, and activations
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
         "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # fmt: skip


def on_space(environment: Mapping[str, str]) -> bool:
    """Whether this is a Space: then everybody can open the page, and there is no tunnel to make."""
    return bool(environment.get("SPACE_ID"))


def zero_gpu(environment: Mapping[str, str]) -> bool:
    """Whether it is a Space whose GPU is lent for one call at a time; read as the package `spaces` does."""
    return on_space(environment) and environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def storage(folder: Path = STORAGE) -> Path | None:
    """The folder that outlives a restart, None if there is none that can be written to."""
    return folder if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else None


def defaults(environment: Mapping[str, str], kept: Path | None = None) -> dict[str, str]:
    """The environment variables to set on a Space, of those that its owner has not set; elsewhere none.

    kept: what `storage` gives. To be set before huggingface_hub and torch are imported, which read some.
    """
    if not on_space(environment):
        return {}
    cores = _whole(environment.get("CPU_CORES")) or CORES
    memory = _bytes(environment.get("MEMORY")) or _bytes(MEMORY)
    wanted = {
        "GRADIO_SERVER_NAME": "0.0.0.0",  # noqa: S104 - the container's only way out is the Space's proxy
        "GRADIO_SERVER_PORT": "7860",
        # A container may use fewer cores than it sees, and threads beyond those wait for each other.
        "OMP_NUM_THREADS": str(cores),
        # The machine is this app's alone: a model goes when another one needs its memory.
        "TOUR_KEEP_ALIVE": "-1",
    }
    if kept:
        wanted |= {"HF_HOME": str(kept / ".huggingface"), "TOUR_CACHE": str(kept / "transformer-tour")}
    if zero_gpu(environment) or environment.get("ACCELERATOR", "none") in ("", "none"):
        wanted["TOUR_MEMORY_BUDGET"] = f"{SHARE * memory / 1e9:.1f}"
    if not zero_gpu(environment) and cores <= CORES:
        # On two cores the longest recording takes minutes, for which everybody else waits.
        wanted |= {"TOUR_QUEUE": "32", "TOUR_MAX_AUDIO_MINUTES": "10"}
    return {name: value for name, value in wanted.items() if not environment.get(name)}


def _whole(text: str | None) -> int:
    """A number of cores, 0 if it is none. Kubernetes also writes thousandths: 1500m."""
    match = re.fullmatch(r"(\d+)(m?)", text or "")
    return 0 if not match else -(-int(match[1]) // 1000) if match[2] else int(match[1])


def _bytes(text: str | None) -> int:
    """A quantity of memory as Kubernetes writes it, such as 16Gi; 0 if it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?|[KMGT]i)", text or "")
    return int(float(match[1]) * UNITS[match[2]]) if match else 0
