"""Text generation: how does a language model go on from a prompt?"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from components.compute import tokenization
from components.compute.decoding import Sampling, Step, Token, decode, end_tokens
from components.errors import Cancelled, DemoError, InputError
from components.explain import alternatives, inside, snippets
from components.explain.alternatives import Places
from components.explain.inside import Architecture, Axis, Tokens
from components.explain.masks import AXES
from components.inputs import given
from components.models.control import control_tokens
from components.models.eager import twin
from components.models.manager import Loaded, ModelManager, survives_out_of_memory
from components.models.status import Status, status_of
from components.page import answers, endpoints, events, showing, ui, visits
from components.page.answers import About
from components.page.demo import Compared, Comparison, Demo
from components.progress import Report, Stopped, never, unreported
from components.server.line import Line
from components.show import generation_markup, markup
from components.show.inside_markup import (
    architecture_facts,
    hidden_states,
    readable,
    sentence,
    stations,
    token_chips,
)
from components.weights.causal import OFFER

if TYPE_CHECKING:
    import numpy as np
    import plotly.graph_objects as go
    import torch

    from components.settings import Settings

PROMPT = "So today, I just feel like"
EXAMPLES = [
    [PROMPT],
    ["In this course, we will teach you how to"],
    ["The three most important things about attention are"],
    ["Once upon a time, in a library where nobody read,"],
]
MODES = ("completion", "chat")
# What the tab asks for, by its names in links.
KNOBS = (
    "prompt",
    "max_new_tokens",
    "num_return_sequences",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "seed",
    "mode",
)
SHOW_EVERY = 0.1  # seconds; nobody reads faster, and each look at the text costs the others time
MOST_INSIDE = 512  # tokens of a text that Inside colours; the logits of all of them are in memory once
MOST_ATTENDING = 64  # tokens on either side of the attention map
CONTEXT = 6  # tokens before a place that are shown with its alternatives
CLOSE = 1e-4  # probabilities that differ by more are said to differ
# Field, lowest and highest value taken.
RANGES = {
    "new tokens": (1, 1024),
    "number of sequences": (1, 4),
    "temperature": (0, 5),
    "top-k": (0, 1000),
    "top-p": (0, 1),
    "repetition penalty": (0.5, 3),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class Request:
    """What is asked; mode "chat" puts the prompt into the checkpoint's chat template."""

    prompt: str
    most: int
    sequences: int
    sampling: Sampling
    mode: str = "completion"


@dataclass(frozen=True)
class Written:
    """One continuation. ended: whether an end token came, which is not among the tokens.

    end: the id of that, known where a visitor chose it; forks: indices of the tokens that a visitor chose;
    chosen: how the last of them is shown; origin: the continuation that it left.
    """

    tokens: tuple[Token, ...]
    ended: bool = False
    end: int | None = None
    forks: tuple[int, ...] = ()
    chosen: str = ""
    origin: int = 0


@dataclass(frozen=True)
class Ran:
    """What the drawers need to know of a run. checkpoint: its name, so that it is the same one again.

    prompt: the ids that the model read, chat template included; kept: what was left of the prompt's text
    if its beginning was cut. Branches that a visitor made come after the sequences asked for.
    """

    request: Request
    checkpoint: str
    prompt: tuple[int, ...]
    written: tuple[Written, ...]
    kept: str | None = None


MARK = "\ue000prompt\ue000"
SPACE = (
    "The prompt ends in a space, a token of its own here; this vocabulary has it at the start of the next "
    "word. Without it the text may go on better."
)


@dataclass(frozen=True)
class Result:
    """The continuations so far, without the prompt; status and ran only when they are complete."""

    sequences: tuple[str, ...]
    tokens: int
    chat: bool  # whether the checkpoint has a chat template
    status: Status | None = None
    ran: Ran | None = None


def validate(
    prompt: str | None,
    max_new_tokens: float = 40,
    num_return_sequences: float = 1,
    temperature: float = 0.7,
    top_k: float = 50,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    seed: float = 0,
    mode: str = "completion",
) -> Request:
    """Raises InputError without a prompt or for a number that is missing or out of its range."""
    prompt = given.text(prompt, given.MOST_CHARACTERS)
    if not prompt.strip():
        raise InputError("There is no prompt yet. Type the beginning of a text and run again.")
    numbers = (max_new_tokens, num_return_sequences, temperature, top_k, top_p, repetition_penalty, seed)
    for (name, (low, high)), value in zip(RANGES.items(), numbers, strict=True):
        given.number(value, f"{name[0].upper()}{name[1:]}", low, high)
    if top_p == 0:
        raise InputError("Top-p must be above 0: it is the share of probability that is kept.")
    if mode not in MODES:
        raise InputError("The mode is completion or chat.")
    sampling = Sampling(float(temperature), int(top_k), float(top_p), float(repetition_penalty), int(seed))
    return Request(prompt, int(max_new_tokens), int(num_return_sequences), sampling, mode)


def preprocess(request: Request, loaded: Loaded) -> tuple[torch.Tensor, str | None]:
    """The prompt's ids `[sequences, length]`, and what was kept of it if its beginning was cut.

    Raises InputError for chat mode with a checkpoint that has no chat template.
    """
    tokenizer = loaded.processor
    with loaded.lock:
        if request.mode == "chat":
            if not tokenizer.chat_template:
                raise InputError("This checkpoint has no chat template. Choose completion.")
            ids = _row(chat_ids(request.prompt, tokenizer))
        else:
            ids = tokenizer(request.prompt, return_tensors="pt", verbose=False)["input_ids"]
    room = _positions(loaded) - request.most
    if room < 1:
        raise InputError(
            f"This checkpoint takes {_positions(loaded)} tokens in all. Ask for fewer new tokens."
        )
    kept = None
    if ids.shape[1] > room:
        ids = ids[:, -room:]
        kept = tokenizer.decode(ids[0], skip_special_tokens=True)
    return ids.expand(request.sequences, -1), kept


def chat_ids(prompt: str, tokenizer: Any) -> list[int]:
    """The prompt as a message in the checkpoint's chat template.

    What looks like a control token in it stays text: who types <|im_end|> does not end the message.
    """

    def templated(content: str) -> str:
        messages = [{"role": "user", "content": content}]
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def read(text: str, as_text: bool) -> list[int]:
        how: dict[str, Any] = {"add_special_tokens": False, "split_special_tokens": as_text, "verbose": False}
        return list(tokenizer(text, **how)["input_ids"])

    if not control_tokens(prompt, tokenizer):
        return read(templated(prompt), as_text=False)
    # In place of the prompt a mark that no text has, so that it can be split apart from the template.
    before, _, after = templated(MARK).partition(MARK)
    return [*read(before, False), *read(prompt, True), *read(after, False)]


def splits_at_its_end(prompt: str, tokenizer: Any) -> bool:
    """Whether the spaces that end a prompt are tokens which text that goes on would not have there.

    In most vocabularies a space belongs to the word behind it, so that no word can follow a lone one.
    """
    if not prompt.endswith(" "):
        return False
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    whole = tokenizer(f"{prompt}a", add_special_tokens=False, verbose=False)["input_ids"]
    return bool(whole[: len(ids)] != ids)


def _positions(loaded: Loaded) -> int:
    config = loaded.model.config.get_text_config()
    return int(
        getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048
    )


def forward(ids: torch.Tensor, request: Request, loaded: Loaded, stopped: Stopped) -> Iterator[Step]:
    """The next token of each sequence, step by step; None for a sequence that has ended."""
    yield from decode(loaded, ids.to(loaded.device), request.most, request.sampling, stopped)


def postprocess(prompt: list[int], tokens: list[list[int]], loaded: Loaded) -> tuple[str, ...]:
    """Token ids of each sequence as text, without a last character whose bytes are not all there.

    Decoded after the end of the prompt, because some vocabularies drop the space before a first word.
    """
    tail = prompt[-8:]
    with loaded.lock:
        lead = len(loaded.processor.decode(tail, skip_special_tokens=True))
        texts = [loaded.processor.decode(tail + ids, skip_special_tokens=True)[lead:] for ids in tokens]
    return tuple(text.rstrip("\ufffd") for text in texts)


@survives_out_of_memory
def run(
    request: Request,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
) -> Iterator[Result]:
    """Continue a prompt; yields the text so far now and then, and at last all of it with the status."""
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        ids, kept = preprocess(request, loaded)
        prompt = ids[0].tolist()
        rows: list[list[Token]] = [[] for _ in range(request.sequences)]
        chat = bool(loaded.processor.chat_template)
        count, shown = 0, 0.0
        step: Step = []
        for step in forward(ids, request, loaded, stopped):
            for row, token in zip(rows, step, strict=True):
                if token is not None:
                    row.append(token)
                    count += 1
            if (now := time.perf_counter()) - shown >= SHOW_EVERY:
                shown = now
                yield Result(postprocess(prompt, ids_of(rows), loaded), count, chat)
        taken = time.perf_counter() - started
        measured = f"{count} tokens, {count / taken:.1f} tokens/s."
        remarks = []
        if kept is not None:
            remarks.append(f"The beginning of the prompt was cut to fit. Read from: “{kept[:80]} …”")
        with loaded.lock:
            if request.mode == "completion" and splits_at_its_end(request.prompt, loaded.processor):
                remarks.append(SPACE)
        if why := tokenization.unknown_of([request.prompt], loaded)[0]:
            remarks.append(f"{why}: {tokenization.GUESSED}")
        if stopped():
            remarks.append("Stopped.")
        status = status_of(loaded, started, tuple(remarks), measured)
        # A sequence that has ended has None in every further step, the last one included.
        ended = [token is None for token in step] or [False] * len(rows)
        written = tuple(map(Written, map(tuple, rows), ended))
        ran = Ran(request, status.checkpoint, tuple(prompt), written, kept)
        yield Result(postprocess(prompt, ids_of(rows), loaded), count, chat, status, ran)


def ids_of(rows: Sequence[Sequence[Token]]) -> list[list[int]]:
    """The ids of each row of tokens."""
    return [[token.id for token in row] for row in rows]


@dataclass(frozen=True)
class Inside:
    """What happened in a run, for one of its continuations.

    tokens: those of the prompt; hidden: the shape of the last hidden states of prompt and text; pieces: the
    tokens of the text, the end token as the last if one came; places: the choice at each of them, or at the
    first one if there is none; names: how to show a candidate; off: by how much its probabilities differ
    from those of the run; left_out: tokens of the text beyond MOST_INSIDE.
    """

    ran: Ran
    index: int
    algorithm: str
    tokens: Tokens
    cut: str
    architecture: Architecture
    hidden: tuple[Axis, ...]
    pieces: tuple[inside.Token, ...]
    places: Places
    names: dict[int, str]
    off: float
    left_out: int


def look_inside(ran: Ran, models: ModelManager, index: int = 0) -> Inside:
    """One pass over prompt and text at once; with the causal mask it gives what the run saw step by step."""
    written = ran.written[index]
    with models.use(OFFER, ran.checkpoint) as loaded:
        tokenizer = loaded.processor
        text = [token.id for token in written.tokens]
        chosen = text[:MOST_INSIDE]
        left_out = len(text) - len(chosen)
        ends = written.ended and not left_out
        count = max(len(chosen) + ends, 1)
        logits, hidden = read([*ran.prompt, *text], len(ran.prompt) - 1, count, loaded)
        if ends:
            possible = [written.end] if written.end is not None else end_tokens(loaded.model)
            chosen.append(max(possible, key=lambda one: logits[len(chosen), one]))
        sampling = ran.request.sampling
        likeliest = [int(logits[0].argmax())]
        places = alternatives.places(logits, ran.prompt, chosen or likeliest, sampling)
        with loaded.lock:
            names = names_of([*ran.prompt[-CONTEXT:], *places.ids.ravel().tolist()], tokenizer)
            (tokens,) = inside.tokens_of({"input_ids": _row(ran.prompt)}, tokenizer)
        special = {*tokenizer.all_special_ids, *end_tokens(loaded.model)}
        said = [token.probability for token in written.tokens[:MOST_INSIDE]]
        pairs = zip(said, places.taken.tolist(), strict=False)
        return Inside(
            ran=ran,
            index=index,
            algorithm=inside.algorithm(tokenizer),
            tokens=tokens,
            cut=_cut(ran),
            architecture=inside.architecture(loaded),
            hidden=hidden,
            pieces=tuple(inside.Token(names[one], one, one in special) for one in chosen),
            places=places,
            names=names,
            off=max((abs(one - other) for one, other in pairs), default=0.0),
            left_out=left_out,
        )


def _row(ids: Sequence[int]) -> torch.Tensor:
    import torch

    return torch.tensor([list(ids)])


def _cut(ran: Ran) -> str:
    """The beginning of the prompt that did not fit, as far as it can be told."""
    if ran.kept is None:
        return ""
    text = ran.request.prompt
    return text.removesuffix(ran.kept) if text.endswith(ran.kept) else ""


def read(ids: Sequence[int], first: int, count: int, loaded: Loaded) -> tuple[np.ndarray, tuple[Axis, ...]]:
    """Token ids -> logits `[count, vocabulary]`, float32, of the positions from `first` on.

    Besides the shape of the last hidden states of all of them.
    """
    model = loaded.model
    shapes: list[tuple[Axis, ...]] = []

    def shape(module: Any, inputs: Any, output: Any) -> None:
        shapes.append(inside.axes(output[0], "batch", "sequence", "hidden"))

    def step() -> np.ndarray:
        tokens = _row(ids).to(loaded.device)
        kept = slice(first, first + count)
        options = {}
        # Not every architecture can leave out the logits of other positions.
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            options = {"logits_to_keep": _row(range(first, first + count))[0].to(loaded.device)}
            kept = slice(None)
        # Asked for by the model's own option, the hidden states of all layers would be kept.
        hook = model.get_decoder().register_forward_hook(shape)
        try:
            output = model(input_ids=tokens, use_cache=False, **options)
        finally:
            hook.remove()
        return output.logits[0, kept].float().cpu().numpy()

    logits = loaded.compute(step)
    return logits, shapes[0]


def names_of(ids: Sequence[int], tokenizer: Any) -> dict[int, str]:
    """What each token is called: its text where its bytes are whole characters, else its vocabulary entry."""
    by_bytes = "byte-level" in inside.algorithm(tokenizer)
    names = {}
    for one in dict.fromkeys(ids):
        piece = tokenizer.convert_ids_to_tokens(one)
        if piece is None:  # a model may have more embeddings than its tokenizer has tokens
            names[one] = f"[{one}]"
            continue
        text = tokenizer.convert_tokens_to_string([piece]) if by_bytes else piece
        names[one] = piece if not text or "\ufffd" in text else text
    return names


def draw_inside(seen: Inside) -> str:
    """The four stations as HTML."""
    request = seen.ran.request
    tokens = f"{seen.algorithm} splits the prompt into tokens, and each has an id."
    if request.mode == "chat":
        tokens += " The checkpoint's chat template stands around it."
    cut = ""
    if seen.ran.kept is not None:
        tokens += " The beginning of the prompt did not fit and was cut."
        cut = token_chips([Tokens((), seen.cut)]) if seen.cut else ""
    vocabulary = int(seen.places.left[0, 0])
    return stations(
        sentence(tokens) + cut + token_chips([seen.tokens]),
        architecture_facts(seen.architecture)
        + hidden_states(seen.hidden)
        + sentence(
            "Prompt and text are read at once here: as no token sees later ones, each position gives what it "
            "gave when it was the last."
        ),
        sentence(
            f"The head makes a logit for each of the {vocabulary:,} tokens of the vocabulary. The last "
            "position of the prompt decides on the first new token. Its highest logits:"
        )
        + generation_markup.head_table(seen.places, seen.names),
        sentence(_explained(request.sampling))
        + generation_markup.steps_table(seen.places, seen.names, marked=bool(seen.pieces))
        + sentence(generation_markup.left_over(seen.places, 0)),
    )


def _explained(sampling: Sampling) -> str:
    """What is done between the logits and the choice, in sentences."""
    told = ["A softmax makes probabilities of the logits."]
    if sampling.repetition_penalty != 1:
        told.append("The repetition penalty lowers the logits of tokens that have occurred.")
    if sampling.greedy:
        return " ".join([*told, "At temperature 0 the likeliest token is taken."])
    told.append("The temperature divides the logits: below 1 likely tokens gain, above 1 unlikely ones do.")
    if sampling.top_k:
        told.append("Top-k keeps the k highest.")
    if sampling.top_p < 1:
        told.append("Top-p keeps the likeliest that together reach p.")
    told.append("A softmax follows each step; a token is drawn with the probabilities of the last one.")
    return " ".join(told)


def draw_text(seen: Inside) -> str:
    """The text, each token in the colour of its probability, with remarks."""
    forks = seen.ran.written[seen.index].forks
    shares = seen.places.taken.tolist()[: len(seen.pieces)]
    remarks = []
    if seen.left_out:
        remarks.append(f"The first {MOST_INSIDE} tokens are shown; {seen.left_out:,} more are left out.")
    if seen.off > CLOSE:
        remarks.append(
            f"Read at once, tokens have probabilities that differ by up to {seen.off:.4f} from those of the "
            f"run, by rounding: the weights are {seen.architecture.dtype}."
        )
    told = sentence(generation_markup.ENTROPY) if seen.pieces else ""
    text = generation_markup.written(seen.pieces, shares, forks)
    return text + "".join(map(markup.remark, remarks)) + told


def draw_entropy(seen: Inside) -> go.Figure | None:
    """Entropy along the text; None if there is no text."""
    if not seen.pieces:
        return None
    return generation_markup.entropy_line(seen.places.entropies, [piece.text for piece in seen.pieces])


def draw_alternatives(seen: Inside | None, place: int) -> str:
    """What else could have stood at a place. Raises InputError for one that is not there."""
    if seen is None or not 0 <= place < len(seen.pieces):
        raise InputError("That token is not there any more. Press one of the text as it stands now.")
    lead = [seen.names[one] for one in seen.ran.prompt[-CONTEXT:]]
    context = [*lead, *(piece.text for piece in seen.pieces[:place])]
    before = "".join(map(readable, context[-CONTEXT:]))
    return generation_markup.alternatives(seen.places, seen.names, place, before)


@dataclass(frozen=True)
class Branch:
    """A continuation from another token, so far; status only when it is complete.

    Both texts are `shared` and what follows: original, or the chosen token and text.
    """

    shared: str
    original: str
    chosen: str
    text: str
    written: Written
    status: Status | None = None


@survives_out_of_memory
def branch(
    seen: Inside,
    place: int,
    column: int,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
) -> Iterator[Branch]:
    """Take another candidate at a place and continue from there, with the settings of the run.

    As many new tokens follow as were asked for, or as the checkpoint takes. An end token ends the text.
    Raises InputError where there is no such candidate, or no room.
    """
    before, chosen = _forked(seen, place, column)
    ran, origin = seen.ran, seen.ran.written[seen.index]
    forks = (*(fork for fork in origin.forks if fork < place), place)
    with models.use(OFFER, ran.checkpoint, report, stopped) as loaded:
        started = time.perf_counter()
        ends = chosen.id in end_tokens(loaded.model)
        start = before if ends else (*before, chosen)
        ids = [*ran.prompt, *(token.id for token in start)]
        most = 0 if ends else min(ran.request.most, _positions(loaded) - len(ids))
        if most < 1 and not ends:
            raise InputError(
                f"This checkpoint takes {_positions(loaded)} tokens in all, and they are used up."
            )
        rows = ids_of([before, start, origin.tokens])
        # A character may begin before the branch point and end after it.
        shared, with_chosen = postprocess(list(ran.prompt), rows[:2], loaded)
        (full,) = postprocess(list(ran.prompt), rows[2:], loaded)
        name = readable(seen.names[chosen.id])
        named = with_chosen[len(shared) :] or name

        def so_far(tokens: list[Token], ended: bool, status: Status | None = None) -> Branch:
            (text,) = postprocess(list(ran.prompt), ids_of([[*start, *tokens]]), loaded)
            end = chosen.id if ends else None
            written = Written((*start, *tokens), ended, end, forks, name, seen.index)
            return Branch(shared, full[len(shared) :], named, text[len(with_chosen) :], written, status)

        tokens: list[Token] = []
        ended, shown = ends, 0.0
        for (token,) in decode(loaded, _row(ids).to(loaded.device), most, ran.request.sampling, stopped):
            if token is None:
                ended = True
                continue
            tokens.append(token)
            if (now := time.perf_counter()) - shown >= SHOW_EVERY:
                shown = now
                yield so_far(tokens, ended)
        remarks = [f"{len(tokens)} tokens."]
        if len(tokens) == most < ran.request.most and not ends:
            remarks.append(f"No more fit: this checkpoint takes {_positions(loaded)} tokens in all.")
        if stopped():
            remarks.append("Stopped.")
        yield so_far(tokens, ended, status_of(loaded, started, tuple(remarks)))


def _forked(seen: Inside, place: int, column: int) -> tuple[tuple[Token, ...], Token]:
    """The tokens before a place, and the candidate there with the model's own probability."""
    if not 0 <= place < len(seen.pieces) or column not in seen.places.candidates(place):
        raise InputError("That token is not among the alternatives. Press one of those shown.")
    chosen = Token(int(seen.places.ids[place, column]), float(seen.places.probabilities[0, place, column]))
    return seen.ran.written[seen.index].tokens[:place], chosen


@dataclass(frozen=True)
class Attention:
    """Attention `[query, key]` of one layer and head over the first tokens of prompt and text, NaN if masked.

    layers, heads: how many there are to choose from; left_out: tokens after those; divided: whether rows
    were divided by their sums.
    """

    tokens: tuple[str, ...]
    weights: np.ndarray
    layers: int
    heads: int
    left_out: int
    divided: bool


def look_at_attention(
    ran: Ran, models: ModelManager, index: int = 0, layer: int = 0, head: int | None = None
) -> Attention:
    """Read the first tokens once more; later ones would change nothing in them. head None: mean of all.

    A layer or head that the checkpoint does not have is its last one. Raises InputError where there is no
    attention.
    """
    ids = [*ran.prompt, *(token.id for token in ran.written[index].tokens)]
    with models.use(OFFER, ran.checkpoint) as loaded:
        model = loaded.share(twin)
        tokens = _row(ids[:MOST_ATTENDING]).to(loaded.device)

        def step() -> tuple[np.ndarray, int, int]:
            output = model(input_ids=tokens, use_cache=False, output_attentions=True)
            # Architectures without queries and keys have something else of that name, or nothing.
            maps = [one for one in output.get("attentions") or () if one is not None and one.dim() == 4]
            if not maps:
                raise InputError("This architecture has no attention weights to show.")
            heads = maps[min(layer, len(maps) - 1)][0].float()
            one = heads.mean(0) if head is None else heads[min(head, len(heads) - 1)]
            return one.cpu().numpy(), len(maps), len(heads)

        weights, layers, heads = loaded.compute(step)
        masked, divided = alternatives.causal(weights)
        with loaded.lock:
            names = names_of(ids[:MOST_ATTENDING], loaded.processor)
        shown = tuple(names[one] for one in ids[:MOST_ATTENDING])
        return Attention(shown, masked, layers, heads, max(len(ids) - MOST_ATTENDING, 0), divided)


def attention_remarks(seen: Attention) -> str:
    """How to read the map, and what is not on it."""
    told = [
        f"{AXES.capitalize()}: each row shows where a token looks, and sums to 1. Grey is the causal "
        "mask: no token looks at those after it."
    ]
    if seen.left_out:
        told.append(f"The first {MOST_ATTENDING} tokens are drawn, {seen.left_out:,} are left out.")
    if seen.divided:
        told.append("The rows were divided by their sums, which half precision had moved off 1.")
    return sentence(" ".join(told))


def titles(ran: Ran) -> list[tuple[str, int]]:
    """What a selector of continuations offers: the title of each, and its number from 1 on."""
    shown: list[tuple[str, int]] = []
    for number, written in enumerate(ran.written, 1):
        title = f"Sequence {number}"
        if written.forks:
            place = written.forks[-1] + 1
            title = f"{number}: branch of {written.origin + 1}, “{written.chosen}” as token {place}"
        shown.append((title, number))
    return shown


def same_run(book: Ran | None, ran: Ran | None) -> bool:
    """Whether one is the other with branches added."""
    if book is None or ran is None:
        return False
    first = min(len(book.written), len(ran.written))
    return replace(book, written=book.written[:first]) == replace(ran, written=ran.written[:first])


def pressed_at(event: Any) -> int:
    """The number of the button that was pressed; -1 for what no button sends."""
    place = (event._data or {}).get("place")
    return place if isinstance(place, int) else -1


def build_inside(page: ui.Page, ran: gr.State, models: ModelManager) -> None:
    """The drawer: stations, the coloured text and its entropy, alternatives and branches, attention."""
    with page.drawer("Inside") as drawer:
        which = gr.Dropdown(label="Text", visible=False, info="Branches that you make are added here.")
        told = gr.HTML()
        coloured = gr.HTML(js_on_load=generation_markup.BUTTONS)
        curve = gr.Plot(show_label=False)
        others = gr.HTML(js_on_load=generation_markup.BUTTONS)
        problem = gr.HTML(elem_classes="said")
        stop = gr.Button("Stop", variant="stop", visible=False, size="sm")
        status = gr.HTML(elem_classes="said")
        parted = gr.HTML()
        attending = drawer.drawer("Attention and its causal mask")
        with attending:
            with gr.Row():
                layer = gr.Dropdown([1], value=1, label="Layer", min_width=120)
                head = gr.Dropdown(["mean"], value="mean", label="Head", min_width=120)
            how = gr.HTML()
            attention = gr.Plot(show_label=False, elem_classes="scrolls")
    # The run with the branches made since; what is looked at; the place and the candidate pressed; a branch.
    book, seen, place, column, grown = gr.State(), gr.State(), gr.State(), gr.State(), gr.State()

    def show(book: Ran, number: int) -> tuple[Any, ...]:
        inside = look_inside(book, models, number - 1)
        return inside, draw_inside(inside), draw_text(inside), draw_entropy(inside), "", None

    def show_first(ran: Ran, book: Ran | None, seen: Inside | None) -> tuple[Any, ...]:
        if seen is not None and same_run(book, ran):  # opened again: what a visitor has pressed stays
            return (gr.skip(),) * (5 + len(drawn))
        choices = titles(ran)
        chosen = gr.update(choices=choices, value=1, visible=len(choices) > 1)
        return ran, chosen, "", "", "", *show(ran, 1)

    drawn = [seen, told, coloured, curve, others, place]
    drawer.shows(show_first, [ran, book, seen], [book, which, parted, problem, status, *drawn])
    drawer.changes(which, show, [book, which], drawn)

    def press(seen: Inside | None, event: gr.EventData) -> tuple[Any, ...]:
        try:
            with events.shown(page.demo.name):
                pressed = pressed_at(event)
                return pressed, draw_alternatives(seen, pressed), ""
        except DemoError as error:
            return None, "", markup.problem(str(error))

    coloured.click(press, [seen], [place, others, problem], **events.QUIET)

    def choose(event: gr.EventData) -> tuple[int, None]:
        return pressed_at(event), None

    def go_on(*values: Any) -> Iterator[tuple[Any, ...]]:
        seen, place, column, report, stopped = values
        if seen is None or place is None:
            raise InputError("Press a token of the text first, then the one to continue with.")
        for one in branch(seen, place, column, models, report, stopped):
            request = seen.ran.request
            lead = request.prompt if request.mode == "completion" else ""
            drawn = generation_markup.branches(lead, one.shared, one.original, one.chosen, one.text)
            yield drawn, (seen.ran, one.written) if one.status else gr.skip(), one.status

    def adopt(book: Ran | None, grown: tuple[Ran, Written] | None) -> tuple[Any, Any]:
        if book is None or grown is None or not same_run(book, grown[0]) or grown[1] in book.written:
            return gr.skip(), gr.skip()
        more = replace(book, written=(*book.written, grown[1]))
        return more, gr.update(choices=titles(more), visible=True)

    chosen = others.click(choose, None, [column, grown], **events.QUIET)
    inputs, outputs = [seen, place, column], [parted, grown]
    gone_on = page.also_runs(chosen.then, stop, go_on, inputs, outputs, (problem, status))
    gone_on.then(adopt, [book, grown], [book, which], **events.QUIET)

    def attend(opened: bool, ran: Ran, book: Ran | None, number: int | None, *picked: Any) -> Any:
        if not opened or ran is None:
            return (gr.skip(),) * 4
        index = (number or 1) - 1
        if book is None or not same_run(book, ran) or index >= len(book.written):
            book, index = ran, 0
        layer, head = picked
        of_all = head == "mean"
        seen = look_at_attention(book, models, index, layer - 1, None if of_all else head - 1)
        layer, head = min(layer, seen.layers), head if of_all else min(head, seen.heads)
        name = "mean of all heads" if of_all else f"head {head}"
        lines = titles(book)[index][0], f"layer {layer}, {name}"
        return (
            gr.update(choices=list(range(1, seen.layers + 1)), value=layer),
            gr.update(choices=["mean", *range(1, seen.heads + 1)], value=head),
            attention_remarks(seen),
            generation_markup.causal_map(seen.weights, seen.tokens, *lines),
        )

    asked, answered = [ran, book, which, layer, head], [layer, head, how, attention]
    attending.shows(lambda *values: attend(True, *values), asked, answered)
    for selector in (which, layer, head):
        attending.changes(selector, attend, [attending.opened, *asked], answered)


def code(ran: Ran, models: ModelManager, public: bool) -> str:
    """The program that writes the sequences asked for; branches are not in it."""
    asked = ran.request
    with models.use(OFFER, ran.checkpoint) as loaded:
        chat = asked.mode == "chat"
        return snippets.generation(
            snippets.place_of(loaded, public, () if chat else (asked.prompt,)),
            asked.prompt,
            asked.most,
            asked.sequences,
            asked.sampling,
            asked.mode,
            positions=_positions(loaded),
            ends=end_tokens(loaded.model),
            cached="past_key_values" in inspect.signature(loaded.model.forward).parameters,
            ids=ran.prompt if chat and control_tokens(asked.prompt, loaded.processor) else (),
        )


def beside(
    prompt: str,
    extra: str,
    choice: str,
    models: ModelManager,
    settings: Settings,
    report: Report,
    stopped: Stopped,
) -> Compared:
    """What Compare shows of one prompt: how it goes on with the likeliest token at each step."""
    *_, result = run(validate(prompt, temperature=0), choice, models, report, stopped)
    if result.status is None:
        raise Cancelled("Stopped.")
    return Compared(result.status, text=result.sequences[0])


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    with page.inputs():
        prompt = gr.Textbox(PROMPT, label="Prompt", lines=3, max_lines=12)
        mode = gr.Radio(
            list(MODES),
            value="completion",
            label="Mode",
            info="Chat puts the prompt into the template that this checkpoint was trained on.",
            visible=False,
        )
        with gr.Row():
            most = gr.Slider(1, 512, 40, step=1, label="New tokens", min_width=140)
            sequences = gr.Slider(1, 4, 2, step=1, label="Sequences", min_width=140)
    with page.options():
        temperature = gr.Slider(
            0, 2, 0.7, step=0.05, label="Temperature", info="0: always the likeliest token"
        )
        top_k = gr.Slider(0, 200, 50, step=1, label="Top-k", info="0: no limit")
        top_p = gr.Slider(0.05, 1, 0.95, step=0.05, label="Top-p", info="1: no limit")
        penalty = gr.Slider(0.5, 2, 1, step=0.05, label="Repetition penalty", info="1: none")
        seed = gr.Number(0, label="Seed", precision=0, info="Same seed, same text.")
    with page.results():
        answer = gr.HTML(showing.EMPTY, label="Continuations")
    ran = gr.State()
    knobs = [prompt, most, sequences, temperature, top_k, top_p, penalty, seed, mode]

    def act(*values: Any) -> Iterator[tuple[Any, ...]]:
        *asked, choice, report, stopped = values
        request = validate(*asked)
        for result in run(request, choice, models, report, stopped):
            lead = request.prompt if request.mode == "completion" else ""
            yield (
                markup.sequences(lead, result.sequences),
                gr.update(visible=result.chat) if result.status else gr.skip(),
                result.ran or gr.skip(),
                result.status,
            )

    page.runs(act, knobs, [answer, mode, ran])
    page.examples(EXAMPLES, [prompt])
    page.linked(dict(zip(KNOBS, knobs, strict=True)))
    build_inside(page, ran, models)
    page.code(lambda ran: code(ran, models, visits.is_exposed(settings)), ran)

    def generate(
        prompt: str,
        max_new_tokens: int = 40,
        num_return_sequences: int = 1,
        temperature: float = 0.7,
        top_k: int = 50,
        top_p: float = 0.95,
        seed: int = 0,
        checkpoint: str = "auto",
        stopped: Stopped = never,
    ) -> Iterator[dict[str, list[str]]]:
        """Continue a text, streamed token by token; the last answer is the whole. The prompt is not repeated.

        Args:
            prompt: The beginning of a text.
            max_new_tokens: Tokens to write at most, from 1 to 1024; a word has one or a few.
            num_return_sequences: Continuations, from 1 to 4.
            temperature: 0 always takes the likeliest token; higher is more varied, up to 5.
            top_k: Of how many of the likeliest tokens one is drawn; 0 is all.
            top_p: The share of probability of the likeliest tokens that are kept, above 0 up to 1.
            seed: The same seed gives the same text again.
            checkpoint: "auto", "course", "starter", or owner/name or owner/name@revision on the hub.

        Returns:
            sequences: the continuations, each a text; remarks: what was cut, once all is written
        """
        request = validate(prompt, max_new_tokens, num_return_sequences, temperature, top_k, top_p, 1.0, seed)
        for result in run(request, checkpoint, models, unreported, stopped):
            remarks = result.status.remarks if result.status else ()
            yield {"sequences": list(result.sequences), "remarks": list(remarks)}

    page.endpoint(
        generate,
        [
            endpoints.hidden(gr.Textbox, "prompt"),
            endpoints.hidden(gr.Number, "max_new_tokens", value=40, precision=0),
            endpoints.hidden(gr.Number, "num_return_sequences", value=1, precision=0),
            endpoints.hidden(gr.Number, "temperature", value=0.7),
            endpoints.hidden(gr.Number, "top_k", value=50, precision=0),
            endpoints.hidden(gr.Number, "top_p", value=0.95),
            endpoints.hidden(gr.Number, "seed", value=0, precision=0),
            endpoints.checkpoint_parameter(),
        ],
        [endpoints.hidden(gr.JSON, "sequences")],
        About(
            (answers.CONTINUATIONS,),
            {
                "max_new_tokens": answers.between(*RANGES["new tokens"]),
                "num_return_sequences": answers.between(*RANGES["number of sequences"]),
                "temperature": answers.between(*RANGES["temperature"]),
                "top_k": answers.between(*RANGES["top-k"]),
                "top_p": answers.between(*RANGES["top-p"]),
                "seed": answers.between(*RANGES["seed"]),
            },
            {"prompt": PROMPT},
        ),
    )


DEMO = Demo(
    "generation",
    "Text generation",
    3,
    "A decoder predicts the next token from those before it, again and again: that is how it writes.",
    OFFER,
    build,
    at_once=16,
    compare=Comparison("text", PROMPT, beside),
)
