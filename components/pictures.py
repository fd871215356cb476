"""Pictures: any image file as the upright RGB picture that a model can take."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from components.errors import InputError

# Named one by one: among the others are formats that Pillow hands to other programs.
PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
FORMATS = "PNG, JPEG, WebP, GIF, BMP or TIFF"


def read_picture(path: str | Path | None, most_megapixels: float = 50) -> Image.Image:
    """The first frame of an image file, turned as its EXIF data says, transparency on white, in RGB.

    Raises InputError if there is none, if it is damaged or not an image, or if it is too large; the
    size is read before the pixels are.
    """
    if not path:
        raise InputError("There is no picture yet. Upload one, paste one, or click an example.")
    if not _is_file(path):
        raise InputError("The picture is no longer on this server. Upload it once more and run again.")
    if not Path(path).stat().st_size:
        raise InputError("The picture file is empty. Choose another one.")
    try:
        with warnings.catch_warnings():
            # Our own limit stands below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=PILLOW_FORMATS) as image:
                width, height = image.size
                if width * height > most_megapixels * 1e6:
                    raise InputError(_too_large(f"{width * height / 1e6:.1f} megapixels", most_megapixels))
                image.seek(0)
                image.load()
                # In place: a photo of 12 megapixels takes 48 MB, and as many for each copy.
                ImageOps.exif_transpose(image, in_place=True)
                return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise InputError(_too_large("far more", most_megapixels)) from error
    except UnidentifiedImageError as error:
        raise InputError(f"This file is not a picture that can be read. Choose a {FORMATS} file.") from error
    except InputError:
        raise
    except Exception as error:  # what a damaged header makes of Pillow's readers can be anything
        raise InputError(
            "The picture is damaged: part of the file is missing. Choose another one."
        ) from error


def _is_file(path: object) -> bool:
    """Whether it is a path at all, of a file that is there."""
    try:
        return isinstance(path, str | Path) and Path(path).is_file()
    except OSError:  # a name longer than any file's
        return False


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from palette, grey, 16-bit, CMYK or transparent pictures."""
    if image.mode.startswith(("I", "F")):
        # In place: a large picture takes four bytes a pixel as it is.
        values = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)
        # 16-bit grey fills its range or at least its first 8 bits.
        top = 65535 if values.max() > 255 else 255
        np.clip(values, 0, top, out=values)
        values *= 255 / top
        image = Image.fromarray(np.rint(values, out=values).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _too_large(size: str, most: float) -> str:
    return f"The picture has {size}; at most {most:g} megapixels are taken. Make it smaller and try again."


# What an image processor makes of a picture


def processor_steps(processor: Any) -> tuple[tuple[str, str], ...]:
    """What an image processor of Transformers does, in order: the name of each step, and its numbers."""

    def asked(step: str) -> bool:
        return bool(getattr(processor, step, False))

    steps = []
    if asked("do_convert_rgb"):
        steps.append(("colours", "red, green and blue"))
    if asked("do_resize"):
        steps.append(("resize", _resizing(processor)))
    if asked("do_center_crop"):
        crop = processor.crop_size
        steps.append(("crop", f"the middle {crop['width']} × {crop['height']} pixels"))
    if asked("do_pad"):
        steps.append(("pad", "black on the right and below, where the picture is too small"))
    if asked("do_flip_channel_order"):
        steps.append(("order of colours", "blue, green, red"))
    if asked("do_rescale"):
        factor, less = processor.rescale_factor, int(asked("rescale_offset"))
        ends = f"from 0 … 255 to {-less} … {255 * factor - less:.4g}"
        steps.append(("rescale", f"times {factor:.6g}{', minus 1' if less else ''}: {ends}"))
    if asked("do_normalize"):
        mean, spread = _numbers(processor.image_mean), _numbers(processor.image_std)
        steps.append(("normalise", f"minus the mean {mean}, divided by the standard deviation {spread}"))
    if asked("include_top"):
        steps.append(("normalise again", f"divided by {_numbers(processor.image_std)}"))
    return tuple(steps)


def _resizing(processor: Any) -> str:
    size, crop = dict(processor.size), getattr(processor, "crop_pct", None)
    how = processor.resample
    named = Image.Resampling(how).name.lower() if isinstance(how, int) else getattr(how, "value", "bilinear")
    edge = size.get("shortest_edge")
    if edge and crop and edge < 384:
        # As ConvNeXt has it: one step that resizes and crops.
        words = f"the shorter edge to {int(edge / crop)} pixels, then the middle {edge} × {edge}"
    elif edge and not crop:
        words = f"the shorter edge to {edge} pixels, proportions kept"
    else:
        width, height = size.get("width", edge), size.get("height", edge)
        words = f"to {width} × {height} pixels, whatever its proportions"
    return f"{words}, {named}"


def _numbers(values: Any) -> str:
    """One number if it is that of all colours."""
    each = [f"{value:.6g}" for value in (values if isinstance(values, list | tuple) else [values])]
    return each[0] if len(set(each)) == 1 else f"({', '.join(each)})"


def as_seen(pixels: np.ndarray, processor: Any) -> np.ndarray:
    """Pixel values `[3, height, width]` of an image processor as a picture again, `[height, width, 3]` bytes.

    What the processor makes of plain colours tells how it writes them; that is undone, whatever it is.
    """
    height, width = pixels.shape[1:]
    plain = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    probes = [Image.new("RGB", (width, height), colour) for colour in plain]
    written = processor(images=probes, return_tensors="np")["pixel_values"].astype(np.float64)
    black, *others = written[:, :, written.shape[2] // 2, written.shape[3] // 2]
    colours = (np.stack(others, axis=1) - black[:, None]) / 255
    values = np.linalg.pinv(colours) @ (pixels.reshape(len(pixels), -1) - black[:, None])
    return values.T.reshape(height, width, 3).round().clip(0, 255).astype(np.uint8)


def encoded(picture: np.ndarray, kind: str) -> bytes:
    """A picture `[height, width, 3]` of bytes as a file; kind: "png", or "jpeg", which is smaller."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **({"quality": 90, "subsampling": 0} if kind == "jpeg" else {}))
    return file.getvalue()


def data_uri(file: bytes, kind: str) -> str:
    """An image file as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
