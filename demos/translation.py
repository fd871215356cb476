"""Translation: how does a sentence become one in another language, and which tokens look at which?"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from components import tables, ui
from components.batching import Batcher
from components.checkpoints import Bundled, Checkpoint, Hub, Offer, Recipe
from components.demo import Demo, Status, status_of
from components.errors import Cancelled, InputError
from components.figures import attention_heatmap
from components.line import Line
from components.models import Loaded, ModelManager, survives_out_of_memory
from components.progress import Report, Stopped, never, unreported
from components.sentences import split_sentences

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import torch

    from components.settings import Settings

EXAMPLES = [
    "You like this house",
    "The weather is nice today. Shall we go for a walk in the park?",
    "Two dogs are running on the beach.",
    "A man in a blue shirt is standing on a ladder cleaning a window.",
]
BATCH = 16  # sentences that go together at most
STEP = 32  # see longest
MOST_CHARACTERS = 20_000
Pair = tuple[tuple[int, ...], tuple[int, ...]]  # the ids of a sentence, and those the decoder is fed
Weights = tuple[np.ndarray, np.ndarray, np.ndarray]  # encoder, decoder, cross: see Attention
KINDS = {"Encoder self-attention": "encoder", "Decoder self-attention": "decoder", "Cross-attention": "cross"}
MEAN = "mean of heads"


def _fits(config: dict[str, Any]) -> str | None:
    name = (config.get("architectures") or ["an unknown architecture"])[0]
    if name == "MarianMTModel":
        return None
    return (
        f"it is {name}, and this tab needs a Marian translation checkpoint, such as "
        "Helsinki-NLP/opus-mt-en-fr or any other opus-mt language pair."
    )


# Only eager attention gives its weights.
RECIPE = Recipe(
    "translation", lambda config: "AutoModelForSeq2SeqLM", "AutoTokenizer", _fits, attention="eager"
)


def _opus(pair: str) -> Checkpoint:
    return Checkpoint(f"Helsinki-NLP/opus-mt-{pair}", Hub(f"Helsinki-NLP/opus-mt-{pair}"), RECIPE)


OFFER = Offer(
    course=_opus("en-fr"),
    starter=Checkpoint("Marian en-fr, small", Bundled("marian-en-fr"), RECIPE),
    alternatives=(_opus("fr-en"), _opus("en-de"), _opus("de-en"), _opus("en-es")),
)


@dataclass(frozen=True)
class Sentence:
    """One sentence, its translation, and the ids the model read and wrote, special tokens included."""

    source: str
    target: str
    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """Paragraphs of sentences. pair: source and target language codes of the checkpoint."""

    paragraphs: tuple[tuple[Sentence, ...], ...]
    pair: tuple[str, str]
    status: Status

    @property
    def text(self) -> str:
        return "\n".join(" ".join(sentence.target for sentence in row) for row in self.paragraphs)

    @property
    def sentences(self) -> list[Sentence]:
        return [sentence for row in self.paragraphs for sentence in row]


@dataclass(frozen=True)
class Attention:
    """Attention weights of one sentence: encoder `[layers, heads, source, source]`, decoder
    `[layers, heads, target, target]`, cross `[layers, heads, target, source]`; each row sums to 1.

    The decoder's queries are the tokens it was fed, which begin with its start token.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    cross: np.ndarray
    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    special: frozenset[str]


def validate(text: str | None) -> list[list[str]]:
    """The sentences of each paragraph. Raises InputError without a text, or for one that is too long."""
    clean = (text or "").strip()
    if not clean:
        raise InputError("There is no text yet. Type a sentence and run again.")
    if len(clean) > MOST_CHARACTERS:
        raise InputError(
            f"That is {len(clean)} characters; at most {MOST_CHARACTERS} go in one run. Split it up."
        )
    return split_sentences(clean)


def language_pair(loaded: Loaded) -> tuple[str, str]:
    """Codes of the source and target language, from the tokenizer or, failing that, the name."""
    tokenizer = loaded.processor
    if tokenizer.source_lang and tokenizer.target_lang:
        return tokenizer.source_lang, tokenizer.target_lang
    match = re.search(r"-(\w{2,})-(\w{2,})$", loaded.checkpoint.name.partition("@")[0])
    return (match[1], match[2]) if match else ("?", "?")


def preprocess(sentences: list[str], loaded: Loaded) -> tuple[list[tables.Encoding], list[str | None]]:
    """The tokens of each sentence, unpadded, and for each what was kept if it was cut.

    A checkpoint for several target languages gets its first one unless the text names one (>>fra<<).
    """
    codes = loaded.processor.supported_language_codes
    if codes:
        sentences = [s if s.startswith(">>") else f"{codes[0]} {s}" for s in sentences]
    return tables.tokenized(sentences, loaded, loaded.model.config.max_position_embeddings)


def longest(source: int, loaded: Loaded) -> int:
    """Tokens that a translation of so many may have: a few times as many. A loop ends there.

    In steps, so that most sentences have the same limit and go together: it must not be a neighbour's.
    """
    return min(loaded.model.config.max_position_embeddings, 3 * STEP * math.ceil(source / STEP) + 20)


def forward(inputs: dict[str, torch.Tensor], loaded: Loaded, stopped: Stopped = never) -> torch.Tensor:
    """input_ids and attention_mask `[batch, source]` -> ids of the translations `[batch, target]` on the CPU.

    The checkpoint's own settings say how. Call it on a turn; between two tokens it gives way to others, or
    raises Cancelled if `stopped` says so.
    """
    import torch
    from transformers import StoppingCriteriaList

    def go_on(ids: torch.Tensor, scores: object, **more: object) -> torch.Tensor:
        if stopped():
            raise Cancelled("Stopped.")
        loaded.turns.give_way()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    with torch.inference_mode():
        on_device = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        limit = longest(inputs["input_ids"].shape[1], loaded)
        between = StoppingCriteriaList([go_on])
        return loaded.model.generate(**on_device, max_length=limit, stopping_criteria=between).cpu()


def joint(loaded: Loaded) -> Batcher[tables.Encoding, torch.Tensor]:
    """The generation that all visitors of this model share; ids `[target]` of each sentence."""

    def turn(step: Callable[[], None]) -> None:
        with loaded.turns:
            step()

    batcher: Batcher[tables.Encoding, torch.Tensor] = Batcher(
        lambda sentences: forward(tables.padded(sentences, loaded), loaded, batcher.unwanted),
        size=tables.length,
        # A step of the decoder costs as much as so many sentences in it do (measured on the starter).
        cost=lambda count, length: length * (count + (6 if loaded.device.type == "cpu" else 200)),
        kind=lambda sentence: longest(tables.length(sentence), loaded),
        turn=turn,
    )
    return batcher


def postprocess(
    sources: list[str], encodings: list[tables.Encoding], generated: list[torch.Tensor], loaded: Loaded
) -> list[Sentence]:
    """Sentences with their translations, padding taken off the ids."""
    pad = loaded.processor.pad_token_id
    start = loaded.model.config.decoder_start_token_id
    done = []
    for source, encoding, output in zip(sources, encodings, generated, strict=True):
        ids = output.tolist()
        written = [token for i, token in enumerate(ids) if token != pad or (i == 0 and token == start)]
        with loaded.lock:
            target = loaded.processor.decode(written, skip_special_tokens=True)
        done.append(Sentence(source, target, tuple(encoding["input_ids"]), tuple(written)))
    return done


@survives_out_of_memory
def run(
    text: str | None,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    batch: int = BATCH,
) -> Result:
    """Translate a text sentence by sentence, those of similar length and of other visitors together.

    Raises Cancelled when it is stopped.
    """
    paragraphs = validate(text)
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        flat = [sentence for row in paragraphs for sentence in row]
        encodings, kept = preprocess(flat, loaded)
        generated = loaded.share(joint)(encodings, stopped, min(batch, BATCH))
        pieces = iter(postprocess(flat, encodings, generated, loaded))
        rows = tuple(tuple(next(pieces) for _ in row) for row in paragraphs)
        cut = [part for part in kept if part is not None]
        status = status_of(loaded, started, _remarks(loaded, cut))
        return Result(rows, language_pair(loaded), status)


def _remarks(loaded: Loaded, cut: list[str]) -> tuple[str, ...]:
    remarks = []
    codes = loaded.processor.supported_language_codes
    if codes:
        remarks.append(f"Into {codes[0]} unless a sentence begins with another code: {' '.join(codes[:12])}")
    if cut:
        limit = loaded.model.config.max_position_embeddings
        remarks.append(
            f"{len(cut)} sentences were cut to {limit} tokens. The first was read up to: “… {cut[0][-80:]}”"
        )
    return tuple(remarks)


@survives_out_of_memory
def attend(
    sentence: Sentence,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
) -> Attention:
    """The attention behind a translation: one teacher-forced pass over the ids that were generated."""
    # The last token is written but never read.
    read, fed = sentence.source_ids, sentence.target_ids[:-1] or sentence.target_ids
    with models.use(OFFER, choice, report, stopped) as loaded:
        (weights,) = loaded.share(joint_attention)([(read, fed)], stopped)
        with loaded.lock:
            source, target = (tuple(loaded.processor.convert_ids_to_tokens(list(ids))) for ids in (read, fed))
            special = frozenset(loaded.processor.all_special_tokens)
        return Attention(*weights, source, target, special)


def joint_attention(loaded: Loaded) -> Batcher[Pair, Weights]:
    """The pass that all visitors share who look at attention; of each pair the arrays of `Attention`."""
    import torch

    def ids(rows: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
        encodings = [{"input_ids": list(row), "attention_mask": [1] * len(row)} for row in rows]
        return {name: tensor.to(loaded.device) for name, tensor in tables.padded(encodings, loaded).items()}

    def compute(pairs: list[Pair]) -> Iterator[Weights]:
        # No token looks at those behind it: the padding of what the decoder is fed needs no mask.
        fed = ids([fed for _, fed in pairs])["input_ids"]
        output = loaded.model(
            **ids([read for read, _ in pairs]), decoder_input_ids=fed, output_attentions=True
        )
        encoder, decoder, cross = (
            torch.stack(layers, 1).float().cpu().numpy()
            for layers in (output.encoder_attentions, output.decoder_attentions, output.cross_attentions)
        )
        for row, (s, t) in enumerate((len(read), len(fed)) for read, fed in pairs):
            yield encoder[row, :, :, :s, :s], decoder[row, :, :, :t, :t], cross[row, :, :, :t, :s]

    return Batcher(
        compute,
        size=lambda pair: len(pair[0]) + len(pair[1]),
        cost=tables.pass_cost(loaded),
        turn=loaded.compute,
    )


def draw(
    attention: Attention,
    kind: str = "encoder",
    layer: int | None = None,
    head: int | None = None,
    special: bool = False,
) -> go.Figure:
    """One attention map as a heatmap. layer and head count from 1; layer None: the last; head None: the mean.

    Without special tokens the rows no longer sum to 1: what they gave to those tokens is left out.
    """
    weights = getattr(attention, kind)
    layers, heads = weights.shape[:2]
    layer = min(layer or layers, layers)
    chosen = weights[layer - 1]
    matrix = chosen.mean(0) if head is None else chosen[min(head, heads) - 1]
    queries = attention.source_tokens if kind == "encoder" else attention.target_tokens
    keys = attention.target_tokens if kind == "decoder" else attention.source_tokens
    rows, columns = (
        [i for i, t in enumerate(side) if special or t not in attention.special] for side in (queries, keys)
    )
    title = next(name for name, short in KINDS.items() if short == kind)
    which = MEAN if head is None else f"head {min(head, heads)}"
    return attention_heatmap(
        matrix[np.ix_(rows, columns)],
        [_shown(queries[i]) for i in rows],
        [_shown(keys[i]) for i in columns],
        f"{title}, layer {layer} of {layers}, {which}",
    )


def _shown(token: str) -> str:
    """A token as it is read: the mark of a word's beginning as a space that does not vanish."""
    return token.replace("▁", "␣")


def language_name(code: str) -> str:
    """The English name of a language code, the code itself where Whisper's table lacks it."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return LANGUAGES[code].title() if code in LANGUAGES else code


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    with page.inputs():
        text = gr.Textbox(
            EXAMPLES[0],
            label="Text",
            lines=4,
            max_lines=16,
            info="The checkpoint decides the languages: English to French to begin with.",
        )
    result_state, attention_state = gr.State(), gr.State()
    with page.results():
        answer = gr.Textbox(
            label="Translation", lines=2, interactive=False, buttons=["copy"], placeholder=ui.INVITATION
        )
        sentence = gr.Dropdown([], label="Sentence", visible=False)
        figure = gr.Plot(label="Attention", show_label=False)
        with gr.Accordion("Which attention", open=False):
            with gr.Row():
                kind = gr.Dropdown(list(KINDS), value=next(iter(KINDS)), label="Kind", scale=3, min_width=160)
                layer = gr.Dropdown([], label="Layer", scale=1, min_width=80)
                head = gr.Dropdown([MEAN], value=MEAN, label="Head", scale=2, min_width=140)
            special = gr.Checkbox(False, label="Special tokens", info="Only with them does a row sum to 1.")
    selectors = [kind, layer, head, special]

    def act(
        text: str,
        kind: str,
        layer: int | None,
        head: str | int,
        special: bool,
        choice: str,
        report: Report,
        stopped: Stopped,
    ) -> tuple[Any, ...]:
        result = run(text, choice, models, report, stopped, settings.batch)
        # By its name, so that it is the same one even if the hub comes or goes in between.
        choice = result.status.checkpoint
        first = attend(result.sentences[0], choice, models, report, stopped)
        layers, heads = first.encoder.shape[:2]
        options = [(f"{i}: {s.source[:60]}", i - 1) for i, s in enumerate(result.sentences, 1)]
        pair = " to ".join(language_name(code) for code in result.pair)
        layer = layer if layer in range(1, layers + 1) else layers
        head = head if head in range(1, heads + 1) else MEAN
        return (
            gr.update(value=result.text, label=f"Translation, {pair}"),
            gr.update(choices=options, value=0, visible=len(options) > 1),
            draw(first, KINDS[kind], layer, None if head == MEAN else int(head), special),
            gr.update(choices=list(range(1, layers + 1)), value=layer),
            gr.update(choices=[MEAN, *range(1, heads + 1)], value=head),
            (result, choice),
            first,
            result.status,
        )

    page.runs(
        act,
        [text, *selectors],
        [answer, sentence, figure, layer, head, result_state, attention_state],
    )

    def redraw(attention: Attention | None, kind: str, layer: int | None, head: Any, special: bool) -> Any:
        if attention is None:
            return gr.skip()
        return draw(attention, KINDS[kind], layer, None if head == MEAN else int(head), special)

    def other_sentence(shown: tuple[Result, str] | None, index: int, *selected: Any) -> tuple[Any, Any]:
        if shown is None or index is None:
            return gr.skip(), gr.skip()
        result, choice = shown
        attention = attend(result.sentences[index], choice, models)
        return attention, redraw(attention, *selected)

    for selector in selectors:
        page.changes(selector, redraw, [attention_state, *selectors], [figure])
    page.changes(sentence, other_sentence, [result_state, sentence, *selectors], [attention_state, figure])
    page.examples([[example] for example in EXAMPLES], [text])

    def translate(text: str, checkpoint: str = "auto", stopped: Stopped = never) -> tuple[str, Any]:
        """The translation of a text, and the heatmap of its first sentence: encoder self-attention of the
        last layer, averaged over heads."""
        result = run(text, checkpoint, models, stopped=stopped, batch=settings.batch)
        return result.text, draw(
            attend(result.sentences[0], result.status.checkpoint, models, stopped=stopped)
        )

    page.endpoint(
        translate,
        [ui.hidden(gr.Textbox, "text"), ui.checkpoint_parameter()],
        [ui.hidden(gr.Textbox, "translation"), ui.hidden(gr.Plot, "attention")],
    )


DEMO = Demo(
    "translation",
    "Translation",
    4,
    "An encoder reads the sentence, a decoder writes it in another language; "
    "attention says which tokens look at which.",
    OFFER,
    build,
)
