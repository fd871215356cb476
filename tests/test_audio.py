from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import pytest
import soundfile

from components.errors import InputError
from components.inputs import audio


def chirp(rate: int, seconds: float = 1.5) -> np.ndarray:
    """A tone that rises from 200 to 1000 Hz, swells and fades. [samples]"""
    t = np.arange(int(rate * seconds)) / rate
    return 0.6 * np.sin(np.pi * t / seconds) * np.sin(2 * np.pi * (200 * t + 400 * t**2 / seconds))


def write_av(
    path: Path, kind: str, codec: str, wave: np.ndarray, rate: int, layout: str = "mono", **options: str
) -> Path:
    """Encodes wave [samples] with PyAV, the same in each channel."""
    with av.open(str(path), "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout, options=options)
        channels = av.AudioLayout(layout).nb_channels
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=rate, frame_size=None
        )
        for at in range(0, wave.size, 960):
            block = np.repeat(wave[at : at + 960].astype(np.float32), channels)[None]
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, at
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path


def likeness(samples: np.ndarray) -> float:
    """Correlation with the chirp at 16 kHz, at the best shift (codecs delay)."""
    wanted = chirp(audio.RATE)
    size = wanted.size + samples.size
    overlap = np.fft.irfft(np.fft.rfft(samples, size) * np.conj(np.fft.rfft(wanted, size)), size)
    return float(overlap.max() / np.linalg.norm(samples) / np.linalg.norm(wanted))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_of_every_number_format(tmp_path, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, chirp(16_000), 16_000, subtype=subtype)
    found = audio.decode(path)
    assert found.samples.dtype == np.float32
    assert (found.rate, found.seconds) == (16_000, 1.5)
    np.testing.assert_allclose(found.samples, chirp(16_000), atol=1 / 100 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_is_resampled_as_librosa_does(tmp_path, rate, channels):
    wave = chirp(rate)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([wave, wave / 2], 1) if channels == 2 else wave, rate, subtype="FLOAT")
    found = audio.decode(path)
    mono = wave * (0.75 if channels == 2 else 1)
    wanted = librosa.resample(mono.astype(np.float32), orig_sr=rate, target_sr=16_000)
    assert found.rate == rate
    assert found.samples.size == pytest.approx(24_000, abs=2)
    np.testing.assert_allclose(found.samples[:23_990], wanted[:23_990], atol=2e-4)


def test_long_recordings_are_resampled_without_seams(tmp_path):
    wave = chirp(44_100, 6.0)
    path = tmp_path / "a.flac"
    soundfile.write(path, wave, 44_100)
    assert wave.size > 3 * audio.BLOCK
    wanted = librosa.resample(wave.astype(np.float32), orig_sr=44_100, target_sr=16_000)
    np.testing.assert_allclose(audio.decode(path).samples, wanted, atol=5e-4)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
)
def test_what_libsndfile_reads(tmp_path, kind, subtype):
    path = tmp_path / "a.bin"
    wave = chirp(48_000)
    soundfile.write(path, np.stack([wave, wave], 1), 48_000, format=kind, subtype=subtype)
    found = audio.decode(path)
    assert found.seconds == pytest.approx(1.5, abs=0.06)
    assert likeness(found.samples) > 0.99


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [("mp4", "aac", 44_100), ("mp4", "aac", 8_000), ("webm", "libopus", 48_000), ("adts", "aac", 22_050)],
)
def test_what_pyav_reads(tmp_path, kind, codec, rate, layout):
    found = audio.decode(write_av(tmp_path / "recording", kind, codec, chirp(rate), rate, layout))
    assert found.rate == rate
    assert found.seconds == pytest.approx(1.5, abs=0.3)
    assert likeness(found.samples) > 0.98


def test_the_content_decides_not_the_name(tmp_path):
    m4a = write_av(tmp_path / "song.wav", "mp4", "aac", chirp(16_000), 16_000)
    assert likeness(audio.decode(m4a).samples) > 0.98
    for name in ("a.mp3", "a.raw", "a.txt", "a.webm", "noending"):
        soundfile.write(tmp_path / name, chirp(16_000), 16_000, format="WAV")
        assert audio.decode(str(tmp_path / name)).seconds == 1.5


def test_not_a_number_becomes_silence_and_loud_floats_are_scaled(tmp_path):
    wave = chirp(16_000)
    broken = wave.copy()
    broken[[10, 20, 30]] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "nan.wav", broken, 16_000, subtype="FLOAT")
    samples = audio.decode(tmp_path / "nan.wav").samples
    assert not samples[[10, 20, 30]].any()
    np.testing.assert_allclose(samples[31:], wave[31:], atol=1e-6)

    soundfile.write(tmp_path / "loud.wav", 32_768 * wave, 16_000, subtype="FLOAT")
    loud = audio.decode(tmp_path / "loud.wav").samples
    assert np.abs(loud).max() == pytest.approx(1)
    assert np.corrcoef(loud, wave)[0, 1] > 0.99999


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_file_of_nothing_but_not_a_number_is_silent(tmp_path, rate):
    soundfile.write(tmp_path / "nan.wav", np.full(rate, np.nan), rate, subtype="FLOAT")
    samples = audio.decode(tmp_path / "nan.wav").samples
    assert np.isfinite(samples).all()
    assert audio.is_silent(samples)


def sentence(path: Path, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        audio.decode(path, **kwargs)
    return str(caught.value)


def test_files_that_cannot_be_used(tmp_path):
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    assert "empty" in sentence(empty)
    assert "cannot be opened" in sentence(tmp_path / "missing.wav")

    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 16_000)
    assert "length of zero" in sentence(tmp_path / "zero.wav")

    contents = {
        "noise.mp3": np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes(),
        "text.wav": b"This is a letter, not a recording.\n" * 50,
        "zeros.wav": bytes(5000),
        "header.wav": b"RIFF\x24\x00\x00\x00WAVE",
        "list.m3u8": b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n",
        "list.txt": b"ffconcat version 1.0\nfile '/etc/hostname'\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        found = sentence(tmp_path / name)
        assert "not a sound recording" in found, name
        assert audio.FORMATS in found


def test_playlists_open_nothing_else(tmp_path):
    """A list that names a real recording beside it must not be followed."""
    soundfile.write(tmp_path / "secret.wav", chirp(16_000), 16_000)
    listing = tmp_path / "upload.wav"
    listing.write_text(f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n")
    assert "not a sound recording" in sentence(listing)


def test_a_truncated_m4a_is_damaged_and_a_truncated_wav_is_read_as_far_as_it_goes(tmp_path):
    m4a = write_av(tmp_path / "a.m4a", "mp4", "aac", chirp(16_000), 16_000)
    m4a.write_bytes(m4a.read_bytes()[:2000])
    assert "damaged" in sentence(m4a)

    wav = tmp_path / "a.wav"
    soundfile.write(wav, chirp(16_000), 16_000)
    wav.write_bytes(wav.read_bytes()[: 44 + 2 * 8000])
    np.testing.assert_allclose(audio.decode(wav).samples, chirp(16_000)[:8000], atol=1e-4)

    webm = write_av(tmp_path / "a.webm", "webm", "libopus", chirp(48_000), 48_000)
    webm.write_bytes(webm.read_bytes()[: webm.stat().st_size // 2])
    assert 0.3 < audio.decode(webm).seconds < 1.3


def test_a_film_without_sound(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert "no sound in this file" in sentence(path)


def test_over_the_limit_says_both_lengths(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000 * 75), 16_000)
    m4a = write_av(tmp_path / "a.m4a", "mp4", "aac", np.zeros(8_000 * 75), 8_000)
    wanted = "The recording is 1 min 15 s long and the limit is 1 min. Cut it into shorter parts."
    assert sentence(tmp_path / "a.wav", limit_seconds=60) == wanted
    assert sentence(m4a, limit_seconds=60) == wanted


def test_a_recording_whose_header_knows_no_length(tmp_path, monkeypatch):
    """What a browser's recorder writes: the limit holds while decoding, and the length is still told."""
    path = write_av(tmp_path / "live.webm", "webm", "libopus", chirp(48_000, 12.0), 48_000)
    assert audio.decode(path, limit_seconds=13).seconds == pytest.approx(12, abs=0.1)
    decoded = []
    data = audio._frame_data

    def counted(frame):
        decoded.append(frame.samples)
        return data(frame)

    monkeypatch.setattr(audio, "_frame_data", counted)
    found = sentence(path, limit_seconds=5)
    assert found == "The recording is 12 s long and the limit is 5.0 s. Cut it into shorter parts."
    assert sum(decoded) < 5.2 * 48_000


def test_levels_and_silence():
    rng = np.random.default_rng(0)
    second = audio.RATE
    tone = np.sin(2 * np.pi * 300 * np.arange(second) / second).astype(np.float32)
    quiet = np.zeros(30 * second, np.float32)
    assert audio.speech_level(quiet) == -120
    assert audio.speech_level(tone) == pytest.approx(-3.01, abs=0.05)
    assert audio.speech_level(0.01 * tone + 0.3) == pytest.approx(-43.01, abs=0.05)

    word = quiet.copy()
    word[second : second + 4800] = 0.03 * tone[:4800]
    click = quiet.copy()
    click[second] = 1
    hiss = rng.normal(0, 1, 30 * second).astype(np.float32)
    assert audio.is_silent(quiet)
    assert audio.is_silent(np.full(second, 0.5, np.float32))
    assert audio.is_silent(np.zeros(0, np.float32))
    assert audio.is_silent(click)
    assert audio.is_silent(0.0003 * hiss)
    assert audio.is_silent(0.005 * hiss)
    assert not audio.is_silent(0.1 * hiss)
    assert not audio.is_silent(word)
    assert not audio.is_silent(word + 0.0003 * hiss)
    assert not audio.is_silent(word[second : second + 3200])


def test_lengths_in_words():
    words = [audio.duration_words(seconds) for seconds in (4.24, 45, 60, 125, 1800, 3720)]
    assert words == ["4.2 s", "45 s", "1 min", "2 min 5 s", "30 min", "1 h 2 min"]


def test_leading_silence_leaves_a_margin():
    second = audio.RATE
    quiet, sound = np.zeros(3 * second, np.float32), chirp(second).astype(np.float32) + 0.0
    sound[: second // 20] = 0.3 * np.tile(np.float32([1, -1]), second // 40)  # the chirp begins softly
    assert audio.leading_silence(np.concatenate([quiet, sound])) == int(2.8 * second)
    assert audio.leading_silence(np.concatenate([quiet[: second // 2], sound])) == 0
    assert audio.leading_silence(quiet) == int(2.8 * second)
    assert audio.leading_silence(quiet[:0]) == 0


@pytest.mark.parametrize("rate", [1, 100, 1_000, 3_999])
def test_a_few_bytes_that_claim_half_an_hour_are_no_recording(tmp_path, rate):
    """At 100 Hz, 30 minutes are 180,000 samples, of which a FLAC file makes some hundred bytes."""
    steps = np.repeat(np.tile([9_000, -9_000], 22), rate * 40)[: rate * 1_790].astype(np.int16)
    path = tmp_path / "long.flac"
    soundfile.write(path, steps, rate)
    assert path.stat().st_size < 60_000
    assert "not a sound recording" in sentence(path)
