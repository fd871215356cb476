"""Unpickling: a program of its own that makes safetensors of pickled weights, and can do little else.

    python -I unpickling.py ORDER

ORDER is JSON, see `main`; pickles.py gives it and sets the time. torch reads the files with
`weights_only`, which builds tensors and calls nothing else. Should that have a hole, the process may write
its output folder only, run no other program and open no connection (Linux's Landlock), and take only so
much memory and processor time and write only so large a file (limits of POSIX).
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import re
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

# Of Linux's landlock.h: what may be done with files, by version of the interface, and with connections.
READING = 1 << 2 | 1 << 3
RIGHTS = {1: 1 << 13, 2: 1 << 14, 3: 1 << 15, 5: 1 << 16}  # all bits below are known to that version
EXECUTE, BIND, CONNECT, SOCKETS_AND_SIGNALS = 1, 1, 2, 3
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on all processors
NO_NEW_PRIVILEGES, DIE_WITH_PARENT, SIGKILL = 38, 1, 9  # of prctl


class Refused(Exception):
    """Why a file is not converted: one of the keys of SENTENCES in components/weights/pickles.py."""


def main() -> None:
    """Convert, or print why not as JSON.

    The order: path, for imports; sources, files to read; targets, files to write, in one folder; tied, names
    of tensors that the model itself ties to others, and to which; memory and bytes, what may be taken and
    written in all; seconds, of processor time.
    """
    order = json.loads(sys.argv[1])
    sys.path[:] = order["path"]
    sys.dont_write_bytecode = True
    # Before torch has threads, which would not be confined.
    confine(Path(order["targets"][0]).parent)
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    limit(order["memory"], order["bytes"], order["seconds"])
    left = order["bytes"]
    try:
        for source, target in zip(order["sources"], order["targets"], strict=True):
            tensors = apart(untied(read(Path(source)), order["tied"]), left)
            left -= sum(tensor.nbytes for tensor in tensors.values())
            save_file(tensors, target, metadata={"format": "pt"})
            del tensors  # before the next file is read
    except Refused as error:
        print(json.dumps({"refused": str(error)}))
    except MemoryError:
        print(json.dumps({"refused": "large"}))
    except OSError as error:
        print(json.dumps({"errno": error.errno}))
    except SafetensorError as error:
        print(json.dumps({"errno": number_in(error)}))


def number_in(error: Exception) -> int | None:
    """The system's number of what kept safetensors from writing, which are in its words only."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def read(path: Path) -> dict[str, Any]:
    """The tensors of a file by name. Raises Refused for all that is not a flat list of plain tensors."""
    import torch

    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                # torch never compresses. A small file might unpack to any size.
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise Refused("packed")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # what torch raises for a file that is none is of every kind
        words = str(error)
        if "allocate memory" in words or "Cannot allocate" in words:
            raise Refused("large") from error
        needs_more = isinstance(error, pickle.UnpicklingError) or "TorchScript" in words
        raise Refused("objects" if needs_more else "damaged") from error
    if not isinstance(state, dict) or not state:
        raise Refused("objects")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise Refused("objects")
    return {name: tensor.detach() for name, tensor in state.items()}


def untied(tensors: dict[str, Any], tied: dict[str, str]) -> dict[str, Any]:
    """Without those that a model ties to another one again, where both are the same piece of the file."""
    same = {name: _piece(tensor) for name, tensor in tensors.items()}
    again = {name for name, source in tied.items() if name in same and same[name] == same.get(source)}
    return {name: tensor for name, tensor in tensors.items() if name not in again}


def apart(tensors: dict[str, Any], most: int) -> dict[str, Any]:
    """Each contiguous and in memory of its own, as safetensors have it. Raises Refused.

    most: bytes in all. A tensor may claim to be larger than what it looks at, and many may look at the same.
    """
    import torch
    from safetensors.torch import _TYPES

    known = set(_TYPES.values())
    for tensor in tensors.values():
        plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
        if not plain or tensor.dtype not in known:
            raise Refused("kinds")
    if sum(tensor.nbytes for tensor in tensors.values()) > most:
        raise Refused("large")
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes
        if not whole or storage.data_ptr() in seen:
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
    return tensors


def _piece(tensor: Any) -> tuple[Any, ...]:
    import torch

    if tensor.layout != torch.strided:
        return (id(tensor),)
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def limit(memory: int, most: int, seconds: int) -> None:
    """From now on: so many more bytes of memory, of each file, and seconds of the processor."""
    try:
        import resource
    except ImportError:  # no POSIX
        return
    pages = Path("/proc/self/statm")
    held = int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 0
    wanted = {"RLIMIT_CPU": seconds, "RLIMIT_FSIZE": most + 10_000_000, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0}
    if held:
        wanted["RLIMIT_AS"] = held + memory
    for name, value in wanted.items():
        if (kind := getattr(resource, name, None)) is not None:
            _, hard = resource.getrlimit(kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))


def confine(folder: Path) -> bool:
    """Write only in that folder, run nothing, connect to nobody; end with the parent. Whether that holds.

    https://docs.kernel.org/userspace-api/landlock.html
    """
    if sys.platform != "linux":
        return False
    system = ctypes.CDLL(None, use_errno=True)
    system.prctl(DIE_WITH_PARENT, SIGKILL, 0, 0, 0)
    version = system.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    rights = RIGHTS[max(known for known in RIGHTS if known <= version)] - 1 & ~READING
    handled = [rights, BIND | CONNECT if version >= 4 else 0, SOCKETS_AND_SIGNALS if version >= 6 else 0]
    known = 1 + (version >= 4) + (version >= 6)
    attributes = (ctypes.c_uint64 * known)(*handled[:known])
    ruleset = system.syscall(CREATE_RULESET, attributes, ctypes.sizeof(attributes), ctypes.c_uint32(0))
    beneath = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights & ~EXECUTE, beneath)
    added = system.syscall(ADD_RULE, ruleset, 1, rule, ctypes.c_uint32(0)) if ruleset >= 0 else -1
    system.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return added == 0 and system.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0


if __name__ == "__main__":
    main()
