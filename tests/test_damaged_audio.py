"""Recordings with wrong headers, damaged bytes, late tracks or odd channels: nothing is lost or misplaced."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from components.errors import InputError
from components.inputs import audio
from tests.test_audio import sentence, write_av

RATE = 16_000


def beeps(count: int, rate: int = RATE) -> np.ndarray:
    """A second each: a tone for 0.3 s, higher each time, then quiet. [samples]"""
    t = np.arange(int(0.3 * rate)) / rate
    seconds = []
    for i in range(count):
        second = np.zeros(rate)
        second[rate // 10 : rate // 10 + t.size] = 0.5 * np.sin(2 * np.pi * (300 + 40 * i) * t)
        seconds.append(second)
    return np.concatenate(seconds)


def heard(samples: np.ndarray) -> list[float]:
    """When each beep begins, in seconds."""
    loud = np.convolve(np.abs(samples) > 0.1, np.ones(320), "same") > 10
    edges = np.flatnonzero(np.diff(np.r_[False, loud, False].astype(np.int8)))
    return [round(float(start) / RATE, 2) for start, end in edges.reshape(-1, 2) if end - start > RATE // 10]


def at(*seconds: float) -> Any:
    return pytest.approx([second + 0.09 for second in seconds], abs=0.06)


def mp3(path: Path, count: int, rate: int = RATE) -> bytes:
    soundfile.write(path, beeps(count, rate), rate, format="MP3", subtype="MPEG_LAYER_III")
    return path.read_bytes()


def xing(data: bytes) -> int:
    """Where the frame count of a Xing or Info header lies."""
    found = re.search(b"Xing|Info", data[:4000])
    assert found and data[found.end() + 3] & 1
    return found.end() + 4


# What the header says


@pytest.mark.parametrize("frames", [0, 3, 100, 10_000_000])
def test_an_mp3_is_read_to_its_end_whatever_its_xing_header_says(tmp_path, frames):
    data = bytearray(mp3(tmp_path / "a.mp3", 8))
    place = xing(data)
    data[place : place + 4] = struct.pack(">I", frames)
    (tmp_path / "a.mp3").write_bytes(data)
    assert heard(audio.decode(tmp_path / "a.mp3", 60).samples) == at(*range(8))


def test_an_mp3_without_a_xing_header(tmp_path):
    data = mp3(tmp_path / "a.mp3", 6)
    place = xing(data)
    second = data.index(data[:2], place)  # the frame after the header's
    (tmp_path / "a.mp3").write_bytes(data[second:])
    # The encoder's delay of 1,105 samples is told there only.
    begun = [time - 1105 / RATE for time in heard(audio.decode(tmp_path / "a.mp3").samples)]
    assert begun == at(*range(6))


def test_joined_mp3s_are_all_read(tmp_path):
    data = mp3(tmp_path / "a.mp3", 3) + mp3(tmp_path / "b.mp3", 4)
    (tmp_path / "c.mp3").write_bytes(data)
    found = audio.decode(tmp_path / "c.mp3")
    assert len(heard(found.samples)) == 7
    assert found.seconds == pytest.approx(7, abs=0.3)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_all_read(tmp_path, subtype):
    for name, count in (("a", 3), ("b", 4)):
        soundfile.write(tmp_path / name, beeps(count, 48_000), 48_000, format="OGG", subtype=subtype)
    (tmp_path / "c.ogg").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    found = audio.decode(tmp_path / "c.ogg")
    assert heard(found.samples) == at(*range(7))


@pytest.mark.parametrize("size", [0, 1000, 0x7FFFFFF0, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_is_read_to_its_end_whatever_its_header_says(tmp_path, size, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, beeps(5), RATE, subtype=subtype)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", size)
    data[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
    path.write_bytes(data)
    assert heard(audio.decode(path, 60).samples) == at(*range(5))


def test_what_follows_the_sound_of_a_wav_is_no_sound(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, beeps(2), RATE)
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 9000) + bytes(range(1, 251)) * 36)
    assert audio.decode(path).seconds == 2


def test_a_flac_that_says_it_is_short_or_long(tmp_path):
    for count in (0, 100, 10**9):
        soundfile.write(tmp_path / "a.flac", beeps(4), RATE)
        data = bytearray((tmp_path / "a.flac").read_bytes())
        head = int.from_bytes(data[18:26], "big") >> 36 << 36 | count  # the total of samples: 36 bits
        data[18:26] = head.to_bytes(8, "big")
        (tmp_path / "a.flac").write_bytes(data)
        assert heard(audio.decode(tmp_path / "a.flac", 60).samples) == at(*range(4)), count


@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg", "wav"])
def test_no_more_than_the_limit_is_decoded_whatever_the_header_says(tmp_path, monkeypatch, kind):
    path = tmp_path / "a"
    soundfile.write(path, beeps(20), RATE, format=kind)
    read, assemble = [], audio._assemble

    def counted(blocks: Any, rate: int) -> Any:
        def each() -> Any:
            for block, at_rate in blocks:
                read.append(block.shape[1] / at_rate)
                yield block, at_rate

        return assemble(each(), rate)

    monkeypatch.setattr(audio, "_assemble", counted)
    assert "limit is 3.0 s" in sentence(path, limit_seconds=3)
    assert sum(read) <= 3


# What is damaged


def test_a_damaged_flac_goes_on_after_it_and_keeps_the_clock(tmp_path):
    soundfile.write(
        tmp_path / "a.flac", beeps(12) + 0.01 * np.random.default_rng(0).normal(size=12 * RATE), RATE
    )
    whole = (tmp_path / "a.flac").read_bytes()
    for places in ([0.4], [0.2, 0.6], [0.3, 0.305, 0.31]):
        data = bytearray(whole)
        for share in places:
            start = int(share * len(data))
            data[start : start + 40] = bytes(40)
        (tmp_path / "b.flac").write_bytes(data)
        found = audio.decode(tmp_path / "b.flac")
        assert found.seconds == pytest.approx(12, abs=0.02)
        begun = heard(found.samples)
        assert len(begun) >= 12 - 2 * len(places)
        assert all(0.05 <= time % 1 <= 0.16 for time in begun[2:]), begun
        (remark,) = found.remarks
        assert "damaged" in remark and "silent" in remark


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("matroska", "flac")])
def test_packets_that_cannot_be_decoded_are_passed_over(tmp_path, monkeypatch, kind, codec):
    """Whatever the decoder says of them."""
    rate = 48_000
    path = write_av(tmp_path / "a", kind, codec, beeps(8, rate), rate)
    errors = [
        av.error.InvalidDataError(1, "x"),
        av.error.PatchWelcomeError(2, "x"),
        av.error.ExternalError(3, "x"),
        ValueError("x"),
    ]
    data = audio._Track._frames

    class Broken:
        """A packet of the fourth second."""

        def __init__(self, packet: Any) -> None:
            self.packet = packet

        def __getattr__(self, name: str) -> Any:
            return getattr(self.packet, name)

        def decode(self) -> Any:
            if self.packet.pts is not None and 3 <= self.packet.pts * self.packet.time_base < 4:
                raise errors[int(self.packet.pts) % len(errors)]
            return self.packet.decode()

    monkeypatch.setattr(audio._Track, "_frames", lambda self, packet: data(self, Broken(packet)))
    found = audio.decode(path)
    assert heard(found.samples) == at(0, 1, 2, 4, 5, 6, 7)
    (remark,) = found.remarks
    assert re.search(r"damaged: (0\.9|1\.[01]) s", remark)


def test_bytes_of_an_m4a_that_are_overwritten(tmp_path):
    path = write_av(tmp_path / "a.m4a", "mp4", "aac", beeps(10), RATE)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    length = struct.unpack(">I", data[start - 8 : start - 4])[0]
    random = np.random.default_rng(1)
    for share in (0.3, 0.5):
        place = start + int(share * length)
        data[place : place + 300] = random.integers(0, 256, 300, np.uint8).tobytes()
    path.write_bytes(data)
    found = audio.decode(path)
    assert found.seconds == pytest.approx(10, abs=0.2)
    begun = heard(found.samples)
    assert begun[0] == pytest.approx(0.09, abs=0.06) and begun[-1] == pytest.approx(9.09, abs=0.06)


# When it was


def written(path: Path, kind: str, codec: str, tracks: list[dict[str, Any]], rate: int = 48_000) -> Path:
    """Tracks of beeps: starts (in seconds) of each, count, and whether it is the default; by PyAV."""
    with av.open(str(path), "w", format=kind) as container:
        packets = []
        for number, track in enumerate(tracks):
            stream: Any = container.add_stream(codec, rate=rate, layout="mono")
            stream.disposition = (track.get("default", number == 0) and 1) or 0
            stream.metadata.update(track.get("about", {}))
            stream.time_base = Fraction(1, rate)
            wave = track["wave"].astype(np.float32)
            size = 960 if codec == "libopus" else 1024
            for place in range(0, wave.size, size):
                block = wave[place : place + size]
                frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
                if codec == "libopus":
                    frame = av.AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = place + int(track.get("late", 0) * rate)
                packets += stream.encode(frame)
            packets += stream.encode(None)
        gap = [tuple(track.get("gap", (9e9, 9e9))) for track in tracks]
        for packet in sorted(packets, key=lambda one: one.pts * one.time_base):
            low, high = gap[packet.stream_index]
            if not low <= packet.pts * packet.time_base < high:
                container.mux(packet)
    return path


KINDS = [("mp4", "aac"), ("webm", "libopus"), ("matroska", "aac")]


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_a_track_that_begins_late(tmp_path, kind, codec):
    early = {"wave": 0 * beeps(9, 48_000), "default": False}
    late = {"wave": beeps(3, 48_000), "late": 5, "default": True}
    found = audio.decode(written(tmp_path / "a", kind, codec, [early, late]))
    assert heard(found.samples) == at(5, 6, 7)
    assert "2 sound tracks. This is number 2" in found.remarks[0]


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_a_gap_of_packets_is_silence(tmp_path, kind, codec):
    found = audio.decode(
        written(tmp_path / "a", kind, codec, [{"wave": beeps(8, 48_000), "gap": (2.95, 4.95)}])
    )
    assert heard(found.samples) == at(0, 1, 2, 5, 6, 7)
    assert found.seconds == pytest.approx(8, abs=0.1) and found.remarks == ()


def test_a_clock_that_jumps_further_than_any_recording_is_not_followed(tmp_path):
    wave = {"wave": beeps(3, 48_000), "late": 100_000}
    found = audio.decode(written(tmp_path / "a", "matroska", "aac", [wave]))
    assert heard(found.samples) == at(0, 1, 2)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("matroska", "aac")])
def test_the_default_track_is_taken_and_named(tmp_path, kind, codec):
    tracks = [
        {"wave": beeps(2, 48_000), "default": False, "about": {"language": "fra"}},
        {"wave": beeps(4, 48_000), "default": True, "about": {"language": "eng"}},
        {"wave": beeps(6, 48_000), "default": False},
    ]
    found = audio.decode(written(tmp_path / "a", kind, codec, tracks))
    assert len(heard(found.samples)) == 4
    assert found.remarks == ("The file has 3 sound tracks. This is number 2 (eng).",)


def test_without_a_default_the_first_track_is_taken(tmp_path):
    tracks = [{"wave": beeps(2, 48_000), "default": False}, {"wave": beeps(4, 48_000), "default": False}]
    found = audio.decode(written(tmp_path / "a", "matroska", "aac", tracks))
    assert len(heard(found.samples)) == 2 and "number 1" in found.remarks[0]


# Channels and levels


def spoken(seed: int = 0) -> np.ndarray:
    """Two seconds that rise and fall. [samples]"""
    random = np.random.default_rng(seed)
    return np.where(np.arange(2 * RATE) % 4000 < 2600, 0.2, 0.002) * random.normal(size=2 * RATE)


@pytest.mark.parametrize(
    "gains", [(1, -1), (1, -0.5), (-0.3, 0.9), (1, -1, 0), (0.5, 0.5, -1), (1, 1, -1, -1, 0.2, -0.7)]
)
def test_channels_of_opposite_phase_add_up(tmp_path, gains):
    wave = 0.5 * spoken()
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([gain * wave for gain in gains], 1), RATE, subtype="FLOAT")
    samples = audio.decode(path).samples
    mean = np.abs(gains).mean()
    assert abs(np.corrcoef(samples, wave)[0, 1]) > 0.999
    assert samples.std() == pytest.approx(mean * wave.std(), rel=0.01)


def test_voices_on_channels_of_their_own_are_both_kept(tmp_path):
    left, right = 0.5 * spoken(1), 0.5 * spoken(2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(audio.decode(tmp_path / "a.wav").samples, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("defect", [20_000.0, -3e9, np.inf, -np.inf, np.nan, 1e38])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_defective_sample_silences_nothing(tmp_path, defect, scale):
    wave = scale * spoken()
    wave[[100, 7000]] = defect
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    samples = audio.decode(tmp_path / "a.wav").samples
    assert np.abs(samples).max() <= 1 and samples.std() > 0.1
    good = np.ones(wave.size, bool)
    good[[100, 7000]] = False
    assert np.corrcoef(samples[good], spoken()[good])[0, 1] > 0.99


@pytest.mark.parametrize("offset", [0.5, -0.9, 3.0])
def test_a_constant_offset_is_taken_away(tmp_path, offset):
    wave = 0.05 * spoken()
    soundfile.write(tmp_path / "a.wav", wave + offset, RATE, subtype="FLOAT")
    samples = audio.decode(tmp_path / "a.wav").samples
    np.testing.assert_allclose(samples, wave - wave.mean(), atol=1e-5)


def test_an_empty_wav_is_still_empty(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    with pytest.raises(InputError, match="length of zero"):
        audio.decode(tmp_path / "a.wav")
