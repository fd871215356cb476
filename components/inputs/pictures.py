"""Pictures: any image file as the upright RGB picture that a model can take."""

from __future__ import annotations

import base64
import io
import math
import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from components.errors import CheckpointError, InputError

# Named one by one: among the others are formats that Pillow hands to other programs.
PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
FORMATS = "PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"
SAID = "said"  # what is to be said of how a picture was read, among its `info`
READ = "read"  # how it was read, a `Read`, likewise
TOPS = (1, 255, 1023, 4095, 16383, 65535)  # the highest shade of pictures of so many bits, and of fractions
BITS_PER_SAMPLE, LOWEST, HIGHEST = 258, 340, 341  # tags of TIFF 6.0
WHITE_ON_TRANSPARENT = "It is white on transparent, so the model saw it on black."
ALL_TRANSPARENT = "All of it is transparent, so the model saw nothing but white."
BRIGHT = 240  # from here on a shade is lost on white
STRIP = 1 << 20  # pixels that are converted at a time
PLAIN = 4  # shades of 255 by which a picture of one colour may vary
MOST_FRAMES = 100  # among which the first that is not of one colour is looked for
MOST_FRAME_PIXELS = 100_000_000  # of these frames together
LEAST_ROWS = 0.25  # of a damaged picture, for what is there to be taken
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"  # markers of JPEG
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


Upright = tuple[Image.Image, Image.Transpose | None]  # a picture in RGB, and how it is to be turned


@dataclass(frozen=True)
class Read:
    """How a file became an upright picture in RGB, for a program that is to do the same.

    frame: which of several, from 0 on; damage: "rows" if the end of the file is missing, "detail" if some of
    that is; part: left, top, right and bottom of the rows that are there, in the upright picture, None for
    all; profile: whether a colour profile was applied; shades: which are black and white, None where they
    are bytes; ground: below what is transparent.
    """

    frame: int = 0
    damage: str = ""
    part: tuple[int, int, int, int] | None = None
    profile: bool = False
    shades: tuple[float, float] | None = None
    ground: str = "white"


def read_picture(path: str | Path | None, most_megapixels: float = 50) -> Image.Image:
    """An image file, turned as its EXIF data says, transparency on white, in RGB: the first frame that is not
    of one colour, and of a damaged file the rows that are there.

    Its info tells what is to be said of that (SAID, sentences), and how it was read (READ, a `Read`). Raises
    InputError if there is none, if too little of it can be read or it is not an image, or if it is too
    large; the size is read before the pixels are.
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
            "The picture is damaged: most of the file is missing or cannot be read. Choose another one."
        ) from error


def _upright(path: str | Path, most_megapixels: float) -> Upright:
    """What is seen of a file in RGB, and how it is to be turned: once its source is out of memory."""
    with warnings.catch_warnings():
        # Our own limit stands below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path, formats=PILLOW_FORMATS) as image:
            _check_size(image, most_megapixels)
            try:
                image.load()
            except Image.DecompressionBombError:
                raise
            except Exception as error:  # see `read_picture`
                damage = error
            else:
                return _first_that_shows_something(image, most_megapixels)
        del image
        return _what_is_there(path, damage)


def _check_size(image: Image.Image, most_megapixels: float) -> None:
    width, height = image.size
    if width * height > most_megapixels * 1e6:
        raise InputError(_too_large(f"{width * height / 1e6:.1f} megapixels", most_megapixels))


def _first_that_shows_something(image: Image.Image, most_megapixels: float) -> Upright:
    """The first frame, or if that is of one colour the first that is not, as `_flat` has it."""
    first, turn = _flat(image, Read())
    if not _is_plain(first) or not _goes_on(image, 1, most_megapixels):
        return first, turn
    del first  # of large frames there is room for one
    name = "page" if image.format == "TIFF" else "frame"
    looked = 1
    while looked < MOST_FRAMES and _goes_on(image, looked, most_megapixels):
        found = _unless_plain(image, looked)
        looked += 1
        if found:
            before = f"first {name} is" if looked == 2 else f"first {looked - 1} {name}s are each"
            return _with_remark(found, f"Its {before} of one colour: the model saw {name} {looked}.")
    image.seek(0)
    said = f"Its first {looked} {name}s are each of one colour: the model saw the first."
    return _with_remark(_flat(image, Read()), said if looked > 1 else "")


def _goes_on(image: Image.Image, frame: int, most_megapixels: float) -> bool:
    """Whether the file's reader could go to that frame, within what is looked through."""
    try:
        image.seek(frame)
        _check_size(image, most_megapixels)
        if (frame + 1) * image.width * image.height > MOST_FRAME_PIXELS:
            return False
        image.load()
    except Exception:  # it was the last one, or the next is damaged: see `read_picture`
        return False
    return True


def _unless_plain(image: Image.Image, frame: int) -> Upright | None:
    found = _flat(image, Read(frame))
    return None if _is_plain(found[0]) else found


def _with_remark(found: Upright, said: str) -> Upright:
    info = found[0].info
    info[SAID] = (*filter(None, [said]), *info[SAID])
    return found


def _is_plain(picture: Image.Image) -> bool:
    """Whether a picture in RGB is of one colour, but for what lossy compression makes of that."""
    return bool(np.ptp(picture.getextrema(), axis=1).max() <= PLAIN)


def _flat(image: Image.Image, read: Read) -> Upright:
    """The frame at which the file's reader is in RGB, and how it is to be turned."""
    image.load()
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    coloured, profile, said = _in_srgb(image)
    picture = to_rgb(coloured)
    how = picture.info.get(READ, read)
    # The pixels alone: the reader of a WebP file keeps three copies more for as long as it is there.
    alone = picture._new(picture.im)
    alone.info = {
        SAID: said + picture.info.get(SAID, ()),
        READ: replace(read, profile=profile, shades=how.shades, ground=how.ground),
    }
    return alone, turn


def _what_is_there(path: str | Path, damage: Exception) -> Upright:
    """What can be seen of a file that Pillow could not read to its end; raises `damage` if that is little.

    It is read into two pictures, a black and a white one: where they differ nothing was read. Pillow's own
    switch, LOAD_TRUNCATED_IMAGES, holds for all threads at once, and does not tell what is missing.
    """
    image, other = _begun(path, 0), _begun(path, 255)
    if image is None or other is None:
        raise damage
    top, bottom = _alike(image, other)
    del other
    width, height = image.size
    if bottom - top < LEAST_ROWS * height:
        return _coarse(path, damage)
    if bottom - top == height:
        said = "The end of the file is missing or damaged, but all rows of the picture are there."
        return _with_remark(_flat(image, Read(damage="rows")), said)
    which = "upper" if top == 0 else "lower" if bottom == height else "middle"
    share = f"{bottom - top:,} of {height:,} rows ({1 - (bottom - top) / height:.1%} are missing)"
    said = f"Part of the file is missing or damaged: the model saw the {which} {share}."
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    part = _turned((0, top, width, bottom), (width, height), turn)
    _set(image, image.im.crop((0, top, width, bottom)))
    return _with_remark(_flat(image, Read(damage="rows", part=part)), said)


def _begun(path: str | Path, shade: int) -> ImageFile.ImageFile | None:
    """The file's reader with what it has put into a picture of that shade before it failed.

    None if it has put it elsewhere, as for a GIF with transparency.
    """
    # Of a path Pillow would map a part into memory, and a map that is too short is none.
    with open(path, "rb") as file, Image.open(file, formats=PILLOW_FORMATS) as image:
        bands = len(image.getbands())
        size = getattr(image, "_tile_size", image.size)  # that of a TIFF file is the upright one
        ground = Image.new(image.mode, size, shade if bands == 1 else (shade,) * bands).im
        image.im = ground
        with suppress(Exception):  # see `read_picture`
            image.load()
        if image.im is not ground:
            return None
        _set(image, ground)
        image.getexif()  # while the file is open; it is kept
        return image


def _set(image: ImageFile.ImageFile, pixels: Image.core.ImagingCore) -> None:
    """Give a file's reader its pixels, so that it reads no more."""
    image.im, image._size = pixels, pixels.size
    image.tile = []


def _alike(one: Image.Image, other: Image.Image) -> tuple[int, int]:
    """The first and the last but one row of the longest run of rows that two pictures of a size share."""
    width, height = one.size
    rows = max(1, STRIP // max(1, width))
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    each = (np.asarray(one.crop(box)) == np.asarray(other.crop(box)) for box in boxes)
    same = np.concatenate([strip.reshape(len(strip), -1).all(1) for strip in each])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    runs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    return max(runs, key=lambda run: run[1] - run[0], default=(0, 0))


def _turned(
    box: tuple[int, int, int, int], size: tuple[int, int], turn: Image.Transpose | None
) -> tuple[int, int, int, int]:
    """Where rows from left to right are in a picture of that size once it is turned."""
    (left, top, right, bottom), height = box, size[1]
    if turn in (Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM):
        return left, height - bottom, right, height - top
    if turn in (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90):
        return top, left, bottom, right
    if turn in (Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE):
        return height - bottom, left, height - top, right
    return box


def _coarse(path: str | Path, damage: Exception) -> Upright:
    """A progressive JPEG without its later scans: the first has all of the picture, but not its detail.

    Raises `damage` for anything else.
    """
    with Image.open(path, formats=PILLOW_FORMATS) as image:
        if image.format != "JPEG" or "progressive" not in image.info or not image.fp:
            raise damage
        start = image.fp.tell()  # behind the marker of the first scan
    file = io.BytesIO()
    with open(path, "rb") as source:
        shutil.copyfileobj(source, file)
    file.write(END_OF_IMAGE)
    if file.getvalue().find(START_OF_SCAN, start) < 0:
        raise damage
    with Image.open(file, formats=PILLOW_FORMATS) as image:
        said = "Part of the file is missing: the model saw all of the picture, but not its finest detail."
        return _with_remark(_flat(image, Read(damage="detail")), said)


def _is_file(path: object) -> bool:
    """Whether it is a path at all, of a file that is there."""
    try:
        return isinstance(path, str | Path) and Path(path).is_file()
    except OSError:  # a name longer than any file's
        return False


def _in_srgb(image: Image.Image) -> tuple[Image.Image, bool, tuple[str, ...]]:
    """A picture whose file has a colour profile in the colours of sRGB, which models have seen; whether
    that was applied, and what is to be said of it."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image, False, ()
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        # Of an animation the next frame may be put onto this one.
        if image.mode == "RGB" and not getattr(image, "is_animated", False):
            ImageCms.profileToProfile(image, own, srgb, inPlace=True)
            return image, True, ()
        made = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
        return made or image, True, ()
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image, False, ("Its colour profile could not be applied; colours may be off.",)


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
    ground, shades = "white", None
    if image.mode.startswith(("I", "F")):
        ends = [(float(values.min()), float(values.max())) for values in map(_values, map(image.crop, boxes))]
        low, high, words = _range(image, min(least for least, _ in ends), max(most for _, most in ends))
        shades = low, high
        said = (words,) if words else ()
        strips = (_grey(image.crop(box), low, high) for box in boxes)
    elif _is_transparent(image) and all(_is_lost_on_white(image.crop(box)) for box in boxes):
        seen = any(image.crop(box).convert("RGBA").getchannel("A").getbbox() for box in boxes)
        ground = "black" if seen else "white"
        said = (WHITE_ON_TRANSPARENT if seen else ALL_TRANSPARENT,)
    made = Image.new("RGB", image.size)
    for box, strip in zip(boxes, strips, strict=True):
        made.paste(_on_ground(strip, ground), box)
    made.info = {SAID: said, READ: Read(shades=shades, ground=ground)}
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
