"""Sentiment: which feeling does a text carry, and how surely?"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from components.compute import tokenization
from components.compute.batching import MOST, Batcher
from components.errors import Cancelled, InputError
from components.explain import attribution, inside, snippets
from components.explain.attribution import Carried
from components.explain.inside import Architecture, Axis, Tokens
from components.inputs import given, tables
from components.models.manager import Loaded, ModelManager, survives_out_of_memory
from components.models.status import Status, notes, status_of
from components.page import answers, drawers, endpoints, showing, ui, visits
from components.page.answers import About
from components.page.demo import Compared, Comparison, Demo
from components.progress import Report, Stopped, never, unreported
from components.server.line import Line
from components.show import inside_markup, markup
from components.show.inside_markup import (
    architecture_facts,
    hidden_states,
    logit_table,
    sentence,
    stations,
    to_probabilities_table,
    token_chips,
)
from components.weights.checkpoints import Bundled, Checkpoint, Hub, Offer, Recipe
from components.weights.wheels import MINILM

if TYPE_CHECKING:
    import torch

    from components.settings import Settings

AT_A_TIME = 320  # texts that are sorted by length together; when stopped, what is done is shown by as many
MOST_INSIDE = 8  # texts that Inside shows
MOST_TEXTS = 2000
EXAMPLES = ["I love this course, and I am learning so much!", "I hate this so much!"]
COURSE = "I've been waiting for a HuggingFace course my whole life."  # a close call for some checkpoints


def _fits(config: dict[str, Any]) -> str | None:
    architectures = config.get("architectures") or ["an unknown architecture"]
    if architectures[0].endswith("ForSequenceClassification"):
        return None
    return (
        f"it is {architectures[0]}, and this tab needs a text classifier (…ForSequenceClassification), "
        "such as distilbert/distilbert-base-uncased-finetuned-sst-2-english."
    )


RECIPE = Recipe("sentiment", lambda config: "AutoModelForSequenceClassification", "AutoTokenizer", _fits)
OFFER = Offer(
    course=Checkpoint(
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        Hub("distilbert/distilbert-base-uncased-finetuned-sst-2-english", "714eb0f"),
        RECIPE,
    ),
    starter=Checkpoint("MiniLM fine-tuned on SST-2", Bundled("minilm-sst2", MINILM), RECIPE),
    alternatives=(
        Checkpoint(
            "cardiffnlp/twitter-roberta-base-sentiment-latest",
            Hub("cardiffnlp/twitter-roberta-base-sentiment-latest"),
            RECIPE,
        ),
        Checkpoint(
            "nlptown/bert-base-multilingual-uncased-sentiment",
            Hub("nlptown/bert-base-multilingual-uncased-sentiment"),
            RECIPE,
        ),
    ),
)


@dataclass(frozen=True)
class Scored:
    """One text and the probability of each label, likeliest first; kept: what of it the model read.

    row: its number in the file or in the box, from 1 on; remarks: what is to be said where it stands alone.
    """

    text: str
    scores: tuple[tuple[str, float], ...]
    kept: str | None = None  # None: all of it
    row: int = 1
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    rows: tuple[Scored, ...]
    status: Status


def validate(
    text: str | None, file: str | None = None, reading: tables.Asked = tables.AS_IT_LOOKS
) -> tables.Texts:
    """The texts to classify: the lines of the box, or the rows of a TXT or CSV file, read as is asked.

    Raises InputError if there is none, too many, or if the file cannot be read.
    """
    if file:
        found = tables.read(Path(file), reading)
    else:
        found = tables.Texts.of_lines(given.text(text, tables.LARGEST))
    kept = [(one.strip(), row) for one, row in zip(found.texts, found.rows, strict=True) if one.strip()]
    if not kept:
        raise InputError("There is no text yet. Type a sentence, or one sentence a line, and run again.")
    if len(kept) > MOST_TEXTS:
        raise InputError(f"That is {len(kept)} texts; at most {MOST_TEXTS} go in one run. Split them up.")
    texts = tuple(given.text(one, given.MOST_CHARACTERS) for one, _ in kept)
    return tables.Texts(texts, tuple(row for _, row in kept), found.remarks)


def preprocess(texts: list[str], loaded: Loaded) -> tuple[list[tokenization.Encoding], list[str | None]]:
    """The tokens of each text, unpadded, and for each what was kept if it was cut."""
    return tokenization.tokenized(texts, loaded, tokenization.longest_input(loaded))


def forward(inputs: dict[str, torch.Tensor], loaded: Loaded) -> torch.Tensor:
    """input_ids and attention_mask `[batch, sequence]` -> logits `[batch, labels]`, float32 on the CPU."""
    import torch

    with torch.inference_mode():
        on_device = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        return loaded.model(**on_device).logits.float().cpu()


def joint(loaded: Loaded) -> Batcher[tokenization.Encoding, torch.Tensor]:
    """The forward pass that all visitors of this model share; logits `[labels]` of each text."""
    return Batcher(
        lambda texts: forward(tokenization.padded(texts, loaded), loaded),
        size=tokenization.length,
        cost=tokenization.pass_cost(loaded),
        turn=loaded.compute,
        sizes=loaded.turns.sizes,
    )


def is_multi_label(config: Any) -> bool:
    """Whether the checkpoint says that labels do not exclude each other."""
    return config.problem_type == "multi_label_classification" or config.num_labels == 1


def to_probabilities(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Logits `[batch, labels]` -> probabilities of the same shape: a softmax, or a sigmoid for each label."""
    return logits.sigmoid() if is_multi_label(config) else logits.softmax(-1)


def _names(config: Any) -> tuple[str, ...]:
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))


def postprocess(logits: torch.Tensor, config: Any) -> list[tuple[tuple[str, float], ...]]:
    """For each text its labels with their probabilities, likeliest first (course, chapter 2)."""
    names = _names(config)
    rows = [zip(names, map(float, row), strict=True) for row in to_probabilities(logits, config)]
    return [tuple(sorted(row, key=lambda pair: -pair[1])) for row in rows]


@survives_out_of_memory
def run(
    text: str | None,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    file: str | None = None,
    batch: int = MOST,
    reading: tables.Asked = tables.AS_IT_LOOKS,
) -> Result:
    """Classify one text or many, in batches of similar lengths and together with other visitors' texts.

    A run that is stopped tells what is done so far; raises Cancelled if that is nothing.
    """
    import torch

    found = validate(text, file, reading)
    texts = list(found.texts)
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        rows: list[Scored] = []
        unfinished: tuple[str, ...] = ()
        unsure: list[tuple[str, ...]] = []
        for start in range(0, len(texts), AT_A_TIME):
            part = texts[start : start + AT_A_TIME]
            encodings, kept = preprocess(part, loaded)
            try:
                logits = loaded.share(joint)(encodings, stopped, batch)
            except Cancelled:
                if not rows:
                    raise
                unfinished = (f"Stopped after {len(rows):,} of {len(texts):,} texts.",)
                break
            scores = postprocess(torch.stack(logits), loaded.model.config)
            limit = tokenization.longest_input(loaded)
            unknown = tokenization.unknown_remarks(part, encodings, loaded)
            unsure += [words for words in unknown if words]
            said = (
                notes(loaded) + words + tokenization.truncation_remarks([one], limit)
                for one, words in zip(kept, unknown, strict=True)
            )
            rows += map(Scored, part, scores, kept, found.rows[start:], said)
        cut = tokenization.truncation_remarks([row.kept for row in rows], tokenization.longest_input(loaded))
        few = unsure[0] if len(texts) == 1 and unsure else ()
        if unsure and len(texts) > 1:
            few = (
                f"Texts that the checkpoint hardly knows, so that its answers say little: {len(unsure):,}.",
            )
        return Result(tuple(rows), status_of(loaded, started, (*unfinished, *found.remarks, *few, *cut)))


@dataclass(frozen=True)
class Ran:
    """What the drawers need to know of a run. checkpoint: its name, so that it is the same one again."""

    texts: tuple[str, ...]
    checkpoint: str


@dataclass(frozen=True)
class Inside:
    """What happened to some texts on their way to the answer.

    hidden: the shape of the last hidden states, of each part that has some; logits, probabilities:
    `[batch, labels]`, labels in the order of the classes; sigmoid: whether each label has a probability of
    its own.
    """

    texts: tuple[str, ...]
    algorithm: str
    tokens: tuple[Tokens, ...]
    architecture: Architecture
    hidden: tuple[tuple[str, tuple[Axis, ...]], ...]
    logits: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]
    sigmoid: bool


def look_inside(ran: Ran, models: ModelManager) -> Inside:
    """The same pass again for the first few texts, with all that is between."""
    texts = ran.texts[:MOST_INSIDE]
    with models.use(OFFER, ran.checkpoint) as loaded:
        encodings, kept = preprocess(list(texts), loaded)
        limit = tokenization.longest_input(loaded)
        cut = [
            "" if part is None else inside.cut_end(text, loaded, limit, part)
            for text, part in zip(texts, kept, strict=True)
        ]
        inputs = tokenization.padded(encodings, loaded)
        on_device = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        output = loaded.compute(lambda: loaded.model(**on_device, output_hidden_states=True))
        logits, config = output.logits.float().cpu(), loaded.model.config
        probabilities = to_probabilities(logits, config)
        return Inside(
            texts=texts,
            algorithm=inside.algorithm(loaded.processor),
            tokens=inside.tokens_of(inputs, loaded.processor, cut),
            architecture=inside.architecture(loaded),
            hidden=inside.last_hidden(output, "batch", "sequence", "hidden"),
            logits=tuple(map(tuple, logits.tolist())),
            labels=_names(config),
            probabilities=tuple(map(tuple, probabilities.tolist())),
            sigmoid=is_multi_label(config),
        )


def draw_inside(seen: Inside) -> str:
    """The four stations as HTML."""
    several = len(seen.texts) > 1
    tokens = f"{seen.algorithm} splits a text into tokens, and each has an id."
    if several:
        tokens += " Shorter texts are filled up with padding, which the attention mask leaves out."
    head, after = [], []
    for text, logits, probabilities in zip(seen.texts, seen.logits, seen.probabilities, strict=True):
        named = sentence(f"“{text[:80]}”") if several else ""
        head.append(named + logit_table(seen.labels, logits))
        after.append(named + to_probabilities_table(seen.labels, logits, probabilities, seen.sigmoid))
    return stations(
        sentence(tokens) + token_chips(seen.tokens),
        architecture_facts(seen.architecture)
        + "".join(hidden_states(axes, part) for part, axes in seen.hidden),
        sentence("The classification head makes one number for each label: the logits.") + "".join(head),
        "".join(after) + sentence("id2label in the checkpoint's configuration names the classes."),
    )


def attribute(ran: Ran, models: ModelManager, text: int = 0, label: int | None = None) -> Carried:
    """Which tokens of one of the texts made the logit of a class; label: its number, None for the top one."""
    with models.use(OFFER, ran.checkpoint) as loaded:
        encodings, _ = preprocess([ran.texts[text]], loaded)
        inputs = tokenization.padded(encodings, loaded)
        names = _names(loaded.model.config)
        if label is None or label >= len(names):
            label = int(loaded.compute(lambda: forward(inputs, loaded)).argmax())
        found = attribution.carried(
            loaded,
            inputs,
            inside.tokens_of(inputs, loaded.processor)[0],
            names,
            label,
            lambda output: output.logits[:, label].float(),
            f"the logit of {names[label]}",
        )
        return replace(found, remarks=tokenization.unknown_remarks([ran.texts[text]], encodings, loaded)[0])


def code(ran: Ran, models: ModelManager, public: bool) -> str:
    """The program that scores the first few texts likewise."""
    with models.use(OFFER, ran.checkpoint) as loaded:
        return snippets.sentiment(
            snippets.place_of(loaded, public, ran.texts),
            ran.texts,
            limit=tokenization.longest_input(loaded),
            sigmoid=is_multi_label(loaded.model.config),
        )


def to_csv(rows: tuple[Scored, ...]) -> str:
    """A table with the number of the row, the text, its label, and the probability of each label."""
    labels = [label for label, _ in sorted(rows[0].scores)]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["row", "text", "label", *map(tables.safe_cell, labels)])
    for row in rows:
        scores = dict(row.scores)
        words = (tables.safe_cell(word) for word in (row.text, row.scores[0][0]))
        writer.writerow([row.row, *words, *(f"{scores[label]:.6f}" for label in labels)])
    return out.getvalue()


def beside(
    text: str,
    extra: str,
    choice: str,
    models: ModelManager,
    settings: Settings,
    report: Report,
    stopped: Stopped,
) -> Compared:
    """What Compare shows of one text: its labels."""
    result = run(text, choice, models, report, stopped, batch=settings.batch)
    return Compared(result.status, result.rows[0].scores)


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    with page.inputs():
        text = gr.Textbox(
            EXAMPLES[0],
            label="Text",
            lines=4,
            max_lines=12,
            info="One text, or several: one per line.",
            placeholder="Type or paste a sentence",
        )
        with gr.Accordion("Many texts from a file", open=False):
            file = gr.File(label="TXT with one text a line, or CSV", file_types=[".txt", ".csv"], height=140)
            with gr.Row(visible=False) as how:
                delimiter = gr.Dropdown(
                    [(name, mark) for name, mark in tables.DELIMITERS.items()],
                    value=None,
                    label="Delimiter",
                    min_width=120,
                )
                column = gr.Dropdown([], value=None, label="Column", min_width=120)
                header = gr.Checkbox(label="First row is a header", min_width=200)
            shown_rows = gr.Dataframe(label="First rows", visible=False, interactive=False, wrap=True)
            said = gr.HTML()
    with page.results():
        answer = gr.HTML(showing.EMPTY, label="Label and probability")
        table = gr.Dataframe(label="All texts", visible=False, interactive=False, wrap=True)
        download = gr.DownloadButton("Download as CSV", visible=False)
    ran = gr.State()

    def look(file: str | None, *asked: Any) -> tuple[Any, ...]:
        """The file as it would be read: its delimiter, columns, header and first rows."""
        hide = gr.update(visible=False)
        if not file:
            return hide, None, gr.update(choices=[], value=None), None, hide, ""
        seen = tables.preview(Path(file), tables.Asked(*asked))
        rows = {"headers": list(seen.columns), "data": [list(row) for row in seen.rows]}
        return (
            gr.update(visible=Path(file).suffix.lower() == ".csv"),
            seen.reading.delimiter,
            gr.update(choices=[(name, i) for i, name in enumerate(seen.columns)], value=seen.reading.column),
            seen.reading.header,
            gr.update(value=rows, visible=True),
            "".join(map(sentence, seen.remarks)),
        )

    looked = [how, delimiter, column, header, shown_rows, said]
    page.changes(file, look, [file], looked)
    # Another delimiter makes other columns.
    asked = [file, delimiter, header, column]
    page.changes(delimiter, lambda file, delimiter, *_: look(file, delimiter), asked, looked)
    page.changes(header, look, asked, looked)

    def act(
        text: str,
        file: str | None,
        delimiter: str | None,
        header: bool | None,
        column: int | None,
        choice: str,
        report: Report,
        stopped: Stopped,
    ) -> tuple[Any, ...]:
        reading = tables.Asked(delimiter, header, column)
        result = run(text, choice, models, report, stopped, file, settings.batch, reading)
        done = Ran(tuple(row.text for row in result.rows[:MOST_INSIDE]), result.status.checkpoint)
        if len(result.rows) == 1:
            hide = gr.update(visible=False)
            return markup.bars(result.rows[0].scores), hide, hide, done, result.status
        content = [[row.text, row.scores[0][0], markup.percent(row.scores[0][1])] for row in result.rows]
        shown = gr.update(value={"headers": ["text", "label", "score"], "data": content}, visible=True)
        saved = gr.update(value=showing.download("sentiment.csv", to_csv(result.rows)), visible=True)
        return markup.counts([row.scores[0][0] for row in result.rows]), shown, saved, done, result.status

    page.runs(act, [text, file, delimiter, header, column], [answer, table, download, ran])
    page.examples([[example] for example in (*EXAMPLES, COURSE, "\n".join((COURSE, *EXAMPLES)))], [text])
    page.linked({"text": text, "file": file})

    def carried(ran: Ran, text: int, label: int | None) -> tuple[tuple[str, ...], int, str]:
        found = attribute(ran, models, text, label)
        return found.labels, found.chosen, inside_markup.attribution(found)

    with page.drawer("Inside") as drawer:
        stations = gr.HTML()
        drawers.attribution(drawer, ran, lambda ran: ran.texts, carried)
    drawer.shows(lambda ran: draw_inside(look_inside(ran, models)), [ran], [stations])

    page.code(lambda ran: code(ran, models, visits.is_exposed(settings)), ran)

    def sentiment(text: str, checkpoint: str = "auto", stopped: Stopped = never) -> dict[str, Any]:
        """Tell which feeling one text carries: its labels with their probabilities, likeliest first.

        Args:
            text: One text; line breaks count as spaces.
            checkpoint: "auto", "course", "starter", or owner/name or owner/name@revision on the hub.

        Returns:
            the likeliest label, the confidence of each, from 0 to 1, and remarks, such as what was cut
        """
        one = " ".join((text or "").split())
        result = run(one, checkpoint, models, stopped=stopped, batch=settings.batch)
        return answers.labelled(result.rows[0].scores, result.status.remarks)

    def sentiment_batch(
        texts: list[str], checkpoint: str = "auto", stopped: Stopped = never
    ) -> list[dict[str, Any]]:
        """Tell which feeling each of many texts carries, in one call.

        Args:
            texts: Texts, each with something in it; line breaks count as spaces.
            checkpoint: "auto", "course", "starter", or owner/name or owner/name@revision on the hub.

        Returns:
            for each text, in the order given, its likeliest label, the confidence of each, and remarks
        """
        lines = [" ".join(text.split()) for text in answers.texts(texts, MOST_TEXTS)]
        result = run("\n".join(lines), checkpoint, models, stopped=stopped, batch=settings.batch)
        if len(result.rows) < len(lines):
            raise Cancelled(f"Stopped after {len(result.rows):,} of {len(lines):,} texts.")
        return [answers.labelled(row.scores, row.remarks) for row in result.rows]

    page.endpoint(
        sentiment,
        [endpoints.hidden(gr.Textbox, "text"), endpoints.checkpoint_parameter()],
        [endpoints.scores_output()],
        About((answers.LABELS,), examples={"text": EXAMPLES[1]}),
    )
    page.endpoint(
        sentiment_batch,
        [endpoints.hidden(gr.JSON, "texts"), endpoints.checkpoint_parameter()],
        [endpoints.hidden(gr.JSON, "scores")],
        About(
            (answers.rows(answers.LABELS),), {"texts": answers.up_to(MOST_TEXTS)}, {"texts": list(EXAMPLES)}
        ),
    )


DEMO = Demo(
    "sentiment",
    "Sentiment",
    1,
    "An encoder reads the whole text; a classification head on top of it tells praise from blame.",
    OFFER,
    build,
    compare=Comparison(
        "text",
        EXAMPLES[0],
        beside,
        lambda text, extra, checkpoint, models, settings: draw_inside(
            look_inside(Ran((text,), checkpoint), models)
        ),
    ),
)
