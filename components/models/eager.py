"""Eager: a model whose attention weights can be read."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.models.manager import Loaded


def eager(model: Any) -> Any:
    """The same weights with attention that can be read, without slowing down the model for others.

    The model itself where it is made so already; no memory is taken for another copy of the weights.
    """
    if model.config._attn_implementation == "eager":
        return model
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    twin.set_attn_implementation("eager")
    return twin


def twin(loaded: Loaded) -> Any:
    """That of a lent model, made once for all visitors and all that looks inside: `loaded.share(twin)`."""
    return eager(loaded.model)
