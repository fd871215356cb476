"""Formats: in which files does a repository offer its weights, and which of them are taken?

In this order: safetensors at the commit asked for; safetensors that the hub's own conversion bot made of that
very commit and offers in a pull request; `pytorch_model.bin`, from which components/weights/pickles.py makes
safetensors. Each in one file or in shards, whose index names them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from components.errors import CheckpointError
from components.weights.checkpoints import Hub

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

log = logging.getLogger("tour")

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ORIGIN = "safetensors-origin.json"  # beside safetensors that are not of the commit whose folder they are in
BOT = "SFconvertbot"  # who opens the pull requests of https://huggingface.co/spaces/safetensors/convert
TAKEN = ("open", "merged")  # states of such a pull request; its owner may have closed it for a reason
TIMEOUT = 10.0  # seconds the hub may be silent before it counts as gone
OTHERS = (  # weights that are for other programs, by how their names end
    ((".h5",), "TensorFlow"),
    ((".msgpack",), "Flax"),
    ((".ot",), "Rust"),
    ((".onnx",), "ONNX"),
    ((".gguf",), "llama.cpp"),
    ((".mlmodel", ".mlpackage"), "Core ML"),
    ((".tflite",), "TensorFlow Lite"),
    ((".ckpt", ".pt", ".pth", ".bin", ".safetensors"), "other programs"),
)

Siblings = Mapping[str, "RepoSibling"]  # the files of a repository at a commit, by name


@dataclass(frozen=True)
class Origin:
    """Where safetensors come from that the commit asked for does not have. reference: "refs/pr/3"."""

    reference: str
    commit: str


@dataclass(frozen=True)
class Weights:
    """The files of a repository that hold its weights. commit: that has them; index: which names the shards,
    empty for a single file; origin: the pull request, where they are from one."""

    files: tuple[RepoSibling, ...]
    commit: str
    index: RepoSibling | None = None
    origin: Origin | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(file.rfilename for file in self.files)

    @property
    def all_files(self) -> tuple[RepoSibling, ...]:
        """With the index, where it stays one: that of pickled shards is made anew."""
        return self.files if self.index is None or self.pickled else (self.index, *self.files)

    @property
    def pickled(self) -> bool:
        return any(name.endswith(".bin") for name in self.names)


def check(hub: Hub, names: Iterable[str]) -> None:
    """Raise CheckpointError, with what there is instead, if no weights of a repository are read here."""
    names = set(names)
    if names & {WEIGHTS, INDEX}:
        return
    if names & {"adapter_model.safetensors", "adapter_model.bin"}:
        raise CheckpointError(f"{hub.repo_id} is only an adapter. Choose the model it was made for.")
    if names & {PICKLE, PICKLE_INDEX}:
        return
    found = [
        f"{name} (for {program})"
        for ends, program in OTHERS
        if (name := min((name for name in names if name.endswith(ends)), default=""))
    ]
    there = f"only {' and '.join(found[:3])}" if found else "nothing else either"
    raise CheckpointError(
        f"{hub.repo_id} has no {WEIGHTS} or {PICKLE} in its main folder, {there}. "
        "Choose a checkpoint with safetensors."
    )


def find(
    hub: Hub,
    commit: str,
    siblings: Siblings,
    download: Callable[[str, str], str],
    look: Callable[[str], Siblings],
    endpoint: str | None = None,
) -> Weights:
    """The best weights of a commit. Asks for pull requests only where it has no safetensors of its own.

    download: a file name and a commit -> its path, for an index; look: a commit -> its files.
    Raises CheckpointError if a file is missing that an index names. What is wrong with a pull request keeps
    nothing away: the commit has another format then.
    """
    from httpx2 import HTTPError

    if WEIGHTS in siblings or INDEX in siblings:
        return _weights(hub, commit, siblings, (WEIGHTS, INDEX), download)
    if origin := bot_pull_request(hub, commit, endpoint):
        try:
            offered = look(origin.commit)
            if WEIGHTS in offered or INDEX in offered:
                return _weights(hub, origin.commit, offered, (WEIGHTS, INDEX), download, origin)
        except (HTTPError, OSError, ValueError, CheckpointError) as error:
            log.info("%s of %s is not used: %r", origin.reference, hub.repo_id, error)
    return _weights(hub, commit, siblings, (PICKLE, PICKLE_INDEX), download)


def _weights(
    hub: Hub,
    commit: str,
    siblings: Siblings,
    names: tuple[str, str],
    download: Callable[[str, str], str],
    origin: Origin | None = None,
) -> Weights:
    single, index = names
    if single in siblings:
        return Weights((siblings[single],), commit, None, origin)
    shards = named_by(Path(download(index, commit)))
    if not shards or not shards <= siblings.keys():
        missing = min(shards - siblings.keys(), default="the list of its weights")
        raise CheckpointError(f"{hub.repo_id} is incomplete ({missing}). Choose another model.")
    return Weights(tuple(siblings[name] for name in sorted(shards)), commit, siblings[index], origin)


def bot_pull_request(hub: Hub, commit: str, endpoint: str | None = None) -> Origin | None:
    """The pull request in which the hub's bot offers this very commit as safetensors.

    Whose it is the hub says; on which commit it stands, its history does: the bot adds one commit. None
    also where the hub does not tell, as mirrors do not: there is another format then.
    """
    from httpx2 import HTTPError
    from huggingface_hub import constants

    pages = f"{endpoint or constants.ENDPOINT}/api/models/{hub.repo_id}"
    try:
        asked = {"type": "pull_request", "author": BOT, "p": 0}
        for one in _ask(f"{pages}/discussions", asked)["discussions"]:
            by_bot = one["isPullRequest"] and (one.get("author") or {}).get("name") == BOT
            if by_bot and one["status"] in TAKEN:
                reference = f"refs/pr/{int(one['num'])}"
                head, base = ([*_ask(f"{pages}/commits/{quote(reference, safe='')}", {}), {}, {}])[:2]
                if base.get("id") == commit:
                    return Origin(reference, head["id"])
    except (HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.info("pull requests of %s are not told: %r", hub.repo_id, error)
    return None


def _ask(url: str, parameters: Mapping[str, Any]) -> Any:
    """What the hub's API answers. huggingface_hub has calls for these, which wait for ever for the hub."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    response = get_session().get(url, params=parameters, headers=build_hf_headers(), timeout=TIMEOUT)
    hf_raise_for_status(response)
    return response.json()


def named_by(index: Path) -> set[str]:
    """The files an index names; none if it cannot be read or names anything but weights beside it."""
    end = "safetensors" if index.name == INDEX else "bin"
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return names if all(re.fullmatch(rf"[\w.-]+\.{end}", str(name)) for name in names) else set()


def held(folder: Path) -> list[Path]:
    """The weights in a folder, safetensors before others; none if a file is missing."""
    for single, index in ((WEIGHTS, INDEX), (PICKLE, PICKLE_INDEX)):
        names = {single} if (folder / single).is_file() else named_by(folder / index)
        if names and all((folder / name).is_file() for name in names):
            return [folder / name for name in sorted(names)]
    return []


def origin_of(folder: Path) -> Origin | None:
    """The pull request whose safetensors are in this folder, None if they are of the folder's own commit."""
    try:
        return Origin(**json.loads((folder / ORIGIN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
