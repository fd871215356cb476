"""Pictures: any image file as the upright RGB picture that a model can take."""

from __future__ import annotations

import base64
import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from components.errors import CheckpointError, InputError

# Named one by one: among the others are formats that Pillow hands to other programs.
PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
FORMATS = "PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"
SAID = "said"  # what is to be said of how a picture was read, among its `info`
TOPS = (1, 255, 1023, 4095, 16383, 65535)  # the highest shade of pictures of so many bits, and of fractions
BITS_PER_SAMPLE, LOWEST, HIGHEST = 258, 340, 341  # tags of TIFF 6.0
BRIGHT = 240  # from here on a shade is lost on white
STRIP = 1 << 20  # pixels that are converted at a time
# What undoes each orientation of EXIF.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What becomes of a picture in an image processor is limited as well: it may keep the proportions, so that a
# line of 60,000 pixels whose shorter edge is scaled to 256 would have 15 million in length.
LONGEST = 16  # times the shorter edge, of a picture that a processor gets
MOST_KEPT = 2_000_000  # pixels that it may have after a resize that keeps its proportions
MOST_MADE = 4_000_000  # pixels of the sizes that a checkpoint's processor names
MOST_TAKEN = 16_000_000  # pixels that a processor gets; of more it would make several large copies


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
        picture, turn = _upright(path, most_megapixels)
        if turn is None:
            return picture
        turned = picture.transpose(turn)
        turned.info = picture.info
        return turned
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


def _upright(path: str | Path, most_megapixels: float) -> tuple[Image.Image, Image.Transpose | None]:
    """The first frame in RGB, and how it is to be turned: once its source is out of memory."""
    with warnings.catch_warnings():
        # Our own limit stands below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path, formats=PILLOW_FORMATS) as image:
            width, height = image.size
            if width * height > most_megapixels * 1e6:
                raise InputError(_too_large(f"{width * height / 1e6:.1f} megapixels", most_megapixels))
            image.seek(0)
            image.load()
            turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            coloured, said = _in_srgb(image)
            picture = to_rgb(coloured)
            said += picture.info.get(SAID, ())
            # The pixels alone: the reader of a WebP file keeps three copies more for as long as it is there.
            alone = picture._new(picture.im)
            alone.info = {SAID: said}
            return alone, turn


def _is_file(path: object) -> bool:
    """Whether it is a path at all, of a file that is there."""
    try:
        return isinstance(path, str | Path) and Path(path).is_file()
    except OSError:  # a name longer than any file's
        return False


def _in_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """A picture whose file has a colour profile in the colours of sRGB, which models have seen."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image, ()
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        if image.mode == "RGB":
            ImageCms.profileToProfile(image, own, srgb, inPlace=True)
            return image, ()
        made = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
        return made or image, ()
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image, ("Its colour profile could not be applied; colours may be off.",)


def _range(image: Image.Image, least: float, most: float) -> tuple[float, float, str]:
    """The shades that are black and white in a picture of more than 8 bits, and what is to be said of them.

    As its file says, else as the shades themselves do, from `least` to `most`.
    """
    tags = getattr(image, "tag_v2", {})
    low, high = (_tag(tags.get(tag)) for tag in (LOWEST, HIGHEST))
    if high is not None and high > (low or 0):
        return low or 0, high, ""
    bits = _tag(tags.get(BITS_PER_SAMPLE))
    if bits and 8 < bits < 16:
        return 0, 2**bits - 1, ""
    top = next((top for top in TOPS if most <= top), None)
    if least < 0 or top is None:
        return least, most, f"Its shades go from {least:g} to {most:g}: these were taken for black and white."
    if top in (1023, 4095, 16383):
        said = f"Its shades go up to {most:g}: it was taken for one of {top.bit_length()} bits."
        return 0, top, said
    if top == 1 and image.mode.startswith("I"):
        return 0, 255, ""
    return 0, top, "Its shades go from 0 to 1." if top == 1 else ""


def _tag(value: Any) -> float | None:
    """A TIFF tag that is a number, or several of which the first counts."""
    first = value[0] if isinstance(value, tuple) and value else value
    return float(first) if isinstance(first, int | float) and math.isfinite(first) else None


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from palette, grey, 16-bit, CMYK or transparent pictures; transparency on white, or on black
    where nothing would be seen on white. What is to be said of that is in the picture's info.

    Strip by strip: a picture of 50 megapixels takes 200 MB, and as many for each copy.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    width, height = image.size
    rows = max(1, STRIP // max(1, width))
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    strips = (image.crop(box) for box in boxes)
    said: tuple[str, ...] = ()
    ground = "white"
    if image.mode.startswith(("I", "F")):
        ends = [(float(values.min()), float(values.max())) for values in map(_values, map(image.crop, boxes))]
        low, high, words = _range(image, min(least for least, _ in ends), max(most for _, most in ends))
        said = (words,) if words else ()
        strips = (_grey(image.crop(box), low, high) for box in boxes)
    elif _is_transparent(image) and all(_is_lost_on_white(image.crop(box)) for box in boxes):
        ground = "black"
        said = ("It is white on transparent, so the model saw it on black.",)
    made = Image.new("RGB", image.size)
    for box, strip in zip(boxes, strips, strict=True):
        made.paste(_on_ground(strip, ground), box)
    made.info[SAID] = said
    return made


def _values(image: Image.Image) -> np.ndarray:
    """Shades of any range, `[height, width]` in float32."""
    return np.nan_to_num(np.array(image, dtype=np.float32), copy=False, posinf=0, neginf=0)


def _grey(image: Image.Image, low: float, high: float) -> Image.Image:
    """8-bit grey of shades from low to high."""
    values = (np.clip(_values(image), low, high) - np.float32(low)) * np.float32(255 / ((high - low) or 1))
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _is_lost_on_white(image: Image.Image) -> bool:
    """Whether all of a transparent picture that is to be seen is nearly white."""
    pixels = np.asarray(image.convert("RGBA"))
    return bool((pixels[..., :3].min(-1)[pixels[..., 3] > 0] >= BRIGHT).all())


def _on_ground(image: Image.Image, ground: str) -> Image.Image:
    if _is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _too_large(size: str, most: float) -> str:
    return f"The picture has {size}; at most {most:g} megapixels are taken. Make it smaller and try again."


# What an image processor makes of a picture


@dataclass(frozen=True)
class Fit:
    """What becomes of a picture before an image processor gets it.

    box: left, top, right and bottom of its middle, None for all of it; factor: by which it is scaled down
    then, which leaves far more pixels than any model sees.
    """

    box: tuple[int, int, int, int] | None = None
    factor: int = 1

    @property
    def words(self) -> tuple[str, ...]:
        """What was done, for the visitor; () for nothing."""
        said = []
        if self.box:
            left, top, right, bottom = self.box
            said.append(f"Only the middle {right - left:,} × {bottom - top:,} pixels were looked at")
        if self.factor > 1:
            said.append(f"Scaled down to 1/{self.factor} of its width and height first")
        return tuple(said)


def fit(size: tuple[int, int], processor: Any) -> Fit:
    """What a processor gets of a picture of that width and height.

    Raises InputError for a picture too large for a processor that does not resize it, and CheckpointError
    for a processor that names a size beyond reason.
    """
    _check_sizes(processor)
    width, height = size
    resizes = bool(getattr(processor, "do_resize", False))
    if not resizes and not getattr(processor, "do_center_crop", False) and width * height > MOST_MADE:
        raise InputError(
            f"This checkpoint takes a picture at its own size, here {width:,} × {height:,} pixels; at most "
            f"{MOST_MADE / 1e6:g} megapixels are taken. Make it smaller, or choose another checkpoint."
        )
    edge = _number(getattr(processor, "size", None), "shortest_edge") or 1
    longest = int(max(1, min(LONGEST, MOST_KEPT / edge**2)) * min(size))
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    width, height = min(width, longest), min(height, longest)
    box = None if (width, height) == size else (left, top, left + width, top + height)
    return Fit(box, max(1, math.ceil(math.sqrt(width * height / MOST_TAKEN))) if resizes else 1)


def fitted(picture: Image.Image, processor: Any) -> Image.Image:
    """What a processor gets of a picture; see `fit`."""
    done = fit(picture.size, processor)
    picture = picture.crop(done.box) if done.box else picture
    return picture.reduce(done.factor) if done.factor > 1 else picture


def _check_sizes(processor: Any) -> None:
    """Raises CheckpointError where one of the sizes that a processor names is beyond MOST_MADE."""
    patches = (getattr(processor, name, None) or 0 for name in ("max_num_patches", "patch_size"))
    count, patch = (value if isinstance(value, int) else 0 for value in patches)
    areas = [count * patch**2]
    for name in ("size", "crop_size", "pad_size"):
        size = getattr(processor, name, None)
        long = max(_number(size, key) for key in ("longest_edge", "shortest_edge"))
        areas += [long**2] + [
            _number(size, f"{by}height") * _number(size, f"{by}width") for by in ("", "max_")
        ]
    if max(areas) > MOST_MADE:
        raise CheckpointError(
            f"This checkpoint wants pictures of {max(areas) / 1e6:.1f} megapixels, and at most "
            f"{MOST_MADE / 1e6:g} go into a model here. Choose another checkpoint."
        )


def _number(size: Any, key: str) -> int:
    """One of the numbers of a size as Transformers has them, 0 if it is not there."""
    value = dict(size).get(key) if size else None
    return value if isinstance(value, int) else 0


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
