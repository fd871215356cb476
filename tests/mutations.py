"""Mutations: sound and image files that are damaged, lie about themselves, or are strange but right.

`python -m tests.mutations sounds 1000` has the app read so many of them and prints a line of JSON for each:
a process of its own, so that a crash inside a decoder, a hang and a hunger for memory are told from outside.
"""

from __future__ import annotations

import faulthandler
import io
import json
import random
import re
import resource
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from components.errors import InputError
from components.inputs import audio
from components.inputs.pictures import read_picture

TOUR = Path(__file__).resolve().parent.parent / "demos" / "media" / "tour.flac"
LONGEST = 60.0  # seconds of sound that are taken here
HANGS = 30.0  # seconds on the clock after which a file is said to hang
MEMORY = 6 << 30  # bytes of addresses that the process may have
# Numbers that break what is computed from them: none, one, all bits, the signs, just beyond a limit.
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
Case = tuple[str, str, bytes]  # what it is, the ending of its name, its content


# Sound


@cache
def _voice() -> tuple[np.ndarray, int]:
    """A second and a half of the recording that comes with the app: float32 [samples], and its rate in Hz."""
    samples, rate = soundfile.read(TOUR, dtype="float32")
    return samples[: int(1.5 * rate)].reshape(-1), rate


def _written(kind: str, subtype: str | None, rate: int, samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def _encoded(kind: str, codec: str, rate: int, samples: np.ndarray) -> bytes:
    """Mono, by FFmpeg."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        fitting = av.AudioResampler(stream.codec_context.format, "mono", rate, frame_size=960)
        for part in (*fitting.resample(frame), *fitting.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


@cache
def whole_sounds() -> dict[str, bytes]:
    """A second and a half of speech in each format, by the ending of its name."""
    samples, rate = _voice()
    return {
        "wav": _written("WAV", "PCM_16", rate, samples),
        "float.wav": _written("WAV", "FLOAT", rate, samples),
        "adpcm.wav": _written("WAV", "IMA_ADPCM", rate, samples),
        "aiff": _written("AIFF", "PCM_24", rate, samples),
        "flac": _written("FLAC", "PCM_16", rate, samples),
        "ogg": _written("OGG", "VORBIS", rate, samples),
        "opus": _written("OGG", "OPUS", 48_000, np.repeat(samples, 3)[:72_000]),
        "mp3": _written("MP3", "MPEG_LAYER_III", rate, samples),
        "m4a": _encoded("mp4", "aac", rate, samples),
        "webm": _encoded("webm", "libopus", 48_000, np.repeat(samples, 3)[:72_000]),
        "aac": _encoded("adts", "aac", rate, samples),
    }


def _wav(channels: int, rate: int, bits: int, data: bytes, tag: int = 1, size: int | None = None) -> bytes:
    """A WAV file whose header says this, whether it is so or not; size: bytes of sound that it promises."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    promised = len(data) if size is None else size
    parts = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", promised) + data
    return b"RIFF" + struct.pack("<I", (len(parts) + 4) & 0xFFFFFFFF) + b"WAVE" + parts


def strange_sounds() -> Iterator[Case]:
    """Files made on purpose: right but unusual, or lying about what they hold."""
    samples, rate = _voice()
    pcm = (32_767 * samples).astype("<i2").tobytes()
    floats = samples.astype("<f4")
    nothing, loud, broken = floats.copy(), floats.copy(), floats.copy()
    nothing[:] = np.nan
    loud[::3] = np.inf
    broken[100:200], broken[300] = np.nan, 3e38
    for name, values in (("only NaN", nothing), ("infinities", loud), ("some NaN", broken)):
        yield name, "wav", _wav(1, rate, 32, values.tobytes(), tag=3)
    for hertz in (0, 1, 7, 99, 100, 8000, 384_000, 1_000_000, 1_000_001, 2**31 - 1, 2**31, 2**32 - 1):
        yield f"{hertz} Hz", "wav", _wav(1, hertz, 16, pcm)
    for channels in (0, 2, 3, 8, 64, 255, 1024, 65_535):
        yield f"{channels} channels", "wav", _wav(channels, rate, 16, pcm)
    for bits in (0, 1, 7, 8, 12, 24, 32, 64, 65_535):
        yield f"{bits} bits", "wav", _wav(1, rate, bits, pcm)
    for size in (0, 1, 2, 2**31, 2**32 - 1):
        yield f"promises {size} bytes", "wav", _wav(1, rate, 16, pcm, size=size)
    for tag in (0, 2, 6, 7, 0x11, 0x31, 0x50, 0x55, 0xFF, 0x161, 0xFFFE, 0xFFFF):
        yield f"codec {tag}", "wav", _wav(1, rate, 16, pcm, tag=tag)
    for kind in ("WAV", "FLAC", "OGG", "MP3"):
        for count in (1, 2, 17):
            yield f"{count} samples of {kind}", kind.lower(), _written(kind, None, 44_100, samples[:count])
        yield f"8 channels of {kind}", kind.lower(), _many_channels(kind)
    for hertz in (8000, 96_000, 655_350):
        yield f"FLAC of {hertz} Hz", "flac", _written("FLAC", "PCM_16", hertz, np.zeros(hertz))
    yield "five minutes of nothing", "flac", _written("FLAC", "PCM_16", 8000, np.zeros(300 * 8000))
    yield "no bytes", "wav", b""
    for count in (1, 3, 12, 43, 4096):
        yield f"{count} zeros", "mp3", bytes(count)
    yield "a playlist", "m4a", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    yield "a list of files", "wav", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "a page", "mp3", b"<!doctype html><script>alert(1)</script>" * 50
    yield "a zip", "flac", _zip(bytes(10_000_000))


def _many_channels(kind: str) -> bytes:
    channels = 2 if kind == "MP3" else 8
    return _written(kind, None, 48_000, np.random.default_rng(1).normal(0, 0.1, (4800, channels)))


def _zip(content: bytes) -> bytes:
    """Ten megabytes of nothing in ten kilobytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sound.wav", content)
    return file.getvalue()


# Pictures


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def _scene() -> Image.Image:
    """Something to see, 48 x 32: a slope of colours with noise on it."""
    down, across = np.mgrid[0:32, 0:48]
    noise = np.random.default_rng(2).integers(0, 40, (32, 48))
    channels = (5 * across, 7 * down, 3 * across + 2 * down + noise)
    return Image.fromarray(np.stack(channels, 2).clip(0, 255).astype(np.uint8))


@cache
def whole_pictures() -> dict[str, bytes]:
    """One picture in each format and mode, by the ending of its name."""
    rgb = _scene()
    see_through = rgb.copy()
    see_through.putalpha(rgb.convert("L"))
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [rgb.rotate(angle) for angle in (90, 180)]
    many: dict[str, Any] = {"save_all": True, "append_images": frames, "duration": 50, "loop": 0}
    return {
        "png": _saved(rgb, "PNG"),
        "alpha.png": _saved(see_through, "PNG"),
        "grey-alpha.png": _saved(see_through.convert("LA"), "PNG"),
        "palette.png": _saved(rgb.quantize(16), "PNG", transparency=3),
        "bits.png": _saved(rgb.convert("1"), "PNG"),
        "deep.png": _saved(deep, "PNG"),
        "animated.png": _saved(rgb, "PNG", **many),
        "jpg": _saved(rgb, "JPEG"),
        "cmyk.jpg": _saved(rgb.convert("CMYK"), "JPEG"),
        "grey.jpg": _saved(rgb.convert("L"), "JPEG"),
        "progressive.jpg": _saved(rgb, "JPEG", progressive=True),
        "turned.jpg": _saved(rgb, "JPEG", exif=turned),
        "webp": _saved(rgb, "WEBP"),
        "lossless.webp": _saved(see_through, "WEBP", lossless=True),
        "animated.webp": _saved(rgb, "WEBP", **many),
        "gif": _saved(rgb, "GIF"),
        "animated.gif": _saved(rgb, "GIF", **many),
        "bmp": _saved(rgb, "BMP"),
        "palette.bmp": _saved(rgb.quantize(200), "BMP"),
        "tiff": _saved(rgb, "TIFF"),
        "lzw.tiff": _saved(see_through, "TIFF", compression="tiff_lzw"),
        "jpeg.tiff": _saved(rgb, "TIFF", compression="jpeg"),
        "deep.tiff": _saved(deep, "TIFF"),
        "float.tiff": _saved(Image.fromarray(np.array([[0, 1e9], [np.nan, -np.inf]], np.float32)), "TIFF"),
        "cmyk.tiff": _saved(rgb.convert("CMYK"), "TIFF", compression="tiff_deflate"),
        "turned.tiff": _saved(rgb, "TIFF", exif=turned),
    }


def _png(
    width: int, height: int, bits: int, colour: int, pixels: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG whose header says this, whether it is so or not, with right checksums."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    framed = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def strange_pictures() -> Iterator[Case]:
    """Files made on purpose: right but unusual, or lying about what they hold."""
    little = zlib.compress(bytes(5000))
    sizes = (0, 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
    for width in sizes:
        for height in sizes:
            yield f"PNG of {width} x {height}", "png", _png(width, height, 8, 2, little)
    for bits, colour in ((0, 2), (3, 0), (16, 2), (16, 3), (8, 5), (255, 255)):
        yield f"PNG of {bits} bits and colour {colour}", "png", _png(40, 40, bits, colour, little)
    # Fifty megabytes of pixels in fifty kilobytes, and four hundred megapixels.
    yield "PNG bomb", "png", _png(20_000, 20_000, 1, 0, zlib.compress(bytes(50_000_000), 9))
    yield "more pixels than said", "png", _png(8, 8, 8, 2, zlib.compress(bytes(50_000_000), 9))
    # As large as is taken, in a few kilobytes.
    for bits, colour in ((16, 0), (8, 6)):
        rows = zlib.compress(bytes(7000 * (7000 * (2 if colour == 0 else 4) + 1)), 1)
        yield f"49 megapixels of colour {colour}", "png", _png(7000, 7000, bits, colour, rows)
    swollen = b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    yield "text bomb", "png", _png(8, 8, 8, 2, little, (b"zTXt", swollen))
    yield "profile bomb", "png", _png(8, 8, 8, 2, little, (b"iCCP", swollen))
    gif = whole_pictures()["gif"]
    for width, height in ((0, 0), (1, 1), (65_535, 65_535), (65_535, 1), (1, 65_535)):
        yield f"GIF of {width} x {height}", "gif", gif[:6] + struct.pack("<HH", width, height) + gif[10:]
        place = gif.index(b",", 13) + 5  # the size of its first frame
        frame = gif[:place] + struct.pack("<HH", width, height) + gif[place + 4 :]
        yield f"GIF frame of {width} x {height}", "gif", frame
    bmp = whole_pictures()["bmp"]
    for width, height in ((0, 0), (2**31 - 1, 2**31 - 1), (-1, -1), (10_000, 5000), (48, -32), (7000, 7000)):
        yield f"BMP of {width} x {height}", "bmp", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    jpeg = whole_pictures()["jpg"]
    place = jpeg.index(b"\xff\xc0") + 5
    for width, height in ((0, 0), (65_535, 65_535), (65_535, 700), (1, 65_535)):
        told = jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]
        yield f"JPEG of {width} x {height}", "jpg", told
    for width, height in ((1, 1), (1, 3000), (3000, 1)):
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
            thin = Image.new("RGB", (width, height), "teal")
            yield f"{kind} of {width} x {height}", kind.lower(), _saved(thin, kind)
    for turn in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65_535):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield f"turned {turn}", "jpg", _saved(_scene(), "JPEG", exif=exif)
    many: dict[str, Any] = {"save_all": True, "append_images": [_scene()] * 99, "duration": 10}
    yield "a hundred frames", "gif", _saved(_scene(), "GIF", **many)
    yield "no bytes", "png", b""
    yield "a zip", "png", _zip(bytes(10_000_000))
    yield "a drawing", "png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    yield "PostScript", "png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ls) system\n"
    yield "a page", "jpg", b"<!doctype html><script>alert(1)</script>"


# Damage


def _flipped(content: bytearray, dice: random.Random) -> None:
    """A few bits the other way."""
    for _ in range(dice.choice((1, 1, 2, 8, 64))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def _flipped_head(content: bytearray, dice: random.Random) -> None:
    """A few bits of the first hundred bytes, where the headers are."""
    for _ in range(dice.choice((1, 2, 4))):
        content[dice.randrange(min(100, len(content)))] ^= 1 << dice.randrange(8)


def _extreme(content: bytearray, dice: random.Random) -> None:
    """A number in the header made the least or the greatest there is."""
    width, order = dice.choice((1, 2, 4)), dice.choice(("little", "big"))
    place = dice.randrange(max(1, min(200, len(content)) - width))
    number = dice.choice(EXTREMES) & ((1 << 8 * width) - 1)
    content[place : place + width] = number.to_bytes(width, "little" if order == "little" else "big")


def _truncated(content: bytearray, dice: random.Random) -> None:
    """Cut off, often early."""
    del content[int(len(content) * dice.random() ** dice.choice((1, 4))) :]


def _without_part(content: bytearray, dice: random.Random) -> None:
    """A stretch taken out."""
    start = dice.randrange(len(content))
    del content[start : start + dice.randrange(1, 400)]


def _blank_part(content: bytearray, dice: random.Random) -> None:
    """A stretch of one and the same byte."""
    start, long = dice.randrange(len(content)), dice.randrange(1, 400)
    content[start : start + long] = bytes([dice.choice((0, 0xFF, dice.randrange(256)))]) * long


def _repeated_part(content: bytearray, dice: random.Random) -> None:
    """A stretch many times over."""
    start = dice.randrange(len(content))
    part = content[start : start + dice.randrange(1, 100)]
    content[start:start] = part * dice.choice((1, 2, 50))


def _noise(content: bytearray, dice: random.Random) -> None:
    """A head that may be right, and noise after it."""
    content[dice.randrange(min(300, len(content))) :] = dice.randbytes(dice.randrange(1, 4000))


DAMAGE: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flipped,
    _flipped_head,
    _extreme,
    _truncated,
    _without_part,
    _blank_part,
    _repeated_part,
    _noise,
)


def damaged(whole: dict[str, bytes], count: int, seed: int) -> Iterator[Case]:
    """So many files with one to three sorts of damage; some with another's head, or with another's name."""
    dice = random.Random(seed)
    endings = list(whole)
    for _ in range(count):
        ending, other = dice.choice(endings), dice.choice(endings)
        content, what = bytearray(whole[ending]), [ending]
        if dice.random() < 0.15:
            head = dice.randrange(4, 128)
            content[:head] = whole[other][:head]
            what.append(f"head of {other}")
        for harm in dice.sample(DAMAGE, dice.choice((1, 1, 2, 3))):
            if content:
                harm(content, dice)
                what.append(harm.__name__.strip("_"))
        named = other if dice.random() < 0.3 else ending
        yield ", ".join(what), named.rpartition(".")[2], bytes(content)


def sounds(count: int) -> Iterator[Case]:
    """All strange ones, and damaged ones until there are so many."""
    strange = list(strange_sounds())
    yield from strange[:count]
    yield from damaged(whole_sounds(), max(0, count - len(strange)), seed=20)


def pictures(count: int) -> Iterator[Case]:
    """All strange ones, and damaged ones until there are so many."""
    strange = list(strange_pictures())
    yield from strange[:count]
    yield from damaged(whole_pictures(), max(0, count - len(strange)), seed=30)


# Reading them


def read_sound(path: Path) -> str:
    """What the app makes of it, in words. Raises ValueError if that is no sound it may go on with."""
    samples = audio.decode(path, LONGEST).samples
    if samples.dtype != np.float32 or samples.ndim != 1 or not 0 < samples.size <= LONGEST * audio.RATE + 99:
        raise ValueError(f"{samples.dtype} {samples.shape}")
    if not np.isfinite(samples).all() or np.abs(samples).max() > 1:
        raise ValueError("not within -1 and 1")
    audio.is_silent(samples)
    return f"{samples.size} samples"


def read_image(path: Path) -> str:
    """What the app makes of it, in words. Raises ValueError if that is no picture it may go on with."""
    image = read_picture(path)
    if image.mode != "RGB" or not 0 < image.width * image.height <= 50e6:
        raise ValueError(f"{image.mode} {image.size}")
    return f"{image.width} x {image.height}"


def main() -> None:
    """Arguments: sounds or pictures, and how many."""
    kind, count = sys.argv[1], int(sys.argv[2])
    cases, read = {"sounds": (sounds, read_sound), "pictures": (pictures, read_image)}[kind]
    for warm in (whole_sounds()["m4a"], whole_sounds()["mp3"]):  # what is imported belongs to no case
        _look("", "x", warm, read_sound)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for case in cases(count):
        print(json.dumps(_look(*case, read)), flush=True)
    print(json.dumps({"peak": _peak()}))


def _peak() -> int:
    """Bytes that this process had in memory at most.

    Not ru_maxrss: that starts with what the process which started this one had.
    """
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return 1024 * int(line)


def _look(what: str, ending: str, content: bytes, read: Callable[[Path], str]) -> dict[str, Any]:
    """What became of one file: read, refused with a sentence, or failed; seconds of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"visitor.{ending}"
        path.write_bytes(content)
        faulthandler.dump_traceback_later(HANGS, exit=True)
        started = time.process_time()
        told: dict[str, Any] = {"case": f"{what} as .{ending}"}
        try:
            told["read"] = read(path)
        except InputError as error:
            told["refused"] = str(error)
        except Exception as error:
            told["failed"] = repr(error)
        told["seconds"] = time.process_time() - started
        faulthandler.cancel_dump_traceback_later()
    return told


if __name__ == "__main__":
    main()
