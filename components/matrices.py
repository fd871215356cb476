"""Matrices: how does a linear layer take a few rows fast on the CPU?

A decoder at work reads all its weights for one row, or for one of each visitor. The kernels behind
`x @ weight.T` are made for many rows: for one row they use one thread, for a few they first rearrange
the weights. `weight @ x.T` does neither, if there are two columns at least.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Measured in float32 on two cores with AVX-512, for layers from 256 x 256 to 49,152 x 576: 2 to 6 times as
# fast for one or two rows, even at 4 rows of a narrowing layer and 8 of a widening one, slower beyond.
FEW = 4
FEW_WHERE_WIDENING = 8


def quicken(model: Any) -> int:
    """Have the linear layers of a model on the CPU take few rows the faster way; how many they are.

    Weights and names stay as they are; results differ by rounding. Layers in other types than float32
    or on another device are left alone.
    """
    import torch

    count = 0
    for layer in model.modules():
        if type(layer) is not torch.nn.Linear:
            continue
        if layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu":
            layer.__class__ = _few_rows()
            count += 1
    return count


@cache
def _few_rows() -> Any:
    import torch

    class FewRows(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.numel() // self.in_features
            widening = self.out_features >= self.in_features
            if not 0 < rows <= (FEW_WHERE_WIDENING if widening else FEW):
                return super().forward(x)
            flat = x.reshape(rows, self.in_features)
            columns = (flat if rows > 1 else flat.repeat(2, 1)).t()
            y = torch.mm(self.weight, columns)[:, :rows].t().contiguous()
            if self.bias is not None:
                y += self.bias
            return y.view(*x.shape[:-1], self.out_features)

    return FewRows
