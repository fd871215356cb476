"""Inside of the image tab: every number beside direct calls of processor and model."""

from __future__ import annotations

import html
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from components.errors import InputError
from components.inputs.pictures import as_seen, processor_steps
from components.show import markup
from demos import image
from tests import tiny

LABELS = ("cat", "dog", "crane", "<b>lion</b>", "tower", "crane")
SIZES = [(50, 40), (40, 90), (300, 60), (64, 64), (1, 1), (3, 500)]
STARTER_LION = gr.media.get_image("lion.jpg")


def noise(width: int = 50, height: int = 40, seed: int = 0) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def saved(picture: Image.Image, folder: Path, name: str = "picture.png") -> str:
    picture.save(folder / name)
    return str(folder / name)


@pytest.fixture
def picture(tmp_path) -> str:
    return saved(noise(), tmp_path)


def looked(folder: Path, path: str) -> image.Inside:
    return image.look_inside(image.Ran(path, 5, "auto"), tiny.manager(folder))


# Tiny checkpoints of other architectures


def resnet(**named: Any) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes: Any = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, **named))


def efficientnet(**named: Any) -> Any:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    sizes: Any = {
        "image_size": 32,
        "width_coefficient": 0.1,
        "hidden_dim": 128,
        "kernel_sizes": [3, 3],
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 6],
    }
    return EfficientNetForImageClassification(EfficientNetConfig(**sizes, **named))


def convnext(**named: Any) -> Any:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    sizes: Any = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
    return ConvNextForImageClassification(ConvNextConfig(**sizes, **named))


def mobilenet(**named: Any) -> Any:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.1, image_size=64, **named))


def regnet(**named: Any) -> Any:
    from transformers import RegNetConfig, RegNetForImageClassification

    sizes: Any = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4}
    return RegNetForImageClassification(RegNetConfig(**sizes, **named))


def swin(**named: Any) -> Any:
    from transformers import SwinConfig, SwinForImageClassification

    sizes: Any = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    return SwinForImageClassification(SwinConfig(**sizes, window_size=4, **named))


def mobilevit(**named: Any) -> Any:
    from transformers import MobileViTConfig, MobileViTForImageClassification

    sizes: Any = {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16], "image_size": 64}
    return MobileViTForImageClassification(MobileViTConfig(**sizes, num_attention_heads=2, **named))


def cvt(**named: Any) -> Any:
    from transformers import CvtConfig, CvtForImageClassification

    sizes: Any = {"embed_dim": [8, 8, 8], "num_heads": [1, 1, 2], "depth": [1, 2, 3]}
    return CvtForImageClassification(CvtConfig(**sizes, **named))


def deit(**named: Any) -> Any:
    from transformers import DeiTConfig, DeiTForImageClassification

    return DeiTForImageClassification(DeiTConfig(**TRANSFORMER, **named))


def shallow(**named: Any) -> Any:
    from transformers import DeiTConfig, DeiTForImageClassification

    return DeiTForImageClassification(DeiTConfig(**{**TRANSFORMER, "num_hidden_layers": 1}, **named))


def beit(**named: Any) -> Any:
    from transformers import BeitConfig, BeitForImageClassification

    return BeitForImageClassification(BeitConfig(**TRANSFORMER, **named))


def registers(**named: Any) -> Any:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification

    config = Dinov2WithRegistersConfig(**TRANSFORMER, num_register_tokens=3, **named)
    return Dinov2WithRegistersForImageClassification(config)


def siglip(**named: Any) -> Any:
    from transformers import SiglipConfig, SiglipForImageClassification

    return SiglipForImageClassification(SiglipConfig(vision_config=TRANSFORMER, **named))


TRANSFORMER: Any = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
CONVOLUTIONAL = [resnet, efficientnet, convnext, mobilenet, regnet, mobilevit]


@pytest.fixture(scope="module")
def make(tmp_path_factory) -> Callable[[Callable[..., Any]], Path]:
    """Folders with random weights, drawn wide, and a processor that crops 32 x 32 out of 40."""
    import torch
    from transformers import BitImageProcessorPil

    made: dict[Any, Path] = {}

    def folder_of(build: Callable[..., Any]) -> Path:
        if build not in made:
            torch.manual_seed(20)
            names = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}
            model = build(**names)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.normal_(std=0.3)
            folder = tmp_path_factory.mktemp(build.__name__)
            model.save_pretrained(folder)
            size = (
                {"height": 64, "width": 64}
                if build in (mobilenet, mobilevit)
                else {"height": 32, "width": 32}
            )
            BitImageProcessorPil(
                size={"shortest_edge": size["height"] + 8},
                crop_size=size,
                image_mean=[0.1, 0.4, 0.7],
                image_std=[0.5, 0.6, 0.2],
            ).save_pretrained(folder)
            made[build] = folder
        return made[build]

    return folder_of


def direct(folder: Path, **options: Any) -> tuple[Any, Any]:
    """Model and processor, without the app."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder, **options).eval()
    return model, AutoImageProcessor.from_pretrained(folder)


def last_layer(model: Any, pixels: Any) -> Any:
    """The last layer to give a tensor of four axes with more than one place."""
    import torch

    found: list[Any] = []

    def look(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(module)

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    with torch.no_grad():
        model(pixel_values=pixels)
    for hook in hooks:
        hook.remove()
    return found[-1]


def direct_grad_cam(model: Any, pixels: Any, label: int) -> np.ndarray:
    """The formulas of the paper, by a backward pass."""
    kept: list[Any] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        output.retain_grad()
        kept.append(output)

    hook = last_layer(model, pixels).register_forward_hook(keep)
    model.zero_grad()
    model(pixel_values=pixels).logits[0, label].backward()
    hook.remove()
    (features,) = kept
    weights = features.grad[0].mean(dim=(1, 2))
    weighted = sum(weight * channel for weight, channel in zip(weights, features[0], strict=True))
    return weighted.clamp(min=0).detach().numpy()  # type: ignore[union-attr]


def captum_grad_cam(model: Any, pixels: Any, label: int) -> np.ndarray:
    from captum.attr import LayerGradCam

    method = LayerGradCam(lambda pixels: model(pixel_values=pixels).logits, last_layer(model, pixels))
    return method.attribute(pixels, target=label, relu_attributions=True)[0, 0].detach().numpy()


def direct_rollout(attentions: Any) -> np.ndarray:
    """Of each layer the product of all mixed matrices up to it, `[layers, query, input]`."""
    import torch

    mixed = [layer[0].double().mean(0) / 2 + torch.eye(layer.shape[-1]).double() / 2 for layer in attentions]
    found = []
    for count in range(1, len(mixed) + 1):
        product = mixed[0]
        for layer in mixed[1:count]:
            product = layer.matmul(product)
        found.append(product.numpy())
    return np.stack(found)


# A ViT, number by number


def test_every_number_of_a_vit(picture):
    import torch

    seen = looked(tiny.vit(LABELS), picture)
    model, processor = direct(tiny.vit(LABELS), attn_implementation="eager")
    pixels = processor(images=Image.open(picture), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixel_values=pixels, output_attentions=True)
        hidden = model.vit(pixel_values=pixels).last_hidden_state
    assert seen.size == (50, 40)
    assert [axis.size for axis in seen.pixels] == list(pixels.shape) == [1, 3, 32, 32]
    assert [axis.size for axis in seen.hidden] == list(hidden.shape) == [1, 17, 16]
    assert seen.hidden[1].name == "(class token + 4 × 4 patches)"
    assert seen.grid == (4, 4)
    assert seen.logits == pytest.approx(output.logits[0].tolist(), abs=1e-5)
    assert seen.probabilities == pytest.approx(output.logits[0].softmax(-1).tolist(), abs=1e-6)
    assert seen.labels == LABELS
    assert seen.architecture.name == "ViTForImageClassification"
    assert (seen.architecture.family, seen.architecture.layers, seen.architecture.heads) == ("encoder", 2, 2)
    assert seen.architecture.parameters == sum(p.numel() for p in model.parameters())
    assert seen.maps is not None
    expected = direct_rollout(output.attentions)[:, 0, 1:].reshape(2, 4, 4)
    assert seen.maps.values == pytest.approx(expected, abs=1e-6)
    assert seen.maps.names == ("layer 1 of 2", "layer 2 of 2")


def test_the_answer_is_that_of_the_run(picture):
    models = tiny.manager(tiny.vit(LABELS))
    result = image.run(picture, 6, "auto", models)
    seen = image.look_inside(image.Ran(picture, 6, result.status.checkpoint), models)
    inside = sorted(zip(seen.labels, seen.probabilities, strict=True), key=lambda pair: -pair[1])
    for (label, score), (name, probability) in zip(result.scores, inside, strict=True):
        assert label == name
        assert score == pytest.approx(probability, abs=1e-5)
    assert models.asked == ["auto", result.status.checkpoint]  # type: ignore[attr-defined]


def test_what_is_drawn_of_a_vit(picture):
    seen = looked(tiny.vit(LABELS), picture)
    drawn = image.draw_inside(seen)
    text = html.unescape(re.sub(r"<[^>]*>", " ", drawn))
    for title in image.STATIONS:
        assert title in text
    for shape in ("[1, 3, 32, 32]", "[1, 17, 16]"):
        assert shape in drawn
    for logit, probability in zip(seen.logits, seen.probabilities, strict=True):
        assert f"{logit:.4f}" in text and f"{probability:.4f}" in text
    assert "50 × 40 pixels" in text and "4 × 4 patches of 8 × 8 pixels" in text
    assert "to 32 × 32 pixels, whatever its proportions, bilinear" in text
    assert "&lt;b&gt;lion&lt;/b&gt;" in drawn and "<b>lion" not in drawn
    assert drawn.count("<img") == 2 and 'class="grid"' in drawn


def test_attention_is_looked_at_in_a_twin(picture):
    models = tiny.manager(tiny.vit(LABELS))
    seen = image.look_inside(image.Ran(picture, 5, "auto"), models)
    with models.use(image.OFFER) as loaded:
        assert loaded.model.config._attn_implementation == "sdpa"
        assert not any(module._forward_hooks for module in loaded.model.children())
    assert seen.maps is not None


@pytest.mark.parametrize(
    ("build", "extra", "tokens"),
    [
        (deit, 2, "(class token + 1 more + 4 × 4 patches)"),
        (beit, 1, "(class token + 4 × 4 patches)"),
        (registers, 4, "(class token + 3 more + 4 × 4 patches)"),
        (siglip, 0, "(4 × 4 patches)"),
    ],
)
def test_rollout_of_other_transformers(make, picture, build, extra, tokens):
    import torch

    seen = looked(make(build), picture)
    model, processor = direct(make(build), attn_implementation="eager")
    with torch.no_grad():
        output = model(**processor(Image.open(picture), return_tensors="pt"), output_attentions=True)
    assert seen.logits == pytest.approx(output.logits[0].tolist(), abs=1e-4)
    assert [axis.size for axis in seen.hidden] == [1, 16 + extra, 16]
    assert seen.hidden[1].name == tokens
    reached = direct_rollout(output.attentions)
    assert reached.sum(-1) == pytest.approx(np.ones(reached.shape[:2]), abs=1e-4)
    read = reached[:, 0] if extra else reached.mean(1)
    assert seen.maps is not None and seen.maps.kind == "rollout"
    assert seen.maps.values == pytest.approx(read[:, extra:].reshape(3, 4, 4), abs=1e-5)


# Convolutional networks


@pytest.mark.parametrize("build", CONVOLUTIONAL)
def test_grad_cam_is_what_a_direct_computation_and_captum_give(make, picture, build):
    seen = looked(make(build), picture)
    model, processor = direct(make(build))
    pixels = processor(Image.open(picture), return_tensors="pt")["pixel_values"]
    logits = model(pixel_values=pixels).logits[0]
    assert seen.logits == pytest.approx(logits.tolist(), rel=1e-3, abs=1e-4)
    assert seen.maps is not None and seen.maps.kind == "Grad-CAM"
    order = logits.argsort(descending=True).tolist()
    assert seen.maps.names == tuple(LABELS[i] for i in order)
    assert seen.maps.values.shape == (len(LABELS), seen.hidden[2].size, seen.hidden[3].size)
    assert seen.maps.values.max() > 0
    scale = float(seen.maps.values.max())
    for label, values in zip(order, seen.maps.values, strict=True):
        for expected in (direct_grad_cam(model, pixels, label), captum_grad_cam(model, pixels, label)):
            assert values == pytest.approx(expected, abs=1e-3 * scale)


def test_grad_cam_of_the_starter(models):
    from transformers import AutoModelForImageClassification

    seen = image.look_inside(image.Ran(STARTER_LION, 5, "starter"), models)
    assert [axis.size for axis in seen.hidden] == [1, 1280, 7, 7]
    with models.use(image.OFFER, "starter") as loaded:
        folder, pixels = loaded.model.config._name_or_path, image.preprocess(noise(), loaded.processor)
        pixels = image.preprocess(Image.open(STARTER_LION).convert("RGB"), loaded.processor)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    logits = model(pixel_values=pixels).logits[0]
    assert seen.logits == pytest.approx(logits.tolist(), abs=1e-3)
    assert seen.maps is not None
    assert seen.maps.names[0] == "lion" and len(seen.maps.names) == 10
    order = logits.argsort(descending=True)[:10].tolist()
    for label, values in zip(order[:3], seen.maps.values, strict=False):
        assert values == pytest.approx(captum_grad_cam(model, pixels, label), abs=1e-3)
        assert values == pytest.approx(direct_grad_cam(model, pixels, label), abs=1e-3)
    drawn = image.draw_inside(seen)
    assert "1,000 labels; the 10 highest" in drawn and "[1, 1280, 7, 7]" in drawn


def test_nothing_is_kept_of_the_gradients(make, picture):
    models = tiny.manager(make(resnet))
    with models.use(image.OFFER) as loaded:
        before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
        hooks = tiny.hooks(loaded.model)
        image.run(picture, 5, "auto", models)  # this puts the channels of a pixel side by side
        image.look_inside(image.Ran(picture, 5, "auto"), models)
        assert all(parameter.grad is None for parameter in loaded.model.parameters())
        assert tiny.hooks(loaded.model) == hooks
        for name, tensor in loaded.model.state_dict().items():
            assert tensor.equal(before[name]), name
        assert image.run(picture, 5, "auto", models).scores


def test_the_graph_goes_when_the_map_is_made(make, picture):
    import gc

    import torch

    def computed() -> int:
        """Tensors in memory that remember how they were computed."""
        gc.collect()
        return sum(type(one) is torch.Tensor and one.grad_fn is not None for one in gc.get_objects())

    models = tiny.manager(make(resnet))
    before = computed()
    seen = image.look_inside(image.Ran(picture, 5, "auto"), models)
    assert seen.maps is not None and computed() == before


def test_gradients_work_after_a_run_in_inference_mode(make, picture):
    fresh = looked(make(efficientnet), picture)
    models = tiny.manager(make(efficientnet))
    image.run(picture, 5, "auto", models)
    after = image.look_inside(image.Ran(picture, 5, "auto"), models)
    assert fresh.maps is not None and after.maps is not None
    assert after.maps.values == pytest.approx(fresh.maps.values, rel=1e-3, abs=1e-5)


def test_windows_have_no_map_and_that_is_said(make, picture):
    import torch

    seen = looked(make(swin), picture)
    model, processor = direct(make(swin))
    with torch.no_grad():
        logits = model(**processor(Image.open(picture), return_tensors="pt")).logits[0]
    assert seen.logits == pytest.approx(logits.tolist(), abs=1e-4)
    assert seen.maps is None and seen.grid is None
    assert [axis.size for axis in seen.hidden] == [1, 64, 16]
    assert "SwinForImageClassification has neither" in image.draw_inside(seen)


def test_a_head_that_does_not_read_the_last_feature_map(make, picture):
    seen = looked(make(cvt), picture)
    assert len(seen.hidden) == 4 and seen.maps is None
    assert "CvtForImageClassification has neither" in image.draw_inside(seen)


@pytest.mark.parametrize("build", [resnet, deit])
def test_half_precision(make, picture, build):
    import torch

    from components.models.loading import load

    def half(checkpoint: Any, folder: Path) -> Any:
        return load(checkpoint, folder, torch.device("cpu"), torch.float16)

    models = tiny.manager(make(build))
    models._main = replace(models._main, load=half)
    seen = image.look_inside(image.Ran(picture, 5, "auto"), models)
    whole = looked(make(build), picture)
    assert seen.architecture.dtype == "float16"
    assert seen.maps is not None and whole.maps is not None
    assert seen.logits == pytest.approx(whole.logits, rel=0.02, abs=0.02)
    order = [seen.maps.names.index(name) for name in ("cat", "dog")] if build is resnet else [0, 1]
    same = [whole.maps.names.index(name) for name in ("cat", "dog")] if build is resnet else [0, 1]
    scale = float(whole.maps.values.max())
    assert seen.maps.values[order] == pytest.approx(whole.maps.values[same], abs=0.02 * scale)


# The picture as the model saw it


def through(processor: Any, picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Pixel values, and the picture made of them."""
    pixels = processor(images=picture, return_tensors="np")["pixel_values"][0]
    return pixels, as_seen(pixels, processor)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_starter_sees_the_middle(models, width, height):
    picture = noise(width, height)
    with models.use(image.OFFER, "starter") as loaded:
        pixels, seen = through(loaded.processor, picture)
    scale = 256 / min(width, height)
    wide, high = (max(256, int(side * scale)) for side in (width, height))
    large = picture.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - 224) // 2, (high - 224) // 2
    middle = np.asarray(large.crop((left, top, left + 224, top + 224)))
    assert np.array_equal(seen, middle)
    undone = (pixels.transpose(1, 2, 0) * 0.502 + 0.498) * 255
    assert seen == pytest.approx(undone, abs=0.01)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_vit_sees_all_of_it_squeezed(width, height):
    from transformers import AutoImageProcessor

    picture = noise(width, height)
    pixels, seen = through(AutoImageProcessor.from_pretrained(tiny.vit(LABELS)), picture)
    assert np.array_equal(seen, np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)))
    assert seen == pytest.approx((pixels.transpose(1, 2, 0) * 0.5 + 0.5) * 255, abs=0.01)


@pytest.mark.parametrize("mode", ["L", "RGBA", "1"])
def test_grey_and_transparent_pictures(tmp_path, mode):
    stored = noise(64, 48).convert(mode)
    if mode == "RGBA":
        stored.paste((7, 7, 7, 0), (0, 0, 32, 48))
    seen = looked(tiny.vit(LABELS), saved(stored, tmp_path))
    plain = stored.convert("RGB")
    if mode == "RGBA":
        plain.paste("white", (0, 0, 32, 48))
    assert np.array_equal(seen.picture, np.asarray(plain.resize((32, 32), Image.Resampling.BILINEAR)))
    assert seen.size == (64, 48)


def test_processors_that_write_colours_another_way():
    from transformers import (
        ConvNextImageProcessorPil,
        EfficientNetImageProcessorPil,
        MobileViTImageProcessorPil,
    )

    picture = noise(48, 48)
    exact = np.asarray(picture)
    size = {"height": 48, "width": 48}
    once = EfficientNetImageProcessorPil(size=size, include_top=False)
    twice = EfficientNetImageProcessorPil(size=size, include_top=True)
    around = EfficientNetImageProcessorPil(size=size, rescale_offset=True, rescale_factor=1 / 127.5)
    flipped = MobileViTImageProcessorPil(size={"shortest_edge": 48}, crop_size=size)
    cropped = ConvNextImageProcessorPil(size={"shortest_edge": 42}, crop_pct=42 / 48)
    for processor in (once, twice, around, flipped):
        assert np.array_equal(through(processor, picture)[1], exact), processor
    assert np.array_equal(through(cropped, picture)[1], exact[3:45, 3:45])
    assert ("order of colours", "blue, green, red") in processor_steps(flipped)
    assert "normalise again" in dict(processor_steps(twice))
    assert "normalise again" not in dict(processor_steps(once))
    assert dict(processor_steps(around))["rescale"].endswith("minus 1: from 0 … 255 to -1 … 1")
    assert dict(processor_steps(cropped))["resize"].startswith(
        "the shorter edge to 48 pixels, then the middle 42 × 42"
    )


def test_the_steps_of_the_starter(models):
    with models.use(image.OFFER, "starter") as loaded:
        steps = dict(processor_steps(loaded.processor))
    assert steps["resize"] == "the shorter edge to 256 pixels, proportions kept, bicubic"
    assert steps["crop"] == "the middle 224 × 224 pixels"
    assert steps["rescale"] == "times 0.00392157: from 0 … 255 to 0 … 1"
    assert steps["normalise"] == "minus the mean 0.498, divided by the standard deviation 0.502"


def test_numbers_that_differ_by_colour():
    from transformers import BitImageProcessorPil

    steps = dict(processor_steps(BitImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.5] * 3)))
    assert steps["normalise"] == "minus the mean (0.1, 0.2, 0.3), divided by the standard deviation 0.5"
    assert "normalise" not in dict(processor_steps(BitImageProcessorPil(do_normalize=False)))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_of_every_shape(make, tmp_path, width, height):
    path = saved(noise(width, height), tmp_path)
    for folder in (tiny.vit(LABELS), make(resnet)):
        seen = looked(folder, path)
        assert seen.size == (width, height)
        assert seen.picture.shape == (32, 32, 3)
        assert seen.maps is not None
        assert "<img" in image.saliency_markup.draw_map(seen.maps, 0)


# The tab


class Tab:
    """The drawer Inside, driven by its events."""

    def __init__(self, folder: Path) -> None:
        self.tab = tiny.tab(image.DEMO, tiny.manager(folder))
        self.redraws: list[Any] = []

    def event(self, name: str, outputs: int) -> Any:
        """The handler of that name with so many outputs."""
        found = [fn for fn in self.tab.app.fns.values() if fn.name == name and len(fn.outputs) == outputs]
        (one,) = found
        return one.fn

    def open(self, ran: Any) -> Any:
        opened, *answer = self.event("opened", 8)(ran)
        assert opened is True
        return answer

    def follow(self, opened: bool, ran: Any) -> Any:
        return list(self.event("update", 7)(opened, ran))

    def pick(self, kind: str, *values: Any) -> str:
        """What choosing a label or a layer draws."""
        redraw = [
            fn
            for fn in self.tab.app.fns.values()
            if fn.name == "handler" and len(fn.inputs) == 2 and type(fn.inputs[1]).__name__ == kind
        ]
        (one,) = redraw
        drawn, said = one.fn(*values)
        assert said == ""
        return drawn


def test_run_first_then_open_a_vit(picture):
    tab = Tab(tiny.vit(LABELS))
    _, ran, problem, _ = tab.tab.press(picture, 5)[-1]
    assert problem == "" and isinstance(ran, image.Ran)
    stations, label, layer, opacity, over, maps, said = tab.open(ran)
    assert "Image processor" in stations and said == ""
    assert label["visible"] is False
    assert (layer["visible"], layer["maximum"], layer["value"]) == (True, 2, 2)
    assert opacity["visible"] is True
    assert over == image.saliency_markup.draw_map(maps, 1)
    assert tab.pick("Slider", maps, 1) == image.saliency_markup.draw_map(maps, 0) != over


def test_of_a_single_layer_there_is_nothing_to_choose(make, picture):
    tab = Tab(make(shallow))
    _, label, layer, opacity, over, maps, _ = tab.open(tab.tab.press(picture, 5)[-1][1])
    assert label["visible"] is False and layer["visible"] is False and opacity["visible"] is True
    assert over == image.saliency_markup.draw_map(maps, 0)


def test_run_first_then_open_a_convolutional_network(make, picture):
    tab = Tab(make(resnet))
    ran = tab.tab.press(picture, 5)[-1][1]
    _, label, layer, opacity, over, maps, said = tab.open(ran)
    assert said == ""
    assert layer["visible"] is False and opacity["visible"] is True
    assert (label["visible"], label["value"]) == (True, 0)
    scores = image.run(picture, 6, "auto", tiny.manager(make(resnet))).scores
    names = [f"{name}, {markup.percent(score)}" for name, score in scores]
    assert label["choices"] == list(zip(names, range(len(LABELS)), strict=True))
    assert over == image.saliency_markup.draw_map(maps, 0)
    drawn = {tab.pick("Dropdown", maps, i) for i in range(len(LABELS))}
    assert len(drawn) == len(LABELS)


def test_open_before_a_run_and_follow_it(picture):
    tab = Tab(tiny.vit(LABELS))
    stations, label, layer, opacity, over, maps, said = tab.open(None)
    assert stations is None and over is None and maps is None
    assert not any(control["visible"] for control in (label, layer, opacity))
    assert "Nothing has run" in said
    ran = tab.tab.press(picture, 5)[-1][1]
    assert "Image processor" in tab.follow(True, ran)[0]
    assert tab.follow(False, ran) == [gr.skip()] * 7


def test_without_a_map_there_is_nothing_to_set(make, picture):
    tab = Tab(make(swin))
    ran = tab.tab.press(picture, 5)[-1][1]
    stations, label, layer, opacity, over, maps, said = tab.open(ran)
    assert "has neither" in stations and said == "" and over is None and maps is None
    assert not any(control["visible"] for control in (label, layer, opacity))


def test_a_file_that_is_gone_is_told(picture):
    tab = Tab(tiny.vit(LABELS))
    ran = tab.tab.press(picture, 5)[-1][1]
    Path(picture).unlink()
    *emptied, said = tab.open(ran)
    assert "no longer on this server" in said
    assert emptied[0] is None
    assert not emptied[3]["visible"]
    with pytest.raises(InputError, match="no longer on this server"):
        image.run(picture, 5, "auto", tiny.manager(tiny.vit(LABELS)))


def test_what_is_remembered_is_small(make, picture):
    tab = Tab(make(resnet))
    _, ran, *_ = tab.tab.press(picture, 3)[-1]
    assert ran == image.Ran(picture, 3, f"tiny/{make(resnet).name}")
    maps = tab.open(ran)[5]
    for kept, most in ((ran, 1_000), (maps, 20_000)):
        assert len(pickle.dumps(kept)) < most
    again = pickle.loads(pickle.dumps(maps))
    assert np.array_equal(again.values, maps.values)
    assert replace(again, values=None) == replace(maps, values=None)  # type: ignore[arg-type]
