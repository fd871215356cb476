"""Device: where does a model run, in which number format, and how much memory is free there?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> torch.device:
    """CUDA before MPS before the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """Half precision where the hardware is made for it, float32 on the CPU."""
    import torch

    return torch.float32 if device.type == "cpu" else torch.float16


def free_memory(device: torch.device) -> int:
    """Bytes that a new model could take on the device now."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    import psutil

    # On MPS the accelerator shares the machine's memory.
    return psutil.virtual_memory().available


def device_name(device: torch.device) -> str:
    """What a visitor calls the device: the name of the GPU, else its kind."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return {"mps": "Apple GPU (MPS)", "cpu": "CPU"}.get(device.type, device.type)
