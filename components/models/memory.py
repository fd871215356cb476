"""Memory: does an error say that the device ran out of it?

Torch has a class for that, but not for all devices and libraries: the CPU, MPS, cuBLAS, cuDNN and their
like each say it in words of their own, and some do not say it at all.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

# In small letters: PyTorch's allocators and what it has from libraries, Metal, C++, operating systems.
SAID = (
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "insufficient memory",
    "insufficient_resources",
    "alloc_failed",
    "allocfailed",
    "bad_alloc",
    "bad allocation",
    "memoryallocation",
    "defaultcpuallocator",
    "invalid buffer size",  # MPS: a buffer larger than the device allows
    "failed to allocate",
    "unable to allocate",
)
# What libraries beside torch say where they find no memory for themselves, and for other reasons as well:
# cuDNN loads its kernels, some hundred megabytes, at the first call that needs them.
# https://github.com/pytorch/pytorch/issues/81620
UNCLEAR = (
    "_status_internal_error",
    "_status_not_initialized",
    "_status_execution_failed",
    "cufft_internal_error",
    "miopenstatusinternalerror",
    "miopenstatusunknownerror",
    "unable to find a valid cudnn algorithm",
    "unable to find an engine to execute",
    "find was unable to find an engine",
    "could not create a primitive",  # oneDNN
    "nvml_success == r",  # torch's allocator, asked for the numbers of its message where none are given
)
# Less than this is free: an unclear error is one of memory. Half of it is what cuDNN takes at once; 700 MB
# were free where it was first seen.
SCARCE = 1_000_000_000  # bytes


def is_out(error: BaseException, spare: Callable[[], int]) -> bool:
    """Whether the error is one of memory. spare: bytes that libraries beside torch can take now.

    An unclear one counts as one where little is spare. With plenty of it, trying again on the CPU would
    hide a broken installation.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    if any(sign in text for sign in SAID):
        return True
    return any(sign in text for sign in UNCLEAR) and spare() < SCARCE
