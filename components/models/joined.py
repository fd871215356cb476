"""Joined: which layers of a decoder take the same inputs, so that one product gives what all of them give?

Queries, keys and values are made of the same hidden states, and so are the gate and the values of a
feed-forward layer. A step for one row costs a call for each product, and where several threads share it a
wait for the last of them; a larger product costs them once. Each output is the same sum as before.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KINDS = (
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
)  # the same layers under the same names, the latter with biases
TOGETHER = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}


def join(model: Any) -> int:
    """Have one linear layer do the work of those with the same inputs; how many there are then.

    For KINDS, on the CPU. The layers stay under their names and give what they gave, as parts of the larger
    one's outputs; weights are in that one only, for what makes layers smaller or faster. What is no plain
    linear layer is left alone.
    """
    import torch

    if type(model).__name__ not in KINDS:
        return 0
    done = 0
    for layer in model.model.layers:
        for name, names in TOGETHER.items():
            holder = getattr(layer, name, None)
            parts = [getattr(holder, part, None) for part in names]
            if all(type(part) is torch.nn.Linear for part in parts) and _alike(parts):
                _join(holder, names, parts)
                done += 1
    return done


def whole_of(layers: Sequence[Any]) -> Any:
    """The layer of which these are all parts, in their order; None if there is none."""
    if not all(isinstance(layer, _part()) for layer in layers):
        return None
    whole, widths = layers[0].whole, [layer.out_features for layer in layers]
    begins = [sum(widths[:i]) for i in range(len(layers))]
    mine = all(part.whole is whole and part.begin == at for part, at in zip(layers, begins, strict=True))
    return whole.layer if mine and whole.layer.out_features == sum(widths) else None


def _alike(parts: list[Any]) -> bool:
    """Whether they have the same inputs and number format, are on the CPU, and all have a bias or none."""
    first = parts[0]
    return all(
        part.weight.device.type == "cpu"
        and part.in_features == first.in_features
        and part.weight.dtype == first.weight.dtype
        and (part.bias is None) == (first.bias is None)
        for part in parts
    )


def _join(holder: Any, names: Sequence[str], parts: list[Any]) -> None:
    import torch

    def together(name: str) -> Any:
        tensors = [getattr(part, name) for part in parts]
        if tensors[0] is None:
            return None
        return torch.nn.Parameter(torch.cat([one.detach() for one in tensors]), tensors[0].requires_grad)

    weight = together("weight")
    with torch.device("meta"):  # its own weights are never made
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight, layer.bias = weight, together("bias")
    whole, begin = _whole()(layer, len(parts)).train(holder.training), 0
    for name, part in zip(names, parts, strict=True):
        setattr(holder, name, _part()(whole, begin, part))
        begin += part.out_features


class _Asked:
    """What a whole layer made of the newest inputs, until all its parts have been asked about them."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._known: tuple[Any, torch.Tensor, int] | None = None  # inputs, outputs, parts still to come

    def of(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        # Read once and replaced as one: inputs of another thread cost a product more, and no more than that.
        known = self._known
        if known is not None and known[0]() is x:
            y, left = known[1], known[2] - 1
        else:
            y, left = layer(x), self._parts - 1
        self._known = (weakref.ref(x, self._forget), y, left) if left else None
        return y

    def _forget(self, gone: Any) -> None:
        """Who asked one part only does not leave the others' outputs behind."""
        known = self._known
        if known is not None and known[0] is gone:
            self._known = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Asked:
        return _Asked(self._parts)


@cache
def _whole() -> Any:
    import torch

    class Whole(torch.nn.Module):
        """A layer with the outputs of several, for a part of it to be taken."""

        def __init__(self, layer: Any, parts: int) -> None:
            super().__init__()
            self.layer, self._asked = layer, _Asked(parts)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._asked.of(self.layer, x)

    return Whole


@cache
def _part() -> Any:
    import torch

    class Part(torch.nn.Module):
        """Some of the outputs of a whole layer, which its other parts have as well."""

        def __init__(self, whole: Any, begin: int, layer: Any) -> None:
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.whole, self.begin = whole, begin

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.whole(x).narrow(-1, self.begin, self.out_features)

    return Part
