"""Audio: what a visitor recorded or uploaded, as the mono 16 kHz wave that speech models read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import RawIOBase
from typing import Any

import numpy as np

from components.errors import InputError

RATE = 16_000
LIMIT_SECONDS = 1800.0
Block = tuple[np.ndarray, int]  # sound [channels, samples] and its rate in Hz
FORMATS = "wav, flac, mp3, ogg, m4a and webm"

# A playlist could make FFmpeg open other files or addresses, so only these containers are allowed.
CONTAINERS = "mov,matroska,webm,ogg,mp3,aac,flac,wav,aiff,caf,asf,amr,mpegts,avi,flv"

# Hz; what lies outside of them is a damaged header, or a few hundred bytes that claim to be half an hour.
# No speech can be told below 4 kHz; recorders of bats reach 500 kHz.
LOWEST_RATE, HIGHEST_RATE = 4_000, 1_000_000
MOST_NUMBERS = 1_000_000  # in a second, all channels together: 20 channels at 48 kHz
BLOCK = 1 << 16  # numbers read at a time, so that half an hour of 48 kHz stereo never lies in memory
# libsndfile ends these where a header says so, or where a byte is wrong; FFmpeg goes on after that.
PACKETED = ("FLAC", "MPEG", "MP3", "OGG")
TIMELINES = ("mov", "matroska", "webm")  # their clock begins at 0; that of others at any time
SEAMLESS = ("flac", "mp3", "ogg", "aac")  # without pauses of the clock, unless a part of the file is missing
MOST_STRAY = 4096  # bytes after the last part of a WAV that mean nothing
LATE = 0.04  # seconds; by less the times of packets are merely rounded
MOST_ERRORS = 1000  # in a row, of a demuxer; further ones are the end
UNREAD = ("s64", "s64p")  # kinds of numbers that PyAV makes no array of
PLANES = 8  # from so many channels on PyAV 18.1 reads behind the last one, and the process dies
OPPOSITE = -0.3  # correlation of two channels; below, one of them is the other turned over
MEMORY = 1.0  # seconds of what the channels have to do with each other
OFFSET = 0.1  # of the level; a constant offset that is larger is taken away
OUTLIER = 10.0  # a peak of so many times the fourth loudest frame's is a defect, no sound
FRAME = RATE // 20  # 50 ms, for measuring levels
FLOOR = -120.0  # dBFS of digital silence
SILENT_BELOW = -60.0  # dBFS; a quiet room recorded by a laptop lies at -70 to -60
FAINT_BELOW = -40.0  # dBFS; under this a level that never changes is hum or hiss
NOTHING_BELOW = -95.0  # dBFS; what 16 bits round off
BESIDE = 40.0  # dB; a voice so far below another one is not heard beside it
SPOKEN_AT = -20.0  # dBFS that what is faint is raised to
STEADY_WITHIN = 8.0  # dB; speech rises and falls by 20 dB and more


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording. samples: float32 [samples], mono, 16 kHz, within -1 and 1; rate: of the source, in Hz.

    remarks: what is to be said of reading it, such as what was damaged.
    """

    samples: np.ndarray
    rate: int
    remarks: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return self.samples.size / RATE


def decode(path: str | os.PathLike[str], limit_seconds: float = LIMIT_SECONDS) -> Audio:
    """Reads a sound file of any rate and any number of channels; its content decides, not its name.

    libsndfile reads wav and its like, PyAV (with FFmpeg's codecs inside) the rest; soxr resamples. A file
    is read to its end, or up to the limit, whatever its header says of its length. What is damaged is
    passed over and what the container's clock leaves out is silence, so that times stay right.
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


def raised(samples: np.ndarray) -> np.ndarray:
    """What is faint as loud as speech usually is, so that a model hears it; anything else as it is.

    samples: [samples] at 16 kHz. A louder click is cut off.
    """
    level = speech_level(samples)
    if not NOTHING_BELOW <= level < FAINT_BELOW:
        return samples
    moving = samples - samples.mean(dtype=np.float64)
    return np.clip(moving * 10 ** ((SPOKEN_AT - level) / 20), -1, 1).astype(np.float32)


def leading_silence(samples: np.ndarray) -> int:
    """How many samples of silence come first, less a margin of 0.2 s; 0 where it is under a second."""
    whole = samples.size // FRAME * FRAME
    power = samples[:whole].reshape(-1, FRAME).astype(np.float64).var(axis=1)
    loud = np.flatnonzero(power > 10 ** (SILENT_BELOW / 10))
    silence = (int(loud[0]) if loud.size else power.size) * FRAME
    return silence - RATE // 5 if silence >= RATE else 0


def quiet_runs(samples: np.ndarray) -> list[tuple[int, int]]:
    """Where it is quiet, beside what is loud, for a second and longer: (start, end) in samples.

    samples: [samples] at 16 kHz.
    """
    whole = samples.size // FRAME * FRAME
    below = max(SILENT_BELOW, speech_level(samples) - BESIDE)
    quiet = samples[:whole].reshape(-1, FRAME).astype(np.float64).var(axis=1) <= 10 ** (below / 10)
    edges = np.flatnonzero(np.diff(np.r_[False, quiet, False].astype(np.int8))).reshape(-1, 2) * FRAME
    return [(start, end) for start, end in edges.tolist() if end - start >= RATE]


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


def _opened(path: object) -> RawIOBase:
    """The file, to be closed. Raises InputError for what is no path, OSError where it cannot be opened."""
    if not isinstance(path, str | os.PathLike):  # a number would be the file that has it as its handle
        raise _not_opened()
    try:
        return open(path, "rb", buffering=0)  # libsndfile reads on from the place of the handle itself
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise _not_opened() from error


def _decode_sndfile(file: RawIOBase, limit_seconds: float) -> Audio | None:
    """None where libsndfile does not know the format, or FFmpeg gets more out of it."""
    import soundfile

    unfinished = _is_unfinished(file)
    file.seek(0)
    try:
        # By number, not by name: soundfile would take the format of a renamed file from its ending.
        sound = soundfile.SoundFile(file.fileno(), closefd=False)
    except soundfile.LibsndfileError:
        return None
    with sound:
        if sound.format in PACKETED or unfinished:
            return None
        # Else soundfile looks for its place again after each block.
        sound.seekable = lambda: False  # type: ignore[method-assign]
        rate, frames = sound.samplerate, sound.frames
        _check_rate(rate, sound.channels)
        if frames == 0:
            raise _zero_length()

        def blocks() -> Iterator[Block]:
            try:
                while len(block := sound.read(BLOCK // sound.channels, dtype="float32", always_2d=True)):
                    yield block.T, rate
            except soundfile.LibsndfileError:
                return  # damaged from here on: keep what came before

        return _assemble(_at_most(blocks(), limit_seconds, lambda: frames / rate), rate)


def _is_unfinished(file: RawIOBase) -> bool:
    """Whether a WAV has more sound than its header says: a size of 0, or no chunk where one should begin.

    So write programs that were ended before they could go back to the header.
    """
    file.seek(0)
    kind = file.read(12)
    if kind[:4] != b"RIFF" or kind[8:] != b"WAVE":
        return False
    end, place = os.fstat(file.fileno()).st_size, 12
    while place + MOST_STRAY < end:
        file.seek(place)
        head = file.read(8)
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if (name == b"data" and size == 0) or not all(32 <= letter < 127 for letter in name):
            return True
        if place + 8 + size > end:  # that of the sound itself may be cut off
            return name != b"data"
        place += 8 + size + size % 2
    return False


def _decode_av(file: RawIOBase, limit_seconds: float) -> Audio:
    import av

    try:
        # A file object, so that the name has no say in guessing the format.
        # ignore_length: of WAV, which is here because its length is wrong.
        options = {"format_whitelist": CONTAINERS, "ignore_length": "1"}
        container = av.open(file, mode="r", options=options, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise _not_audio() from error
    with container:
        if not container.streams.audio:
            raise InputError(
                f"There is no sound in this file, only other data. Choose a recording: {FORMATS} work."
            )
        stream, remarks = _track(container)
        if stream.codec_context is None:  # no decoder for what the header names
            raise _not_audio()
        rate = stream.codec_context.sample_rate
        _check_rate(rate, stream.codec_context.channels)
        if stream.codec_context.name == "flac":  # else a frame whose sum is wrong is a burst of noise
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        track = _Track(container, stream, limit_seconds)

        def rest() -> float | None:
            ends = [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None]
            return max(ends, default=None)

        audio = _assemble(_at_most(track.blocks(), limit_seconds, rest), rate)
        if track.damaged > 0.005:
            seconds = duration_words(track.damaged)
            remarks = (
                *remarks,
                f"The file is damaged: {seconds} of it could not be read and are silent here.",
            )
        return replace(audio, remarks=remarks)


def _track(container: Any) -> tuple[Any, tuple[str, ...]]:
    """The stream that the file marks as its default, else its first, and which of several that is."""
    from av.stream import Disposition

    tracks = [one for one in container.streams.audio if one.codec_context is not None]
    if not tracks:
        raise _not_audio()
    stream = next((one for one in tracks if one.disposition & Disposition.default), tracks[0])
    if len(tracks) == 1:
        return stream, ()
    names = [stream.metadata.get(key, "")[:40] for key in ("title", "language")]
    named = ", ".join(name for name in names if name and name != "und")
    return stream, (
        f"The file has {len(tracks)} sound tracks. This is number {tracks.index(stream) + 1}"
        f"{f' ({named})' if named else ''}.",
    )


@dataclass(eq=False)
class _Track:
    """The sound of one stream on the container's clock.

    reached: seconds of the recording so far; damaged: seconds of them that could not be decoded.
    """

    container: Any
    stream: Any
    limit_seconds: float
    reached: float = 0.0
    damaged: float = 0.0
    _lost: float = 0.0  # seconds that the packets lost since the last good one should have had

    def blocks(self) -> Iterator[Block]:
        """Sound, and silence where the clock goes on without any; damaged packets are passed over."""
        start = self.container.start_time
        zero = 0.0 if self._is_one_of(TIMELINES) or start is None else start / 1e6
        before = None  # where the clock stood at the end of the last frame
        for packet in self._packets():
            for frame in self._frames(packet):
                rate = frame.sample_rate
                block = _frame_data(frame)
                time = None if frame.pts is None else float(frame.pts * frame.time_base) - zero
                if time is not None:
                    begun = before is None
                    # After a jump backward, as where files were joined, the clock goes on from there.
                    if before is not None and time < before - 1.0:
                        zero, time = zero - (self.reached - time), self.reached
                    yield from self._silence(time - self.reached, block.shape[0], rate, begun)
                before = (
                    self.reached + block.shape[1] / rate if time is None else time + block.shape[1] / rate
                )
                self._lost = 0.0
                self.reached += block.shape[1] / rate
                yield block, rate
        if self._lost:
            rate = self.stream.codec_context.sample_rate
            yield from self._silence(self._lost, 1, rate, False)

    def _silence(self, seconds: float, channels: int, rate: int, begun: bool) -> Iterator[Block]:
        """What the clock leaves out; nothing where that is longer than any recording may be."""
        if seconds <= (0.001 if self._lost else LATE) or self.reached + seconds > self.limit_seconds:
            return
        if not begun and (self._lost or self._is_one_of(SEAMLESS)):
            self.damaged += seconds
        left = round(seconds * rate)
        self.reached += left / rate
        while left > 0:
            size = min(left, BLOCK)
            yield np.zeros((channels, size), np.float32), rate
            left -= size

    def _is_one_of(self, kinds: tuple[str, ...]) -> bool:
        return any(name in kinds for name in self.container.format.name.split(","))

    def _packets(self) -> Iterator[Any]:
        """All packets; after an error of the demuxer it is asked for the next one."""
        import av

        errors = 0
        while errors < MOST_ERRORS:
            try:
                for packet in self.container.demux(self.stream):
                    errors = 0
                    yield packet
                return
            except av.error.EOFError:
                return
            except (av.FFmpegError, ValueError):
                errors += 1

    def _frames(self, packet: Any) -> list[Any]:
        """What a packet holds; nothing if it is damaged, in which way ever."""
        import av

        try:
            return [frame for frame in packet.decode() if frame.samples]
        except (av.FFmpegError, ValueError):
            if packet.size:
                self._lost += float((packet.duration or 0) * packet.time_base)
                self._lost = self._lost or 1e-6
            return []


def _frame_data(frame: Any) -> np.ndarray:
    """float32 [channels, samples]."""
    import av

    channels = frame.layout.nb_channels
    _check_rate(frame.sample_rate, channels)
    if frame.format.name in UNREAD:
        (frame,) = av.AudioResampler(format="dbl").resample(frame)
    elif frame.format.is_planar and channels >= PLANES:
        (frame,) = av.AudioResampler(format=frame.format.packed).resample(frame)
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, channels).T
    return _to_float(data)


def _at_most(blocks: Iterable[Block], limit_seconds: float, rest: Any) -> Iterator[Block]:
    """The blocks as they are; raises InputError where they go on after the limit.

    rest: finds where the recording ends without decoding it, for the message.
    """
    seconds = 0.0
    for block, rate in blocks:
        seconds += block.shape[-1] / rate
        if seconds > limit_seconds + 1e-6:
            raise _too_long(rest(), limit_seconds)
        yield block, rate


def _assemble(blocks: Iterable[Block], rate: int) -> Audio:
    """Blocks [channels, samples] with their rates: mixed to mono, resampled, cleaned, joined.

    rate: what the source says of itself.
    """
    mix = _Mixer()
    mono = ((mix(_clean(block), rate), rate) for block, rate in blocks)
    parts = list(_resample(mono))
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if samples.size == 0:
        raise _not_audio()
    return Audio(_levelled(samples), rate)


class _Mixer:
    """Channels to one, so that those of opposite phase add up instead of taking each other away."""

    def __init__(self) -> None:
        self._products = np.zeros((0, 0))  # of the channels with each other, of the last second or so

    def __call__(self, block: np.ndarray, rate: int) -> np.ndarray:
        """The mean [samples] of channels [channels, samples], some of them turned over."""
        channels, size = block.shape
        if channels == 1 or not size:
            return block[0] if channels == 1 else np.zeros(size, np.float32)
        if len(self._products) != channels:
            self._products = np.zeros((channels, channels))
        moving = block.astype(np.float64) - block.mean(axis=1, keepdims=True, dtype=np.float64)
        self._products *= np.exp(-size / rate / MEMORY)
        self._products += moving @ moving.T
        power = self._products.diagonal()
        loudest = int(power.argmax())
        likeness = self._products[loudest] / np.maximum(np.sqrt(power * power[loudest]), 1e-12)
        signs = np.where(likeness < OPPOSITE, -1, 1).astype(np.float32)
        return (signs[:, None] * block).mean(axis=0, dtype=np.float32)


def _levelled(samples: np.ndarray) -> np.ndarray:
    """Within -1 and 1, without a constant offset that is larger than what moves.

    Float files may exceed full scale; clipping would distort what is still all there, so they are scaled,
    but not by a few defective samples.
    """
    offset = float(samples.mean(dtype=np.float64))
    if abs(offset) > OFFSET * float(samples.std(dtype=np.float64)):
        samples = samples - np.float32(offset)
    peak = float(np.abs(samples).max())
    if peak <= 1:
        return samples
    whole = samples.size // FRAME * FRAME
    peaks = np.sort(np.abs(samples[:whole].reshape(-1, FRAME)).max(axis=1)) if whole else np.zeros(0)
    usual = float(peaks[-min(4, peaks.size)]) if peaks.size > 4 else peak
    if 0 < usual < peak / OUTLIER:
        peak = max(usual, 1.0)
    return np.clip(samples / np.float32(peak), -1, 1)


def _resample(blocks: Iterable[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
    """float32 [samples] of any rates to 16 kHz, block by block (soxr's high quality, librosa's default)."""
    import soxr

    stream, current = None, RATE
    for block, rate in blocks:
        if rate != current:
            if stream:
                yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
            current = rate
            stream = None
            if rate != RATE:
                stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
        yield stream.resample_chunk(np.ascontiguousarray(block)) if stream else block
    if stream:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _to_float(data: np.ndarray) -> np.ndarray:
    """Integers to float32 within -1 and 1 (unsigned ones are centred); floats stay as they are."""
    if data.dtype.kind == "f":
        return data.astype(np.float32)
    half = 2.0 ** (8 * data.dtype.itemsize - 1)
    if data.dtype.kind == "i":  # exact, and a packet may hold millions
        return data.astype(np.float32) / np.float32(half)
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
