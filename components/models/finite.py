"""Finite: did a forward pass give numbers?

In half precision a number too large becomes infinity, and what is computed with it NaN. float32 holds
what the checkpoint was trained to compute, so such a pass is repeated there, see `ModelManager`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from components.errors import NotFinite

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SENTENCE = (
    "The model gave numbers that are not finite (NaN or infinity) for this input. "
    "Try another input, or another checkpoint."
)


class Watch:
    """Looks at what a model gives, and does not wait for the device until it is asked.

    What counts are the model's logits before any processor, or its last hidden states where it has none:
    no number may be NaN or infinite. But minus infinity may stand beside others for a token, since language
    models rule out with it what is no token of theirs. One sum tells: an operation or two on the device for
    each pass, some microseconds on the CPU, where it is done as well because a checkpoint may be broken in
    any format.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        writes = model.get_output_embeddings() is not None
        # Of each thread: who generates gives way to others between two passes.
        here = self._here = threading.local()

        # No method: a copy of the model with other attention has the same hook, and so the same watch.
        def see(module: Any, inputs: Any, output: Any) -> None:
            if getattr(here, "watching", False) and (found := _total(output, writes)) is not None:
                here.total = found if here.total is None else here.total + found

        see.watches_only = True  # type: ignore[attr-defined]
        model.register_forward_hook(see)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread's passes in the block. Raises NotFinite at its end if one gave no numbers."""
        here = self._here
        here.watching, here.total = True, None
        try:
            yield
            if here.total is not None:
                require(here.total)
        finally:
            here.watching, here.total = False, None


def require(total: Any) -> None:
    """Raise NotFinite for a number that is NaN or infinite, such as the sum of others of which one is."""
    if not math.isfinite(total):
        raise NotFinite(SENTENCE)


def total_of(logits: torch.Tensor) -> torch.Tensor:
    """A number that is finite if the largest of each row `[..., tokens]` is, on the same device."""
    import torch

    return logits.detach().amax(-1).sum(dtype=torch.float32)


def _total(output: Any, writes: bool) -> torch.Tensor | None:
    """The same of what a model gives. writes: whether its logits are those of tokens."""
    import torch

    with torch.no_grad():
        logits = getattr(output, "logits", None)
        if logits is not None and writes:
            return total_of(logits)
        numbers = getattr(output, "last_hidden_state", None) if logits is None else logits
        return None if numbers is None else numbers.detach().sum(dtype=torch.float32)
