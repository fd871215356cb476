"""Translation: how does a sentence become one in another language, and which tokens look at which?"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from components.compute import tokenization
from components.compute.batching import Batcher
from components.errors import Cancelled, InputError
from components.explain import attention as explorer
from components.explain import inside, snippets
from components.explain.attention import (
    ALL_HEADS,
    ALL_LAYERS,
    KINDS,
    LEFT_OUT,
    MEAN,
    SPECIAL,
    Attention,
    Maps,
    View,
)
from components.explain.inside import Architecture, Axis, Token, Tokens
from components.inputs import given, layout
from components.inputs.layout import Part, Segment
from components.inputs.sentences import split_clauses, split_sentences
from components.inputs.wording import ATTEMPTS, Lacks, Wording, around, lost, taken_apart, worded
from components.models import pace
from components.models.manager import Loaded, ModelManager, survives_out_of_memory
from components.models.status import Status, status_of
from components.page import answers, drawers, endpoints, events, showing, ui, visits
from components.page.answers import About
from components.page.demo import Compared, Comparison, Demo
from components.progress import Report, Stopped, never, unreported
from components.server.line import Line
from components.show.attention_markup import words_panel
from components.show.figures import attention_grid, attention_heatmap
from components.show.inside_markup import (
    architecture_facts,
    hidden_states,
    number_table,
    readable,
    shape,
    stations,
    token_chips,
)
from components.show.inside_markup import sentence as said
from components.weights.checkpoints import Bundled, Checkpoint, Hub, Offer, Recipe

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
MOST_TOKENS = 128  # of a sentence; longer ones are rare in what translators learn from
FAR_OFF = 2.5  # times as many tokens as the sentence, or as few
LEAST_TOKENS = 12  # a translation of fewer may well be so
NUMBER = re.compile(r"\d{2,}")  # one digit may well become a word
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a piece of a vocabulary that spells what it lacks
MOST_CHARACTERS = 20_000
MOST_TEXTS = 1000  # in one call of many
Pair = tuple[tuple[int, ...], tuple[int, ...]]  # the ids of a sentence, and those the decoder is fed
Weights = tuple[np.ndarray, np.ndarray, np.ndarray]  # encoder, decoder, cross: see Attention
TOP = 3  # tokens shown of those that a step could have written
MOST_ACROSS = 20  # keys of a map that fit on a phone
MOST_STEPS = 64  # written tokens that Inside shows
# The browser draws it: a server would need one of its own for that. In dark mode the page colours the text.
PNG = """() => {
  const plot = document.querySelector("#explored .js-plotly-plot");
  if (!plot) return;
  const layout = {...plot.layout, paper_bgcolor: "white", plot_bgcolor: "white"};
  const size = {width: Math.max(700, plot.clientWidth), height: plot.clientHeight, scale: 2};
  Plotly.downloadImage({data: plot.data, layout}, {format: "png", filename: "attention", ...size});
}"""
MORE = "Every other layer and head, and cross-attention: Inside, Attention explorer."


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
    alternatives=(
        Checkpoint("Marian fr-en, small", Bundled("marian-fr-en"), RECIPE),
        *map(_opus, ("fr-en", "en-de", "de-en", "en-es")),
    ),
)


@dataclass(frozen=True)
class Sentence:
    """One sentence, its translation, and the ids the model read and wrote, special tokens included.

    wording: what the model read in place of it, and how what it wrote became the translation, if not as
    it stands.
    """

    source: str
    target: str
    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    wording: Wording | None = None

    @property
    def read(self) -> str:
        return self.wording.read if self.wording else self.source


@dataclass(frozen=True)
class Result:
    """A text: sentences, and what stands between them. pair: source and target language codes of the
    checkpoint."""

    parts: tuple[str | Sentence, ...]
    pair: tuple[str, str]
    status: Status

    @property
    def text(self) -> str:
        return text_of(self.parts)

    @property
    def sentences(self) -> list[Sentence]:
        return [part for part in self.parts if isinstance(part, Sentence)]


def text_of(parts: Sequence[str | Sentence]) -> str:
    return "".join(part if isinstance(part, str) else part.target for part in parts)


@dataclass(frozen=True)
class Ran:
    """What the drawers need to know of a run. checkpoint: its name, so that it is the same one again."""

    parts: tuple[str | Sentence, ...]
    checkpoint: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class Step:
    """One written token: its logit, and its probability after a softmax over the vocabulary.

    rank: 1 if no token was likelier; highest: the highest logit; total: the sum of e^(logit - highest) over
    the vocabulary; top: the likeliest tokens with their logits.
    """

    token: Token
    logit: float
    probability: float
    rank: int
    highest: float
    total: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Inside:
    """What happened to one sentence on its way to its translation.

    hidden: the shape of the last hidden states of encoder and decoder; logits: the shape of the logits;
    steps: the tokens that were written; chosen: how; log_probability: of the whole translation.
    """

    algorithm: str
    read: Tokens
    architecture: Architecture
    hidden: tuple[tuple[str, tuple[Axis, ...]], ...]
    logits: tuple[Axis, ...]
    steps: tuple[Step, ...]
    chosen: str
    log_probability: float


def validate(text: str | None) -> str:
    """The text. Raises InputError without one, or for one that is too long."""
    clean = given.text(text)
    if not clean.strip():
        raise InputError("There is no text yet. Type a sentence and run again.")
    if len(clean) > MOST_CHARACTERS:
        raise InputError(
            f"That is {len(clean)} characters; at most {MOST_CHARACTERS} go in one run. Split it up."
        )
    return clean


def language_pair(loaded: Loaded) -> tuple[str, str]:
    """Codes of the source and target language, from the tokenizer or, failing that, the name."""
    tokenizer = loaded.processor
    if tokenizer.source_lang and tokenizer.target_lang:
        return tokenizer.source_lang, tokenizer.target_lang
    match = re.search(r"-(\w{2,})-(\w{2,})$", loaded.checkpoint.name.partition("@")[0])
    return (match[1], match[2]) if match else ("?", "?")


def with_language(sentence: str, loaded: Loaded) -> str:
    """What is translated: a checkpoint for several target languages gets its first one unless the text
    names one (>>fra<<)."""
    codes = loaded.processor.supported_language_codes
    return f"{codes[0]} {sentence}" if codes and not sentence.startswith(">>") else sentence


def preprocess(sentences: list[str], loaded: Loaded) -> tuple[list[tokenization.Encoding], list[str | None]]:
    """The tokens of each sentence, unpadded, and for each what was kept if it was cut."""
    sentences = [with_language(sentence, loaded) for sentence in sentences]
    return tokenization.tokenized(sentences, loaded, loaded.model.config.max_position_embeddings)


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


def joint(loaded: Loaded) -> Batcher[tokenization.Encoding, torch.Tensor]:
    """The generation that all visitors of this model share; ids `[target]` of each sentence."""

    def turn(step: Callable[[], None]) -> None:
        with loaded.turns, loaded.watching():
            pace.use_all()
            step()

    batcher: Batcher[tokenization.Encoding, torch.Tensor] = Batcher(
        lambda sentences: forward(tokenization.padded(sentences, loaded), loaded, batcher.unwanted),
        size=tokenization.length,
        # A step of the decoder costs as much as so many sentences in it do (measured on the starter).
        cost=lambda count, length: length * (count + (6 if loaded.device.type == "cpu" else 200)),
        kind=lambda sentence: longest(tokenization.length(sentence), loaded),
        turn=turn,
    )
    return batcher


def postprocess(
    source: str, wording: Wording, encoding: tokenization.Encoding, output: torch.Tensor, loaded: Loaded
) -> Sentence | None:
    """A sentence with its translation, padding taken off the ids; None if the model dropped a stand-in."""
    pad = loaded.processor.pad_token_id
    start = loaded.model.config.decoder_start_token_id
    ids = output.tolist()
    written = [token for i, token in enumerate(ids) if token != pad or (i == 0 and token == start)]
    with loaded.lock:
        text = loaded.processor.decode(written, skip_special_tokens=True)
    target = wording.restored(text)
    if target is None:
        return None
    as_it_stands = wording == Wording(source)
    return Sentence(
        source, target, tuple(encoding["input_ids"]), tuple(written), None if as_it_stands else wording
    )


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
    return run_many([validate(text)], choice, models, report, stopped, batch)[0]


@survives_out_of_memory
def run_many(
    texts: Sequence[str],
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    batch: int = BATCH,
) -> list[Result]:
    """What `run` gives, of many texts at once, of MOST_CHARACTERS in all; the remarks are of all."""
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        work = Work(loaded, stopped, min(batch, BATCH))
        done = work.translated(texts)
        status = status_of(loaded, started, _remarks(work, done))
        return [Result(parts, language_pair(loaded), status) for parts in done]


def lacking(loaded: Loaded) -> Lacks:
    """Whether the checkpoint's vocabulary lacks a character, so that it is unknown or comes as bytes."""
    tokenizer, known = loaded.processor, dict[str, bool]()

    def lacks(character: str) -> bool:
        if character not in known:
            with loaded.lock:
                pieces = tokenizer.tokenize(f"a{character}")
                ids = tokenizer.convert_tokens_to_ids(pieces)
            known[character] = tokenizer.unk_token_id in ids or any(map(BYTE.fullmatch, pieces))
        return known[character]

    return lacks


@dataclass(eq=False)
class Hole:
    """A place for a translation, and what fills it. things: what stands for the keys in the segment."""

    segment: Segment
    things: dict[str, str]
    filled: list[str | Sentence | Hole] = field(default_factory=list)

    def around(self, lacks: Lacks) -> list[Hole]:
        """Fill it with what the model drops, and with holes for the words between."""
        self.filled = [_hole(part, self.things) for part in around(self.segment, lacks) if part]
        return [part for part in self.filled if isinstance(part, Hole)]


def _hole(part: Part, things: dict[str, str]) -> str | Hole:
    return layout.unshielded(part, things) if isinstance(part, str) else Hole(part, things)


def _flat(parts: Iterable[str | Sentence | Hole]) -> Iterator[str | Sentence]:
    for part in parts:
        if isinstance(part, Hole):
            yield from _flat(part.filled)
        else:
            yield part


@dataclass
class Work:
    """Texts on their way through a checkpoint, and what there is to say of them.

    long: sentences that were translated clause by clause; around: what stands in sentences between words
    that were translated apart, since the model had dropped some of it; cut: what was read of those cut.
    """

    loaded: Loaded
    stopped: Stopped
    batch: int
    long: int = 0
    around: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def translated(self, texts: Sequence[str]) -> list[tuple[str | Sentence, ...]]:
        """The sentences of each text, and what stands between them."""
        rows = [self._taken_apart(text) for text in texts]
        holes = [part for row in rows for part in row if isinstance(part, Hole)]
        for attempt in range(ATTEMPTS):
            holes = self._fill(holes, attempt)
        lacks = self.loaded.share(lacking)
        self._fill([part for hole in holes for part in hole.around(lacks)], ATTEMPTS)
        self.around = [
            part for hole in holes for part in hole.filled if isinstance(part, str) and part.strip()
        ]
        return [tuple(_flat(row)) for row in rows]

    def _taken_apart(self, text: str) -> list[str | Hole]:
        lacks = self.loaded.share(lacking)
        language = language_pair(self.loaded)[0]
        text, things = layout.shielded(text)
        return [
            _hole(piece, things)
            for part in layout.parts(text, lambda line: split_sentences(line, language))
            for piece in ([part] if isinstance(part, str) else taken_apart(part, lacks, self._clauses))
            if piece
        ]

    def _clauses(self, sentence: str) -> list[str]:
        most = self.loaded.model.config.max_position_embeddings
        well = at_once(self.loaded)
        clauses = split_clauses(sentence, self._tokens, well, min(2 * well, most))
        self.long += len(clauses) > 1
        return clauses

    def _tokens(self, text: str) -> int:
        # A character is four bytes at most, and each may be a token.
        if len(text.encode()) + 8 <= at_once(self.loaded):
            return 0
        with self.loaded.lock:
            return tokenization.length(self.loaded.processor(with_language(text, self.loaded), verbose=False))

    def _fill(self, holes: list[Hole], attempt: int) -> list[Hole]:
        """Translates what belongs into them; gives those that are still empty."""
        lacks, pair = self.loaded.share(lacking), language_pair(self.loaded)
        wordings = [worded(hole.segment, hole.things, lacks, pair, attempt) for hole in holes]
        asked = [(hole, wording) for hole, wording in zip(holes, wordings, strict=True) if wording]
        if not asked:
            return holes
        encodings, kept = preprocess([wording.read for _, wording in asked], self.loaded)
        generated = self.loaded.share(joint)(encodings, self.stopped, self.batch)
        for (hole, wording), encoding, part, output in zip(asked, encodings, kept, generated, strict=True):
            source = layout.unshielded(hole.segment.text, hole.things)
            sentence = postprocess(source, wording, encoding, output, self.loaded)
            if sentence and not (attempt < ATTEMPTS and lost(sentence.source, sentence.target)):
                hole.filled.append(sentence)
                self.cut += [] if part is None else [part]
        return [hole for hole in holes if not hole.filled]


def at_once(loaded: Loaded) -> int:
    """Tokens that a checkpoint translates at once: no more than it was trained on, as far as it says."""
    config = loaded.model.config
    return min(config.max_position_embeddings, loaded.processor.model_max_length, MOST_TOKENS)


def seems_off(sentence: Sentence) -> bool:
    """Whether a translation has far fewer tokens than the sentence or far more, or lacks a number of it."""
    read, written = len(sentence.source_ids), len(sentence.target_ids)
    numbers = set(NUMBER.findall(sentence.source)) - set(NUMBER.findall(sentence.target))
    odd = max(read, written) > LEAST_TOKENS and not 1 / FAR_OFF < read / written < FAR_OFF
    return odd or bool(numbers)


def _remarks(work: Work, done: Sequence[tuple[str | Sentence, ...]]) -> tuple[str, ...]:
    remarks = []
    sentences = [part for parts in done for part in parts if isinstance(part, Sentence)]
    codes = work.loaded.processor.supported_language_codes
    if codes:
        remarks.append(f"Into {codes[0]} unless a sentence begins with another code: {' '.join(codes[:12])}")
    if not sentences:
        remarks.append("No letters are in it: it stays as it is.")
    if work.long:
        remarks.append(
            f"{counted(work.long, 'sentence')} longer than the {at_once(work.loaded)} tokens that the "
            "checkpoint takes well at once, so translated clause by clause."
        )
    if work.cut:
        limit = work.loaded.model.config.max_position_embeddings
        remarks.append(
            f"{len(work.cut)} sentences were cut to {limit} tokens. The first was read up to: "
            f"“… {work.cut[0][-80:]}”"
        )
    if work.around:
        remarks.append(
            f"The model dropped such as “{work.around[0].strip()[:80]}” from a sentence, so the words around "
            "it were translated apart."
        )
    whole = [(one, tokenization.unknown(one.source, one.source_ids[:-1], work.loaded)) for one in sentences]
    strange = [(one.source, why) for one, why in whole if why]
    if strange:
        first, why = strange[0]
        remarks.append(
            f"{counted(len(strange), 'sentence')} hardly known to the checkpoint, and {tokenization.GUESSED} "
            f"The first: “{first[:80]}” ({why[0].lower()}{why[1:]})."
        )
    off = [sentence for sentence in sentences if seems_off(sentence)]
    if off:
        remarks.append(
            f"{counted(len(off), 'translation')} far longer or shorter than the sentence, or without its "
            f"numbers: something may be lost. The first: “{off[0].source[:80]}”"
        )
    return tuple(remarks)


def counted(number: int, what: str) -> str:
    return f"{number} {what} is" if number == 1 else f"{number} {what}s are"


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
        source, target = source_pieces(read, loaded), target_pieces(fed, loaded)
        return Attention(*weights, source, target, frozenset(loaded.processor.all_special_tokens))


def source_pieces(ids: Sequence[int], loaded: Loaded) -> tuple[str, ...]:
    """The tokens of these ids in the vocabulary of the source."""
    tokenizer = loaded.processor
    with loaded.lock:
        if not tokenizer.separate_vocabs:
            return tuple(tokenizer.convert_ids_to_tokens(list(ids)))
        pieces = {i: piece for piece, i in tokenizer.encoder.items()}
        return tuple(pieces.get(i, tokenizer.unk_token) for i in ids)


def target_pieces(ids: Sequence[int], loaded: Loaded) -> tuple[str, ...]:
    """The tokens of these ids in the vocabulary of the target."""
    with loaded.lock:
        return tuple(loaded.processor.convert_ids_to_tokens(list(ids)))


def joint_attention(loaded: Loaded) -> Batcher[Pair, Weights]:
    """The pass that all visitors share who look at attention; of each pair the arrays of `Attention`."""
    import torch

    def ids(rows: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
        encodings = [{"input_ids": list(row), "attention_mask": [1] * len(row)} for row in rows]
        return {
            name: tensor.to(loaded.device) for name, tensor in tokenization.padded(encodings, loaded).items()
        }

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
            # Copies: who keeps one must not keep the whole batch.
            yield (
                encoder[row, :, :, :s, :s].copy(),
                decoder[row, :, :, :t, :t].copy(),
                cross[row, :, :, :t, :s].copy(),
            )

    return Batcher(
        compute,
        size=lambda pair: len(pair[0]) + len(pair[1]),
        cost=tokenization.pass_cost(loaded),
        turn=loaded.compute,
        sizes=loaded.turns.sizes,
    )


def draw(attention: Attention, view: View | None = None) -> go.Figure:
    """A view of the first tokens; without one the encoder's last layer, averaged over heads."""
    return draw_maps(explorer.look(explorer.first(attention), view or first_view(attention)))


def unread() -> go.Figure:
    """The figure of a text of which the model reads nothing."""
    import plotly.graph_objects as go

    return go.Figure(layout={"title": {"text": "No attention: the model read nothing of it"}})


def first_view(attention: Attention) -> View:
    """What is shown with the answer: the encoder's last layer, the mean of its heads."""
    return View("encoder", layer=len(attention.encoder))


def draw_maps(maps: Maps) -> go.Figure:
    """One map as a heatmap with its tokens, several as small multiples: heads or layers beside each other."""
    # On a phone it would not fit into one line.
    title = explorer.title(maps).replace(", ", ",<br>", 1)
    if len(maps.which) == 1:
        return attention_heatmap(maps.weights[0], maps.queries, maps.keys, title)
    both = maps.view.layer == ALL_LAYERS and maps.view.head == ALL_HEADS
    # Of all heads of all layers each layer is a row.
    columns = len({head for _, head in maps.which}) if both else min(4, math.ceil(len(maps.which) / 2))
    return attention_grid(maps.weights, maps.queries, maps.keys, explorer.names(maps), columns, title)


def wide(maps: Maps) -> list[str]:
    """CSS classes of the figure: one whose keys would not fit on a phone scrolls sideways."""
    return ["maps", "wide"] if len(maps.which) == 1 and len(maps.keys) > MOST_ACROSS else ["maps"]


def look_inside(ran: Ran, index: int, models: ModelManager) -> Inside:
    """The pass of one sentence again, the decoder fed with what it wrote, with all that is between.

    Raises IndexError for a sentence that there is not.
    """
    import torch

    sentence = ran.sentences[index]
    # The last token is written but never read.
    ids, fed = sentence.target_ids, sentence.target_ids[:-1] or sentence.target_ids
    with models.use(OFFER, ran.checkpoint) as loaded:
        (_,), (kept,) = preprocess([sentence.source], loaded)
        limit = loaded.model.config.max_position_embeddings
        text = with_language(sentence.source, loaded)
        cut = "" if kept is None else inside.cut_end(text, loaded, limit, kept)
        given = {
            "input_ids": torch.tensor([sentence.source_ids], device=loaded.device),
            "decoder_input_ids": torch.tensor([fed], device=loaded.device),
        }
        output = loaded.compute(lambda: loaded.model(**given, output_hidden_states=True))
        # The last row would be what follows the end.
        logits = output.logits[0, : len(ids) - 1].float().cpu()
        log_probabilities = logits.log_softmax(-1)
        written = log_probabilities.gather(1, torch.tensor(ids[1:], dtype=torch.long)[:, None])
        return Inside(
            algorithm=inside.algorithm(loaded.processor),
            read=Tokens(
                _tokens(sentence.source_ids, source_pieces(sentence.source_ids, loaded), loaded), cut
            ),
            architecture=inside.architecture(loaded),
            hidden=inside.last_hidden(output, "batch", "sequence", "hidden"),
            logits=inside.axes(output.logits, "batch", "sequence", "vocabulary"),
            steps=_steps(ids[1:], logits, loaded),
            chosen=how_chosen(loaded.model.generation_config),
            log_probability=written.sum().item(),
        )


def _tokens(ids: Sequence[int], pieces: Sequence[str], loaded: Loaded) -> tuple[Token, ...]:
    special = tokenization.special_ids(loaded.processor)
    return tuple(Token(piece, one, one in special) for piece, one in zip(pieces, ids, strict=True))


def _steps(ids: Sequence[int], logits: torch.Tensor, loaded: Loaded) -> tuple[Step, ...]:
    """What the head gave for each written token; logits: `[target, vocabulary]`."""
    steps = []
    tokens = _tokens(ids, target_pieces(ids, loaded), loaded)
    for token, row in zip(tokens[:MOST_STEPS], logits, strict=False):
        best = row.topk(min(TOP, len(row)))
        pieces = target_pieces(best.indices.tolist(), loaded)
        logit, highest = row[token.id].item(), row.max().item()
        total = (row - highest).exp().sum().item()
        steps.append(
            Step(
                token=token,
                logit=logit,
                probability=math.exp(logit - highest) / total,
                rank=1 + int((row > logit).sum()),
                highest=highest,
                total=total,
                top=tuple(zip(pieces, best.values.tolist(), strict=True)),
            )
        )
    return tuple(steps)


def how_chosen(generation: Any) -> str:
    """How generate chooses among translations, by a checkpoint's own settings, in a sentence."""
    beams = generation.num_beams or 1
    if beams == 1:
        return "The text grew token by token, each time by the likeliest (greedy decoding)."
    return (
        f"Beam search with {beams} beams chose the text: at each step it kept the {beams} likeliest "
        "beginnings, so a written token need not be the likeliest of its step."
    )


def draw_inside(seen: Inside) -> str:
    """The four stations as HTML."""
    facts = architecture_facts(seen.architecture)
    hidden = "".join(hidden_states(axes, part) for part, axes in seen.hidden)
    head, after = [], []
    for step in seen.steps:
        piece = readable(step.token.text)
        others = " · ".join(f"{readable(other)} {logit:.4f}" for other, logit in step.top)
        head.append((piece, str(step.token.id), f"{step.logit:.4f}", str(step.rank), others))
        power = math.exp(step.logit - step.highest)
        after.append(
            (
                piece,
                f"{step.logit:.4f}",
                f"{step.highest:.4f}",
                f"{power:.4f}",
                f"{step.total:.4f}",
                f"{step.probability:.4f}",
            )
        )
    written = seen.logits[1].size
    cut = f"The first {len(seen.steps)} of {written} are shown." if written > MOST_STEPS else ""
    return stations(
        said(
            f"{seen.algorithm} splits the sentence into tokens, and each has an id. ␣ is where a word "
            "begins; </s>, the end, is added."
        )
        + token_chips([seen.read]),
        facts + hidden,
        said(
            "For each token that it is fed, the head makes a logit for every token of the vocabulary: how "
            "well it would come next. Each row is a written token, with the highest logits of its step."
        )
        + shape(seen.logits)
        + number_table(("written", "id", "logit", "rank", "highest logits"), head)
        + (said(cut) if cut else ""),
        said(
            "A softmax over the vocabulary makes probabilities: e to the power of each logit, less the "
            "highest, divided by the sum of all."
        )
        + number_table(
            ("written", "logit", "highest", "e^(logit - highest)", "sum of all", "probability"), after
        )
        + said(
            f"{seen.chosen} The logarithms of the probabilities of all its tokens sum to "
            f"{seen.log_probability:.4f}."
        ),
    )


def named(ran: Ran, index: int) -> str:
    """Which sentence is looked at, and how another one is chosen."""
    one = ran.sentences[index]
    which = f"Sentence {index + 1} of {len(ran.sentences)}, " if len(ran.sentences) > 1 else ""
    other = " Choose another one below the translation." if which else ""
    differently = f" The model read “{one.read[:120]}”." if one.read != one.source else ""
    return said(f"{which}“{one.source[:120]}”, became “{one.target[:120]}”.{differently}{other}")


def to_page(figure: go.Figure) -> str:
    """A figure as a web page that needs no network: the script that draws it is in it."""
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white")
    return figure.to_html(include_plotlyjs=True, full_html=True)


def language_name(code: str) -> str:
    """The English name of a language code, the code itself where Whisper's table lacks it."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return LANGUAGES[code].title() if code in LANGUAGES else code


def code(ran: Ran, models: ModelManager, public: bool) -> str:
    """The program that translates the same sentences, with the attention of the first."""
    with models.use(OFFER, ran.checkpoint) as loaded:
        codes = loaded.processor.supported_language_codes
        parts = wordings(ran.parts)
        return snippets.translation(
            snippets.place_of(loaded, public, [part.read for part in parts if isinstance(part, Wording)]),
            parts,
            positions=loaded.model.config.max_position_embeddings,
            prefix=codes[0] if codes else "",
        )


def wordings(parts: Sequence[str | Sentence]) -> list[str | Wording]:
    """What a model reads of a text, and what stands between."""
    return [part if isinstance(part, str) else part.wording or Wording(part.source) for part in parts]


def beside(
    text: str,
    extra: str,
    choice: str,
    models: ModelManager,
    settings: Settings,
    report: Report,
    stopped: Stopped,
) -> Compared:
    """What Compare shows of one text: its translation."""
    result = run(text, choice, models, report, stopped, settings.batch)
    return Compared(result.status, text=result.text)


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
    ran, attention_state = gr.State(), gr.State()
    with page.results():
        answer = gr.Textbox(
            label="Translation", lines=2, interactive=False, buttons=["copy"], placeholder=showing.INVITATION
        )
        sentence = gr.Dropdown([], label="Sentence", visible=False)
        figure = gr.Plot(label="Attention", show_label=False, elem_classes="maps")
        reading = gr.HTML(elem_classes="said")

    def first_map(attention: Attention) -> tuple[Any, str]:
        maps = explorer.look(attention, first_view(attention))
        drawn = gr.update(value=draw_maps(maps), elem_classes=wide(maps))
        return drawn, said(f"{explorer.how_to_read(maps)} {MORE}")

    def act(text: str, choice: str, report: Report, stopped: Stopped) -> tuple[Any, ...]:
        result = run(text, choice, models, report, stopped, settings.batch)
        # By its name, so that it is the same one even if the hub comes or goes in between.
        choice = result.status.checkpoint
        pair = " to ".join(language_name(code) for code in result.pair)
        answered = gr.update(value=result.text, label=f"Translation, {pair}")
        if not result.sentences:
            hidden = gr.update(choices=[], visible=False)
            return answered, hidden, gr.update(value=None), "", None, None, result.status
        first = explorer.first(attend(result.sentences[0], choice, models, report, stopped))
        options = [(f"{i}: {s.source[:60]}", i - 1) for i, s in enumerate(result.sentences, 1)]
        return (
            answered,
            gr.update(choices=options, value=0, visible=len(options) > 1),
            *first_map(first),
            Ran(result.parts, choice, tuple(result.sentences)),
            first,
            result.status,
        )

    page.runs(act, [text], [answer, sentence, figure, reading, ran, attention_state])

    def other_sentence(ran: Ran | None, index: int | None) -> tuple[Any, ...]:
        if ran is None or index is None:
            return gr.skip(), gr.skip(), gr.skip()
        attention = explorer.first(attend(ran.sentences[index], ran.checkpoint, models))
        return attention, *first_map(attention)

    picked = page.changes(sentence, other_sentence, [ran, sentence], [attention_state, figure, reading])
    page.examples([[example] for example in EXAMPLES], [text])
    page.linked({"text": text})
    build_inside(page, models, ran, sentence, attention_state, picked)
    page.code(lambda ran: code(ran, models, visits.is_exposed(settings)), ran)

    def translate(
        text: str, checkpoint: str = "auto", stopped: Stopped = never
    ) -> tuple[str, dict[str, Any]]:
        """Translate a text sentence by sentence; into French, unless the checkpoint is for other languages.

        Args:
            text: The text. Paragraphs, lists and indentation are kept; addresses and placeholders stay.
            checkpoint: "auto", "course", "starter", "Marian fr-en, small", or owner/name[@revision] on a hub.

        Returns:
            the translation
            a plotly figure of the encoder's self-attention in the first sentence, and remarks
        """
        result = run(text, checkpoint, models, stopped=stopped, batch=settings.batch)
        drawn = unread()
        if result.sentences:
            drawn = draw(attend(result.sentences[0], result.status.checkpoint, models, stopped=stopped))
        return result.text, answers.figure(drawn.to_json(), result.status.remarks)

    def translate_batch(
        texts: list[str], checkpoint: str = "auto", remarks: bool = False, stopped: Stopped = never
    ) -> list[str] | dict[str, list[str]]:
        """Translate many texts in one call; into French, unless the checkpoint is for other languages.

        Args:
            texts: Texts, each with something in it, of 20,000 characters in all.
            checkpoint: "auto", "course", "starter", "Marian fr-en, small", or owner/name[@revision] on a hub.
            remarks: Whether to say what was cut as well; the answer is then an object.

        Returns:
            the translations, in the order given; with remarks, if asked for: translations and remarks
        """
        answers.texts(texts, MOST_TEXTS)
        validate("\n".join(texts))
        whole = [given.text(text) for text in texts]
        results = run_many(whole, checkpoint, models, stopped=stopped, batch=settings.batch)
        done = [result.text for result in results]
        return answers.remarked("translations", done, results[0].status.remarks, remarks)

    page.endpoint(
        translate,
        [endpoints.hidden(gr.Textbox, "text"), endpoints.checkpoint_parameter()],
        [endpoints.hidden(gr.Textbox, "translation"), endpoints.hidden(gr.JSON, "attention")],
        About((answers.TEXT, answers.FIGURE), examples={"text": EXAMPLES[0]}),
    )
    page.endpoint(
        translate_batch,
        [endpoints.hidden(gr.JSON, "texts"), endpoints.checkpoint_parameter(), endpoints.remarks_parameter()],
        [endpoints.hidden(gr.JSON, "translations")],
        About(
            (answers.with_remarks("translations", answers.TEXTS),),
            {"texts": answers.up_to(MOST_TEXTS)},
            {"texts": EXAMPLES[1:3]},
        ),
    )


def build_inside(
    page: ui.Page,
    models: ModelManager,
    ran: gr.State,
    sentence: gr.Dropdown,
    attention: gr.State,
    other_sentence: Any,
) -> None:
    """The drawer. ran, attention: what is remembered of the run and of its sentence; other_sentence: the
    event after which that is another one."""
    with page.drawer("Inside") as drawer:
        inner = gr.HTML(elem_classes="steps")
        with drawer.drawer("Attention explorer") as explored:
            which = gr.HTML(elem_classes="said")
            with gr.Row():
                kind = gr.Dropdown(list(KINDS), value="Cross-attention", label="Kind", min_width=200)
                layer = gr.Dropdown([], label="Layer", min_width=120)
                head = gr.Dropdown([MEAN, ALL_HEADS], value=MEAN, label="Head", min_width=140)
                special = gr.Dropdown(list(SPECIAL), value=LEFT_OUT, label="Special tokens", min_width=200)
            words = gr.Checkbox(True, label="Subwords merged into words")
            figure = gr.Plot(label="Attention", show_label=False, elem_classes="maps", elem_id="explored")
            reading = gr.HTML(elem_classes="said")
            with gr.Row():
                png = gr.Button("Map as PNG", size="sm", min_width=100)
                page_button = gr.Button("Map as HTML", size="sm", min_width=100)
                csv_button = gr.Button("Map as CSV", size="sm", min_width=100)
            gr.Markdown("Press a word to see where it looked, or one that was looked at to see by whom.")
            panel = gr.HTML(js_on_load=drawers.PICK)
    place = gr.State("query:0")
    selectors = [kind, layer, head, special, words]

    def seen(ran: Ran, index: int | None) -> str:
        return draw_inside(look_inside(ran, index or 0, models))

    def maps_of(
        attention: Attention, kind: str, layer: int | str | None, head: int | str, special: str, words: bool
    ) -> Maps:
        layers = len(getattr(attention, KINDS[kind]))
        return explorer.look(attention, View(KINDS[kind], layer or layers, head, words, special))

    def choices(attention: Attention, maps: Maps) -> tuple[Any, Any]:
        layers, heads = getattr(attention, maps.view.kind).shape[:2]
        number, one = maps.which[-1]
        layer = maps.view.layer if maps.view.layer == ALL_LAYERS else number
        head = maps.view.head if isinstance(maps.view.head, str) else one
        return (
            gr.update(choices=[ALL_LAYERS, *range(1, layers + 1)], value=layer),
            gr.update(choices=[MEAN, ALL_HEADS, *range(1, heads + 1)], value=head),
        )

    def redraw(attention: Attention | None, place: str, *selected: Any) -> tuple[Any, ...]:
        if attention is None:
            return (gr.skip(),) * 5
        maps = maps_of(attention, *selected)
        return (
            *choices(attention, maps),
            gr.update(value=draw_maps(maps), elem_classes=wide(maps)),
            said(explorer.how_to_read(maps)),
            words_panel(maps, place),
        )

    def explore(ran: Ran, index: int | None, attention: Attention, *selected: Any) -> tuple[Any, ...]:
        # Another sentence has other words.
        return (
            named(ran, index or 0),
            "query:0",
            *redraw(attention, "query:0", *selected),
        )

    def pick(pressed: str, attention: Attention, *selected: Any) -> tuple[str, str]:
        return pressed, words_panel(maps_of(attention, *selected), pressed)

    def as_page(attention: Attention, *selected: Any) -> str:
        return showing.download("attention.html", to_page(draw_maps(maps_of(attention, *selected))))

    def as_csv(attention: Attention, *selected: Any) -> str:
        return showing.download("attention.csv", explorer.to_csv(maps_of(attention, *selected)))

    drawn = [layer, head, figure, reading, panel]
    drawer.shows(seen, [ran, sentence], [inner], [other_sentence])
    explored.shows(explore, [ran, sentence, attention, *selectors], [which, place, *drawn], [other_sentence])
    for selector in selectors:
        explored.changes(selector, redraw, [attention, place, *selectors], drawn)
    explored.picks(panel, pick, [attention, *selectors], [place, panel])
    png.click(None, None, None, js=PNG, **events.QUIET)
    explored.saves(page_button, as_page, [attention, *selectors])
    explored.saves(csv_button, as_csv, [attention, *selectors])


DEMO = Demo(
    "translation",
    "Translation",
    4,
    "An encoder reads the sentence, a decoder writes it in another language; "
    "attention says which tokens look at which.",
    OFFER,
    build,
    compare=Comparison("text", EXAMPLES[0], beside),
)
