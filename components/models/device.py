"""Device: where does a model run, in which number format, and how much memory is free there?"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

UNLIMITED = 1 << 62  # version 1 of control groups has no other word for it


def best_device() -> torch.device:
    """CUDA before MPS before the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def best_dtype(device: torch.device, stored: torch.dtype | None = None) -> torch.dtype:
    """What weights are kept in: float32 on the CPU, else 16 bits, which the hardware is made for.

    stored: what they are stored in. bfloat16 stays that where the device has it: it reaches as far as
    float32 does, and what was trained in it may overflow in float16.
    """
    import torch

    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if stored == torch.bfloat16 and has_bfloat16(device) else torch.float16


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself; MPS does from macOS 14 on."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "mps" and torch.backends.mps.is_macos_or_newer(14, 0)


def free_memory(device: torch.device) -> int:
    """Bytes that a new model could take on the device now.

    Where that is main memory, it is what the machine has left, or a container's limit if that is less.
    """
    if device.type == "cuda":
        import torch

        # What torch's allocator keeps for later use is free for our own models.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    import psutil

    # On MPS the accelerator shares the machine's memory.
    limit = limited_memory()
    available = psutil.virtual_memory().available
    return available if limit is None else min(available, limit)


def spare_memory(device: torch.device) -> int:
    """Bytes that libraries beside torch could take on the device now: not what its allocator keeps."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return free_memory(device)


def limited_memory(root: Path = Path("/")) -> int | None:
    """Bytes left under the memory limits of the control groups we are in, None if there is no limit.

    Linux, versions 1 and 2; limits of the groups above count as well. The inactive part of the file
    cache counts as free: the kernel takes it back when memory runs short.
    """
    left = []
    for folder, limit, usage, inactive in _memory_groups(root):
        try:
            most = int((folder / limit).read_text())  # "max" in version 2: no limit
            used = int((folder / usage).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most < UNLIMITED:
            left.append(max(0, most - used + int(statistics.get(inactive, 0))))
    return min(left, default=None)


def _memory_groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Folders of our memory control groups, innermost first, and what is called how in them."""
    mounted = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = mounted, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = mounted / "memory"
        else:
            continue
        # In a container the path may be that of the host, of which only the end of the way is there.
        inner = base / path.strip("/")
        yield from ((folder, *names) for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def release_memory() -> None:
    """Give the memory of objects that nobody holds any more back to the device and to the system."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if sys.platform == "linux":
        # glibc keeps what is freed in its arenas; other C libraries have no such call.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def device_name(device: torch.device) -> str:
    """What a visitor calls the device: the name of the GPU, else its kind."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return {"mps": "Apple GPU (MPS)", "cpu": "CPU"}.get(device.type, device.type)
