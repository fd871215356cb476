"""The hub: does a repository hold a checkpoint that fits, and how does it get onto this disk?

Everything goes through huggingface_hub, so HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what
they mean there, and its cache is used. Only the transfer of large files is ours: huggingface_hub 2.4
throws a half-finished download away instead of resuming it later.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from components.errors import CheckpointError, InputError
from components.progress import Alone, Progress, Report, together, unreported
from components.weights import formats, placing
from components.weights.checkpoints import SENTENCES, Hub, Recipe
from components.weights.formats import TIMEOUT, Weights

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

SIDE_FILES = (".json", ".txt", ".model", ".spm", ".jinja")
POOLING = "1_Pooling/config.json"
PROCESSORS = re.compile(r"(tokenizer|preprocessor|processor|vocab|spiece)[\w.-]*|.*\.(model|spm)")
BYTES = {"float64": 8, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}
REPORT_EVERY = 500_000  # bytes

NO_WEIGHTS = Weights((), "")


@dataclass(frozen=True)
class File:
    """A file of a repository. size: bytes; etag: its name in the cache, empty for small ones kept in git.

    commit: that has it; of weights it may be another than the one asked for.
    """

    name: str
    size: int
    etag: str = ""
    commit: str = ""


@dataclass(frozen=True)
class Listing:
    """What would be downloaded. parameters: how many numbers the model has, counted or estimated.

    weights: which of the files they are.
    """

    commit: str
    files: tuple[File, ...]
    config: dict[str, Any]
    parameters: int
    weights: Weights = NO_WEIGHTS

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def side_files(self) -> tuple[File, ...]:
        """All but the weights: small ones."""
        taken = [file.rfilename for file in self.weights.all_files]
        return tuple(file for file in self.files if file.name not in taken)


def parse(text: str) -> Hub:
    """What a visitor typed or pasted: `owner/name`, `owner/name@revision`, `name`, or the page's address.

    Raises InputError.
    """
    from huggingface_hub.utils import validate_repo_id

    name, _, revision = text.strip().partition("@")
    try:
        if "://" in name or name.startswith(("huggingface.co/", "hf.co/", "www.huggingface.co/")):
            parts = urlsplit(name if "://" in name else f"https://{name}").path.strip("/").split("/")
            at = next((i for i, part in enumerate(parts) if part in ("tree", "blob", "resolve")), len(parts))
            name = "/".join(parts[:at])
            revision = revision or unquote("".join(parts[at + 1 : at + 2]))
        validate_repo_id(name.strip())
    except ValueError:  # HFValidationError is one, and an address may be none
        shown = text.strip()[:80]
        raise InputError(
            f'"{shown}" is not the name of a model on the hub. '
            "Write it as owner/name, for example google/vit-base-patch16-224."
        ) from None
    revision = revision.strip() or "main"
    # A revision becomes a file name in the cache.
    if not re.fullmatch(r"\w[\w./-]{,199}", revision) or ".." in revision:
        raise InputError(
            f'"{revision[:80]}" is not a revision. '
            "Write a branch, tag or commit after the @, for example openai/whisper-base.en@main."
        )
    return Hub(name.strip(), revision)


def on_disk(hub: Hub, cache_dir: Path | None = None) -> Path | None:
    """The folder of a complete copy in huggingface_hub's cache, or None. Asks nobody.

    Its weights may be pickled, where another program has brought them here.
    """
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub.repo_id, "config.json", cache_dir, hub.revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    if not any(PROCESSORS.fullmatch(path.name) and path.is_file() for path in folder.iterdir()):
        return None
    return folder if formats.held(folder) else None


class HubStatus:
    """Does the hub answer? Asked when somebody wants to know, and once in `ttl` seconds at most.

    timeout: seconds it has for its answer, name lookup included.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        ttl: float = 60.0,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint, self._ttl, self._timeout, self._clock = endpoint, ttl, timeout, clock
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._reason = ""

    def reachable(self) -> bool:
        return not self.reason()

    def reason(self) -> str:
        """Why the hub cannot be used, for the middle of a sentence; empty if it can."""
        from huggingface_hub import is_offline_mode

        if is_offline_mode():
            return "offline mode is set"
        with self._lock:
            if self._asked is None or self._clock() - self._asked >= self._ttl:
                self._reason, self._asked = self._ask(), self._clock()
            return self._reason

    def _ask(self) -> str:
        # In a thread of its own: the client's timeouts do not cover a name server that is silent.
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(self._answer()), daemon=True)
        asking.start()
        asking.join(self._timeout)
        return answers[0] if answers else f"the hub did not answer within {self._timeout:g} seconds"

    def _answer(self) -> str:
        from httpx2 import HTTPError, InvalidURL, TimeoutException
        from huggingface_hub import constants, get_session

        try:
            response = get_session().head(self._endpoint or constants.ENDPOINT, timeout=self._timeout)
        except TimeoutException:
            return f"the hub did not answer within {self._timeout:g} seconds"
        except (HTTPError, InvalidURL, OSError):
            return "the hub cannot be reached"
        return f"the hub answered with error {response.status_code}" if response.status_code >= 500 else ""


def inspect(
    hub: Hub,
    recipe: Recipe,
    *,
    free_memory: int | None = None,
    free_disk: int | None = None,
    max_download: int | None = None,
    bytes_per_parameter: int = 4,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Listing:
    """Look at a repository before anything large is fetched: only its listing, config.json and index.

    free_memory, free_disk, max_download: bytes; None: no limit, but for the disk what is free where the
    cache is. bytes_per_parameter: in memory, 4 on a CPU, whatever the format of the file.
    endpoint, cache_dir: huggingface_hub's own if not given.
    Raises CheckpointError: what is wrong, and what would fit.
    """
    from huggingface_hub import HfApi, hf_hub_download

    download = partial(hf_hub_download, hub.repo_id, endpoint=endpoint, cache_dir=cache_dir)
    look = partial(HfApi(endpoint=endpoint).model_info, hub.repo_id, files_metadata=True, timeout=TIMEOUT)
    with _in_sentences(hub):
        info = look(revision=hub.revision)
        commit, siblings = info.sha or hub.revision, _by_name(info)
        _check_names(hub, siblings)
        # By revision, not by commit: this is what makes the cache remember which commit the name stood for.
        config = _read(hub, download(filename="config.json", revision=hub.revision))
        _check_config(hub, recipe, config, POOLING in siblings)
        weights = formats.find(
            hub,
            commit,
            siblings,
            lambda name, at: download(filename=name, revision=at),
            lambda at: _by_name(look(revision=at)),
            endpoint,
        )
        side = [siblings[name] for name in siblings if _is_needed(name)]
        # Weights last: once they are here, everything is.
        files = tuple(_file(hub, one, commit, endpoint) for one in side)
        files += tuple(_file(hub, one, weights.commit, endpoint) for one in weights.all_files)
        stored = BYTES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."), 4)
        total = sum(file.size for file in files if file.name in weights.names)
        parameters = info.safetensors.total if info.safetensors else total // stored
    listing = Listing(commit, files, config, parameters, weights)
    _check_memory(hub, parameters, bytes_per_parameter, free_memory)
    to_come = listing.bytes - sum(_held(hub, listing, file, cache_dir) for file in files)
    disk = shutil.disk_usage(_nearest(_cache(cache_dir))).free if free_disk is None else free_disk
    # Pickled weights are beside their safetensors for a while.
    _check_download(hub, to_come, to_come + total * weights.pickled, disk, max_download)
    return listing


def fetch(
    hub: Hub,
    recipe: Recipe,
    report: Report = unreported,
    *,
    free_memory: int | None = None,
    free_disk: int | None = None,
    max_download: int | None = None,
    bytes_per_parameter: int = 4,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
    alone: Alone = together,
) -> Path:
    """The folder of a checkpoint: the copy on this disk, else inspect it and download what is needed.

    Its weights are safetensors, made here where the hub has none. The limits are those of `inspect`. Reports
    bytes over all files, those of an earlier attempt included. alone: entered to ask a model for its ties.
    Raises CheckpointError; what has arrived is kept, and the next call goes on from there.
    """
    folder, pickled = on_disk(hub, cache_dir), []
    if folder:
        _check_config(hub, recipe, _read(hub, folder / "config.json"), (folder / POOLING).is_file())
        pickled = [path for path in formats.held(folder) if path.suffix == ".bin"]
        brought = False
    else:
        listing = inspect(
            hub,
            recipe,
            free_memory=free_memory,
            free_disk=free_disk,
            max_download=max_download,
            bytes_per_parameter=bytes_per_parameter,
            endpoint=endpoint,
            cache_dir=cache_dir,
        )
        folder, pickled = _download(hub, listing, report, endpoint, cache_dir)
        brought = True
    if pickled:
        with _in_sentences(hub):
            placing.convert(hub.repo_id, recipe, folder, pickled, brought, report, alone)
    return folder


def _download(
    hub: Hub, listing: Listing, report: Report, endpoint: str | None, cache_dir: Path | None
) -> tuple[Path, list[Path]]:
    """The folder with what a listing names, and the files with its weights where they are pickled.

    These stay outside of the folder: only what is made of them belongs there.
    """
    from huggingface_hub import hf_hub_download

    repository, pickled = _folder(hub, cache_dir), []
    folder = repository / "snapshots" / listing.commit
    meter = _Meter(report, listing.bytes, {f.name: _held(hub, listing, f, cache_dir) for f in listing.files})
    with _in_sentences(hub, meter):
        for file in listing.files:
            if file.etag:
                _transfer(hub, file, meter, endpoint, cache_dir)
            if file.etag and file.name.endswith(".bin"):
                pickled.append(repository / "blobs" / file.etag)
            else:
                path = hf_hub_download(
                    hub.repo_id, file.name, revision=file.commit, endpoint=endpoint, cache_dir=cache_dir
                )
                if listing.weights.origin and file.commit != listing.commit:
                    placing.take_over(Path(path), folder, listing.weights.origin)
            meter.set(file.name, file.size)
    return folder, pickled


class _Meter:
    """Adds the bytes of all files up and reports them, not more often than anyone can see."""

    def __init__(self, report: Report, total: int, held: dict[str, int]) -> None:
        self._report, self._total, self._files = report, total, held
        self._told, self._at = self._done, time.monotonic()
        report(Progress("downloading", self._done, total))

    @property
    def _done(self) -> int:
        return sum(self._files.values())

    def set(self, name: str, size: int) -> None:
        self._files[name] = size
        done, now = self._done, time.monotonic()
        due = abs(done - self._told) >= REPORT_EVERY or done == self._total or now - self._at >= 1
        if due and done != self._told:
            self._told, self._at = done, now
            self._report(Progress("downloading", done, self._total))

    def __str__(self) -> str:
        return f"{self._done / 1e6:.0f} of {_size(self._total)}"


def _transfer(hub: Hub, file: File, meter: _Meter, endpoint: str | None, cache_dir: Path | None) -> None:
    """Bring a large file into the cache under its etag, going on where an earlier attempt stopped."""
    from httpx2 import NetworkError, RemoteProtocolError, TimeoutException
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    folder = _folder(hub, cache_dir)
    blob, part = folder / "blobs" / file.etag, folder / "blobs" / f"{file.etag}.incomplete"
    url = hf_hub_url(hub.repo_id, file.name, revision=file.commit, endpoint=endpoint)
    # The lock that huggingface_hub itself takes for this file.
    lock = folder.parent / ".locks" / folder.name / f"{file.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        while (held := _length(part)) < file.size:
            try:
                _stream(url, part, lambda size: meter.set(file.name, size))
                if _length(part) <= held:
                    raise RemoteProtocolError("an empty answer")
            except (NetworkError, RemoteProtocolError, TimeoutException):
                # A cut line is taken up again at once, as long as each attempt brings something.
                if _length(part) <= held:
                    raise
        _accept(part, blob, file)


def _stream(url: str, part: Path, tell: Callable[[int], None]) -> None:
    """Append the rest of the file at url to part; from its beginning if the server knows no ranges."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    start = _length(part)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        hf_raise_for_status(response)
        start = start if response.status_code == 206 else 0
        with part.open("ab" if start else "wb") as out:
            for chunk in response.iter_bytes():
                out.write(chunk)
                start += len(chunk)
                tell(start)


def _accept(part: Path, blob: Path, file: File) -> None:
    """Rename a finished download, once its length and SHA-256 (the etag of a large file) are right."""
    with part.open("rb") as content:
        right = _length(part) == file.size
        if right and len(file.etag) == 64:
            right = hashlib.file_digest(content, "sha256").hexdigest() == file.etag
    if not right:
        part.unlink()
        raise CheckpointError(f"{file.name} arrived damaged and was thrown away. Try again.")
    part.replace(blob)


def _check_names(hub: Hub, names: dict[str, RepoSibling]) -> None:
    """Raise CheckpointError unless a repository has all parts of a checkpoint."""
    formats.check(hub, names)
    if "config.json" not in names:
        raise CheckpointError(f"{hub.repo_id} has no config.json, so nothing tells which model it is.")
    if not any(PROCESSORS.fullmatch(name) for name in names):
        raise CheckpointError(
            f"{hub.repo_id} comes without a tokenizer or preprocessor. Choose a checkpoint that has its own."
        )


def _check_config(hub: Hub, recipe: Recipe, config: dict[str, Any], pooled: bool) -> None:
    """Raise CheckpointError if a model of this config.json does not load or does not fit the task.

    pooled: whether the repository says how sentences become vectors.
    """
    from transformers import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        reason = "runs only with program code of its own" if "auto_map" in config else "is of an unknown kind"
        raise CheckpointError(
            f"{hub.repo_id} {reason} ({kind}), which is not loaded here. "
            "Choose a model that Transformers knows by itself."
        )
    if config.get("quantization_config"):
        raise CheckpointError(
            f"The weights of {hub.repo_id} are quantized, which is not loaded here. "
            "Choose the same model without quantization."
        )
    if problem := recipe.fits(config | {SENTENCES: True} if pooled else config):
        raise CheckpointError(f"{hub.repo_id} does not fit {recipe.task}: {problem}")


def _check_memory(hub: Hub, parameters: int, bytes_per_parameter: int, free: int | None) -> None:
    """Raise CheckpointError if the weights do not fit into memory."""
    need = parameters * bytes_per_parameter
    if free is not None and need > free:
        millions = free / bytes_per_parameter / 1e6
        raise CheckpointError(
            f"{hub.repo_id} needs {_size(need)} of memory and {_size(free)} are free. Choose a model "
            f"of at most {millions:,.{0 if millions >= 10 else 1}f} million parameters."
        )


def _check_download(hub: Hub, to_come: int, needed: int, free: int, allowed: int | None) -> None:
    """Raise CheckpointError if the disk or the limit on downloads is too small."""
    if needed > free:
        raise CheckpointError(
            f"{hub.repo_id} needs {_size(needed)} on disk and {_size(free)} are free. "
            "Make room or choose a smaller model."
        )
    if allowed is not None and to_come > allowed:
        raise CheckpointError(
            f"{hub.repo_id} is a download of {_size(to_come)} and at most {_size(allowed)} are "
            "allowed here. Choose a smaller model."
        )


@contextmanager
def _in_sentences(hub: Hub, meter: _Meter | None = None) -> Iterator[None]:
    """Turn what huggingface_hub and the system raise into a CheckpointError for the visitor."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        # Of a small file huggingface_hub says only that it is not here; the reason is behind it.
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        raise CheckpointError(_sentence(hub, cause or error, meter)) from error


def _sentence(hub: Hub, error: BaseException, meter: _Meter | None) -> str:
    from httpx2 import HTTPError
    from huggingface_hub import errors

    again = "Try again: the download goes on where it stopped." if meter else "Try again."
    match error:
        case errors.GatedRepoError():
            return (
                f"{hub.repo_id} is given only to those whom its owner lets in. Ask for access on its page "
                "and set HF_TOKEN, or choose another model."
            )
        case errors.RevisionNotFoundError():
            return (
                f"{hub.repo_id} has no revision {hub.revision}. Leave out what follows the @ or correct it."
            )
        case errors.RepositoryNotFoundError():
            return _unknown(hub)
        case errors.OfflineModeIsEnabled():
            return (
                f"{hub.repo_id} is not on this disk and offline mode (HF_HUB_OFFLINE) is set. "
                "Choose the starter, or unset it."
            )
        case errors.HfHubHTTPError(response=response):
            status = response.status_code
            if status in (401, 403):
                return _unknown(hub)
            if status == 429:
                return f"The hub is busy and asks to wait {_wait(response.headers)}. {again}"
            return f"The hub has a problem of its own (error {status}). {again}"
        case HTTPError() | ConnectionError():
            stopped = f"stopped answering after {meter}" if meter else "did not answer"
            return f"The hub {stopped}. {again}"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return (
                f"The disk is full; {hub.repo_id} stopped at {meter or 'its first file'}. Make room. {again}"
            )
    reason = getattr(error, "strerror", None) or "no proper answer from the hub"
    return f"{hub.repo_id} could not be fetched ({reason}). {again}"


def _unknown(hub: Hub) -> str:
    return (
        f"There is no model {hub.repo_id} on the hub, or it is private. "
        "Check how it is written, or set HF_TOKEN if it is yours."
    )


def _wait(headers: Any) -> str:
    from huggingface_hub.utils import parse_ratelimit_headers

    limit, after = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    seconds = int(after) if after.isdigit() else limit.reset_in_seconds if limit else None
    return f"{seconds} seconds" if seconds else "a while"


def _file(hub: Hub, sibling: RepoSibling, commit: str, endpoint: str | None) -> File:
    """Size and etag from the listing, or asked for where a mirror leaves them out."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    name, large = sibling.rfilename, sibling.rfilename.endswith((".safetensors", ".bin"))
    if sibling.lfs:
        return File(name, sibling.lfs.size, sibling.lfs.sha256, commit)
    if sibling.size is not None and not large:
        return File(name, sibling.size, "", commit)
    metadata = get_hf_file_metadata(hf_hub_url(hub.repo_id, name, revision=commit, endpoint=endpoint))
    return File(name, metadata.size or 0, (metadata.etag or "") if large else "", commit)


def _is_needed(name: str) -> bool:
    """Small files at the root that a model or its processor may read."""
    if name.endswith(".index.json"):
        return False
    return name == POOLING or ("/" not in name and name.endswith(SIDE_FILES))


def _by_name(info: ModelInfo) -> dict[str, RepoSibling]:
    return {file.rfilename: file for file in info.siblings or ()}


def _read(hub: Hub, path: str | Path) -> dict[str, Any]:
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise CheckpointError(
            f"The config.json of {hub.repo_id} cannot be read. Choose another model."
        ) from None


def _held(hub: Hub, listing: Listing, file: File, cache_dir: Path | None) -> int:
    """Bytes of a file that are here already, whole or in part."""
    folder = _folder(hub, cache_dir)
    if (folder / "snapshots" / listing.commit / file.name).is_file():
        return file.size
    if not file.etag:
        return 0
    blob = folder / "blobs" / file.etag
    return file.size if blob.is_file() else min(_length(blob.with_name(f"{file.etag}.incomplete")), file.size)


def _folder(hub: Hub, cache_dir: Path | None) -> Path:
    from huggingface_hub.file_download import repo_folder_name

    return _cache(cache_dir) / repo_folder_name(repo_id=hub.repo_id, repo_type="model")


def _cache(cache_dir: Path | None) -> Path:
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()


def _nearest(folder: Path) -> Path:
    return folder if folder.exists() else _nearest(folder.parent)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
