"""Audio: what a visitor recorded or uploaded, as the mono 16 kHz wave that speech models read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from components.errors import InputError

RATE = 16_000
LIMIT_SECONDS = 1800.0
FORMATS = "wav, flac, mp3, ogg, m4a and webm"

# A playlist could make FFmpeg open other files or addresses, so only these containers are allowed.
CONTAINERS = "mov,matroska,webm,ogg,mp3,aac,flac,wav,aiff,caf,asf,amr,mpegts,avi,flv"

# Hz; what lies outside of them is a damaged header. Recorders of bats reach 500 kHz.
LOWEST_RATE, HIGHEST_RATE = 100, 1_000_000
MOST_NUMBERS = 1_000_000  # in a second, all channels together: 20 channels at 48 kHz
BLOCK = 1 << 16  # numbers read at a time, so that half an hour of 48 kHz stereo never lies in memory
FRAME = RATE // 20  # 50 ms, for measuring levels
FLOOR = -120.0  # dBFS of digital silence
SILENT_BELOW = -60.0  # dBFS; a quiet room recorded by a laptop lies at -70 to -60
FAINT_BELOW = -40.0  # dBFS; under this a level that never changes is hum or hiss
STEADY_WITHIN = 8.0  # dB; speech rises and falls by 20 dB and more


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording. samples: float32 [samples], mono, 16 kHz, within -1 and 1; rate: of the source, in Hz."""

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        return self.samples.size / RATE


def decode(path: str | os.PathLike[str], limit_seconds: float = LIMIT_SECONDS) -> Audio:
    """Reads a sound file of any rate and any number of channels; its content decides, not its name.

    libsndfile reads wav, flac, mp3 and ogg, PyAV (with FFmpeg's codecs inside) the rest; soxr resamples.
    The length is taken from the header where there is one, and no more than the limit is decoded.
    Raises InputError: no file, empty, zero length, not audio or corrupt, no audio stream, over the limit.
    """
    try:
        with _opened(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise InputError("The file is empty (0 bytes). Record again or choose another file.")
            audio = _decode_sndfile(file, limit_seconds)
            if audio is None:
                file.seek(0)
                audio = _decode_av(file, limit_seconds)
            return audio
    except OSError as error:
        raise _not_opened() from error


def from_gradio(rate: int, data: np.ndarray, limit_seconds: float = LIMIT_SECONDS) -> Audio:
    """A recording as Gradio hands it over: data [samples] or [samples, channels], integers or floats.

    Raises InputError where it is empty, over the limit, or not numbers.
    """
    data = np.asarray(data)
    if rate <= 0 or data.ndim not in (1, 2) or data.dtype.kind not in "iuf":
        raise InputError(f"This is not a recording. Record again, or upload a file: {FORMATS} work.")
    _check_rate(rate, data.shape[1] if data.ndim == 2 else 1)
    frames = data.shape[0]
    if data.size == 0:
        raise _zero_length()
    if frames > limit_seconds * rate:
        raise _too_long(frames / rate, limit_seconds)
    table = data.reshape(frames, -1)
    blocks = (_to_float(table[at : at + BLOCK].T) for at in range(0, frames, BLOCK))
    return _assemble(blocks, int(rate))


def speech_level(samples: np.ndarray) -> float:
    """How loud the loudest fifth of a second is, in dBFS (0: a square wave at full scale).

    samples: [samples] at 16 kHz. Measured in frames of 50 ms with the constant offset taken away; the
    fourth loudest frame counts, so that a click is not taken for speech and a single word is.
    """
    levels = _frame_levels(samples)
    return float(levels[-min(4, levels.size)])


def is_silent(samples: np.ndarray) -> bool:
    """Whether there is nothing to transcribe: silence, or a faint steady hum or hiss.

    samples: [samples] at 16 kHz.
    """
    level = speech_level(samples)
    if level < SILENT_BELOW:
        return True
    quietest = float(np.percentile(_frame_levels(samples), 10))
    return level < FAINT_BELOW and level - quietest < STEADY_WITHIN


def leading_silence(samples: np.ndarray) -> int:
    """How many samples of silence come first, less a margin of 0.2 s; 0 where it is under a second."""
    whole = samples.size // FRAME * FRAME
    power = samples[:whole].reshape(-1, FRAME).astype(np.float64).var(axis=1)
    loud = np.flatnonzero(power > 10 ** (SILENT_BELOW / 10))
    silence = (int(loud[0]) if loud.size else power.size) * FRAME
    return silence - RATE // 5 if silence >= RATE else 0


def duration_words(seconds: float) -> str:
    """A length for reading: 4.2 s, 45 s, 2 min 5 s, 1 h 2 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _frame_levels(samples: np.ndarray) -> np.ndarray:
    """dBFS of each 50 ms, sorted upward; a last part of a frame counts where it is all there is."""
    whole = samples.size // FRAME * FRAME
    frames = samples[:whole].reshape(-1, FRAME) if whole else samples.reshape(1, -1)
    if frames.size == 0:
        return np.array([FLOOR])
    power = frames.astype(np.float64).var(axis=1)
    return np.sort(10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10))))


def _opened(path: object) -> IO[bytes]:
    """The file, to be closed. Raises InputError for what is no path, OSError where it cannot be opened."""
    if not isinstance(path, str | os.PathLike):  # a number would be the file that has it as its handle
        raise _not_opened()
    try:
        return open(path, "rb")
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise _not_opened() from error


def _decode_sndfile(file: IO[bytes], limit_seconds: float) -> Audio | None:
    """None where libsndfile does not know the format."""
    import soundfile

    try:
        # By number, not by name: soundfile would take the format of a renamed file from its ending.
        sound = soundfile.SoundFile(file.fileno(), closefd=False)
    except soundfile.LibsndfileError:
        return None
    with sound:
        # Else soundfile looks for its place again after each block, and what follows in an MP3 is garbled.
        sound.seekable = lambda: False  # type: ignore[method-assign]
        rate, frames = sound.samplerate, sound.frames
        _check_rate(rate, sound.channels)
        if frames == 0:
            raise _zero_length()
        if limit_seconds * rate < frames < 2**62:  # a stream of unknown length says 2**63 - 1
            raise _too_long(frames / rate, limit_seconds)

        def blocks() -> Iterator[np.ndarray]:
            try:
                while len(block := sound.read(BLOCK // sound.channels, dtype="float32", always_2d=True)):
                    yield block.T
            except soundfile.LibsndfileError:
                return  # damaged from here on: keep what came before

        return _assemble(_at_most(blocks(), rate, limit_seconds, None), rate)


def _decode_av(file: IO[bytes], limit_seconds: float) -> Audio:
    import av

    try:
        # A file object, so that the name has no say in guessing the format.
        options = {"format_whitelist": CONTAINERS}
        container = av.open(file, mode="r", options=options, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise _not_audio() from error
    with container:
        if not container.streams.audio:
            raise InputError(
                f"There is no sound in this file, only other data. Choose a recording: {FORMATS} work."
            )
        stream = container.streams.audio[0]
        if stream.codec_context is None:  # no decoder for what the header names
            raise _not_audio()
        rate = stream.codec_context.sample_rate
        _check_rate(rate, stream.codec_context.channels)
        length = _av_seconds(container, stream)
        if length is not None and length > limit_seconds:
            raise _too_long(length, limit_seconds)

        def blocks() -> Iterator[np.ndarray]:
            try:
                for packet in container.demux(stream):
                    yield from _av_frames(packet)
            except (av.FFmpegError, ValueError):
                return  # cut off in the middle, or numbers that NumPy does not have: keep what came before

        def rest() -> float | None:
            ends = [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None]
            return max(ends, default=None)

        return _assemble(_at_most(blocks(), rate, limit_seconds, rest), rate)


def _av_seconds(container: Any, stream: Any) -> float | None:
    """What the header says; None where it says nothing, as in what browsers record."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1e6


def _av_frames(packet: Any) -> Iterator[np.ndarray]:
    """The sound in a packet, float32 [channels, samples]; a damaged packet holds none."""
    import av

    try:
        frames = packet.decode()
    except av.error.InvalidDataError:
        return
    for frame in frames:
        data = frame.to_ndarray()
        if not frame.format.is_planar:
            data = data.reshape(-1, frame.layout.nb_channels).T
        yield _to_float(data)


def _at_most(
    blocks: Iterable[np.ndarray], rate: int, limit_seconds: float, rest: Any
) -> Iterator[np.ndarray]:
    """The blocks as they are; raises InputError where they go on after the limit.

    rest: finds where the recording ends without decoding it, for the message.
    """
    frames = 0
    for block in blocks:
        frames += block.shape[-1]
        if frames > limit_seconds * rate:
            end = rest() if rest else None
            raise _too_long(end, limit_seconds)
        yield block


def _assemble(blocks: Iterable[np.ndarray], rate: int) -> Audio:
    """Blocks [channels, samples] at `rate`: mixed to mono, resampled, cleaned, joined."""
    mono = (_clean(block).mean(axis=0, dtype=np.float32) for block in blocks)
    parts = list(_resample(mono, rate))
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if samples.size == 0:
        raise _not_audio()
    peak = float(np.abs(samples).max())
    if peak > 1:  # float files may exceed full scale; clipping would distort what is still all there
        samples /= peak
    return Audio(samples, rate)


def _resample(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """float32 [samples] at `rate` to 16 kHz, block by block (soxr's high quality, librosa's default)."""
    if rate == RATE:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _to_float(data: np.ndarray) -> np.ndarray:
    """Integers to float32 within -1 and 1 (unsigned ones are centred); floats stay as they are."""
    if data.dtype.kind == "f":
        return data.astype(np.float32)
    half = 2.0 ** (8 * data.dtype.itemsize - 1)
    centre = half if data.dtype.kind == "u" else 0.0
    return ((data.astype(np.float64) - centre) / half).astype(np.float32)


def _clean(block: np.ndarray) -> np.ndarray:
    """What is not a number becomes silence; the bound (32-bit integers kept as floats) stops overflow."""
    return np.clip(np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0), -(2.0**31), 2.0**31)


def _not_opened() -> InputError:
    return InputError("The file cannot be opened. Choose it again.")


def _check_rate(rate: int, channels: int) -> None:
    """Raises InputError for a rate that no recording has, or more numbers in a second than are read."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise _not_audio()
    if rate * channels > MOST_NUMBERS:
        raise InputError(
            f"This recording has {channels} channels at {rate / 1000:g} kHz, more than are read here. "
            "Save it with two channels at 48 kHz."
        )


def _zero_length() -> InputError:
    return InputError("The recording has a length of zero. Record again or choose another file.")


def _not_audio() -> InputError:
    return InputError(
        f"This file is not a sound recording, or it is damaged. Choose another one: {FORMATS} work."
    )


def _too_long(seconds: float | None, limit_seconds: float) -> InputError:
    limit = duration_words(limit_seconds)
    if seconds is None or seconds <= limit_seconds:
        return InputError(f"The recording is longer than the limit of {limit}. Cut it into shorter parts.")
    length = duration_words(seconds)
    return InputError(f"The recording is {length} long and the limit is {limit}. Cut it into shorter parts.")
