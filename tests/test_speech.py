"""The speech tab: each function, a tiny random Whisper through the tab, and the starter on real sound."""

import html
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile

from components.compute import whisper
from components.compute.transcripts import Segment
from components.compute.whisper import Piece
from components.errors import InputError
from components.models.status import status_of
from components.show import markup
from demos import speech
from tests import tiny


def piece(text, start, end, left_out=""):
    segment = (Segment(text.strip(), start, end),) if text else ()
    return Piece(text, segment, segment, None, end, 10.0, left_out)


def test_validate_reads_the_recording(tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros((8000, 2), np.float32), 8000)
    recording = speech.validate(str(tmp_path / "clip.wav"), "segment", "transcribe", 30)
    assert recording.samples.shape == (16000,)
    assert recording.seconds == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("timestamps", "task", "says"),
    [("letters", "transcribe", "none, segment, word"), ("none", "sing", "transcribe, translate")],
)
def test_validate_names_what_is_possible(timestamps, task, says):
    with pytest.raises(InputError, match=says):
        speech.validate(str(speech.CLIP), timestamps, task, 30)


def test_validate_wants_a_recording_within_the_limit():
    with pytest.raises(InputError, match="no recording yet"):
        speech.validate(None, "none", "transcribe", 30)
    with pytest.raises(InputError, match="the limit is 3"):
        speech.validate(str(speech.CLIP), "none", "transcribe", 0.05)


def test_postprocess_joins_pieces():
    pieces = [piece(" One two", 0.0, 4.0), piece("", 4.0, 6.0, "silence"), piece(" three.", 6.0, 9.0)]
    assert speech.postprocess(pieces, "none") == ("One two three.", ())
    text, segments = speech.postprocess(pieces, "segment")
    assert text == "One two three."
    assert [(s.text, s.start) for s in segments] == [("One two", 0.0), ("three.", 6.0)]


def test_fits_only_whisper():
    assert speech._fits({"architectures": ["WhisperForConditionalGeneration"]}) is None
    assert "ViTModel" in (speech._fits({"architectures": ["ViTModel"]}) or "")


def test_clock_counts_minutes_and_hours():
    assert markup.clock(0) == "0:00.0"
    assert markup.clock(65.26) == "1:05.3"
    assert markup.clock(59.96) == "1:00.0"
    assert markup.clock(3661) == "1:01:01.0"


def test_the_starter_writes_down_the_example(models):
    *_, last = speech.run(str(speech.CLIP), "segment", "auto", "transcribe", "starter", models)
    assert "writes down the words, one token after another" in last.text
    assert last.status is not None and last.status.checkpoint == "Whisper tiny.en"
    assert last.segments[0].start < 1 and 5 < last.segments[-1].end <= last.total + 0.1
    assert last.languages == {}


def test_word_times_rise_and_spell_the_transcript(models):
    *_, last = speech.run(str(speech.CLIP), "word", "auto", "transcribe", "starter", models)
    assert "".join(word.text for word in last.segments).replace(" ", "") == last.text.replace(" ", "")
    starts = [word.start for word in last.segments]
    assert starts == sorted(starts) and len(starts) > 15


def test_a_direct_call_of_generate_gives_the_same_words(models):
    """The tab's transcript of a short clip is what Transformers' own generate writes."""
    import torch

    recording = speech.validate(str(speech.CLIP), "none", "transcribe", 30)
    with models.use(speech.OFFER, "starter") as loaded:
        inputs = loaded.processor(recording.samples, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            ids = loaded.model.generate(inputs.input_features, return_timestamps=True)
        expected = loaded.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    *_, last = speech.run(str(speech.CLIP), "none", None, "transcribe", "starter", models)
    assert last.text == expected


def test_silence_gives_no_words_but_a_remark(models, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000 * 3, np.float32), 16000)
    *_, last = speech.run(str(tmp_path / "silence.wav"), "segment", None, "transcribe", "starter", models)
    assert last.text == "" and last.segments == ()
    assert any("silence" in remark for remark in last.status.remarks)


def test_long_audio_comes_in_pieces_and_stops(models, tmp_path):
    clip, rate = soundfile.read(speech.CLIP)
    gap = np.zeros(rate // 2)
    soundfile.write(tmp_path / "long.wav", np.concatenate([clip, gap] * 6), rate)
    steps = list(speech.run(str(tmp_path / "long.wav"), "segment", None, "transcribe", "starter", models))
    assert len(steps) > 2 and steps[0].done < steps[-1].total
    assert steps[-1].text.count("one token after another") == 6
    stop = Event()
    for step in speech.run(
        str(tmp_path / "long.wav"), "segment", None, "transcribe", "starter", models, stopped=stop.is_set
    ):
        stop.set()
        last = step
    assert last.done < last.total and any("Stopped" in remark for remark in last.status.remarks)


def test_an_english_checkpoint_says_it_cannot_translate(models):
    with pytest.raises(InputError, match=r"multilingual|English"):
        list(speech.run(str(speech.CLIP), "none", None, "translate", "starter", models))


def test_status_names_checkpoint_and_device(models):
    with models.use(speech.OFFER, "starter") as loaded:
        status = status_of(loaded, 0.0)
    assert (status.checkpoint, status.source, status.dtype) == ("Whisper tiny.en", "starter", "float32")


def test_downloads_hold_the_transcript():
    result = speech.Result("Hello.", (Segment("Hello.", 0.0, 1.5),), 1.5, 1.5, {})
    files = {kind: Path(path).read_text(encoding="utf-8") for kind, path in speech._downloads(result).items()}
    assert files["txt"] == "Hello.\n"
    assert "00:00:00,000 --> 00:00:01,500" in files["srt"] and files["vtt"].startswith("WEBVTT")
    assert speech._downloads(speech.Result("", (), 1.5, 1.5, {})) == {}
    assert set(whisper.TIMESTAMPS) == {"none", "segment", "word"}


def test_the_endpoint_streams_and_ends_with_the_whole(models, tmp_path):
    clip, rate = soundfile.read(speech.CLIP)
    soundfile.write(tmp_path / "long.wav", np.concatenate([clip, np.zeros(rate // 2)] * 6), rate)
    transcribe = tiny.tab(speech.DEMO, models).endpoint("transcribe")
    steps = transcribe(str(tmp_path / "long.wav"), "segment", "transcribe", "starter")
    assert len(steps) > 1 and len(steps[0][0]) < len(steps[-1][0])
    text, segments = steps[-1]
    assert text.startswith(steps[0][0]) and text.count("one token after another") == 6
    assert segments[-1]["end"] > 35 and {"text", "start", "end"} == segments[0].keys()


def test_remarks_tell_what_was_damaged_which_track_it_is_and_that_it_seems_no_english(
    models, tmp_path, monkeypatch
):
    clip, rate = soundfile.read(speech.CLIP, dtype="float32")
    soundfile.write(tmp_path / "a.flac", clip, rate)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    (tmp_path / "a.flac").write_bytes(data)
    transcribe = tiny.tab(speech.DEMO, models).endpoint("transcribe")
    *_, (text, told) = transcribe(str(tmp_path / "a.flac"), checkpoint="starter", remarks=True)
    assert text and "damaged" in told["remarks"][0]
    page = tiny.tab(speech.DEMO, models).press(str(tmp_path / "a.flac"), "segment", "auto", "transcribe")
    assert told["remarks"][0] in html.unescape(page[-1][-1])

    monkeypatch.setattr(speech.whisper, "seems_foreign", lambda samples, pieces: True)
    *_, (_, told) = transcribe(str(speech.CLIP), checkpoint="starter", remarks=True)
    assert told["remarks"] == [speech.FOREIGN]
    assert "English only" in speech.FOREIGN and "openai/whisper-base." in speech.FOREIGN


def test_visitors_at_once_get_what_each_gets_alone(models, tmp_path):
    clip, rate = soundfile.read(speech.CLIP)
    paths = []
    for share in (0.4, 0.7, 1.0):
        paths.append(str(tmp_path / f"{share}.wav"))
        soundfile.write(paths[-1], clip[: int(share * len(clip))], rate)

    def hear(path: str) -> speech.Result:
        *_, last = speech.run(path, "word", None, "transcribe", "starter", models)
        return last

    alone = [hear(path) for path in paths]
    with ThreadPoolExecutor(len(paths)) as visitors:
        together = list(visitors.map(hear, paths))
    assert [result.text for result in together] == [result.text for result in alone]
    assert [result.segments for result in together] == [result.segments for result in alone]
    assert len({result.text for result in together}) == len(paths)
