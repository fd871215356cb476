"""The faster product for few rows beside PyTorch's own."""

from __future__ import annotations

import copy

import pytest

from components import matrices
from components.matrices import quicken


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 48), (48, 16), (5, 1), (1, 5)])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 1), (3, 1), (8, 1), (2, 7), (0,), (0, 1)])
def test_the_same_but_for_rounding(inputs, outputs, bias, shape):
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs, outputs, bias=bias)
    quick, x = copy.deepcopy(layer), torch.randn(*shape, inputs)
    assert quicken(quick) == 1
    with torch.inference_mode():
        y = quick(x)
        assert y.shape == (*shape, outputs)
        assert y.is_contiguous()
        torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize(("outputs", "few"), [(64, matrices.FEW_WHERE_WIDENING), (32, matrices.FEW)])
def test_only_few_rows_are_taken_the_other_way(outputs, few, monkeypatch):
    import torch

    layer = torch.nn.Linear(48, outputs)
    quicken(layer)
    calls = []
    monkeypatch.setattr(torch, "mm", lambda a, b: calls.append(b.shape[1]) or a @ b)
    for rows in (1, 2, few, few + 1, 100):
        layer(torch.randn(rows, 48))
    assert calls == [2, 2, few]


def test_weights_names_and_hooks_stay():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    weights, seen = {name: weight for name, weight in model.named_parameters()}, []
    model[2].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert quicken(model) == 2
    assert quicken(model) == 0, "already done"
    assert all(weight is weights[name] for name, weight in model.named_parameters())
    assert all(isinstance(layer, torch.nn.Linear) for layer in (model[0], model[2]))
    model(torch.randn(1, 3))
    assert seen == [(1, 2)]


def test_other_types_devices_and_layers_are_left_alone():
    import torch

    class Own(torch.nn.Linear):
        pass

    layers = [torch.nn.Linear(2, 2).half(), torch.nn.Linear(2, 2, device="meta"), Own(2, 2)]
    model = torch.nn.ModuleList(layers)
    kinds = [type(layer) for layer in layers]
    assert quicken(model) == 0
    assert [type(layer) for layer in model] == kinds
