"""Pictures of every mode and state, as files."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.errors import CheckpointError, InputError
from components.inputs import pictures
from components.inputs.pictures import read_picture, to_rgb

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def near(pixel: Any, colour: tuple[int, int, int], within: int = 12) -> bool:
    return all(abs(a - b) <= within for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_every_format_gives_the_same_rgb_picture(tmp_path, ending):
    options = (
        {"quality": 95, "subsampling": 0}
        if ending == "jpg"
        else {"lossless": True}
        if ending == "webp"
        else {}
    )
    image = read_picture(saved(halves(), tmp_path / f"p.{ending}", **options))
    assert image.mode == "RGB"
    assert image.size == (40, 20)
    assert near(image.getpixel((5, 5)), RED)
    assert near(image.getpixel((35, 5)), BLUE)


def test_the_content_decides_not_the_name(tmp_path):
    png = saved(halves(), tmp_path / "p.png")
    renamed = png.rename(tmp_path / "p.jpg")
    assert read_picture(renamed).getpixel((5, 5)) == RED
    assert read_picture(str(renamed)).size == (40, 20)


def test_transparency_lies_on_white(tmp_path):
    image = halves().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    picture = read_picture(saved(image, tmp_path / "p.png"))
    assert picture.getpixel((5, 5)) == WHITE
    assert picture.getpixel((35, 5)) == BLUE


def test_half_transparent_red_becomes_pink(tmp_path):
    picture = read_picture(saved(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), tmp_path / "p.png"))
    assert near(picture.getpixel((1, 1)), (255, 127, 127), 1)


def test_grey_with_transparency(tmp_path):
    image = Image.new("LA", (4, 4), (10, 255))
    image.putpixel((0, 0), (10, 0))
    picture = read_picture(saved(image, tmp_path / "p.png"))
    assert picture.getpixel((0, 0)) == WHITE
    assert picture.getpixel((1, 1)) == (10, 10, 10)


@pytest.mark.parametrize("transparent", [0, b"\x00\xff"])
def test_a_palette_with_a_transparent_colour(tmp_path, transparent):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    picture = read_picture(saved(image, tmp_path / "p.png", transparency=transparent))
    assert picture.getpixel((0, 0)) == WHITE
    assert picture.getpixel((1, 1)) == BLUE


def test_a_palette_without_transparency(tmp_path):
    picture = read_picture(saved(halves().quantize(4), tmp_path / "p.png"))
    assert near(picture.getpixel((5, 5)), RED, 3)
    assert near(picture.getpixel((35, 5)), BLUE, 3)


def test_rgb_with_one_transparent_colour(tmp_path):
    picture = read_picture(saved(halves(), tmp_path / "p.png", transparency=RED))
    assert picture.getpixel((5, 5)) == WHITE
    assert picture.getpixel((35, 5)) == BLUE


@pytest.mark.parametrize(("mode", "value"), [("L", 100), ("1", 1)])
def test_grey_and_black_and_white(tmp_path, mode, value):
    picture = read_picture(saved(Image.new(mode, (4, 4), value), tmp_path / "p.png"))
    grey = 100 if mode == "L" else 255
    assert picture.getpixel((2, 2)) == (grey,) * 3


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bit_grey_keeps_its_shades(tmp_path, ending):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    picture = np.asarray(read_picture(saved(Image.fromarray(ramp), tmp_path / f"p.{ending}")))
    assert np.array_equal(picture[..., 0].ravel(), np.arange(256))
    assert np.array_equal(picture[..., 0], picture[..., 2])


def test_16_bit_grey_that_holds_8_bits_only(tmp_path):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    picture = np.asarray(read_picture(saved(Image.fromarray(ramp), tmp_path / "p.png")))
    assert np.array_equal(picture[..., 1].ravel(), np.arange(256))


def test_big_endian_and_32_bit_grey():
    ramp = np.linspace(0, 65535, 256).reshape(16, 16)
    expected = np.arange(256)
    for mode in (">u2", "i4"):
        assert np.array_equal(
            np.asarray(to_rgb(Image.fromarray(ramp.astype(mode))))[..., 0].ravel(), expected
        )


def tiff(values, path, **tags):
    """A TIFF file of these shades, with tags by their numbers."""
    Image.fromarray(values).save(path, tiffinfo={int(name[1:]): value for name, value in tags.items()})
    return path


@pytest.mark.parametrize(
    ("kind", "low", "high", "tags", "said"),
    [
        (np.float32, 0, 1, {}, "from 0 to 1"),
        (np.float32, -1, 1, {}, "from -1 to 1"),
        (np.float32, 0, 255, {}, None),
        (np.float32, 0, 1e6, {}, "to 1e+06"),
        (np.uint16, 0, 1023, {}, "10 bits"),
        (np.uint16, 0, 4095, {}, "12 bits"),
        (np.uint16, 0, 65535, {}, None),
        (np.int32, 0, 65535, {}, None),
        (np.int32, 0, 1_000_000, {}, "to 1e+06"),
        (np.int32, -500, 500, {}, "from -500 to 500"),
    ],
)
def test_shades_of_any_range(tmp_path, kind, low, high, tags, said):
    ramp = np.linspace(low, high, 256).astype(kind).reshape(16, 16)
    picture = read_picture(tiff(ramp, tmp_path / "p.tiff", **tags))
    assert np.abs(np.asarray(picture)[..., 0].ravel().astype(int) - np.arange(256)).max() <= 1
    assert [bool(said) and said in words for words in picture.info["said"]] == [True] * bool(said)


@pytest.mark.parametrize(("dark", "top"), [(500, 1023), (900, 4095), (20000, 65535)])
def test_the_highest_shade_that_a_file_names_is_white(tmp_path, dark, top):
    values = np.full((8, 8), dark, dtype=np.uint16)
    picture = read_picture(tiff(values, tmp_path / "p.tiff", _341=top, _340=0))
    assert abs(picture.getpixel((3, 3))[0] - 255 * dark / top) <= 1
    assert picture.info["said"] == ()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(("shade", "ground"), [(255, 0), (250, 0), (10, 255), (128, 255)])
def test_what_is_white_on_transparent_is_seen_on_black(tmp_path, mode, shade, ground):
    logo = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    logo.paste((shade, shade, shade, 255), (5, 5, 15, 15))
    picture = read_picture(saved(logo.convert(mode), tmp_path / "p.png"))
    assert picture.getpixel((10, 10)) == (shade,) * 3 and picture.getpixel((1, 1)) == (ground,) * 3
    assert any("on black" in words for words in picture.info["said"]) == (ground == 0)


def test_avif(tmp_path):
    picture = read_picture(saved(halves(), tmp_path / "p.avif", quality=100))
    assert picture.size == halves().size
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(halves()).astype(int)).mean() < 6


@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "webp"])
def test_a_colour_profile_is_applied(tmp_path, ending):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    grey = Image.new("RGB", (16, 16), (90, 90, 90))
    same = read_picture(saved(grey, tmp_path / f"a.{ending}", icc_profile=srgb.tobytes()))
    assert np.abs(np.asarray(same).astype(int) - 90).max() <= 2
    odd = read_picture(saved(grey, tmp_path / f"b.{ending}", icc_profile=profile.tobytes()))
    broken = read_picture(saved(grey, tmp_path / f"c.{ending}", icc_profile=b"no profile"))
    assert np.abs(np.asarray(broken).astype(int) - 90).max() <= 2
    for read in (odd, broken):
        applied = np.abs(np.asarray(read).astype(int) - 90).max() > 2
        assert applied != any("colour profile" in words for words in read.info["said"])


def test_floats(tmp_path):
    ramp = np.arange(256, dtype=np.float32).reshape(16, 16)
    picture = np.asarray(read_picture(saved(Image.fromarray(ramp), tmp_path / "p.tiff")))
    assert np.array_equal(picture[..., 0].ravel(), np.arange(256))


def test_cmyk(tmp_path):
    picture = read_picture(saved(halves().convert("CMYK"), tmp_path / "p.jpg", quality=95, subsampling=0))
    assert picture.mode == "RGB"
    assert near(picture.getpixel((5, 5)), RED, 20)
    assert near(picture.getpixel((35, 5)), BLUE, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    # Stored so that turning it as EXIF says gives red on the left again.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = halves()
    if orientation in undo:
        image = image.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(image, tmp_path / "p.jpg", exif=exif, quality=95, subsampling=0)
    picture = read_picture(path)
    assert picture.size == (40, 20)
    assert near(picture.getpixel((5, 5)), RED)
    assert near(picture.getpixel((35, 15)), BLUE)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_matter(tmp_path):
    path = saved(halves(), tmp_path / "p.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert read_picture(path).size == (40, 20)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tiff"])
def test_the_first_frame_of_an_animation(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE)]
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(frames[0], tmp_path / f"p.{ending}", save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as stored:
        assert stored.n_frames == 3
    picture = read_picture(path)
    assert picture.size == (8, 8)
    assert near(picture.getpixel((4, 4)), RED, 3)


def moving(path: Path, *frames: Image.Image) -> Path:
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    return saved(frames[0], path, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize(
    ("ending", "blank"),
    [
        *((ending, "black") for ending in ("gif", "webp", "png", "tiff", "avif")),
        *((ending, "transparent") for ending in ("gif", "webp", "png")),
    ],
)
@pytest.mark.parametrize("before", [1, 2])
def test_a_blank_first_frame_is_passed_over(tmp_path, ending, blank, before):
    mode = "RGBA" if blank == "transparent" else "RGB"
    first = Image.new(mode, (40, 20), (0, 0, 0, 0) if blank == "transparent" else blank)
    blanks = [first.copy() for _ in range(before)]
    if before == 2:  # of another colour, or the writer makes one of both
        blanks[1] = Image.new(mode, (40, 20), (90, 90, 90, 255)[: len(mode)])
    path = moving(tmp_path / f"p.{ending}", *blanks, halves().convert(mode), Image.new(mode, (40, 20), RED))
    picture = read_picture(path)
    assert near(picture.getpixel((5, 5)), RED) and near(picture.getpixel((35, 5)), BLUE)
    (said,) = picture.info["said"]
    name = "page" if ending == "tiff" else "frame"
    assert said.startswith(f"Its first {name} is" if before == 1 else f"Its first 2 {name}s are")
    assert said.endswith(f"the model saw {name} {before + 1}.")
    assert picture.info["read"].frame == before


def test_an_animation_of_blank_frames_shows_the_first_and_says_so(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE)]
    picture = read_picture(moving(tmp_path / "p.gif", *frames))
    assert picture.getpixel((4, 4)) == RED
    assert picture.info["said"] == ("Its first 3 frames are each of one colour: the model saw the first.",)
    assert read_picture(saved(frames[0], tmp_path / "still.png")).info["said"] == ()


def test_frames_that_are_damaged_or_too_large_or_too_many_are_not_looked_at(tmp_path, monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8))
    path = moving(tmp_path / "p.gif", Image.new("RGB", (40, 20)), noise)
    assert read_picture(path).info["read"].frame == 1
    assert read_picture(cut(path, 0.5)).info["read"].frame == 0
    pages = moving(tmp_path / "p.tiff", Image.new("RGB", (40, 20)), noise.resize((400, 200)))
    assert read_picture(pages).size == (400, 200)
    assert read_picture(pages, 0.01).size == (40, 20)
    monkeypatch.setattr(pictures, "MOST_FRAMES", 3)
    many = [Image.new("RGB", (8, 8), (shade,) * 3) for shade in (0, 50, 100, 150)]
    path = moving(tmp_path / "many.gif", *many, halves(8, 8))
    assert "first 3 frames" in read_picture(path).info["said"][0]
    monkeypatch.setattr(pictures, "MOST_FRAME_PIXELS", 150)
    assert "first 2 frames" in read_picture(path).info["said"][0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("below", [0, 255])
def test_what_is_transparent_throughout_is_said(tmp_path, mode, below):
    image = Image.new("RGBA", (20, 20), (below, below, below, 0)).convert(mode)
    picture = read_picture(saved(image, tmp_path / "p.png"))
    assert picture.getpixel((3, 3)) == WHITE
    (said,) = picture.info["said"]
    assert "transparent" in said and "black" not in said


@pytest.mark.parametrize("path", [None, ""])
def test_no_picture(path):
    with pytest.raises(InputError, match=r"no picture yet.*Upload"):
        read_picture(path)


def test_an_empty_file(tmp_path):
    path = tmp_path / "p.png"
    path.touch()
    with pytest.raises(InputError, match="empty"):
        read_picture(path)


@pytest.mark.parametrize(
    "content", [b"hello, this is text", b"\x00" * 500, b"%PDF-1.7 no picture", b"<svg></svg>"]
)
def test_a_file_that_is_no_picture(tmp_path, content):
    path = tmp_path / "p.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a picture"):
        read_picture(path)


def drawn(width: int = 160, height: int = 120) -> Image.Image:
    """Waves and edges, of which each part of a file holds about as many rows."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(4).integers(0, 40, (height, width, 3))
    waves = np.stack([90 + 60 * np.sin(x / 9), 90 + 60 * np.cos(y / 7), (x * 3 + y * 5) % 200], -1)
    return Image.fromarray((waves + noise).astype(np.uint8))


def cut(path: Path, kept: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    return path


TRUNCATED: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 90},
    "png": {},
    "gif": {"interlace": False},
    "bmp": {},
    "tiff": {},
}


@pytest.mark.parametrize(
    ("ending", "mode"),
    [
        *(("jpg", mode) for mode in ("RGB", "L", "CMYK")),
        *(("png", mode) for mode in ("RGB", "L", "P", "I;16")),
        *(("tiff", mode) for mode in ("RGB", "L", "P", "CMYK", "I;16")),
        *((ending, mode) for ending in ("gif", "bmp") for mode in ("L", "P")),
        ("bmp", "RGB"),
    ],
)
@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_a_picture_that_lacks_rows_shows_the_others(tmp_path, ending, mode, kept):
    image = drawn().convert("L") if mode == "I;16" else drawn().convert(mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image, dtype=np.uint16) * 256)
    path = saved(image, tmp_path / f"p.{ending}", **TRUNCATED[ending])
    whole = read_picture(path)
    part = read_picture(cut(path, kept))
    rows = part.height
    assert part.width == whole.width and kept - 0.2 < rows / whole.height <= kept + 0.02
    top = whole.height - rows if ending == "bmp" else 0
    there = np.asarray(whole)[top : top + rows].astype(int)
    assert mode == "I;16" or np.abs(np.asarray(part).astype(int) - there).max() <= 1
    (said,) = (words for words in part.info["said"] if "missing" in words)
    assert f"the {'lower' if top else 'upper'} {rows} of 120 rows" in said
    assert f"{1 - rows / 120:.1%} are missing" in said


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "bmp", "tiff"])
def test_a_file_without_its_last_bytes_is_shown(tmp_path, ending):
    path = saved(drawn(), tmp_path / f"p.{ending}")
    path.write_bytes(path.read_bytes()[:-2])
    assert read_picture(path).height >= 120 - 16
    assert not read_picture(saved(drawn(), path)).info["said"], "no remark on a whole one"


@pytest.mark.parametrize("kept", [0.4, 0.7, 0.95])
def test_a_progressive_jpeg_without_its_end_lacks_detail_only(tmp_path, kept):
    path = saved(drawn(), tmp_path / "p.jpg", progressive=True, quality=90)
    whole = np.asarray(read_picture(path)).astype(int)
    part = read_picture(cut(path, kept))
    assert np.abs(np.asarray(part) - whole).mean() < 30
    assert any("not its finest detail" in words for words in part.info["said"])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "tiff"])
def test_a_part_of_a_picture_is_turned_too(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(drawn(), tmp_path / f"p.{ending}", exif=exif)
    whole = np.asarray(read_picture(path)).astype(int)
    part = read_picture(cut(path, 0.7))
    left, top, right, bottom = part.info["read"].part
    assert (part.width, part.height) == (right - left, bottom - top) != whole.shape[1::-1]
    assert np.abs(np.asarray(part) - whole[top:bottom, left:right]).max() <= 1


def garbage(ending: str, kind: str) -> bytes:
    """The beginning of a picture, and nothing that belongs to it behind."""
    buffer = io.BytesIO()
    drawn().save(
        buffer, {"jpg": "JPEG"}.get(ending, ending), **({"progressive": True} if kind == "scan" else {})
    )
    whole = buffer.getvalue()
    if kind == "header":
        return whole[: {"jpg": 620, "png": 33}.get(ending, 60)]
    return whole[: len(whole) // (20 if kind == "scan" else 8)]


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *((ending, kind) for ending in ("jpg", "png", "gif", "bmp") for kind in ("header", "little")),
        ("jpg", "scan"),
    ],
)
def test_too_little_of_a_picture_is_refused(tmp_path, ending, kind):
    path = tmp_path / f"p.{ending}"
    path.write_bytes(garbage(ending, kind))
    with pytest.raises(InputError, match=r"damaged|not a picture"):
        read_picture(path)


@pytest.mark.parametrize("ending", ["webp", "avif"])
def test_what_pillow_cannot_read_in_part_is_refused(tmp_path, ending):
    path = cut(saved(drawn(), tmp_path / f"p.{ending}"), 0.9)
    with pytest.raises(InputError, match=r"damaged|not a picture"):
        read_picture(path)


def test_a_png_with_a_broken_middle_shows_what_is_before_it(tmp_path):
    path = saved(drawn(), tmp_path / "p.png")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = b"\xff" * 40
    path.write_bytes(raw)
    part = read_picture(path)
    assert 40 < part.height < 70 and np.array_equal(np.asarray(part), np.asarray(drawn())[: part.height])


def test_a_picture_cut_after_its_header_is_told_in_a_sentence(tmp_path):
    buffer = io.BytesIO()
    halves().save(buffer, "PNG")
    path = tmp_path / "p.png"
    path.write_bytes(buffer.getvalue()[:33])
    with pytest.raises(InputError, match=r"damaged|not a picture"):
        read_picture(path)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(10_000, 6_000), (12_000, 12_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_before_they_are_read(tmp_path, width, height):
    path = tmp_path / "p.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(InputError, match="at most 50 megapixels"):
        read_picture(path)


def test_the_limit_is_a_setting(tmp_path):
    path = saved(halves(1000, 100), tmp_path / "p.png")
    assert read_picture(path, 0.1).size == (1000, 100)
    with pytest.raises(InputError, match=r"at most 0\.09 megapixels"):
        read_picture(path, 0.09)


def test_a_picture_a_little_too_large_is_not_said_to_have_the_limit(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(png_header(10_000, 5_010))
    with pytest.raises(InputError) as told:
        read_picture(path)
    assert "has 50 megapixels" not in str(told.value)


def test_to_rgb_leaves_rgb_as_it_is():
    assert np.array_equal(np.asarray(to_rgb(halves())), np.asarray(halves()))


# What becomes of a picture in an image processor


@pytest.fixture(scope="module")
def processors() -> dict[str, Any]:
    """One of each way to make a picture as large as a model takes it."""
    from transformers import (
        BitImageProcessorPil,
        ConvNextImageProcessorPil,
        LevitImageProcessorPil,
        PerceiverImageProcessorPil,
        Siglip2ImageProcessorPil,
        TextNetImageProcessorPil,
        ViTImageProcessorPil,
    )

    square = {"height": 224, "width": 224}
    return {
        "shortest edge, cropped": BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=square),
        "shortest edge": BitImageProcessorPil(size={"shortest_edge": 384}, do_center_crop=False),
        "shortest edge, in steps": TextNetImageProcessorPil(),
        "shortest edge, a large one": ViTImageProcessorPil(size={"shortest_edge": 1400}),
        "shortest edge over a share": ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.5),
        "shortest edge times a ratio": LevitImageProcessorPil(),
        "shortest and longest edge": ViTImageProcessorPil(size={"shortest_edge": 224, "longest_edge": 448}),
        "fixed": ViTImageProcessorPil(),
        "within, padded": ViTImageProcessorPil(
            size={"max_height": 224, "max_width": 224}, do_pad=True, pad_size=square
        ),
        "patches": Siglip2ImageProcessorPil(),
        "cropped first": PerceiverImageProcessorPil(),
        "cropped only": BitImageProcessorPil(do_resize=False, crop_size=square),
    }


LONG = [(60_000, 1), (1, 60_000), (3_000, 1), (65_000, 700), (2, 9_000), (300, 299), (1, 1)]


@pytest.mark.parametrize("size", LONG)
def test_every_processor_makes_something_sane_of_a_picture_of_any_shape(processors, size):
    picture = Image.new("L", size, 90).convert("RGB")
    for name, processor in processors.items():
        made = processor(images=pictures.fitted(picture, processor), return_tensors="np")["pixel_values"]
        assert made.size <= 3 * 1.1 * pictures.MOST_KEPT, name
        assert np.isfinite(made).all() and made.std() >= 0, name


def test_the_middle_of_a_long_picture_is_what_the_processor_would_have_cropped(processors):
    wide = Image.fromarray(np.random.default_rng(3).integers(0, 255, (20, 700, 3), dtype=np.uint8))
    for turned in (wide, wide.transpose(Image.Transpose.ROTATE_90)):
        processor = processors["shortest edge, cropped"]
        whole = processor(images=turned, return_tensors="np")["pixel_values"]
        fitted = pictures.fitted(turned, processor)
        assert max(fitted.size) == 16 * min(fitted.size)
        assert np.abs(processor(images=fitted, return_tensors="np")["pixel_values"] - whole).max() < 0.02


def test_what_was_done_to_a_picture_is_said(processors):
    of = processors["shortest edge, cropped"]
    assert pictures.fit((640, 480), of) == pictures.Fit() and not pictures.Fit().words
    assert pictures.fit((60_000, 10), of).words == ("Only the middle 160 × 10 pixels were looked at",)
    assert pictures.fit((10, 60_000), of).box == (0, 29_920, 10, 30_080)
    assert pictures.fit((7_000, 7_000), of).words == ("Scaled down to 1/2 of its width and height first",)


def test_a_huge_picture_is_scaled_down_without_changing_what_is_seen(processors):
    waves = np.sin(np.linspace(0, 9, 4_400))[:, None] + np.cos(np.linspace(0, 7, 4_400))
    large = Image.fromarray((waves * 60 + 128).astype(np.uint8)).convert("RGB")
    small = pictures.fitted(large, processors["fixed"])
    assert small.size == (2_200, 2_200)
    seen, whole = (
        processors["fixed"](images=one, return_tensors="np")["pixel_values"] for one in (small, large)
    )
    assert np.abs(seen - whole).max() < 0.02


@pytest.mark.parametrize(
    "sizes",
    [
        {"size": {"shortest_edge": 30_000}},
        {"size": {"height": 100_000, "width": 100}},
        {"size": {"max_height": 9_000, "max_width": 9_000}},
        {"do_center_crop": True, "crop_size": {"height": 5_000, "width": 5_000}},
        {"do_pad": True, "pad_size": {"height": 3_000, "width": 3_000}},
        {"size": {"shortest_edge": 224, "longest_edge": 30_000}},
    ],
)
def test_a_checkpoint_that_wants_huge_pictures_is_refused(sizes):
    from transformers import BitImageProcessorPil

    with pytest.raises(CheckpointError, match="megapixels"):
        pictures.fitted(halves(), BitImageProcessorPil(**{"do_center_crop": False, **sizes}))


def test_many_patches_are_refused_too():
    from transformers import Siglip2ImageProcessorPil

    with pytest.raises(CheckpointError, match="megapixels"):
        pictures.fitted(halves(), Siglip2ImageProcessorPil(max_num_patches=1_000_000))


def test_a_picture_at_its_own_size_has_a_limit():
    from transformers import BitImageProcessorPil

    whole = BitImageProcessorPil(do_resize=False, do_center_crop=False)
    assert pictures.fitted(halves(), whole).size == (40, 20)
    with pytest.raises(InputError, match=r"2,500 × 2,000 pixels; at most 4 megapixels"):
        pictures.fitted(Image.new("L", (2_500, 2_000)), whole)


# Reads each picture and makes pixel values of it, and prints by how many MB the memory rose at the most.
PEAK = """
import sys
from transformers import BitImageProcessorPil
from PIL import Image
from components.inputs.pictures import fitted, read_picture
from demos.image import preprocess
def memory(field):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[field].split()[0]) / 1000
processor = BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
preprocess(Image.new("RGB", (300, 300)), processor)
for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")  # the peak is counted anew
    before = memory("VmRSS")
    pixels = preprocess(read_picture(path), processor)
    assert pixels.shape == (1, 3, 224, 224)
    print(path, memory("VmHWM") - before)
"""


EDGE = 4_400  # pixels; above it all is in proportion, and takes longer


def largest(folder: Path) -> list[Path]:
    """Large pictures of the modes and states that take most; of one colour, so a few kilobytes."""
    size, turned = (EDGE, EDGE), Image.Exif()
    turned[0x0112] = 6
    names = ("60000x1.png", "LA.png", "I16.png", "F.tiff", "CMYK.jpg", "moving.webp", "cut.jpg")
    paths = [folder / name for name in names]
    Image.new("RGB", (60_000, 1)).save(paths[0])
    Image.new("LA", size).save(paths[1], compress_level=1)
    Image.new("I;16", size).save(paths[2], compress_level=1)
    Image.new("F", size).save(paths[3], compression="packbits")
    Image.new("CMYK", size).save(paths[4], progressive=True, exif=turned)
    frames = [Image.new("RGB", size, colour) for colour in (RED, BLUE)]
    frames[0].save(paths[5], save_all=True, append_images=frames[1:], method=0)
    frames[0].save(paths[6])
    cut(paths[6], 0.9)
    return paths


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts a peak anew")
def test_no_picture_up_to_the_limits_takes_a_gigabyte(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, largest(tmp_path))],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    peaks = {Path(path).name: float(peak) for path, peak in map(str.split, done.stdout.splitlines())}
    assert len(peaks) == 7
    to_the_limit = 50e6 / EDGE**2  # all copies are as large as the picture
    assert {name: peak for name, peak in peaks.items() if peak * to_the_limit > 900} == {}
