"""The faster products for few rows beside PyTorch's own, and what is measured of them."""

from __future__ import annotations

import copy
import json

import pytest

from components.models import matrices
from components.models.matrices import AGAIN, ROUNDS, ROWS, Measured, Way, Ways, quicken

HALF, TURNED, PLAIN = Way(True, ()), Way(False, ROWS), Way(False, ())
needs_half = pytest.mark.skipif("not matrices.has_half()", reason="PyTorch has no FBGEMM here")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Layers as small as those here count."""
    monkeypatch.setattr(matrices, "SMALL", 1)


def ways(way: Way, path=None) -> Ways:
    """As if that had been measured for every shape."""
    return Ways(path, lambda weight: Measured(way, True))


def halved(model):
    """The same layers with weights that half precision holds."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    return model


@pytest.mark.parametrize("way", [TURNED, pytest.param(HALF, marks=needs_half)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 48), (48, 16), (5, 1), (1, 5)])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 1), (3, 1), (8, 1), (2, 7), (0,), (0, 1)])
def test_the_same_but_for_rounding(inputs, outputs, bias, shape, way):
    import torch

    torch.manual_seed(0)
    model = halved(torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=bias)))
    quick, x = copy.deepcopy(model), torch.randn(*shape, inputs)
    assert quicken(quick, ways(way)) == 1
    with torch.inference_mode():
        y = quick(x)
        assert y.shape == (*shape, outputs)
        assert y.is_contiguous()
        torch.testing.assert_close(y, model(x))


@pytest.mark.parametrize(("turned", "taken"), [((1, 2), {1, 2}), ((4,), {3, 4}), ((1, 8), {1, 5, 6, 7, 8})])
def test_rows_between_those_measured_go_as_the_next_larger(turned, taken, monkeypatch):
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(48, 32))
    quicken(model, ways(Way(False, turned)))
    calls = []
    monkeypatch.setattr(torch, "mm", lambda a, b: calls.append(b) or a @ b)
    reached = set()
    for rows in range(1, 20):
        model(torch.randn(rows, 48))
        if calls:
            reached.add(rows)
        calls.clear()
    assert reached == taken


def test_weights_names_and_hooks_stay():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    weights, seen = {name: weight for name, weight in model.named_parameters()}, []
    model[2].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert quicken(model, ways(TURNED)) == 2
    assert quicken(model, ways(TURNED)) == 0, "already done"
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
    assert quicken(model, ways(TURNED)) == 0
    assert [type(layer) for layer in model] == kinds


def test_small_layers_are_neither_measured_nor_changed(monkeypatch):
    import torch

    monkeypatch.setattr(matrices, "SMALL", 10)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 4))
    asked = []
    assert (
        quicken(model, Ways(None, lambda weight: asked.append(weight.shape) or Measured(TURNED, True))) == 1
    )
    assert asked == [(4, 3)]


# Half precision


@needs_half
@pytest.mark.parametrize(
    ("stored", "kept"), [("float16", True), ("bfloat16", True), ("float32", False), ("large", False)]
)
def test_weights_are_kept_in_half_precision_only_where_that_changes_none(stored, kept):
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64))
    with torch.no_grad():
        if stored == "large":
            model[0].weight[0, 0] = 1e5  # more than half precision has
        else:
            model[0].weight.copy_(model[0].weight.to(getattr(torch, stored)))
            model[0].weight[0, 0] = 0
    assert quicken(model, ways(HALF)) == kept
    assert isinstance(model[0], torch.nn.Linear) is not kept


@needs_half
def test_a_layer_whose_weights_the_model_reads_by_itself_stays():
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=90, hidden_size=32, num_hidden_layers=1)
    model, ids = halved(MambaForCausalLM(config).eval()), torch.arange(7)[None]
    quick = copy.deepcopy(model)
    assert quicken(quick, ways(HALF)) == 1
    assert isinstance(quick.backbone.layers[0].mixer.dt_proj, torch.nn.Linear)
    with torch.inference_mode():
        torch.testing.assert_close(quick(ids).logits, model(ids).logits)


@needs_half
def test_what_is_packed_is_counted_once_and_shared_by_copies():
    import torch

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(6, 4)
            self.inner = torch.nn.Linear(4, 4)
            self.head = torch.nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight

    model = halved(Tied())
    numbers = sum(weight.numel() for weight in model.parameters())
    assert quicken(model, ways(HALF)) == 2
    in_tensors = sum(weight.numel() for weight in model.parameters())
    assert in_tensors + matrices.packed_numbers(model, tied=False) == numbers
    assert matrices.packed_numbers(model) == 16 + 24
    twin = copy.deepcopy(model)
    assert twin.inner is model.inner and twin.embed is not model.embed


# Measuring


def test_a_way_is_measured_for_each_shape_and_kept(tmp_path):
    import torch

    path, asked = tmp_path / "cache" / "products.json", []

    def measure(weight):
        asked.append(tuple(weight.shape))
        return Measured(Way(True, (1, 4)), True)

    first = Ways(path, measure)
    for shape in ((2, 3), (3, 2), (2, 3)):
        assert first.of(torch.zeros(shape)) == Way(True, (1, 4))
    assert Ways(path, measure).of(torch.zeros(3, 2)) == Way(True, (1, 4))
    assert asked == [(2, 3), (3, 2)]


def test_another_machine_is_measured_for_itself(tmp_path, monkeypatch):
    import torch

    path = tmp_path / "products.json"
    ways(TURNED, path).of(torch.zeros(2, 3))
    monkeypatch.setattr(matrices, "here", lambda: "another processor")
    assert ways(HALF, path).of(torch.zeros(2, 3)) == HALF
    monkeypatch.undo()
    assert ways(HALF, path).of(torch.zeros(2, 3)) == TURNED, "what was known of this one stays"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"%s": {"2x3": {"half": 1, "turned": []}}}',
        '{"%s": {"2x3": {"half": true, "turned": [3]}}}',
    ],
)
def test_a_file_that_cannot_be_used_is_measured_again(tmp_path, content):
    import torch

    path = tmp_path / "products.json"
    path.write_text(content.replace("%s", matrices.here()))
    assert ways(TURNED, path).of(torch.zeros(2, 3)) == TURNED
    assert json.loads(path.read_text())[matrices.here()]["2x3"] == {"half": False, "turned": list(ROWS)}


def test_where_nothing_can_be_written_it_is_measured_each_time(tmp_path):
    import torch

    (tmp_path / "file").write_text("")
    known = ways(TURNED, tmp_path / "file" / "products.json")
    assert known.of(torch.zeros(2, 3)) == TURNED


class Clock:
    """Seconds that stand still but for what is said to take some."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds):
        """What takes so long each time it is called, one after another."""
        left = iter(seconds)

        def way() -> None:
            self.now += next(left)

        return way


def test_what_was_measured_on_a_busy_machine_is_measured_again_and_not_kept(tmp_path):
    import torch

    path, clock, answers = tmp_path / "products.json", Clock(), []
    weight, known = torch.zeros(2, 3), Ways(path, lambda weight: answers.pop(0), clock)
    answers += [Measured(HALF, False), Measured(TURNED, False), Measured(Way(True, (4,)), True)]
    assert [known.of(weight) for _ in range(30)] == [HALF] * 30, "all layers of a model go alike"
    assert len(answers) == 2
    clock.now += AGAIN
    assert known.of(weight) == TURNED
    clock.now += AGAIN / 2
    assert known.of(weight) == TURNED and not path.exists()
    clock.now += AGAIN / 2
    assert known.of(weight) == Way(True, (4,))
    clock.now += 10 * AGAIN
    assert known.of(weight) == Way(True, (4,)) and not answers
    assert ways(PLAIN, path).of(weight) == Way(True, (4,)), "kept"


def test_what_is_doubtful_stays_out_of_the_file_beside_what_is_kept(tmp_path):
    import torch

    path = tmp_path / "products.json"
    known = Ways(path, lambda weight: Measured(TURNED, weight.shape[0] > 2))
    assert [known.of(torch.zeros(rows, 3)) for rows in (2, 5)] == [TURNED, TURNED]
    assert list(json.loads(path.read_text())[matrices.here()]) == ["5x3"]


@pytest.mark.parametrize(
    ("first", "second", "best", "steady"),
    [
        ([3.0] * ROUNDS, [2.0] * ROUNDS, [3.0, 2.0], True),
        # A disturbance now and then is no matter, nor is a slow beginning.
        ([9.0, 3.0, 3.1, 9.0, 3.2] + [9.0] * ROUNDS, [2.0, 7.0] * ROUNDS, [3.0, 2.0], True),
        # One short time among long ones may be luck.
        ([1.0, 3.0] + [5.0] * ROUNDS, [2.0] * ROUNDS, [1.0, 2.0], False),
        ([3.0] * ROUNDS, [2.0 + 0.5 * i for i in range(ROUNDS)], [3.0, 2.0], False),
    ],
)
def test_what_took_as_long_several_times_is_steady(first, second, best, steady, monkeypatch):
    monkeypatch.setattr(matrices, "LIMIT", float("inf"))
    clock = Clock()
    answer = matrices._shortest([clock.taking(first), clock.taking(second)], clock)
    assert answer == (pytest.approx(best), steady)


def test_measuring_ends_on_a_machine_that_stays_busy(monkeypatch):
    monkeypatch.setattr(matrices, "LIMIT", -1.0)
    clock, calls = Clock(), []
    way = clock.taking([2.0**i for i in range(ROUNDS)])
    best, steady = matrices._shortest([lambda: calls.append(way())], clock)
    assert (best, steady, len(calls)) == ([1.0], False, matrices.AGREE)


def test_the_faster_way_is_found(monkeypatch):
    import torch

    monkeypatch.setattr(matrices, "has_half", lambda: False)

    def seconds(ways, clock):
        few = ways[0]().shape[0] < 4
        return ([2.0, 1.0] if few else [1.0, 2.0]), few

    monkeypatch.setattr(matrices, "_shortest", seconds)
    assert matrices.measured(torch.zeros(3, 2)) == Measured(Way(False, (1, 2)), False)
    monkeypatch.undo()
    real, _ = matrices.measured(torch.zeros(300, 200))
    assert set(real.turned) <= set(ROWS) and real.half in (True, False)


@needs_half
@pytest.mark.parametrize(
    ("seconds", "alike", "half"),
    [
        ([2.0, 3.0, 1.0], True, True),
        ([2.0, 1.0, 1.4], True, False),
        ([2.0, 1.0, 1.4], False, True),
        ([2.0, 1.0, 1.6], False, False),
    ],
)
def test_half_precision_must_be_faster_than_the_better_of_the_others(monkeypatch, seconds, alike, half):
    import torch

    monkeypatch.setattr(matrices, "_shortest", lambda ways, clock: (seconds, alike))
    way, steady = matrices.measured(torch.zeros(3, 2))
    assert way.half is half and steady is alike


def test_the_machine_is_named_with_what_its_speed_depends_on(monkeypatch):
    import torch

    matrices.here.cache_clear()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    named = matrices.here()
    matrices.here.cache_clear()
    assert matrices.processor() in named and "ONEDNN_MAX_CPU_ISA=AVX2" in named
    assert f"torch {torch.__version__}" in named and f"{torch.get_num_threads()} threads" in named
