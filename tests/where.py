"""Where: on which device do the tests have their models?

The CPU, if not said otherwise by `--device`; in float32 everywhere, so that the same tolerances hold.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.models.device import best_dtype
from components.models.loading import load as load_onto
from components.models.loading import read, stored_dtype
from components.weights.checkpoints import Checkpoint

if TYPE_CHECKING:
    import torch

    from components.models.manager import Loaded, ModelManager
    from components.progress import Report
    from components.settings import Settings

KINDS = ("cpu", "cuda", "mps")
_chosen = "cpu"


def choose(kind: str) -> str | None:
    """Have the models there from now on; a sentence instead where this machine has no such device."""
    global _chosen
    if kind == "cpu":
        # Of the processes that tests start as well, on any machine.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return None
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[kind]:
        return f"PyTorch {torch.__version__} finds no {kind} device on this machine: nothing was run."
    if kind == "cuda":
        # TF32 keeps ten bits of float32's twenty-three.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    _chosen = kind
    return None


def device() -> torch.device:
    import torch

    return torch.device(_chosen)


def load(checkpoint: Checkpoint, folder: Path) -> Loaded:
    """The folder loaded as the app does it, there, in float32."""
    import torch

    loaded = load_onto(checkpoint, folder, device(), torch.float32)
    answers_where_asked(loaded.model)
    return loaded


def manager(settings: Settings, half: bool = False) -> ModelManager:
    """The app's own manager, with its models there; half: in 16 bits."""
    import torch

    import app
    from components.weights.hub import HubStatus

    models = app.create_manager(settings, HubStatus(), device)
    place = models._main

    def load(checkpoint: Checkpoint, folder: Path) -> Loaded:
        on_cpu = device().type == "cpu"
        if half:
            dtype = torch.float16 if on_cpu else best_dtype(device(), stored_dtype(folder))
            return read(checkpoint, folder, dtype)
        return place.load(checkpoint, folder) if on_cpu else read(checkpoint, folder, torch.float32)

    def move(loaded: Loaded, report: Report) -> Loaded:
        moved = place.move(loaded, report)
        answers_where_asked(moved.model)
        return moved

    models._main = replace(place, load=load, move=move)
    return models


def answers_where_asked(model: Any) -> None:
    """Have a model elsewhere take tensors of the CPU as well, and give its own back there.

    Tests so call the model that the app has, with what a tokenizer gives, and compare. Who asks on the
    device, as the app does, is answered on the device.
    """
    if device().type == "cpu":
        return
    parts = [model]
    if model.config.is_encoder_decoder:
        parts += [model.get_encoder(), model.get_decoder()]
    for part in parts:
        _forward_answers_where_asked(part)
    generate = model.generate

    def there(*inputs: Any, **named: Any) -> Any:
        if not _is_asked_from_cpu((inputs, named)):
            return generate(*inputs, **named)
        inputs, named = _moved((inputs, named), device())
        return _moved(generate(*inputs, **named), "cpu")

    model.generate = there


def _forward_answers_where_asked(part: Any) -> None:
    asked_from_cpu: list[bool] = []  # one within the other

    def before(module: Any, inputs: Any, named: Any) -> Any:
        asked_from_cpu.append(_is_asked_from_cpu((inputs, named)))
        return _moved((inputs, named), device()) if asked_from_cpu[-1] else None

    def after(module: Any, inputs: Any, named: Any, output: Any) -> Any:
        return _moved(output, "cpu") if asked_from_cpu.pop() and output is not None else None

    part.register_forward_pre_hook(before, with_kwargs=True)
    part.register_forward_hook(after, with_kwargs=True, always_call=True)


def _is_asked_from_cpu(given: Any) -> bool:
    import torch
    from torch.utils._pytree import tree_any

    return tree_any(lambda one: isinstance(one, torch.Tensor) and one.device.type == "cpu", given)


def _moved(given: Any, to: torch.device | str) -> Any:
    import torch
    from torch.utils._pytree import tree_map

    return tree_map(lambda one: one.to(to) if isinstance(one, torch.Tensor) else one, given)
