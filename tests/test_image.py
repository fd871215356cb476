"""The image tab beside a direct call of a tiny ViT."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.errors import Cancelled, InputError
from components.inputs.pictures import read_picture
from demos import image
from tests import tiny

LABELS = ("cat", "dog", "crane", "<b>lion</b>", "tower", "owl")


@pytest.fixture
def models():
    return tiny.manager(tiny.vit(LABELS))


@pytest.fixture(scope="module")
def loaded():
    return tiny.loaded(tiny.vit(LABELS), image.RECIPE)


def noise(width: int = 50, height: int = 40, seed: int = 0) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def saved(picture: Image.Image, path: Path, **options: Any) -> str:
    picture.save(path, **options)
    return str(path)


def direct(picture: Image.Image) -> dict[str, float]:
    """Resized and normalised here, without the processor."""
    import torch
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(tiny.vit(LABELS)).eval()
    small = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    pixels = torch.tensor((small / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    with torch.no_grad():
        shares = model(pixel_values=pixels).logits[0].softmax(-1).tolist()
    return {model.config.id2label[i]: share for i, share in enumerate(shares)}


def near(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-3)


def scores(models: Any, path: str, top_k: float = 6, **options: Any) -> dict[str, float]:
    return dict(image.run(path, top_k, "auto", models, **options).scores)


# The four steps


def test_preprocess_gives_pixels_around_zero(loaded):
    pixels = image.preprocess(noise(), loaded.processor)
    assert pixels.shape == (1, 3, 32, 32)
    assert -1 <= float(pixels.min()) < 0 < float(pixels.max()) <= 1


def test_forward_gives_float_logits_on_the_cpu(loaded):
    import torch

    logits = image.forward(torch.zeros(1, 3, 32, 32), loaded)
    assert logits.shape == (1, len(LABELS))
    assert logits.dtype == torch.float32
    assert not logits.requires_grad


def test_postprocess_sorts_and_takes_at_most_all(loaded):
    import torch

    logits = torch.tensor([0.0, 2.0, 1.0, -1.0, -2.0, -3.0])
    shares = logits.softmax(-1).tolist()
    assert image.postprocess(logits, 2, loaded.model.config) == (("dog", shares[1]), ("crane", shares[2]))
    assert len(image.postprocess(logits, 1000, loaded.model.config)) == len(LABELS)


# run


def test_a_picture_is_what_a_direct_call_gives(models, tmp_path):
    ours = scores(models, saved(noise(), tmp_path / "p.png"))
    assert ours == near(direct(noise()))
    assert sum(ours.values()) == pytest.approx(1)
    assert list(ours.values()) == sorted(ours.values(), reverse=True)
    assert ours != near(scores(models, saved(noise(seed=1), tmp_path / "q.png")))


def test_the_processor_agrees(models, tmp_path, loaded):
    import torch

    with torch.no_grad():
        shares = loaded.model(**loaded.processor(noise(), return_tensors="pt")).logits[0].softmax(-1)
    ours = scores(models, saved(noise(), tmp_path / "p.png"))
    assert [ours[label] for label in LABELS] == pytest.approx(shares.tolist(), abs=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "I;16", "LA", "1"])
def test_pictures_of_every_mode(models, tmp_path, mode):
    picture = noise()
    plain = picture.convert("L").convert("RGB") if mode in ("L", "LA", "I;16") else picture
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        stored = picture.quantize(64)
        plain = stored.convert("RGB")
    else:
        stored = picture.convert(mode)
        plain = stored.convert("RGB") if mode in ("1", "CMYK") else plain
    path = saved(stored, tmp_path / ("p.tiff" if mode == "CMYK" else "p.png"))
    assert scores(models, path) == near(direct(plain))


def test_transparency_lies_on_white(models, tmp_path):
    picture = noise().convert("RGBA")
    picture.paste((7, 7, 7, 0), (0, 0, 25, 40))
    white = noise()
    white.paste("white", (0, 0, 25, 40))
    assert scores(models, saved(picture, tmp_path / "p.png")) == near(direct(white))


def test_exif_orientation(models, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(noise(40, 40), tmp_path / "p.png", exif=exif)
    turned = noise(40, 40).transpose(Image.Transpose.ROTATE_270)
    assert scores(models, path) == near(direct(turned))
    assert scores(models, path) != near(direct(noise(40, 40)))


def test_the_first_frame_of_an_animation(models, tmp_path):
    frames = [noise(seed=seed).quantize(64) for seed in (0, 1, 2)]
    path = saved(frames[0], tmp_path / "p.gif", save_all=True, append_images=frames[1:])
    assert scores(models, path) == near(direct(frames[0].convert("RGB")))


def test_one_pixel(models, tmp_path):
    path = saved(Image.new("RGB", (1, 1), "red"), tmp_path / "p.png")
    assert scores(models, path) == near(direct(Image.new("RGB", (1, 1), "red")))


def test_pictures_of_different_sizes_do_not_go_together(loaded):
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes: Any = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3)).eval()
    loaded = replace(loaded, model=model, _shared={})
    batches: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda module, inputs, named: batches.append(tuple(named["pixel_values"].shape)), with_kwargs=True
    )
    pictures = [torch.rand(1, 3, height, 32) for height in (32, 48, 32)]
    rows = loaded.share(image.joint)(pictures)
    assert batches == [(2, 3, 32, 32), (1, 3, 48, 32)]
    for picture, row in zip(pictures, rows, strict=True):
        assert torch.allclose(row, image.forward(picture, loaded)[0], atol=1e-6)


def test_pictures_of_visitors_who_come_at_once_go_together(models, tmp_path):
    seen: list[int] = []
    with models.use(image.OFFER) as loaded:
        loaded.model.register_forward_pre_hook(
            lambda module, inputs, named: seen.append(len(named["pixel_values"])), with_kwargs=True
        )
        batcher = loaded.share(image.joint)
        paths = [saved(noise(seed=i), tmp_path / f"{i}.png") for i in range(10)]
        with ThreadPoolExecutor(len(paths)) as pool:
            with loaded.turns:  # the device is taken until all have come
                answers = [pool.submit(scores, models, path) for path in paths]
                while len(batcher._waiting) < len(paths):
                    assert not wait(answers, timeout=0.01).done
            together = [answer.result() for answer in answers]
    assert sorted(seen) == [2, image.MOST_ON_CPU]
    for path, ours in zip(paths, together, strict=True):
        assert ours == near(scores(models, path))


def test_a_visitor_who_has_stopped_gets_nothing(models, tmp_path):
    with models.use(image.OFFER), pytest.raises(Cancelled):
        image.run(saved(noise(), tmp_path / "p.png"), 5, "auto", models, stopped=lambda: True)


def test_a_very_long_picture(models, tmp_path):
    picture = noise(3000, 8)
    assert len(scores(models, saved(picture, tmp_path / "p.png"))) == len(LABELS)


def test_the_status_tells_the_size(models, tmp_path):
    result = image.run(saved(noise(), tmp_path / "p.png"), 3, "auto", models)
    assert len(result.scores) == 3
    assert "50 × 40" in result.status.remarks[0]
    assert result.status.checkpoint.startswith("tiny/vit")


# What cannot be used


@pytest.mark.parametrize("top_k", [0, -1, 1001, None, float("nan")])
def test_top_k_out_of_range(models, tmp_path, top_k):
    with pytest.raises(InputError, match="Top-k must be between 1 and 1000"):
        image.run(saved(noise(), tmp_path / "p.png"), top_k, "auto", models)


@pytest.mark.parametrize("path", [None, ""])
def test_no_picture(models, path):
    with pytest.raises(InputError, match="no picture yet"):
        image.run(path, 5, "auto", models)
    assert models.asked == []


def test_an_empty_a_renamed_and_a_truncated_file(models, tmp_path):
    empty, text, cut = (tmp_path / name for name in ("empty.png", "text.png", "cut.jpg"))
    empty.touch()
    text.write_text("no picture")
    detailed = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    whole = Path(saved(detailed, tmp_path / "whole.jpg")).read_bytes()
    cut.write_bytes(whole[: len(whole) // 8])
    for path, told in ((empty, "empty"), (text, "not a picture"), (cut, "damaged")):
        with pytest.raises(InputError, match=told):
            image.run(str(path), 5, "auto", models)
    assert models.asked == []


@pytest.mark.parametrize(("ending", "kept"), [("jpg", 0.6), ("jpg", 0.97), ("png", 0.8)])
def test_of_a_truncated_picture_the_rows_that_are_there_are_named(models, tmp_path, ending, kept):
    whole = Path(saved(noise(90, 80), tmp_path / f"whole.{ending}")).read_bytes()
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(whole[: int(len(whole) * kept)])
    result = image.run(str(path), 20, "auto", models)
    part = read_picture(path)
    assert 20 < part.height < 80
    assert dict(result.scores) == near(direct(part))
    assert f"The picture has 90 × {part.height} pixels." in result.status.remarks
    assert any(f"{part.height} of 80 rows" in words for words in result.status.remarks)


def test_a_png_named_jpg_is_read(models, tmp_path):
    path = Path(saved(noise(), tmp_path / "p.png")).rename(tmp_path / "p.jpg")
    assert scores(models, str(path)) == near(direct(noise()))


def test_too_many_pixels(models, tmp_path):
    path = saved(noise(200, 100), tmp_path / "p.png")
    with pytest.raises(InputError, match=r"at most 0\.01 megapixels"):
        image.run(path, 5, "auto", models, most_megapixels=0.01)
    assert len(scores(models, path, most_megapixels=0.02)) == len(LABELS)


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"architectures": ["ViTForImageClassification"]}, True),
        ({"architectures": ["ResNetForImageClassification"]}, True),
        ({"architectures": ["ViTModel"]}, False),
        ({"architectures": None}, False),
        ({}, False),
    ],
)
def test_which_checkpoints_fit(config, fits):
    reason = image.RECIPE.fits(config)
    assert (reason is None) is fits
    if reason:
        assert "ForImageClassification" in reason
        assert "google/vit-base-patch16-224" in reason


# The tab


def test_the_endpoint(models, tmp_path):
    endpoint = tiny.tab(image.DEMO, models).endpoint("classify_image")
    path = saved(noise(), tmp_path / "p.png")
    answer = endpoint(path)
    assert len(answer["confidences"]) == image.TOP_K and "pixels" in answer["remarks"][0]
    assert tiny.confidences(endpoint(path, 6, "starter")) == near(direct(noise()))
    assert models.asked == ["auto", "starter"]


def test_the_endpoint_keeps_the_better_of_two_labels_of_the_same_name(tmp_path):
    """ImageNet has two classes named crane: a bird and a machine."""
    folder = tiny.vit(("crane", "dog", "crane", "lion"))
    models = tiny.manager(folder)
    path = saved(noise(), tmp_path / "p.png")
    pairs = image.run(path, 4, "auto", models).scores
    answer = tiny.tab(image.DEMO, models).endpoint("classify_image")(path, 4)
    assert tiny.confidences(answer)["crane"] >= max(
        score for label, score in pairs if label.startswith("crane")
    )


def test_the_limit_is_a_setting(models, tmp_path):
    import gradio as gr

    tab = tiny.tab(image.DEMO, models, max_image_megapixels=0.001)
    path = saved(noise(), tmp_path / "p.png")
    with pytest.raises(gr.Error, match=r"at most 0\.001 megapixels"):
        tab.endpoint("classify_image")(path)
    assert "megapixels" in tab.press(path, 5)[-1][2]


def test_the_button_shows_as_many_bars_as_asked(models, tmp_path):
    path = saved(noise(), tmp_path / "p.png")
    answer, _, problem, status = tiny.tab(image.DEMO, models).press(path, 6)[-1]
    assert answer.count('class="bar"') == 6
    assert "&lt;b&gt;lion" in answer
    assert problem == ""
    assert "tiny/vit" in status


def test_examples_are_files_that_gradio_ships():
    import gradio as gr

    for name in image.EXAMPLES:
        assert Path(gr.media.get_image(name)).is_file()


# Long and large pictures


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (3_000, 2)])
def test_of_a_long_picture_the_middle_is_looked_at_and_that_is_said(models, tmp_path, size):
    blocks = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(blocks)
    result = image.run(saved(picture, tmp_path / "p.png"), 6, "auto", models)
    short = min(size)
    left, top = ((length - min(length, 16 * short)) // 2 for length in size)
    middle = picture.crop((left, top, size[0] - left, size[1] - top))
    assert dict(result.scores) == near(direct(middle))
    assert (
        f"Only the middle {middle.width:,} × {middle.height:,} pixels were looked at."
        in result.status.remarks
    )


def test_the_program_of_a_long_or_large_picture_does_the_same_first(models, tmp_path):
    for size, line in [
        ((3_000, 10), "image = image.crop((1420, 0, 1580, 10))"),
        ((5_000, 4_000), ".reduce(2)"),
    ]:
        path = saved(Image.new("L", size, 7), tmp_path / "p.png")
        program = image.code(image.Ran(path, 5, "auto"), models, False)
        assert line in program
        compile(program, "program", "exec")
    path = saved(noise(), tmp_path / "p.png")
    program = image.code(image.Ran(path, 5, "auto"), models, False)
    assert ".crop(" not in program and ".reduce(" not in program


def test_inside_says_what_was_cut_and_draws_no_map_of_too_many_patches(models, tmp_path, monkeypatch):
    path = saved(noise(400, 10), tmp_path / "p.png")
    seen = image.look_inside(image.Ran(path, 5, "auto"), models)
    assert seen.steps[0] == ("first", "Only the middle 160 × 10 pixels were looked at") and seen.maps
    monkeypatch.setattr(image, "MOST_ATTENTION", 1)
    without = image.look_inside(image.Ran(path, 5, "auto"), models)
    assert without.maps is None and "attention among 16 patches" in image.draw_inside(without)
    assert without.logits == pytest.approx(seen.logits, abs=1e-4)
