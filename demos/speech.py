"""Speech recognition: which words were said, and when?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from components.compute import transcripts, whisper
from components.compute.transcripts import Segment
from components.compute.whisper import Piece
from components.compute.windows import is_multilingual
from components.errors import InputError
from components.explain import hearing, inside, snippets, spectrogram
from components.explain.hearing import Heard
from components.explain.inside import Architecture
from components.explain.masks import AXES
from components.inputs import audio
from components.inputs.audio import Audio
from components.models.manager import Loaded, ModelManager, survives_out_of_memory
from components.models.status import Status, status_of
from components.page import answers, endpoints, showing, ui, visits
from components.page.answers import About
from components.page.demo import Demo
from components.progress import Progress, Report, Stopped, never, unreported
from components.server.line import Line
from components.show import markup, sound_markup
from components.show.inside_markup import (
    architecture_facts,
    number_table,
    readable,
    sentence,
    shape,
    stations,
)
from components.weights.checkpoints import Checkpoint, Hub, Offer, Recipe
from components.weights.wheels import WHISPER

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from components.settings import Settings

DETECT = "auto"
CLIP = Path(__file__).parent / "media" / "tour.flac"  # spoken by flite's voice slt
LEFT_OUT = {
    "silence": "No speech from {0} to {1}: silence.",
    "no speech": "No speech from {0} to {1}: the sound there is something else.",
    "unclear": "Left out from {0} to {1}: no words could be made out.",
}
FOREIGN = (
    "This checkpoint knows English only, and what is spoken here does not seem to be English, or is hard to "
    "make out: the text may be invented. For other languages choose a multilingual checkpoint, such as "
    "openai/whisper-base."
)
FIRST_TOKENS = 6  # whose logits Inside shows
STATIONS = ("Feature extractor", "Model", "Head", "Postprocessing")
ALIGNED, ALL = "aligned", "all"  # which attention heads: those that follow the sound, or all of them
GONE = (
    "The recording of this run is no longer here: files are kept for about an hour. "
    "Choose it again and press Run."
)
WAVEFORM = "Time runs to the right; the further the curve is from the middle, the louder it is."
WORDS = " Each shaded stretch is {}. Click one below to hear the recording from there."
SPECTROGRAM = (
    "Time runs to the right and pitch upward; the brighter, the stronger that pitch is at that moment. "
    "Voiced sounds are stacked bands, an s or an f is a cloud at the top, and pauses are dark."
)
ATTENTION = (
    f"{AXES.capitalize()}: each row is a token at the moment it was written, and the bright places "
    "are where in the sound the decoder listened then."
)


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
    for English-only ones; pieces: what came of each window; status only when it is complete.
    """

    text: str
    segments: tuple[Segment, ...]
    done: float
    total: float
    languages: dict[str, str]
    status: Status | None = None
    pieces: tuple[Piece, ...] = ()


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
        taken = time.perf_counter() - started
        measured = (
            f"{recording.seconds:.1f} s of sound, {recording.seconds / taken:.1f} times as fast as it plays."
        )
        foreign = not known and whisper.seems_foreign(recording.samples, pieces)
        remarks = recording.remarks + (FOREIGN,) * foreign + _remarks(pieces, known, stopped())
        status = status_of(loaded, started, remarks, measured)
        text, segments = postprocess(pieces, timestamps)
        yield Result(text, segments, done, recording.seconds, known, status, tuple(pieces))


def _remarks(pieces: list[whisper.Piece], known: dict[str, str], stopped: bool) -> tuple[str, ...]:
    remarks = []
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


@dataclass(frozen=True)
class Ran:
    """What the drawers need to know of a run, to do it again: the recording's file and every setting.

    language: a code, None where it was to be detected; checkpoint: its name, so that it is the same one
    again; pieces: what came of each window, without words, of which a long recording has many.
    """

    path: str
    timestamps: str
    language: str | None
    task: str
    checkpoint: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class Inside:
    """What happened to one window of a recording on its way to the text.

    number: of the piece, from 0; recording: float32 [samples], all of it; sound: the window's; full, frame:
    seconds of a whole window, and of a frame of the spectrogram; heard: the pass itself, None for silence,
    which the model never saw; mel: the log-Mel spectrogram [Mel bins, frames]; taken: how many tokens
    became text; words: with times in the recording, () where the checkpoint does not tell them; aligned:
    (layer, head) of the heads that follow the sound, None likewise.
    """

    number: int
    pieces: tuple[Piece, ...]
    recording: np.ndarray
    sound: np.ndarray
    full: float
    frame: float
    architecture: Architecture
    heard: Heard | None
    mel: np.ndarray
    taken: int
    words: tuple[Segment, ...]
    aligned: list[tuple[int, int]] | None

    @property
    def piece(self) -> Piece:
        return self.pieces[self.number]

    @property
    def start(self) -> float:
        """Of the window, in seconds of the recording."""
        return self.piece.window[0] / audio.RATE

    @property
    def seconds(self) -> float:
        """Of the window's sound."""
        return self.sound.size / audio.RATE

    @property
    def timed(self) -> tuple[Segment, ...]:
        """Words, or phrases where there are no words."""
        return self.words or self.piece.segments


def first_spoken(pieces: tuple[Piece, ...]) -> int:
    """The number of the first piece with text; 0 where there is none."""
    return next((number for number, piece in enumerate(pieces) if piece.text), 0)


def look_inside(ran: Ran, models: ModelManager, number: int | None = None, minutes: float = 30) -> Inside:
    """One window again with all that is between; number: of its piece, None for the first with text.

    One pass of the encoder and one of the decoder over the tokens of the run. Raises InputError if the
    file is gone.
    """
    if not Path(ran.path).is_file():
        raise InputError(GONE)
    recording = validate(ran.path, ran.timestamps, ran.task, minutes).samples
    if number is None or number not in range(len(ran.pieces)):
        number = first_spoken(ran.pieces)
    piece = ran.pieces[number]
    sound = audio.raised(recording[slice(*piece.window)])
    with models.use(OFFER, ran.checkpoint) as loaded:
        extractor = loaded.processor.feature_extractor
        heard = None
        if piece.left_out != "silence":
            heard = hearing.hear(loaded, sound, piece.tokens, piece.language, ran.task)
        spans = whisper.taken(loaded.model, piece)
        return Inside(
            number=number,
            pieces=ran.pieces,
            recording=recording,
            sound=sound,
            full=extractor.n_samples / audio.RATE,
            frame=extractor.n_fft / audio.RATE,
            architecture=inside.architecture(loaded),
            heard=heard,
            mel=heard.mel if heard else spectrogram.log_mel(extractor, sound),
            taken=_taken(spans, piece.tokens, loaded),
            words=whisper.words_of(loaded, piece, heard.ends, sound) if heard and heard.ends else (),
            aligned=hearing.alignment_heads(loaded.model),
        )


def _taken(spans: list[whisper.Span], tokens: tuple[int, ...], loaded: Loaded) -> int:
    """How many of the tokens are up to the end of the text, and the timestamp that closes it."""
    if not spans:
        return 0
    last = spans[-1][1]
    closed = last < len(tokens) and tokens[last] > loaded.model.generation_config.no_timestamps_token_id
    return last + closed


def draw_inside(seen: Inside) -> str:
    """The four stations as HTML."""
    where = f"This window is from {markup.clock(seen.start)} to {markup.clock(seen.start + seen.seconds)}. "
    if seen.heard is None:
        return sentence(where + "It is silent, so the model was not asked.")
    model = (
        architecture_facts(seen.architecture)
        + sentence("The encoder halves the frames. Its last hidden states for this window have the shape")
        + shape(seen.heard.encoder)
        + sentence("and the decoder's, one for each token that it read,")
        + shape(seen.heard.decoder)
    )
    return stations(
        _extractor(seen, where), model, _head(seen.heard), _postprocessing(seen, seen.heard), titles=STATIONS
    )


def _extractor(seen: Inside, where: str) -> str:
    words = (
        f"{where}The feature extractor looks at {1000 * seen.frame:.0f} ms of sound every 10 ms and measures "
        f"how strong each of {len(seen.mel)} bands of pitch is, the Mel bins; the logarithm of that is the "
        f"log-Mel spectrogram, drawn below. A window is always {seen.full:g} s long: {seen.seconds:.1f} s of "
        "this one are sound"
    )
    padded = seen.full - seen.seconds > 0.01
    words += ", and silence fills it up." if padded else "."
    return sentence(words + " The encoder reads numbers of the shape") + (
        shape(seen.heard.features) if seen.heard else ""
    )


def _head(heard: Heard) -> str:
    rows = [
        (
            readable(token.text),
            f"{token.logit:.4f}",
            f"{token.highest[1]:.4f}",
            readable(token.highest[0]),
        )
        for token in heard.written[:FIRST_TOKENS]
        if token.logit is not None and token.highest is not None
    ]
    return (
        sentence("The head makes one number for every token of the vocabulary, at each place: the logits.")
        + shape(heard.logits)
        + sentence("Those of the first tokens that were written:")
        + number_table(("written", "its logit", "highest logit", "which is"), rows)
        + sentence(
            "The two may differ: rules forbid some tokens at some places, such as <|notimestamps|> where "
            "a timestamp has to stand, and the highest logit among the allowed wins."
        )
    )


def _postprocessing(seen: Inside, heard: Heard) -> str:
    piece = seen.piece
    asked = "The decoder begins with what it is asked for"
    if len(heard.prompt) > 1:
        asked += "; what it would have said itself is the probability below"
    told = "The logits after the first token tell how likely it is that nobody speaks: "
    told += f"{markup.percent(heard.no_speech)}."
    if heard.languages:
        known = ", ".join(f"{name} {markup.percent(share)}" for name, share in heard.languages)
        told += f" They tell the language as well: {known}."
    parts = [
        sentence(f"{asked}:"),
        sound_markup.written_chips(heard.prompt),
        sentence(told),
        sentence(
            "Then the decoder writes, one token after another. A softmax over the logits makes the "
            "probability of each, given all before it, which is shown below its id. Dashed ones are no text: "
            f"timestamps count seconds from the beginning of the window, in steps of {whisper.STEP} s."
        ),
    ]
    again = piece.done < seen.start + seen.seconds - whisper.STEP / 2
    rest = any(token.kind == "text" for token in heard.written[seen.taken :])
    if piece.text and (again or rest):
        why = "the next window begins there and hears that part whole." if again else "nothing is said there."
        parts += [
            sound_markup.written_chips(heard.written, seen.taken),
            sentence(f"The faint ones are not taken: {why}"),
        ]
    else:
        parts.append(sound_markup.written_chips(heard.written))
    if piece.left_out:
        start, end = markup.clock(seen.start), markup.clock(piece.done)
        parts.append(sentence(LEFT_OUT[piece.left_out].format(start, end)))
    else:
        parts += [
            sentence(
                "Text between two timestamps is a segment. With the place of the window in the recording "
                "added to the times, the transcript is"
            ),
            markup.timed_lines([(s.text, s.start, s.end) for s in piece.segments]),
        ]
    return "".join(parts)


def waveforms(seen: Inside) -> tuple[go.Figure | None, go.Figure]:
    """The whole recording with the window marked, where it has several, and the window with its words."""
    end = seen.start + seen.seconds
    whole = None
    if len(seen.pieces) > 1:
        title = f"The whole recording, {markup.clock(seen.recording.size / audio.RATE)} long"
        whole = spectrogram.waveform_figure(seen.recording, marked=(seen.start, end), title=title)
    title = f"Waveform from {markup.clock(seen.start)} to {markup.clock(end)}"
    return whole, spectrogram.waveform_figure(seen.sound, seen.start, seen.timed, title=title)


def choices_of_heads(seen: Inside) -> list[tuple[str, str]]:
    """Which attention can be looked at: what it is called, and its key for `attention_of`."""
    if seen.heard is None:
        return []
    layers, heads = seen.heard.attentions.shape[:2]
    named = [("Mean of the alignment heads", ALIGNED)] if seen.aligned else []
    named.append(("Mean of all layers and heads", ALL))
    for layer in range(1, layers + 1):
        named.append((f"Layer {layer}, mean of its heads", f"{layer}"))
        named += [(f"Layer {layer}, head {head}", f"{layer}.{head}") for head in range(1, heads + 1)]
    return named


def attention_of(heard: Heard, aligned: list[tuple[int, int]] | None, choice: str) -> np.ndarray:
    """Cross-attention `[written, positions]` of a choice: "aligned", "all", "2" (a layer) or "2.1"."""
    if choice in (ALIGNED, ALL):
        return hearing.mean_attention(heard, aligned if choice == ALIGNED else None)
    layer, _, head = choice.partition(".")
    return hearing.mean_attention(heard, None, int(layer) - 1, int(head) - 1 if head else None)


def draw_attention(seen: Inside, choice: str) -> tuple[str, go.Figure | None]:
    """How to read the cross-attention, and the figure; None where there is none."""
    if seen.heard is None:
        return "", None
    names = {key: name for name, key in choices_of_heads(seen)}
    weights = attention_of(seen.heard, seen.aligned, choice)
    tokens = [readable(token.text) for token in seen.heard.written]
    padding = spectrogram.outside(weights, round(seen.seconds / whisper.STEP))
    words = [ATTENTION]
    if choice == ALIGNED:
        words.append("These heads follow the sound, as the checkpoint says; word times come from them.")
    words.append(f"Each row sums to 1; of it {markup.percent(padding)} lie on padding, which is not drawn.")
    if len(tokens) > spectrogram.MOST_TOKENS:
        words.append(f"Drawn are the first {spectrogram.MOST_TOKENS} of {len(tokens)} tokens.")
    figure = spectrogram.listening_figure(
        weights, tokens, whisper.STEP, seen.seconds, seen.start, names[choice]
    )
    return sound_markup.section("Cross-attention of text and time", sentence(" ".join(words))), figure


def names_of_windows(pieces: tuple[Piece, ...]) -> list[tuple[str, int]]:
    """What each window is called, and its number."""
    return [
        (
            f"{number + 1}: {markup.clock(piece.window[0] / audio.RATE)} to "
            f"{markup.clock(piece.window[1] / audio.RATE)}, {piece.text.strip()[:50] or piece.left_out}",
            number,
        )
        for number, piece in enumerate(pieces)
    ]


def build_inside(page: ui.Page, ran: gr.State, models: ModelManager, minutes: float) -> None:
    """The drawer: stations, waveform with words to click, spectrogram and cross-attention of one window."""
    with page.drawer("Inside") as drawer:
        window = gr.Dropdown(
            [],
            label="Window",
            visible=False,
            info="A long recording is heard in parts; this shows one of them.",
        )
        stations = gr.HTML()
        about_sound = gr.HTML()
        player = gr.Audio(
            label="Recording",
            type="filepath",
            interactive=False,
            visible=False,
            buttons=[],
            waveform_options=gr.WaveformOptions(show_recording_waveform=False),  # it has a waveform below
        )
        whole = gr.Plot(show_label=False, visible=False)
        waveform = gr.Plot(show_label=False, visible=False, elem_classes="waveform")
        words = gr.HTML()
        about_mel = gr.HTML()
        mel = gr.Plot(show_label=False, visible=False)
        about_attention = gr.HTML()
        heads = gr.Dropdown([], label="Attention heads", visible=False)
        attention = gr.Plot(show_label=False, visible=False)

    def plot(figure: go.Figure | None) -> Any:
        return gr.update(value=figure, visible=figure is not None)

    def listened(seen: Inside, choice: str | None) -> tuple[Any, ...]:
        choices = choices_of_heads(seen)
        keys = [key for _, key in choices]
        choice = choice if choice in keys else next(iter(keys), None)
        text, figure = draw_attention(seen, choice or ALL)
        return gr.update(choices=choices, value=choice, visible=bool(choices)), text, plot(figure)

    def draw(seen: Inside, choice: str | None) -> tuple[Any, ...]:
        around, near = waveforms(seen)
        told = WAVEFORM + (WORDS.format("a word" if seen.words else "a phrase") if seen.timed else "")
        padding = " Past the dotted line is padding." if seen.full - seen.seconds > 0.01 else ""
        return (
            gr.update(choices=names_of_windows(seen.pieces), value=seen.number, visible=len(seen.pieces) > 1),
            draw_inside(seen),
            sound_markup.section("Waveform and words", sentence(told)),
            plot(around),
            plot(near),
            sound_markup.word_buttons(seen.timed),
            sound_markup.section("Log-Mel spectrogram", sentence(SPECTROGRAM + padding)),
            plot(spectrogram.spectrogram_figure(seen.mel, seen.seconds, seen.start)),
            *listened(seen, choice),
        )

    def look(ran: Ran, choice: str | None) -> tuple[Any, ...]:
        return gr.update(value=ran.path, visible=True), *draw(look_inside(ran, models, None, minutes), choice)

    def other_window(ran: Ran | None, number: int, choice: str | None) -> tuple[Any, ...]:
        return draw(look_inside(ran, models, number, minutes), choice) if ran else (gr.skip(),) * len(parts)

    def other_heads(ran: Ran | None, number: int, choice: str | None) -> tuple[Any, ...]:
        return listened(look_inside(ran, models, number, minutes), choice) if ran else (gr.skip(),) * 3

    listening = [heads, about_attention, attention]
    parts = [window, stations, about_sound, whole, waveform, words, about_mel, mel, *listening]
    drawer.shows(look, [ran, heads], [player, *parts])
    drawer.changes(window, other_window, [ran, window, heads], parts)
    drawer.changes(heads, other_heads, [ran, window, heads], listening)


def code(ran: Ran, models: ModelManager, public: bool) -> str:
    """The program that writes down the same windows."""
    with models.use(OFFER, ran.checkpoint) as loaded:
        return snippets.speech(
            snippets.place_of(loaded, public),
            ran.timestamps,
            ran.language,
            ran.task,
            multilingual=is_multilingual(loaded.model),
            seconds=loaded.processor.feature_extractor.chunk_length,
            heard=snippets.heard_in(ran.pieces),
        )


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
        gr.HTML(ui.INSECURE, elem_classes="only-insecure")
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
            label="Transcript", lines=4, interactive=False, buttons=["copy"], placeholder=showing.INVITATION
        )
        timed = gr.HTML(label="Segments")
        with gr.Row():
            files = [gr.DownloadButton(kind, visible=False, min_width=80) for kind in ("SRT", "VTT", "Text")]
    ran = gr.State()

    def act(
        path: str | None,
        timestamps: str,
        language: str,
        task: str,
        choice: str,
        report: Report,
        stopped: Stopped,
    ) -> Iterator[tuple[Any, ...]]:
        same = (gr.skip(),) * (len(files) + 2)
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
            code = None if language in (None, "", DETECT) else language
            pieces = tuple(replace(piece, words=()) for piece in result.pieces)
            done = Ran(str(path), timestamps, code, task, result.status.checkpoint, pieces)
            yield result.text, shown, *buttons, gr.update(choices=choices), done, result.status

    page.runs(act, [sound, timestamps, language, task], [answer, timed, *files, language, ran])
    page.examples([[str(CLIP)], [gr.media.get_audio("cate_blanch.mp3")]], [sound])
    page.linked({"audio": sound, "timestamps": timestamps, "language": language, "task": task})
    build_inside(page, ran, models, settings.max_audio_minutes)
    page.code(lambda ran: code(ran, models, visits.is_exposed(settings)), ran)

    def transcribe(
        audio: str,
        timestamps: str = "none",
        task: str = "transcribe",
        checkpoint: str = "auto",
        remarks: bool = False,
        stopped: Stopped = never,
    ) -> Iterator[tuple[str, list[dict[str, Any]] | dict[str, Any]]]:
        """Write down what is said in a recording, streamed; the last answer is the whole.

        Args:
            audio: The recording, such as WAV, FLAC, MP3, OGG, M4A or WebM.
            timestamps: Times to give: "none", of each "segment", or of each "word".
            task: "transcribe", or "translate" into English, for which a multilingual checkpoint is needed.
            checkpoint: "auto", "course", "starter", or owner/name or owner/name@revision on the hub.
            remarks: Whether to say what was left out and why as well; the second answer is then an object.

        Returns:
            the text
            segments or words with start and end in seconds, if asked for; with remarks: segments and remarks
        """
        limit = settings.max_audio_minutes
        for result in run(
            audio, timestamps, None, task, checkpoint, models, stopped=stopped, limit_minutes=limit
        ):
            timed = [{"text": s.text, "start": s.start, "end": s.end} for s in result.segments]
            said = result.status.remarks if result.status else ()
            yield result.text, answers.remarked("segments", timed, said, remarks)

    page.endpoint(
        transcribe,
        [
            endpoints.hidden(gr.Audio, "audio", type="filepath"),
            endpoints.hidden(gr.Radio, "timestamps", choices=list(whisper.TIMESTAMPS), value="none"),
            endpoints.hidden(gr.Radio, "task", choices=list(whisper.TASKS), value="transcribe"),
            endpoints.checkpoint_parameter(),
            endpoints.remarks_parameter(),
        ],
        [endpoints.hidden(gr.Textbox, "text"), endpoints.hidden(gr.JSON, "segments")],
        About((answers.TEXT, answers.with_remarks("segments", answers.SEGMENTS))),
    )


def _downloads(result: Result) -> dict[str, str]:
    """Files to download by ending: subtitles need times, the text does not."""
    if not result.text:
        return {}
    saved = {"txt": showing.download("transcript.txt", result.text + "\n")}
    if result.segments:
        saved["srt"] = showing.download("transcript.srt", transcripts.to_srt(result.segments))
        saved["vtt"] = showing.download("transcript.vtt", transcripts.to_vtt(result.segments))
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
