"""Sentiment: which feeling does a text carry, and how surely?"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from components import tables, ui
from components.checkpoints import Bundled, Checkpoint, Hub, Offer, Recipe
from components.demo import Demo, Status, status_of
from components.errors import InputError
from components.line import Line
from components.models import Loaded, ModelManager
from components.progress import Report, Stopped, never, unreported
from components.wheels import MINILM

if TYPE_CHECKING:
    import torch

BATCH = 32
MOST_TEXTS = 2000
EXAMPLES = ["I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"]


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
    """One text and the probability of each label, likeliest first; kept: what of it the model read."""

    text: str
    scores: tuple[tuple[str, float], ...]
    kept: str | None = None  # None: all of it


@dataclass(frozen=True)
class Result:
    rows: tuple[Scored, ...]
    status: Status


def validate(text: str | None, file: str | None = None) -> list[str]:
    """The texts to classify: the lines of the box, or the rows of a TXT or CSV file.

    Raises InputError if there is none, too many, or if the file cannot be read.
    """
    texts = tables.read_texts(Path(file)) if file else (text or "").splitlines()
    texts = [line.strip() for line in texts if line.strip()]
    if not texts:
        raise InputError("There is no text yet. Type a sentence, or one sentence a line, and run again.")
    if len(texts) > MOST_TEXTS:
        raise InputError(f"That is {len(texts)} texts; at most {MOST_TEXTS} go in one run. Split them up.")
    return texts


def preprocess(texts: list[str], loaded: Loaded) -> tuple[dict[str, torch.Tensor], list[str | None]]:
    """input_ids and attention_mask `[batch, sequence]`, and for each text what was kept if it was cut."""
    return tables.tokenized(texts, loaded, tables.longest_input(loaded))


def forward(inputs: dict[str, torch.Tensor], loaded: Loaded) -> torch.Tensor:
    """Logits `[batch, labels]` in float32 on the CPU."""
    import torch

    with torch.inference_mode():
        on_device = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        return loaded.model(**on_device).logits.float().cpu()


def postprocess(logits: torch.Tensor, config: Any) -> list[tuple[tuple[str, float], ...]]:
    """For each text its labels with their probabilities, likeliest first.

    A softmax, or a sigmoid for each label where the checkpoint says that labels do not exclude
    each other (course, chapter 2).
    """
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        probabilities = logits.sigmoid()
    else:
        probabilities = logits.softmax(-1)
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    rows = [zip(names, map(float, row), strict=True) for row in probabilities]
    return [tuple(sorted(row, key=lambda pair: -pair[1])) for row in rows]


def run(
    text: str | None,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    file: str | None = None,
) -> Result:
    """Classify one text or many. Similar lengths go through the model together."""
    texts = validate(text, file)
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        rows: list[Scored | None] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            inputs, kept = preprocess([texts[i] for i in batch], loaded)
            scores = postprocess(forward(inputs, loaded), loaded.model.config)
            for i, row, part in zip(batch, scores, kept, strict=True):
                rows[i] = Scored(texts[i], row, part)
        done = tuple(row for row in rows if row)
        remarks = tables.truncation_remarks([row.kept for row in done], tables.longest_input(loaded))
        return Result(done, status_of(loaded, started, remarks))


def to_csv(rows: tuple[Scored, ...]) -> str:
    """A table with the text, its label, and one column for the probability of each label."""
    labels = [label for label, _ in sorted(rows[0].scores)]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["text", "label", *map(tables.safe_cell, labels)])
    for row in rows:
        scores = dict(row.scores)
        words = (tables.safe_cell(word) for word in (row.text, row.scores[0][0]))
        writer.writerow([*words, *(f"{scores[label]:.6f}" for label in labels)])
    return out.getvalue()


def build(demo: Demo, models: ModelManager, settings: object, line: Line) -> None:
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
    with page.results():
        answer = gr.HTML(ui.EMPTY, label="Label and probability")
        table = gr.Dataframe(label="All texts", visible=False, interactive=False, wrap=True)
        download = gr.DownloadButton("Download as CSV", visible=False)

    def act(text: str, file: str | None, choice: str, report: Report, stopped: Stopped) -> tuple[Any, ...]:
        result = run(text, choice, models, report, stopped, file)
        if len(result.rows) == 1:
            hide = gr.update(visible=False)
            return ui.bars(result.rows[0].scores), hide, hide, result.status
        content = [[row.text, row.scores[0][0], ui.percent(row.scores[0][1])] for row in result.rows]
        shown = gr.update(value={"headers": ["text", "label", "score"], "data": content}, visible=True)
        saved = gr.update(value=ui.download("sentiment.csv", to_csv(result.rows)), visible=True)
        return ui.counts([row.scores[0][0] for row in result.rows]), shown, saved, result.status

    page.runs(act, [text, file], [answer, table, download])
    page.examples([[example] for example in (*EXAMPLES, "\n".join(EXAMPLES))], [text])

    def sentiment(text: str, checkpoint: str = "auto", stopped: Stopped = never) -> dict[str, float]:
        """Labels of one text with their probabilities."""
        result = run(" ".join((text or "").split()), checkpoint, models, stopped=stopped)
        # Of two labels of the same name the likelier one stays.
        return dict(reversed(result.rows[0].scores))

    page.endpoint(sentiment, [ui.hidden(gr.Textbox, "text"), ui.checkpoint_parameter()], [ui.scores_output()])


DEMO = Demo(
    "sentiment",
    "Sentiment",
    1,
    "An encoder reads the whole text; a classification head on top of it tells praise from blame.",
    OFFER,
    build,
)
