"""Speech recognition: which words were said, and when?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from components import audio, markup, transcripts, ui, whisper
from components.audio import Audio
from components.checkpoints import Checkpoint, Hub, Offer, Recipe
from components.demo import Demo, Status, status_of
from components.errors import InputError
from components.line import Line
from components.models import Loaded, ModelManager, survives_out_of_memory
from components.progress import Progress, Report, Stopped, never, unreported
from components.transcripts import Segment
from components.wheels import WHISPER

if TYPE_CHECKING:
    from components.settings import Settings

DETECT = "auto"
CLIP = Path(__file__).parent / "media" / "tour.flac"  # spoken by flite's voice slt
LEFT_OUT = {
    "silence": "No speech from {0} to {1}: silence.",
    "no speech": "No speech from {0} to {1}: the sound there is something else.",
    "unclear": "Left out from {0} to {1}: no words could be made out.",
}


def _fits(config: dict[str, Any]) -> str | None:
    name = (config.get("architectures") or ["an unknown architecture"])[0]
    if name == "WhisperForConditionalGeneration":
        return None
    return f"it is {name}, and this tab needs a Whisper checkpoint, such as openai/whisper-base.en."


RECIPE = Recipe("speech", lambda config: "AutoModelForSpeechSeq2Seq", "AutoProcessor", _fits)
OFFER = Offer(
    course=Checkpoint("openai/whisper-base.en", Hub("openai/whisper-base.en"), RECIPE),
    starter=Checkpoint("Whisper tiny.en", WHISPER, RECIPE),
    alternatives=(
        Checkpoint("openai/whisper-tiny", Hub("openai/whisper-tiny"), RECIPE),
        Checkpoint("openai/whisper-base", Hub("openai/whisper-base"), RECIPE),
        Checkpoint("openai/whisper-small", Hub("openai/whisper-small"), RECIPE),
    ),
)


@dataclass(frozen=True)
class Result:
    """The transcript so far. segments: phrases, or words if asked for, with times in seconds.

    done of total: seconds of the recording; languages: what the checkpoint knows, code -> name, empty
    for English-only ones; status only when it is complete.
    """

    text: str
    segments: tuple[Segment, ...]
    done: float
    total: float
    languages: dict[str, str]
    status: Status | None = None


def validate(path: str | None, timestamps: str, task: str, limit_minutes: float) -> Audio:
    """The recording. Raises InputError if there is none, if it cannot be read, or for unknown options."""
    if not path:
        raise InputError("There is no recording yet. Record one, upload a file, or click an example.")
    if timestamps not in whisper.TIMESTAMPS:
        raise InputError(f"Timestamps are one of {', '.join(whisper.TIMESTAMPS)}.")
    if task not in whisper.TASKS:
        raise InputError(f"The task is one of {', '.join(whisper.TASKS)}.")
    return audio.decode(path, limit_minutes * 60)


def forward(
    recording: Audio,
    timestamps: str,
    language: str | None,
    task: str,
    loaded: Loaded,
    stopped: Stopped,
) -> Iterator[whisper.Piece]:
    """One piece for each window of up to 30 s, in order; those of all visitors are decoded together."""
    yield from whisper.transcribe(
        loaded,
        recording.samples,
        timestamps=timestamps,
        language=language,
        task=task,
        stop=stopped,
    )


def postprocess(pieces: list[whisper.Piece], timestamps: str) -> tuple[str, tuple[Segment, ...]]:
    """The transcript and its segments; no segments for timestamps "none"."""
    text = "".join(piece.text for piece in pieces).strip()
    if timestamps == "none":
        return text, ()
    parts = (piece.words if timestamps == "word" else piece.segments for piece in pieces)
    return text, tuple(segment for part in parts for segment in part)


@survives_out_of_memory
def run(
    path: str | None,
    timestamps: str,
    language: str | None,
    task: str,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    limit_minutes: float = 30,
) -> Iterator[Result]:
    """Write down a recording; yields after each window, and once more with the status."""
    recording = validate(path, timestamps, task, limit_minutes)
    code = None if language in (None, "", DETECT) else language
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        known = whisper.languages(loaded.model)
        pieces: list[whisper.Piece] = []
        for piece in forward(recording, timestamps, code, task, loaded, stopped):
            pieces.append(piece)
            yield Result(*postprocess(pieces, timestamps), piece.done, piece.total, known)
        done = pieces[-1].done if pieces else 0.0
        remarks = _remarks(recording, pieces, known, started, stopped())
        status = status_of(loaded, started, remarks)
        yield Result(*postprocess(pieces, timestamps), done, recording.seconds, known, status)


def _remarks(
    recording: Audio, pieces: list[whisper.Piece], known: dict[str, str], started: float, stopped: bool
) -> tuple[str, ...]:
    taken = time.perf_counter() - started
    remarks = [
        f"{recording.seconds:.1f} s of sound, {recording.seconds / taken:.1f} times as fast as it plays."
    ]
    language = next((piece.language for piece in pieces if piece.language), None)
    if language:
        remarks.append(f"Language: {known.get(language, language)}.")
    start = 0.0
    for piece in pieces:
        if piece.left_out:
            remarks.append(LEFT_OUT[piece.left_out].format(markup.clock(start), markup.clock(piece.done)))
        start = piece.done
    if stopped:
        remarks.append(f"Stopped at {markup.clock(start)}.")
    return tuple(remarks)


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    with page.inputs():
        sound = gr.Audio(
            str(CLIP),
            label="Recording",
            type="filepath",
            sources=["microphone", "upload"],
            buttons=["download"],
        )
        timestamps = gr.Radio(list(whisper.TIMESTAMPS), value="segment", label="Timestamps")
    with page.options():
        language = gr.Dropdown(
            [DETECT],
            value=DETECT,
            label="Language spoken",
            info="auto, or a code such as fr. For multilingual checkpoints.",
            allow_custom_value=True,
        )
        task = gr.Radio(
            list(whisper.TASKS),
            value="transcribe",
            label="Task",
            info="Translate writes English, for multilingual checkpoints.",
        )
    with page.results():
        answer = gr.Textbox(
            label="Transcript", lines=4, interactive=False, buttons=["copy"], placeholder=ui.INVITATION
        )
        timed = gr.HTML(label="Segments")
        with gr.Row():
            files = [gr.DownloadButton(kind, visible=False, min_width=80) for kind in ("SRT", "VTT", "Text")]

    def act(
        path: str | None,
        timestamps: str,
        language: str,
        task: str,
        choice: str,
        report: Report,
        stopped: Stopped,
    ) -> Iterator[tuple[Any, ...]]:
        same = (gr.skip(),) * (len(files) + 1)
        for result in run(
            path, timestamps, language, task, choice, models, report, stopped, settings.max_audio_minutes
        ):
            shown = markup.timed_lines([(s.text, s.start, s.end) for s in result.segments])
            if result.status is None:
                so_far = Progress(f"transcribed {markup.clock(result.done)} of {markup.clock(result.total)}")
                yield result.text, shown, *same, so_far
                continue
            saved = _downloads(result)
            buttons = [
                gr.update(value=saved.get(kind), visible=kind in saved) for kind in ("srt", "vtt", "txt")
            ]
            choices = [(DETECT, DETECT), *((name, code) for code, name in result.languages.items())]
            yield result.text, shown, *buttons, gr.update(choices=choices), result.status

    page.runs(act, [sound, timestamps, language, task], [answer, timed, *files, language])
    page.examples([[str(CLIP)], [gr.media.get_audio("cate_blanch.mp3")]], [sound])

    def transcribe(
        audio: str,
        timestamps: str = "none",
        task: str = "transcribe",
        checkpoint: str = "auto",
        stopped: Stopped = never,
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The transcript of a recording, and its segments or words with start and end in seconds.

        Streams what there is so far; the last answer is the whole.
        """
        limit = settings.max_audio_minutes
        for result in run(
            audio, timestamps, None, task, checkpoint, models, stopped=stopped, limit_minutes=limit
        ):
            yield result.text, [{"text": s.text, "start": s.start, "end": s.end} for s in result.segments]

    page.endpoint(
        transcribe,
        [
            ui.hidden(gr.Audio, "audio", type="filepath"),
            ui.hidden(gr.Radio, "timestamps", choices=list(whisper.TIMESTAMPS), value="none"),
            ui.hidden(gr.Radio, "task", choices=list(whisper.TASKS), value="transcribe"),
            ui.checkpoint_parameter(),
        ],
        [ui.hidden(gr.Textbox, "text"), ui.hidden(gr.JSON, "segments")],
    )


def _downloads(result: Result) -> dict[str, str]:
    """Files to download by ending: subtitles need times, the text does not."""
    if not result.text:
        return {}
    saved = {"txt": ui.download("transcript.txt", result.text + "\n")}
    if result.segments:
        saved["srt"] = ui.download("transcript.srt", transcripts.to_srt(result.segments))
        saved["vtt"] = ui.download("transcript.vtt", transcripts.to_vtt(result.segments))
    return saved


DEMO = Demo(
    "speech",
    "Speech recognition",
    5,
    "An encoder hears a spectrogram, 30 seconds at a time; a decoder writes down the words.",
    OFFER,
    build,
    at_once=8,
)
