"""Quantization: how much smaller and faster is a decoder whose weights are kept in 8 or 4 bits?"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from components.models.matrices import packed_numbers, read_layers

if TYPE_CHECKING:
    import torch

LARGEST = 127  # of 8 bits with a sign; -128 is not used
BLOCK = 32  # the kernel reads so many inputs at once, and beyond the end where they do not divide
STEPS = 15  # of 4 bits, from the least weight of a block to its largest
OUTPUTS = 16  # that the kernel for 4 bits takes at once


def quantize_decoder(model: Any, kind: str = "int8") -> bool:
    """Keep the weights of the decoder's linear layers as integers of 8 or 4 bits; on the CPU.

    kind: "int8", a scale for each output; "int4", a scale and an offset for each 32 inputs of an output,
    which are those of llama.cpp's Q4_1, so that weights which come from there stay what they were.
    Activations stay as they are: rounded to 8 bits as well, by one scale for a whole batch, they would
    make a text depend on who shares the batch, and the few very large ones that language models have
    would leave no bits for the rest. Products are in bfloat16, by PyTorch's own kernel. The encoder, the
    embedding and the output layer, which is mostly the embedding again and gives the logits, stay in
    float, and so does a layer whose weights the model reads by itself. False, and nothing is changed, for
    a model on another device or whose decoder has no linear layers (those of GPT-2 are of a kind of
    their own).
    """
    import torch

    decoder = model.get_decoder()
    head, read = model.get_output_embeddings(), read_layers(decoder)
    layers = {
        name: layer
        for name, layer in decoder.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head and layer.in_features % BLOCK == 0
        if name not in read and (kind == "int8" or layer.out_features % OUTPUTS == 0)
    }
    if not layers or any(layer.weight.device.type != "cpu" for layer in layers.values()):
        return False
    make = {"int8": _int8_linear, "int4": _int4_linear}[kind]()
    for name, layer in layers.items():
        decoder.set_submodule(name, make(layer))
    return True


def bytes_of(model: Any) -> int:
    """Bytes of all weights in memory, as they are kept there, those of scales included."""
    small = [layer for layer in model.modules() if isinstance(layer, _small_linear())]
    weights = [*model.parameters(), *(tensor for layer in small for tensor in (layer.weight, layer.scale))]
    return sum(tensor.nbytes for tensor in weights) + 2 * packed_numbers(model)


@cache
def _small_linear() -> Any:
    import torch

    class SmallLinear(torch.nn.Module):
        """A layer that keeps its weights as small integers; a kind of them has a `product`."""

        weight: torch.Tensor
        scale: torch.Tensor

        def __init__(self, layer: torch.nn.Linear, weight: torch.Tensor, scale: torch.Tensor) -> None:
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.register_buffer("weight", weight, persistent=False)
            self.register_buffer("scale", scale, persistent=False)
            self.bias = layer.bias

        def product(self, x: torch.Tensor) -> torch.Tensor:
            """bfloat16 `[rows, inputs]` -> `[rows, outputs]`."""
            raise NotImplementedError

        def few(self, x: torch.Tensor) -> torch.Tensor:
            """`[rows, inputs]` -> `[rows, outputs]`, which stay in bfloat16 where there is no bias."""
            y = self.product(x.to(torch.bfloat16))
            return y if self.bias is None else y + self.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.reshape(-1, self.in_features).to(torch.bfloat16).contiguous()
            y = self.product(flat).to(x.dtype)
            if self.bias is not None:
                y += self.bias
            return y.view(*x.shape[:-1], self.out_features)

    return SmallLinear


@cache
def _int8_linear() -> Any:
    import torch

    class Int8Linear(_small_linear()):  # type: ignore[misc]
        """weight: int8 `[outputs, inputs]`; scale: bfloat16 `[outputs]`, what one step of a weight is."""

        def __init__(self, layer: torch.nn.Linear) -> None:
            weight = layer.weight.detach().float()
            # The kernel takes scales in bfloat16: weights are rounded to steps of what it will use.
            scale = (weight.abs().amax(1) / LARGEST).clamp_min(torch.finfo(torch.bfloat16).tiny).bfloat16()
            steps = (weight / scale.float()[:, None]).round().clamp(-LARGEST, LARGEST)
            super().__init__(layer, steps.to(torch.int8), scale)

        def product(self, x: torch.Tensor) -> torch.Tensor:
            return torch._weight_int8pack_mm(x, self.weight, self.scale)

    return Int8Linear


@cache
def _int4_linear() -> Any:
    import torch

    class Int4Linear(_small_linear()):  # type: ignore[misc]
        """weight: uint8 `[outputs, inputs / 2]`; scale: bfloat16 `[inputs / 32, outputs, 2]`."""

        def __init__(self, layer: torch.nn.Linear) -> None:
            blocks = layer.weight.detach().float().view(layer.out_features, -1, BLOCK)
            least, most = blocks.aminmax(dim=-1)
            step = ((most - least) / STEPS).clamp_min(torch.finfo(torch.bfloat16).tiny)
            steps = ((blocks - least[..., None]) / step[..., None]).round().clamp(0, STEPS)
            # The kernel takes a step of 8 for the offset.
            scale = torch.stack((step, least + 8 * step), -1).transpose(0, 1).contiguous().bfloat16()
            whole = steps.view(layer.out_features, layer.in_features).to(torch.int32)
            super().__init__(layer, torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole, 1), scale)

        def product(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.weight, BLOCK, self.scale)

    return Int4Linear
