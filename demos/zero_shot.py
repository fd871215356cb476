"""Zero-shot classification: which of the visitor's own labels fits a text, without training on them?"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from components import markup, tables, ui
from components.batching import MOST, Batcher
from components.checkpoints import Checkpoint, Hub, Offer, Recipe
from components.demo import Demo, Status, status_of
from components.errors import InputError
from components.line import Line
from components.models import Loaded, ModelManager, survives_out_of_memory
from components.progress import Report, Stopped, never, unreported
from components.wheels import MINILM

if TYPE_CHECKING:
    import torch

    from components.settings import Settings

TEMPLATE = "This text is about {}."
LABELS = "education, politics, business"
TEXT = "History isn't really a fun class"
EXAMPLES = [
    [TEXT, LABELS, False, TEMPLATE],
    ["My card was charged twice for the same dinner", "payments, travel, cooking, weather", False, TEMPLATE],
    [
        "The striker scored twice before the storm stopped the match",
        "sport, weather, finance",
        True,
        TEMPLATE,
    ],
]
MOST_LABELS = 100
# Cosines of sentence embeddings lie close together; this spreads them (measured on AG News).
TEMPERATURE = 0.05
ENCODERS = ("bert", "distilbert", "roberta", "mpnet", "xlm-roberta")


def _entails(id2label: Mapping[Any, str] | None) -> bool:
    return any(str(label).lower().startswith("entail") for label in (id2label or {}).values())


def _fits(config: dict[str, Any]) -> str | None:
    name = (config.get("architectures") or ["an unknown architecture"])[0]
    if name.endswith("ForSequenceClassification") and _entails(config.get("id2label")):
        return None
    if name.endswith("Model") and config.get("model_type") in ENCODERS:
        return None
    return (
        f"it is {name}, and this tab needs a classifier with an entailment label, such as "
        "facebook/bart-large-mnli, or a sentence encoder, such as sentence-transformers/all-MiniLM-L6-v2."
    )


def _model_class(config: dict[str, Any]) -> str:
    return "AutoModelForSequenceClassification" if _entails(config.get("id2label")) else "AutoModel"


RECIPE = Recipe("zero_shot", _model_class, "AutoTokenizer", _fits)
OFFER = Offer(
    course=Checkpoint("facebook/bart-large-mnli", Hub("facebook/bart-large-mnli", "d7645e1"), RECIPE),
    starter=Checkpoint("all-MiniLM-L6-v2 (similarity)", MINILM, RECIPE),
    alternatives=(
        Checkpoint(
            "MoritzLaurer/deberta-v3-base-zeroshot-v2.0",
            Hub("MoritzLaurer/deberta-v3-base-zeroshot-v2.0"),
            RECIPE,
        ),
        Checkpoint(
            "sentence-transformers/all-mpnet-base-v2", Hub("sentence-transformers/all-mpnet-base-v2"), RECIPE
        ),
    ),
)


@dataclass(frozen=True)
class Request:
    """What is asked: the text, at least one label, and the sentence each label is put into."""

    text: str
    labels: tuple[str, ...]
    template: str
    multi_label: bool


@dataclass(frozen=True)
class Result:
    """Labels with scores, best first. With one answer wanted, the scores sum to 1."""

    scores: tuple[tuple[str, float], ...]
    status: Status


def parse_labels(text: str | None) -> tuple[str, ...]:
    """Labels between commas or line ends, in order, each once whatever its case."""
    labels: dict[str, str] = {}
    for label in (text or "").replace("\n", ",").split(","):
        clean = " ".join(label.split())
        if clean:
            labels.setdefault(clean.casefold(), clean)
    return tuple(labels.values())


def validate(text: str | None, labels: str | None, template: str | None, multi_label: bool) -> Request:
    """Raises InputError without a text or a label, or for a template without exactly one {}."""
    clean, template = (text or "").strip(), (template or "").strip()
    if not clean:
        raise InputError("There is no text yet. Type one and run again.")
    names = parse_labels(labels)
    if not names:
        raise InputError("There are no labels yet. Type one or more with commas between them.")
    if len(names) > MOST_LABELS:
        raise InputError(f"That is {len(names)} labels; at most {MOST_LABELS} go in one run.")
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise InputError(
            f"The template must hold exactly one {{}}, where the label goes, as in “{TEMPLATE}”."
        )
    return Request(clean, names, template, multi_label)


def preprocess(request: Request, loaded: Loaded) -> tuple[list[tables.Encoding], str | None]:
    """Tokens, unpadded, and what was kept of the text if it was cut, else None.

    For entailment, premise and hypothesis of each label in one sequence; for similarity, the text and
    then each hypothesis. Raises InputError for a label that is too long for the model.
    """
    limit = tables.longest_input(loaded)
    hypotheses = [request.template.format(label) for label in request.labels]
    too_long = f"A label is too long: this checkpoint takes {limit} tokens. Use shorter labels."
    if not _entails(loaded.model.config.id2label):
        encodings, (kept, *cut) = tables.tokenized([request.text, *hypotheses], loaded, limit)
        if any(part is not None for part in cut):
            raise InputError(too_long)
        return encodings, kept
    tokenizer, texts = loaded.processor, [request.text] * len(hypotheses)
    with loaded.lock:
        pairs = tables.one_by_one(tokenizer(texts, hypotheses, truncation=False, verbose=False))
        if max(map(tables.length, pairs)) <= limit:
            return pairs, None
        words, *sentences = tokenizer([request.text, *hypotheses], add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        # What the text may take beside the longest label sentence, with which it shares a sequence.
        room = limit - tokenizer.num_special_tokens_to_add(pair=True) - max(map(len, sentences))
        if room < 1:
            raise InputError(too_long)
        cut_pairs = tokenizer(texts, hypotheses, truncation="only_first", max_length=limit)
        return tables.one_by_one(cut_pairs), tokenizer.decode(words[:room])


def forward(inputs: dict[str, torch.Tensor], loaded: Loaded) -> torch.Tensor:
    """input_ids and attention_mask `[batch, sequence]` -> logits `[batch, classes]` of pairs, or sentence
    embeddings `[batch, hidden]`, float32 on the CPU."""
    import torch

    with torch.inference_mode():
        on_device = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        output = loaded.model(**on_device)
        if "logits" in output:
            return output.logits.float().cpu()
        hidden = output.last_hidden_state.float()
        return _pool(hidden, on_device["attention_mask"], Path(loaded.model.name_or_path)).cpu()


def joint(loaded: Loaded) -> Batcher[tables.Encoding, torch.Tensor]:
    """The forward pass that all visitors of this model share; one row of its output for each sequence."""
    return Batcher(
        lambda rows: forward(tables.padded(rows, loaded), loaded),
        size=tables.length,
        cost=tables.pass_cost(loaded),
        turn=loaded.compute,
    )


def _pool(hidden: torch.Tensor, mask: torch.Tensor, folder: Path) -> torch.Tensor:
    """One vector of length 1 for each sentence: the first token's, or the mean (Reimers and Gurevych 2019).

    hidden `[batch, sequence, hidden]`, mask `[batch, sequence]`; the checkpoint's folder says which.
    """
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.exists() and json.loads(pooling.read_text()).get("pooling_mode_cls_token"):
        pooled = hidden[:, 0]
    else:
        weights = mask.unsqueeze(-1).float()
        pooled = (hidden * weights).sum(1) / weights.sum(1)
    return pooled / pooled.norm(dim=-1, keepdim=True)


def postprocess(
    output: torch.Tensor, labels: Sequence[str], multi_label: bool, config: Any
) -> tuple[tuple[str, float], ...]:
    """Labels with scores, best first, from logits `[labels, classes]` or embeddings `[1 + labels, hidden]`.

    Entailment (Yin et al. 2019): one answer is a softmax of the entailment logits over the labels;
    several answers are, for each label, a softmax of entailment against contradiction.
    Similarity: a softmax of the cosines at TEMPERATURE; for several answers the cosine itself, from 0 up.
    """
    names = {str(name).lower(): int(i) for i, name in config.id2label.items()}
    entailment = next((i for name, i in names.items() if name.startswith("entail")), None)
    if entailment is None:
        cosines = output[1:] @ output[0]
        scores = cosines.clamp(min=0, max=1) if multi_label else (cosines / TEMPERATURE).softmax(0)
    elif multi_label:
        # A two-class model calls its other class not_entailment.
        others = sorted((not name.startswith("contra"), i) for name, i in names.items() if i != entailment)
        other = others[0][1]
        scores = output[:, [other, entailment]].softmax(-1)[:, 1]
    else:
        scores = output[:, entailment].softmax(0)
    return tuple(sorted(zip(labels, scores.tolist(), strict=True), key=lambda pair: -pair[1]))


@survives_out_of_memory
def run(
    text: str | None,
    labels: str | None,
    multi_label: bool,
    template: str | None,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    batch: int = MOST,
) -> Result:
    """Score each label for the text; sequences of several visitors go through the model together."""
    import torch

    request = validate(text, labels, template, multi_label)
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        encodings, kept = preprocess(request, loaded)
        output = torch.stack(loaded.share(joint)(encodings, stopped, batch))
        # A softmax over a single label would always say 1.
        each = multi_label or len(request.labels) == 1
        scores = postprocess(output, request.labels, each, loaded.model.config)
        remarks = (
            _method(loaded, each),
            *tables.truncation_remarks([kept], tables.longest_input(loaded)),
        )
        return Result(scores, status_of(loaded, started, remarks))


def _method(loaded: Loaded, multi_label: bool) -> str:
    if _entails(loaded.model.config.id2label):
        how = "against contradiction, for each label alone" if multi_label else "compared across the labels"
        return f"Scores: how strongly the text entails the sentence with the label, {how}."
    if multi_label:
        return "Scores: cosine similarity of text and label sentence. They are not probabilities."
    return f"Scores: softmax of the similarities of text and label sentences, at temperature {TEMPERATURE}."


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    with page.inputs():
        text = gr.Textbox(TEXT, label="Text", lines=3, max_lines=12)
        labels = gr.Textbox(LABELS, label="Candidate labels", info="With commas between them.")
        chips = gr.HTML(markup.chips(parse_labels(LABELS)))
        multi_label = gr.Checkbox(False, label="Several labels may be right")
    with page.options():
        template = gr.Textbox(TEMPLATE, label="Hypothesis template", info="{} is where the label goes.")
    with page.results():
        answer = gr.HTML(ui.EMPTY, label="Labels and scores")
    labels.change(
        lambda value: markup.chips(parse_labels(value)),
        labels,
        chips,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )

    def act(
        text: str,
        labels: str,
        multi_label: bool,
        template: str,
        choice: str,
        report: Report,
        stopped: Stopped,
    ) -> tuple[str, Status]:
        result = run(text, labels, multi_label, template, choice, models, report, stopped, settings.batch)
        return markup.bars(result.scores), result.status

    page.runs(act, [text, labels, multi_label, template], [answer])
    page.examples(EXAMPLES, [text, labels, multi_label, template])

    def zero_shot(
        text: str,
        candidate_labels: str = LABELS,
        multi_label: bool = False,
        hypothesis_template: str = TEMPLATE,
        checkpoint: str = "auto",
        stopped: Stopped = never,
    ) -> dict[str, float]:
        """Scores of candidate labels (comma separated) for a text; hypothesis_template holds one {}."""
        result = run(
            text,
            candidate_labels,
            multi_label,
            hypothesis_template,
            checkpoint,
            models,
            stopped=stopped,
            batch=settings.batch,
        )
        return dict(result.scores)

    page.endpoint(
        zero_shot,
        [
            ui.hidden(gr.Textbox, "text"),
            ui.hidden(gr.Textbox, "candidate_labels", value=LABELS),
            ui.hidden(gr.Checkbox, "multi_label", value=False),
            ui.hidden(gr.Textbox, "hypothesis_template", value=TEMPLATE),
            ui.checkpoint_parameter(),
        ],
        [ui.scores_output()],
    )


DEMO = Demo(
    "zero_shot",
    "Zero-shot",
    2,
    "A model that has learnt what follows from a sentence can sort texts into labels it has never seen.",
    OFFER,
    build,
)
