"""Free memory under the limits of control groups, on folders made here; and memory that is given back."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.models import device
from components.models.device import cpu, free_memory, limited_memory, release_memory

MB = 1_000_000


def system(root: Path, groups: str) -> Path:
    """A root folder whose process is in those control groups."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(groups)
    return root / "sys" / "fs" / "cgroup"


def second(folder: Path, most: int | str, used: int, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 7\n")


def first(folder: Path, most: int, used: int, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{most}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 3\ntotal_inactive_file {inactive}\n")


def test_a_container_has_what_its_limit_leaves_and_the_inactive_file_cache(tmp_path):
    second(system(tmp_path, "0::/\n"), 2000 * MB, 1500 * MB, 300 * MB)
    assert limited_memory(tmp_path) == 800 * MB


def test_the_tightest_of_the_groups_above_counts(tmp_path):
    mounted = system(tmp_path, "0::/system.slice/tour.service\n")
    second(mounted / "system.slice" / "tour.service", "max", 100 * MB)
    second(mounted / "system.slice", 1000 * MB, 700 * MB)
    assert limited_memory(tmp_path) == 300 * MB
    second(mounted / "system.slice" / "tour.service", 2000 * MB, 100 * MB)
    assert limited_memory(tmp_path) == 300 * MB
    second(mounted / "system.slice" / "tour.service", 200 * MB, 100 * MB)
    assert limited_memory(tmp_path) == 100 * MB


def test_version_one_in_a_container_that_does_not_see_the_path_of_the_host(tmp_path):
    mounted = system(tmp_path, "9:name=systemd:/docker/ab12\n4:cpu,memory:/docker/ab12\n0::/\n")
    first(mounted / "memory", 1000 * MB, 900 * MB, 50 * MB)
    assert limited_memory(tmp_path) == 150 * MB


def test_version_one_without_a_limit(tmp_path):
    first(system(tmp_path, "4:memory:/\n") / "memory", 9223372036854771712, 900 * MB)
    assert limited_memory(tmp_path) is None


def test_more_in_use_than_the_limit_leaves_nothing(tmp_path):
    second(system(tmp_path, "0::/\n"), 100 * MB, 150 * MB)
    assert limited_memory(tmp_path) == 0


def test_no_control_groups_no_limit(tmp_path):
    assert limited_memory(tmp_path) is None
    system(tmp_path, "0::/../../init.scope\n")
    assert limited_memory(tmp_path) is None


@pytest.mark.parametrize(("left", "free"), [(None, 8000), (500, 500), (9000, 8000)])
def test_free_main_memory_is_what_machine_and_container_leave(monkeypatch, left, free):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8000))
    monkeypatch.setattr(device, "limited_memory", lambda: left)
    assert free_memory(cpu()) == free


def test_this_machine_has_free_memory():
    assert free_memory(cpu()) > 0


def test_what_torch_keeps_on_an_accelerator_counts_as_free(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 400)
    assert free_memory(torch.device("cuda")) == 1300


class Knot:
    """Holds itself."""

    def __init__(self) -> None:
        self.me = self


def test_released_memory_is_that_of_cycles_as_well():
    gc.disable()
    try:
        knot = weakref.ref(Knot())
        assert knot() is not None
        release_memory()
        assert knot() is None
    finally:
        gc.enable()


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_released_memory_goes_back_to_the_system():
    import psutil

    process = psutil.Process()
    # Blocks too small for the system to get each back by itself; those that stay hold the heap's end.
    blocks: list[Any] = [bytes(2000) for _ in range(50_000)]
    stay = blocks[::100]
    before = process.memory_info().rss
    del blocks
    release_memory()
    assert before - process.memory_info().rss > 50 * MB
    assert len(stay) == 500


def test_another_c_library_needs_no_trim(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    release_memory()
