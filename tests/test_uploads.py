"""What visitors send and what is made for them does not outlive the app, and nothing else is deleted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.server import uploads

ROOT = Path(__file__).resolve().parent.parent
# Begins as the app does, keeps a file, and waits for what it is told.
APP = """
import os, sys
from components.server import uploads
folder = uploads.begin(os.environ)
(folder.path / "a" / "b").mkdir(parents=True)
(folder.path / "a" / "b" / "voice.wav").write_text("mine")
print(folder.path, flush=True)
sys.stdin.read()
"""


class App:
    """A process that has a folder. path: of it."""

    def __init__(self, parent: Path) -> None:
        environment = {**os.environ, "GRADIO_TEMP_DIR": str(parent)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", APP],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.path = Path(self.process.stdout.readline().strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture
def shared(tmp_path) -> Path:
    """A folder for temporary files in which others have theirs."""
    for name in ("other", "transformer-tours", "tour-abc", "transformer-tour.txt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("not ours")
        os.utime(tmp_path / name / "file", (0, 0))
    (tmp_path / "transformer-tour-link").symlink_to(tmp_path / "other")
    (tmp_path / "transformer-tour-file").write_text("not a folder")
    return tmp_path


def ours(parent: Path) -> list[Path]:
    return [path for path in parent.glob(f"{uploads.PREFIX}*") if uploads._is_ours(path)]


def test_files_go_when_the_app_ends(shared):
    app = App(shared)
    assert app.path.parent == shared and (app.path / "a" / "b" / "voice.wav").exists()
    assert os.stat(app.path).st_mode & 0o77 == 0  # for its user alone
    app.end()
    assert ours(shared) == []
    assert (shared / "other" / "file").read_text() == "not ours"


def test_what_a_killed_app_left_goes_with_the_next_start_and_nothing_else(shared):
    before = {path.name for path in shared.iterdir()}
    killed, alive = App(shared), App(shared)
    killed.kill()
    assert killed.path.exists()
    other = App(shared)
    assert not killed.path.exists()
    assert (alive.path / "a" / "b" / "voice.wav").exists()
    for app in (alive, other):
        app.end()
    assert {path.name for path in shared.iterdir()} == before
    assert (shared / "other" / "file").exists() and (shared / "transformer-tours" / "file").exists()


def test_a_folder_that_is_just_being_made_is_left_alone_and_one_without_a_lock_goes_when_it_is_old(shared):
    young = shared / f"{uploads.PREFIX}young"
    young.mkdir()
    uploads.delete_left(shared)
    assert young.exists()
    uploads.AGE, age = -1.0, uploads.AGE
    try:
        uploads.delete_left(shared)
    finally:
        uploads.AGE = age
    assert not young.exists()


def test_what_is_old_goes_while_the_app_runs_but_not_what_the_page_needs(tmp_path):
    folder = uploads.begin({"GRADIO_TEMP_DIR": str(tmp_path)})
    try:
        for name in ("example.png", "upload.png", "half-sent"):
            (folder.path / name[:2] / "x").mkdir(parents=True)
            (folder.path / name[:2] / "x" / name).write_text(name)
        kept = {str(folder.path / "ex" / "x" / "example.png")}
        uploads.delete_old(folder.path, kept)
        assert len(list(folder.path.rglob("*.png"))) == 2
        time.sleep(0.01)  # a file system tells times in steps
        uploads.delete_old(folder.path, kept, age=0.0)
        assert {path.name for path in folder.path.rglob("*")} == {".lock", "ex", "x", "example.png"}
    finally:
        folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_forked_leaves_the_folder_alone(tmp_path):
    folder = uploads.begin({"GRADIO_TEMP_DIR": str(tmp_path)})
    child = os.fork()
    if child == 0:
        folder.remove()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert folder.path.exists()
    folder.remove()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        uploads.begin({"GRADIO_TEMP_DIR": str(tmp_path / place)})
