"""Which errors say that memory is out: the words of devices, libraries and operating systems."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from components.models.memory import SCARCE, is_out

PLENTY = 100 * SCARCE


def caught(what: type[Exception], work: object) -> Exception:
    with pytest.raises(what) as told:
        work()  # type: ignore[operator]
    return told.value


@pytest.mark.parametrize(
    "error",
    [
        caught(RuntimeError, lambda: torch.empty(10**15)),
        caught(MemoryError, lambda: np.zeros(10**15)),
        caught(MemoryError, lambda: bytearray(10**18)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        torch.AcceleratorError("CUDA error: out of memory", 2),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES when calling `cusparseCreate`"),
        RuntimeError("miopenStatusAllocFailed"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("XPU out of memory, please use `empty_cache` to release all unoccupied cached memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.56 GB, other allocations: 1.10 GB)"),
        RuntimeError("Invalid buffer size: 19.45 GiB"),
        RuntimeError("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
        RuntimeError("unable to mmap 500 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("bad allocation"),
    ],
    ids=str,
)
def test_memory_that_is_out_is_told_in_many_words(error):
    assert is_out(error, lambda: PLENTY)


@pytest.mark.parametrize(
    "words",
    [
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasLtMatmul`",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
        "cuFFT error: CUFFT_INTERNAL_ERROR",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:1090, please report a bug",
    ],
)
def test_what_libraries_say_for_want_of_memory_counts_where_little_is_free(words):
    assert is_out(RuntimeError(words), lambda: 700_000_000)
    assert not is_out(RuntimeError(words), lambda: PLENTY)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes cannot be multiplied (3x4 and 5x6)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("Expected all tensors to be on the same device"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=str,
)
def test_other_errors_are_none_of_memory_however_little_is_free(error):
    def asked() -> int:
        raise AssertionError("no need to look")

    assert not is_out(error, asked)
