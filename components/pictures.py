"""Pictures: any image file as the upright RGB picture that a model can take."""

from __future__ import annotations

import warnings
from pathlib import Path

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
    path = Path(path)
    if not path.stat().st_size:
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
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(
            "The picture is damaged: part of the file is missing. Choose another one."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from palette, grey, 16-bit, CMYK or transparent pictures."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit grey fills its range or at least its first 8 bits.
        top = 65535 if values.max() > 255 else 255
        image = Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _too_large(size: str, most: float) -> str:
    return f"The picture has {size}; at most {most:g} megapixels are taken. Make it smaller and try again."
