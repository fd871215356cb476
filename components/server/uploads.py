"""Uploads: where is what visitors send and what is made for them kept, and when is it deleted?

Each start of the app has a folder of its own among the temporary files, and holds a lock in it for as long as
it lives. It goes when the app ends; what an app left behind that was killed goes when the next one starts.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

VARIABLE = "GRADIO_TEMP_DIR"
PREFIX = "transformer-tour-"  # of our folders; what else lies beside them is not ours
LOCK = ".lock"
AGE = 3600.0  # seconds that a file is kept
EVERY = 1800.0  # seconds from one look to the next


class Folder:
    """The folder of this start. path: where it is."""

    def __init__(self, parent: Path) -> None:
        """Raises OSError where it cannot be made."""
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            self._lock = FileLock(self.path / LOCK)
            with suppress(FileNotFoundError):  # another app took it for left behind before it was locked
                self._lock.acquire()
                if (self.path / LOCK).exists():
                    break
        self._process = os.getpid()
        self._over = threading.Event()
        atexit.register(self.remove)

    def watch(self, kept: Collection[str] = ()) -> None:
        """Delete what is older than AGE now and then, in a thread; kept: paths that the page needs itself."""
        threading.Thread(target=self._watch, args=(kept,), name="uploads", daemon=True).start()

    def _watch(self, kept: Collection[str]) -> None:
        while not self._over.wait(EVERY):
            delete_old(self.path, kept)
            delete_left(self.path.parent)

    def remove(self) -> None:
        """For the end of the app; a process that was forked from it leaves the folder alone."""
        if os.getpid() == self._process and not self._over.is_set():
            self._over.set()
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()
            shutil.rmtree(self.path, ignore_errors=True)  # on Windows the lock is there until it is released


def begin(environment: Mapping[str, str]) -> Folder:
    """A folder for this start, in the one that GRADIO_TEMP_DIR names; what was left behind there goes.

    Without it in that for temporary files. Raises OSError where it cannot be made.
    """
    folder = Folder(Path(environment.get(VARIABLE) or tempfile.gettempdir()).expanduser().resolve())
    delete_left(folder.path.parent)
    return folder


def delete_left(parent: Path) -> None:
    """Delete the folders in which no app holds the lock any more."""
    for folder in parent.glob(f"{PREFIX}*"):
        if not _is_ours(folder):
            continue
        if not (folder / LOCK).exists():
            if _age(folder) > AGE:  # else it may just have been made
                shutil.rmtree(folder, ignore_errors=True)
            continue
        lock = FileLock(folder / LOCK)
        with suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)


def delete_old(folder: Path, kept: Collection[str], age: float = AGE) -> None:
    """Delete files that have not been written for longer than `age`, and folders that hold nothing.

    kept: paths of files that stay. Uploads that were broken off are known to nobody but are here.
    """
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(place) / name
            if name != LOCK and str(file) not in kept and _age(file) > age:
                file.unlink(missing_ok=True)
        if Path(place) != folder and _age(Path(place)) > age:
            with suppress(OSError):  # it holds something
                os.rmdir(place)


def _age(path: Path) -> float:
    """Seconds since it was last written or moved; 0 if it is gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0.0
    return time.time() - max(found.st_ctime, found.st_mtime)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder, no link to one, of the user who runs this app."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())
