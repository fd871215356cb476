"""Masked and causal: what belongs in a gap, seen from both sides of it and from the left only?"""

from __future__ import annotations

import html
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from components.compute import tokenization
from components.errors import CheckpointError, InputError, ModelLoadError, NotFinite
from components.explain import inside
from components.explain.inside import Architecture, Axis, Tokens
from components.explain.masks import AXES, may_look
from components.inputs.gap import MARK, split_at_gap, window
from components.models.control import control_tokens
from components.models.manager import Loaded, ModelManager, TooNarrow, survives_out_of_memory
from components.models.status import Status, status_of, status_of_two
from components.page import answers, choosing, endpoints, showing, ui
from components.page.answers import About
from components.page.demo import Demo
from components.progress import Progress, Report, Stopped, never, unreported
from components.server.line import Line
from components.show import markup
from components.show.inside_markup import (
    SOFTMAX,
    architecture_facts,
    hidden_states,
    number_table,
    readable,
    sentence,
    stations,
    token_chips,
)
from components.weights import causal
from components.weights.checkpoints import Bundled, Checkpoint, Hub, Offer, Recipe
from components.weights.wheels import MINILM

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import torch

    from components.settings import Settings

EXAMPLES = [
    f"This course will teach you all about {MARK} models.",
    f"The capital of France is {MARK}.",
    f"He opened the {MARK} and took out a cold bottle of milk.",
    f"She was so {MARK} that she fell asleep at once.",
]
TOP = 10  # tokens shown of each model
MOST_DRAWN = 14  # tokens on a side of an attention mask
HIDDEN, SEEN = "#440154", "#fde725"  # the ends of viridis
WHY = (
    "Why they differ: the masked model attends to both sides of the gap, so the words after it count as much "
    "as those before. The causal model attends to the left only and predicts how the text goes on"
)
HOW_TO_READ = (
    f"The attention masks, {AXES}: where a cell is bright, the token of that row may look "
    "at the token of that column. The outlined row is the one whose output becomes the answer. ␣ is a space."
)


def _fits(config: dict[str, Any]) -> str | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED_LM

    name = (config.get("architectures") or ["an unknown architecture"])[0]
    if name in MASKED_LM.values() and name.endswith("ForMaskedLM"):
        return None
    return (
        f"it is {name}, and the masked side needs a masked language model (…ForMaskedLM), "
        "such as distilbert/distilbert-base-uncased."
    )


RECIPE = Recipe("masked", lambda config: "AutoModelForMaskedLM", "AutoTokenizer", _fits)


def _masked(name: str) -> Checkpoint:
    return Checkpoint(name, Hub(name), RECIPE)


MASKED = Offer(
    course=_masked("distilbert/distilbert-base-uncased"),
    starter=Checkpoint("MiniLM that fills gaps", Bundled("minilm-masked", MINILM), RECIPE),
    alternatives=(
        _masked("distilbert/distilroberta-base"),
        _masked("google-bert/bert-base-cased"),
        _masked("FacebookAI/xlm-roberta-base"),
    ),
)


@dataclass(frozen=True)
class Side:
    """What one model says of the gap.

    scores: the likeliest tokens with their probabilities, likeliest first; tokens: what it read; place:
    the position of the token among them whose output is the answer.
    """

    scores: tuple[tuple[str, float], ...]
    tokens: tuple[str, ...]
    place: int
    status: Status


@dataclass(frozen=True)
class Result:
    """Both sides of a text around its gap; a sentence for one that cannot answer, None if it has not yet."""

    before: str
    after: str
    causal: Side | str
    masked: Side | str | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        return tuple(side for side in (self.causal, self.masked) if isinstance(side, Side))

    @property
    def status(self) -> Status:
        """Of those that have answered. Raises ValueError if none has."""
        if not self.sides:
            raise ValueError("neither side has answered")
        first, *others = (side.status for side in self.sides)
        return status_of_two(first, others[0]) if others else first


def preprocess_masked(before: str, after: str, loaded: Loaded) -> tuple[list[int], int, str | None]:
    """Ids `[sequence]` with the tokenizer's own mask in the gap, where that is, and what was kept if cut.

    Raises InputError for a tokenizer without a mask, or one whose mask is a word that the text has.
    """
    tokenizer, limit = loaded.processor, tokenization.longest_input(loaded)
    if tokenizer.mask_token is None:
        raise InputError(f"{loaded.checkpoint.name} has no mask token. Choose a masked language model.")
    with loaded.lock:
        # What the tokenizer puts around a text, which is nothing but the mask here.
        around = tokenizer(tokenizer.mask_token, split_special_tokens=False)["input_ids"]
        lead = around.index(tokenizer.mask_token_id)
        body = _with_a_mask(before, after, tokenizer)
        if body.count(tokenizer.mask_token_id) != 1:
            name = loaded.checkpoint.name
            raise InputError(
                f"The text holds {tokenizer.mask_token}, which is the mask of {name}. Remove it."
            )
        place, room = body.index(tokenizer.mask_token_id), limit - (len(around) - 1)
        part = window(len(body), place, room)
        kept = tokenizer.decode(body[part]) if len(body) > room else None
    return around[:lead] + body[part] + around[lead + 1 :], lead + place - part.start, kept


def _with_a_mask(before: str, after: str, tokenizer: Any) -> list[int]:
    """Ids of a text with the tokenizer's mask in it, without the tokens around it.

    Only the gap is a mask: what looks like a control token before or after it is text.
    """
    how: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    if not control_tokens(f"{before} {after}", tokenizer):
        text = f"{before}{tokenizer.mask_token}{after}"
        return list(tokenizer(text, split_special_tokens=False, **how)["input_ids"])
    # Beside a special token each side is split by itself anyway; some masks take the space before them.
    mask = tokenizer.added_tokens_decoder.get(tokenizer.mask_token_id)
    before = before.rstrip() if getattr(mask, "lstrip", False) else before
    left, right = (tokenizer(side, split_special_tokens=True, **how)["input_ids"] for side in (before, after))
    return [*left, tokenizer.mask_token_id, *right]


def preprocess_causal(before: str, loaded: Loaded) -> tuple[list[int], str | None]:
    """Ids `[sequence]` of what stands before the gap, and what was kept if its beginning was cut.

    A space at the end is left out: it belongs to the next token. Raises InputError if nothing stands there
    and the checkpoint has no token that begins a text.
    """
    tokenizer, limit = loaded.processor, tokenization.longest_input(loaded)
    with loaded.lock:
        ids = tokenizer(before.rstrip(" "), verbose=False)["input_ids"]
        if not ids and tokenizer.bos_token_id is None:
            raise InputError(
                f"Nothing stands before the gap, and {loaded.checkpoint.name} has no token that begins a "
                "text. Write a word before the gap."
            )
        ids = ids or [tokenizer.bos_token_id]
        kept = tokenizer.decode(ids[-limit:], skip_special_tokens=True) if len(ids) > limit else None
    return ids[-limit:], kept


def forward(ids: list[int], place: int, loaded: Loaded, **options: Any) -> tuple[torch.Tensor, Any]:
    """Ids `[sequence]` -> logits `[vocabulary]` at that place, float32 on the CPU, and the model's output.

    options: what the model is to give besides.
    """
    import torch

    # Logits of the other places would only take memory; not every architecture can leave them out.
    last = place == len(ids) - 1 and "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
    if last:
        options["logits_to_keep"] = 1

    def step() -> tuple[torch.Tensor, Any]:
        tokens = torch.tensor([ids], device=loaded.device)
        output = loaded.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **options)
        return output.logits[0, -1 if last else place].float().cpu(), output

    return loaded.compute(step)


def postprocess(logits: torch.Tensor, loaded: Loaded) -> tuple[tuple[str, float], ...]:
    """The TOP likeliest tokens with their softmax probabilities, from logits `[vocabulary]`."""
    values, ids = logits.softmax(-1).topk(min(TOP, len(logits)))
    with loaded.lock:
        texts = [_text_of(token, loaded.processor) for token in ids.tolist()]
    return tuple(zip(texts, values.tolist(), strict=True))


def _text_of(token: int, tokenizer: Any) -> str:
    """A token as it would stand in a text, with the space that begins a word."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if not text or "\ufffd" in text or not text.isprintable():
        return piece  # a part of a character, or nothing that can be seen
    return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text


def fill(
    before: str, after: str, choice: str, models: ModelManager, report: Report, stopped: Stopped
) -> Side:
    """The masked model's answer: the token in the gap, seen from both sides (Devlin et al. 2019)."""
    with models.use(MASKED, choice, report, stopped) as loaded:
        started = time.perf_counter()
        ids, place, kept = preprocess_masked(before, after, loaded)
        scores = postprocess(forward(ids, place, loaded)[0], loaded)
        remarks: tuple[str, ...] = ()
        if kept is not None:
            remarks = (
                f"The masked model takes {tokenization.longest_input(loaded)} tokens: it read only those "
                f"around the gap, from “{kept[:80]} …”",
            )
        remarks += _unknown_to("masked", before + after, ids, loaded)
        tokens = tuple(loaded.processor.convert_ids_to_tokens(ids))
        return Side(scores, tokens, place, status_of(loaded, started, remarks))


def go_on(before: str, choice: str, models: ModelManager, report: Report, stopped: Stopped) -> Side:
    """The causal model's answer: the next token after what stands before the gap (Radford et al. 2018)."""
    with models.use(causal.OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        ids, kept = preprocess_causal(before, loaded)
        scores = postprocess(forward(ids, len(ids) - 1, loaded)[0], loaded)
        remarks: tuple[str, ...] = ()
        if kept is not None:
            remarks = (
                f"The causal model takes {tokenization.longest_input(loaded)} tokens: it read only the last "
                f"ones before the gap, from “{kept[:80]} …”",
            )
        if not before.strip():
            remarks = ("Nothing stands before the gap: the causal model guesses how a text may begin.",)
        remarks += _unknown_to("causal", before, ids, loaded)
        tokens = tuple(loaded.processor.convert_ids_to_tokens(ids))
        return Side(scores, tokens, len(ids) - 1, status_of(loaded, started, remarks))


def _unknown_to(model: str, text: str, ids: list[int], loaded: Loaded) -> tuple[str, ...]:
    """What to say if that model hardly knows the text, which it reads as these ids."""
    special = tokenization.special_ids(loaded.processor)
    why = tokenization.unknown(text, [one for one in ids if one not in special], loaded)
    return (f"Of the {model} model: {why[0].lower()}{why[1:]}, and {tokenization.GUESSED}",) if why else ()


@survives_out_of_memory
def run(
    text: str | None,
    masked_choice: str,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
) -> Iterator[Result]:
    """Ask the causal model and then the masked one; yields what is known after each.

    A side whose checkpoint cannot be had, or gives no numbers, says so in a sentence, and the other answers
    all the same.
    Raises InputError for a text without exactly one gap, CheckpointError if neither side can answer.
    """
    before, after = split_at_gap(text)
    left = _or_sentence(lambda: go_on(before, choice, models, report, stopped))
    yield Result(before, after, left)
    both = _or_sentence(lambda: fill(before, after, masked_choice, models, report, stopped))
    if isinstance(left, str) and isinstance(both, str):
        raise CheckpointError(left if left == both else f"{left} {both}")
    yield Result(before, after, left, both)


def _or_sentence(answer: Callable[[], Side]) -> Side | str:
    try:
        return answer()
    except TooNarrow:
        raise
    except (InputError, CheckpointError, ModelLoadError, NotFinite) as error:
        return str(error)


@dataclass(frozen=True)
class Ran:
    """What the drawer needs to know of a run. masked, causal: the checkpoints' names, None where none ran."""

    before: str
    after: str
    masked: str | None
    causal: str | None


@dataclass(frozen=True)
class Inside:
    """What happened on one side between the text and its answer.

    place: of the token whose output is the answer; hidden: the shape of the last hidden states; best: the
    likeliest tokens with id, logit, e^(logit - highest) and probability; highest, total: the highest logit
    and the sum of these powers over the whole vocabulary.
    """

    checkpoint: str
    algorithm: str
    tokens: Tokens
    place: int
    architecture: Architecture
    hidden: tuple[Axis, ...]
    vocabulary: int
    best: tuple[tuple[str, int, float, float, float], ...]
    highest: float
    total: float


def look_inside(ran: Ran, models: ModelManager) -> tuple[Inside | None, Inside | None]:
    """The same passes again with all that is between, masked and causal; None for a side that did not run."""
    seen: list[Inside | None] = [None, None]
    if ran.masked:
        with models.use(MASKED, ran.masked) as loaded:
            ids, place, _ = preprocess_masked(ran.before, ran.after, loaded)
            seen[0] = _look(ids, place, loaded)
    if ran.causal:
        with models.use(causal.OFFER, ran.causal) as loaded:
            ids, _ = preprocess_causal(ran.before, loaded)
            seen[1] = _look(ids, len(ids) - 1, loaded)
    return seen[0], seen[1]


def _look(ids: list[int], place: int, loaded: Loaded) -> Inside:
    import torch

    logits, output = forward(ids, place, loaded, output_hidden_states=True)
    powers, shares = inside.softmax_steps(logits.numpy())
    chosen = logits.topk(min(TOP, len(logits))).indices.tolist()
    with loaded.lock:
        texts = [_text_of(token, loaded.processor) for token in chosen]
    (tokens,) = inside.tokens_of({"input_ids": torch.tensor([ids])}, loaded.processor)
    return Inside(
        checkpoint=loaded.checkpoint.name,
        algorithm=inside.algorithm(loaded.processor),
        tokens=tokens,
        place=place,
        architecture=inside.architecture(loaded),
        hidden=inside.axes(output.hidden_states[-1], "batch", "sequence", "hidden"),
        vocabulary=len(logits),
        best=tuple(
            (text, i, float(logits[i]), float(powers[i]), float(shares[i]))
            for text, i in zip(texts, chosen, strict=True)
        ),
        highest=float(logits.max()),
        total=float(powers.sum(dtype=np.float64)),
    )


def draw_inside(seen: Inside | None) -> str:
    """The four stations of one side as HTML."""
    if seen is None:
        return sentence("This side did not answer: there is nothing to look into.")
    asked = readable(seen.tokens.tokens[seen.place].text)
    head = (
        f"The language modelling head makes one logit for each of the {seen.vocabulary:,} tokens of the "
        f"vocabulary, at every position. The answer is read at position {seen.place + 1} of "
        f"{len(seen.tokens.tokens)}, {asked}. The {len(seen.best)} highest:"
    )
    logits = [(readable(text), str(i), f"{logit:.4f}") for text, i, logit, _, _ in seen.best]
    steps = [(readable(text), f"{power:.4f}", f"{share:.4f}") for text, _, _, power, share in seen.best]
    words = SOFTMAX.format(highest=seen.highest, total=seen.total)
    return f"<h3>{html.escape(seen.checkpoint)}</h3>" + stations(
        sentence(f"The tokenizer ({seen.algorithm}) splits the text into tokens, and each has an id.")
        + token_chips([seen.tokens]),
        architecture_facts(seen.architecture) + hidden_states(seen.hidden),
        sentence(head) + number_table(("token", "id", "logit"), logits),
        sentence(words) + number_table(("token", "e^(logit - highest)", "divided by their sum"), steps),
    )


def draw(result: Result) -> str:
    """Both answers side by side as HTML, and why they differ."""
    rest = result.after.strip(" .")
    why = f"{WHY}: it has not read “{rest[:60]}{' …' if len(rest) > 60 else ''}”." if rest else f"{WHY}."
    sides = _section("Masked: sees both sides", result.masked, result.before, result.after, seen=True)
    sides += _section("Causal: sees the left only", result.causal, result.before, result.after, seen=False)
    return f'<div class="sequences gap">{sides}</div>{sentence(why)}{sentence(HOW_TO_READ)}'


def _section(title: str, side: Side | str | None, before: str, after: str, seen: bool) -> str:
    head = f"<h3>{html.escape(title)}</h3>"
    if side is None:
        return f"<section>{head}{sentence('The masked model comes next …')}</section>"
    if isinstance(side, str):
        return f'<section>{head}<p class="remark">{html.escape(side)}</p></section>'
    best, _ = side.scores[0]
    rest = html.escape(after) if seen else f'<span class="prompt">{html.escape(after)}</span>'
    filled = f"{html.escape(before)}<mark>{html.escape(best.strip() or readable(best))}</mark>{rest}"
    bars = markup.bars([(readable(token), share) for token, share in side.scores], headline=False)
    return (
        f'<section>{head}<p class="filled">{filled}</p>{bars}'
        f"<footer>{html.escape(side.status.checkpoint)}</footer></section>"
    )


def draw_mask(side: Side, is_causal: bool) -> go.Figure:
    """The attention mask `[query, key]` of the tokens around the answer as a small figure."""
    import plotly.graph_objects as go

    part = window(len(side.tokens), side.place, MOST_DRAWN)
    allowed = may_look(len(side.tokens), is_causal)[part, part]
    names = [html.escape(readable(token)) for token in side.tokens[part]]
    row, count = side.place - part.start, len(names)
    words = np.where(allowed, "may look at", "may not look at")
    title = "Causal: left only" if is_causal else "Masked: both directions"
    axis: dict[str, Any] = {"tickvals": list(range(count)), "ticktext": names, "automargin": True}
    axis |= {"showgrid": False, "zeroline": False, "tickfont": {"size": 11}}
    outline = {"color": "#d55e00", "width": 3}
    return go.Figure(
        go.Heatmap(
            z=allowed.astype(int),
            zmin=0,
            zmax=1,
            colorscale=[[0, HIDDEN], [1, SEEN]],
            showscale=False,
            xgap=1,
            ygap=1,
            customdata=[[(names[q], words[q, k], names[k]) for k in range(count)] for q in range(count)],
            hovertemplate="%{customdata[0]} %{customdata[1]} %{customdata[2]}<extra></extra>",
        ),
        {
            "title": {"text": title, "font": {"size": 12}},
            "xaxis": {**axis, "title": {"text": "key (looked at)"}, "tickangle": -60},
            "yaxis": {**axis, "title": {"text": "query (looking)"}, "autorange": "reversed"},
            "shapes": [
                {"type": "rect", "x0": -0.5, "x1": count - 0.5, "y0": row - 0.5, "y1": row + 0.5}
                | {"line": outline}
            ],
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 10, "r": 10, "t": 36, "b": 10},
            "height": 340,
        },
    )


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    page.checkpoint.label = "Causal checkpoint"
    with page.inputs():
        text = gr.Textbox(
            EXAMPLES[0],
            label="Text with a gap",
            lines=3,
            max_lines=12,
            info="Write three underscores or [MASK] in place of one word.",
        )
    with page.options():
        masked = choosing.checkpoint_dropdown(MASKED, "Masked checkpoint")
    with page.results():
        answer = gr.HTML(showing.EMPTY, label="Both answers")
        with gr.Row():
            figures = [gr.Plot(show_label=False, min_width=260, visible=False) for _ in range(2)]

    ran = gr.State()

    def mask_of(side: Side | str | None, is_causal: bool) -> Any:
        if isinstance(side, Side):
            return gr.update(value=draw_mask(side, is_causal), visible=True)
        return gr.update(value=None, visible=False)

    def act(
        text: str, masked: str, choice: str, report: Report, stopped: Stopped
    ) -> Iterator[tuple[Any, ...]]:
        for result in run(text, masked, choice, models, report, stopped):
            status = Progress("running") if result.masked is None else result.status
            # Both at once: a figure that stands alone is as wide as two, and stays so beside another.
            done = result.masked is not None
            masks = tuple(
                mask_of(side if done else None, is_causal)
                for side, is_causal in ((result.masked, False), (result.causal, True))
            )
            names = [
                side.status.checkpoint if isinstance(side, Side) else None
                for side in (result.masked, result.causal)
            ]
            yield draw(result), *masks, Ran(result.before, result.after, *names), status

    page.runs(act, [text, masked], [answer, *figures, ran])
    page.examples([[example] for example in EXAMPLES], [text])
    page.linked({"text": text, "masked_checkpoint": masked})

    with page.drawer("Inside") as drawer, gr.Row():
        with gr.Column(min_width=300):
            left = gr.HTML()
        with gr.Column(min_width=300):
            right = gr.HTML()
    drawer.shows(lambda ran: tuple(map(draw_inside, look_inside(ran, models))), [ran], [left, right])

    def fill_gap(
        text: str, masked_checkpoint: str = "auto", checkpoint: str = "auto", stopped: Stopped = never
    ) -> dict[str, Any]:
        """Fill the gap in a text twice: by a model that reads both sides, and by one that reads the left.

        Args:
            text: A text with one gap, written as ___ or [MASK].
            masked_checkpoint: The model that reads both sides: "auto", "course", "starter" or owner/name.
            checkpoint: The model that reads the left: "auto", "course", "starter" or owner/name.

        Returns:
            masked and causal: the likeliest tokens with their confidence, or the problem, and remarks
        """
        *_, result = run(text, masked_checkpoint, checkpoint, models, stopped=stopped)
        named = {"masked": result.masked, "causal": result.causal}
        return {
            name: answers.side(side.scores, side.status.remarks)
            if isinstance(side, Side)
            else answers.side(str(side))
            for name, side in named.items()
        }

    page.endpoint(
        fill_gap,
        [
            endpoints.hidden(gr.Textbox, "text"),
            endpoints.hidden(gr.Textbox, "masked_checkpoint", value="auto", info='"auto" or owner/name'),
            endpoints.checkpoint_parameter(),
        ],
        [endpoints.hidden(gr.JSON, "answers")],
        About((answers.SIDES,), examples={"text": EXAMPLES[0]}),
    )


DEMO = Demo(
    "masked",
    "Masked and causal",
    8,
    "A masked language model fills a gap from both sides of it; a causal one goes on from its left.",
    causal.OFFER,
    build,
)
