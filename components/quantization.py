"""Quantization: how much smaller and faster is a decoder whose weights are kept in 8 bits?"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from components.matrices import packed_numbers

if TYPE_CHECKING:
    import torch

LARGEST = 127  # of 8 bits with a sign; -128 is not used
BLOCK = 32  # the kernel reads so many inputs at once, and beyond the end where they do not divide


def quantize_decoder(model: Any) -> bool:
    """Keep the weights of the decoder's linear layers as 8-bit integers, a scale for each output; on the CPU.

    Activations stay as they are: rounded to 8 bits as well, by one scale for a whole batch, they would
    make a text depend on who shares the batch, and the few very large ones that language models have
    would leave no bits for the rest. Products are in bfloat16, by PyTorch's own kernel. The encoder, the
    embedding and the output layer, which is mostly the embedding again and gives the logits, stay in
    float. False, and nothing is changed, for a model on another device or whose decoder has no
    linear layers (those of GPT-2 are of a kind of their own).
    """
    import torch

    decoder = model.get_decoder()
    head = model.get_output_embeddings()
    layers = {
        name: layer
        for name, layer in decoder.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head and layer.in_features % BLOCK == 0
    }
    if not layers or any(layer.weight.device.type != "cpu" for layer in layers.values()):
        return False
    for name, layer in layers.items():
        decoder.set_submodule(name, _int8_linear()(layer))
    return True


def bytes_of(model: Any) -> int:
    """Bytes of all weights in memory, of 8-bit ones with their scales, of packed ones as they are packed."""
    small = [layer for layer in model.modules() if isinstance(layer, _int8_linear())]
    weights = [*model.parameters(), *(tensor for layer in small for tensor in (layer.weight, layer.scale))]
    return sum(tensor.nbytes for tensor in weights) + 2 * packed_numbers(model)


@cache
def _int8_linear() -> Any:
    import torch

    class Int8Linear(torch.nn.Module):
        """weight: int8 `[outputs, inputs]`; scale: bfloat16 `[outputs]`, what one step of a weight is."""

        weight: torch.Tensor
        scale: torch.Tensor

        def __init__(self, layer: torch.nn.Linear) -> None:
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            weight = layer.weight.detach().float()
            # The kernel takes scales in bfloat16: weights are rounded to steps of what it will use.
            scale = (weight.abs().amax(1) / LARGEST).clamp_min(torch.finfo(torch.bfloat16).tiny).bfloat16()
            steps = (weight / scale.float()[:, None]).round().clamp(-LARGEST, LARGEST)
            self.register_buffer("weight", steps.to(torch.int8), persistent=False)
            self.register_buffer("scale", scale, persistent=False)
            self.bias = layer.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.reshape(-1, self.in_features).to(torch.bfloat16)
            y = torch._weight_int8pack_mm(flat, self.weight, self.scale).to(x.dtype)
            if self.bias is not None:
                y += self.bias
            return y.view(*x.shape[:-1], self.out_features)

    return Int8Linear
