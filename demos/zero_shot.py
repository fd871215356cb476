"""Zero-shot classification: which of the visitor's own labels fits a text, without training on them?"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from components.compute import tokenization
from components.compute.batching import MOST, Batcher
from components.compute.entailment import Classes, classes_of
from components.errors import InputError
from components.explain import attribution, inside, snippets
from components.explain.attribution import Carried
from components.explain.inside import Architecture, Axis, Tokens
from components.inputs import given
from components.models.manager import Loaded, ModelManager, survives_out_of_memory
from components.models.status import Status, notes, status_of
from components.page import answers, drawers, endpoints, showing, ui, visits
from components.page.answers import About
from components.page.demo import Compared, Comparison, Demo
from components.progress import Report, Stopped, never, unreported
from components.server.line import Line
from components.show import inside_markup, markup
from components.show.inside_markup import (
    alone_table,
    architecture_facts,
    clipped_table,
    compete_table,
    hidden_states,
    number_rows,
    number_table,
    sentence,
    shape,
    stations,
    token_chips,
)
from components.weights.checkpoints import SENTENCES, Checkpoint, Hub, Offer, Recipe
from components.weights.wheels import MINILM

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
BETWEEN = ",，、;；\\n"  # labels
LABEL = re.compile(
    rf"""\s*(?:"([^"]{{0,200}})"|“([^”]{{0,200}})”|«([^»]{{0,200}})»|'([^']{{0,200}})')[^\S\n]*(?=[{BETWEEN}]|$)"""
    rf"|([^{BETWEEN}]+)"
)
MOST_PAIRS = 2000  # of text and label in one call of many texts
MOST_CHARACTERS = 20_000  # of the text, which goes with each label, and of all labels
MOST_OF_TEMPLATE = 1000  # characters
MOST_INSIDE = 8  # labels whose tokens Inside shows
FIRST, MEAN = "the vector of the first token", "the mean of the vectors of all tokens"
POOLED = (
    "A sentence encoder has no classification head: {how} stands for a sentence, made a vector of length 1. "
    "The cosine of two such vectors, from -1 to 1, is the sum of their products."
)
UNKNOWN_LABELS = "The checkpoint hardly knows the words of these labels, so that their scores say little:"
LONE = "With one label there is nothing to compete with, and a softmax over it would always say 1."
# Cosines of sentence embeddings lie close together; this spreads them (measured on AG News).
TEMPERATURE = 0.05
ENCODERS = ("bert", "distilbert", "roberta", "mpnet", "xlm-roberta")


def _fits(config: dict[str, Any]) -> str | None:
    name = (config.get("architectures") or ["an unknown architecture"])[0]
    if name.endswith("ForSequenceClassification") and classes_of(config.get("id2label")):
        return None
    # Many sentence encoders still have the name of what they were made from, such as MPNetForMaskedLM.
    if (name.endswith("Model") or SENTENCES in config) and config.get("model_type") in ENCODERS:
        return None
    return (
        f"it is {name}, and this tab needs a classifier with an entailment label, such as "
        "facebook/bart-large-mnli, or a sentence encoder, such as sentence-transformers/all-MiniLM-L6-v2."
    )


def _model_class(config: dict[str, Any]) -> str:
    return "AutoModelForSequenceClassification" if classes_of(config.get("id2label")) else "AutoModel"


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


def parse_labels(given_labels: str | Sequence[str] | None) -> tuple[str, ...]:
    """Labels in order, each once whatever its case: of a list, or of a text, where commas, semicolons and
    line ends stand between them and quotation marks around some.

    Raises InputError for more characters than are taken, and for a list of anything but texts.
    """
    if isinstance(given_labels, list):
        for place, label in enumerate(given_labels, 1):
            if not isinstance(label, str):
                raise given.not_a_text(label, f"candidate_labels[{place - 1}]")
        given.text("".join(given_labels), MOST_CHARACTERS, "The labels together")
        found = [given.text(label) for label in given_labels]
    else:
        text = given.text(given_labels, MOST_CHARACTERS, "The field of the labels")
        # Of a match, what is in quotation marks or what is in none.
        found = [next(filter(None, groups), "") for groups in LABEL.findall(text)]
    labels: dict[str, str] = {}
    for label in found:
        clean = " ".join(label.split())
        if clean:
            labels.setdefault(clean.casefold(), clean)
    return tuple(labels.values())


def validate(
    text: str | None, labels: str | Sequence[str] | None, template: str | None, multi_label: bool
) -> Request:
    """Raises InputError without a text or a label, for a template without exactly one {}, or too much."""
    clean = given.text(text, MOST_CHARACTERS, "The text").strip()
    template = given.text(template, MOST_OF_TEMPLATE, "The template").strip()
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
    if multi_label not in (None, False, True):
        raise InputError("Whether several labels may be true is answered with true or false.")
    return Request(clean, names, template, bool(multi_label))


def preprocess(request: Request, loaded: Loaded) -> tuple[list[tokenization.Encoding], str | None]:
    """Tokens, unpadded, and what was kept of the text if it was cut, else None.

    For entailment, premise and hypothesis of each label in one sequence; for similarity, the text and
    then each hypothesis. Raises InputError for a label that is too long for the model.
    """
    limit = tokenization.longest_input(loaded)
    hypotheses = [request.template.format(label) for label in request.labels]
    too_long = f"A label is too long: this checkpoint takes {limit} tokens. Use shorter labels."
    if not classes_of(loaded.model.config.id2label):
        encodings, (kept, *cut) = tokenization.tokenized([request.text, *hypotheses], loaded, limit)
        if any(part is not None for part in cut):
            raise InputError(too_long)
        return encodings, kept
    tokenizer, texts = loaded.processor, [request.text] * len(hypotheses)
    with loaded.lock:
        pairs = tokenization.one_by_one(tokenizer(texts, hypotheses, truncation=False, verbose=False))
        if max(map(tokenization.length, pairs)) <= limit:
            return pairs, None
        words, *sentences = tokenizer([request.text, *hypotheses], add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        # What the text may take beside the longest label sentence, with which it shares a sequence.
        room = limit - tokenizer.num_special_tokens_to_add(pair=True) - max(map(len, sentences))
        if room < 1:
            raise InputError(too_long)
        cut_pairs = tokenizer(texts, hypotheses, truncation="only_first", max_length=limit)
        return tokenization.one_by_one(cut_pairs), tokenizer.decode(words[:room])


def forward(inputs: dict[str, torch.Tensor], loaded: Loaded) -> torch.Tensor:
    """input_ids and attention_mask `[batch, sequence]` -> logits `[batch, classes]` of pairs, or sentence
    embeddings `[batch, hidden]`, float32 on the CPU."""
    import torch

    with torch.inference_mode():
        on_device = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        return _output(loaded.model(**on_device), on_device["attention_mask"], loaded).cpu()


def _output(output: Any, mask: torch.Tensor, loaded: Loaded) -> torch.Tensor:
    """What `forward` gives of the model's output, on the device; mask `[batch, sequence]`."""
    if "logits" in output:
        return output.logits.float()
    return _pool(output.last_hidden_state.float(), mask, _folder(loaded))


def joint(loaded: Loaded) -> Batcher[tokenization.Encoding, torch.Tensor]:
    """The forward pass that all visitors of this model share; one row of its output for each sequence."""
    return Batcher(
        lambda rows: forward(tokenization.padded(rows, loaded), loaded),
        size=tokenization.length,
        cost=tokenization.pass_cost(loaded),
        turn=loaded.compute,
        sizes=loaded.turns.sizes,
    )


def _pool(hidden: torch.Tensor, mask: torch.Tensor, folder: Path) -> torch.Tensor:
    """One vector of length 1 for each sentence: the first token's, or the mean (Reimers and Gurevych 2019).

    hidden `[batch, sequence, hidden]`, mask `[batch, sequence]`; the checkpoint's folder says which.
    """
    if _pools_first(folder):
        pooled = hidden[:, 0]
    else:
        weights = mask.unsqueeze(-1).float()
        pooled = (hidden * weights).sum(1) / weights.sum(1)
    return pooled / pooled.norm(dim=-1, keepdim=True)


def _folder(loaded: Loaded) -> Path:
    return Path(loaded.model.name_or_path)


def _pools_first(folder: Path) -> bool:
    """Whether a sentence encoder takes the first token's vector instead of the mean."""
    pooling = folder / "1_Pooling" / "config.json"
    return pooling.exists() and bool(json.loads(pooling.read_text()).get("pooling_mode_cls_token"))


def postprocess(
    output: torch.Tensor, labels: Sequence[str], multi_label: bool, config: Any
) -> tuple[tuple[str, float], ...]:
    """Labels with scores, best first, from logits `[labels, classes]` or embeddings `[1 + labels, hidden]`.

    Entailment (Yin et al. 2019): one answer is a softmax of the entailment logits over the labels;
    several answers are, for each label, a softmax of entailment against contradiction.
    Similarity: a softmax of the cosines at TEMPERATURE; for several answers the cosine itself, from 0 up.
    """
    classes = classes_of(config.id2label)
    if classes is None:
        cosines = output[1:] @ output[0]
        scores = cosines.clamp(min=0, max=1) if multi_label else (cosines / TEMPERATURE).softmax(0)
    elif multi_label:
        scores = output[:, list(classes)].softmax(-1)[:, 1]
    else:
        scores = output[:, classes.entailment].softmax(0)
    return tuple(sorted(zip(labels, scores.tolist(), strict=True), key=lambda pair: -pair[1]))


@survives_out_of_memory
def run(
    text: str | None,
    labels: str | Sequence[str] | None,
    multi_label: bool,
    template: str | None,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    batch: int = MOST,
) -> Result:
    """Score each label for the text; sequences of several visitors go through the model together."""
    request = validate(text, labels, template, multi_label)
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        ((scores, kept),) = _scored([request], loaded, stopped, batch)
        return Result(scores, status_of(loaded, started, _remarks(request, kept, loaded)))


@survives_out_of_memory
def run_many(
    texts: Sequence[str],
    labels: str | Sequence[str] | None,
    multi_label: bool,
    template: str | None,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    batch: int = MOST,
) -> list[tuple[tuple[tuple[str, float], ...], tuple[str, ...]]]:
    """What `run` scores and remarks, of many texts at once: their sequences are sorted by length.

    Raises InputError if texts times labels are more than MOST_PAIRS.
    """
    requests = [validate(text, labels, template, multi_label) for text in texts]
    if requests and len(requests) * len(requests[0].labels) > MOST_PAIRS:
        raise InputError(
            f"That is {len(requests)} texts with {len(requests[0].labels)} labels each; at most "
            f"{MOST_PAIRS} pairs of text and label go in one call. Split them up."
        )
    with models.use(OFFER, choice, report, stopped) as loaded:
        found = zip(requests, _scored(requests, loaded, stopped, batch), strict=True)
        return [
            (scores, notes(loaded) + _remarks(request, kept, loaded)) for request, (scores, kept) in found
        ]


def _remarks(request: Request, kept: str | None, loaded: Loaded) -> tuple[str, ...]:
    cut = tokenization.truncation_remarks([kept], tokenization.longest_input(loaded))
    return (_method(loaded, _each(request)), *_unknown(request, loaded), *cut)


def _unknown(request: Request, loaded: Loaded) -> tuple[str, ...]:
    """What to say of a text and of labels that the checkpoint hardly knows."""
    text, *labels = tokenization.unknown_of([request.text, *request.labels], loaded)
    said = [f"{text}: {tokenization.UNSURE}"] if text else []
    strange = [f"“{label}”" for label, why in zip(request.labels, labels, strict=True) if why]
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        said.append(f"{UNKNOWN_LABELS} {', '.join(strange[:5])}{more}.")
    return tuple(said)


def _scored(
    requests: Sequence[Request], loaded: Loaded, stopped: Stopped, batch: int
) -> list[tuple[tuple[tuple[str, float], ...], str | None]]:
    """Labels with scores for each text, best first, and what was kept of it if it was cut."""
    import torch

    each = [preprocess(request, loaded) for request in requests]
    flat = [encoding for encodings, _ in each for encoding in encodings]
    rows = iter(loaded.share(joint)(flat, stopped, batch))
    return [
        (
            postprocess(
                torch.stack([next(rows) for _ in encodings]),
                request.labels,
                _each(request),
                loaded.model.config,
            ),
            kept,
        )
        for request, (encodings, kept) in zip(requests, each, strict=True)
    ]


def _each(request: Request) -> bool:
    """Whether each label is scored by itself: a softmax over a single one would always say 1."""
    return request.multi_label or len(request.labels) == 1


@dataclass(frozen=True)
class Ran:
    """What the drawers need to know of a run. checkpoint: its name, so that it is the same one again."""

    request: Request
    checkpoint: str


@dataclass(frozen=True)
class Inside:
    """What happened to a text and its labels on their way to the scores.

    tokens: of the first labels, premise and hypothesis in one sequence; for similarity the text and then
    the label sentences, each by itself. hidden: as Sentiment's. classes: their names, and which two are
    compared, contradiction or what stands for it and then entailment; none for similarity.

    logits `[labels, classes]` or cosines `[labels]`; scores: label and score, best first, as in the answer.
    """

    request: Request
    algorithm: str
    tokens: tuple[Tokens, ...]
    architecture: Architecture
    hidden: tuple[tuple[str, tuple[Axis, ...]], ...]
    scores: tuple[tuple[str, float], ...]
    classes: tuple[str, ...] = ()
    pair: Classes | None = None
    logits: tuple[tuple[float, ...], ...] = ()
    cosines: tuple[float, ...] = ()
    pooling: str = ""


def look_inside(ran: Ran, models: ModelManager) -> Inside:
    """The same pass again, with all that is between for the first few labels."""
    import torch

    request = ran.request
    with models.use(OFFER, ran.checkpoint) as loaded:
        encodings, kept = preprocess(request, loaded)
        config, pair = loaded.model.config, classes_of(loaded.model.config.id2label)
        most = MOST_INSIDE if pair else MOST_INSIDE + 1
        inputs = tokenization.padded(encodings[:most], loaded)
        on_device = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
        shown = loaded.compute(lambda: loaded.model(**on_device, output_hidden_states=True))
        rows = [*_output(shown, on_device["attention_mask"], loaded).cpu()]
        if encodings[most:]:
            rows += loaded.share(joint)(encodings[most:])
        output = torch.stack(rows)
        cut = _cut_ends(request, kept, loaded, len(inputs["input_ids"]))
        values = (output[1:] @ output[0] if pair is None else output).tolist()
        return Inside(
            request=request,
            algorithm=inside.algorithm(loaded.processor),
            tokens=inside.tokens_of(inputs, loaded.processor, cut),
            architecture=inside.architecture(loaded),
            hidden=inside.last_hidden(shown, "batch", "sequence", "hidden"),
            scores=postprocess(output, request.labels, _each(request), config),
            classes=tuple(str(config.id2label[i]) for i in range(config.num_labels)) if pair else (),
            pair=pair,
            logits=tuple(map(tuple, values)) if pair else (),
            cosines=() if pair else tuple(values),
            pooling="" if pair else (FIRST if _pools_first(_folder(loaded)) else MEAN),
        )


def _cut_ends(request: Request, kept: str | None, loaded: Loaded, rows: int) -> list[str]:
    """For each of so many sequences the end of the text that did not fit into it."""
    if kept is None:
        return [""] * rows
    limit = tokenization.longest_input(loaded)
    if not classes_of(loaded.model.config.id2label):
        return [inside.cut_end(request.text, loaded, limit, kept)]
    hypotheses = [request.template.format(label) for label in request.labels[:rows]]
    return [inside.cut_end(request.text, loaded, limit, kept, hypothesis) for hypothesis in hypotheses]


def draw_inside(seen: Inside) -> str:
    """The four stations as HTML."""
    facts = architecture_facts(seen.architecture)
    hidden = "".join(hidden_states(axes, part) for part, axes in seen.hidden)
    draw = _draw_entailment if seen.pair else _draw_similarity
    tokens, head, after = draw(seen)
    return stations(tokens, facts + hidden, head, after)


def _draw_tokens(seen: Inside, names: Sequence[str], words: str) -> str:
    chips = "".join(
        sentence(name) + token_chips([row]) for name, row in zip(names, seen.tokens, strict=False)
    )
    left = len(names) - len(seen.tokens)
    more = markup.remark(f"and {left} more labels") if left else ""
    return sentence(f"{seen.algorithm} splits {words}") + chips + more


def _draw_entailment(seen: Inside) -> tuple[str, str, str]:
    """Tokens, head and postprocessing of pairs of premise and hypothesis."""
    labels, (other, entailment) = seen.request.labels, seen.pair or Classes(0, 0)
    logits = np.array(seen.logits)
    tokens = _draw_tokens(
        seen,
        [f"“{seen.request.template.format(label)}”" for label in labels],
        "premise and hypothesis into tokens, in one sequence for each label: the text, and after a separator "
        "the template with the label in it. The model says whether the second follows from the first.",
    )
    head = sentence("The classification head makes one logit for each class of every pair.") + number_table(
        ("label", *(f"{name} ({i})" for i, name in enumerate(seen.classes))),
        number_rows(labels, *logits.T),
    )
    one = compete_table(labels, logits[:, entailment], f"{seen.classes[entailment]} logit")
    each = alone_table(
        labels, logits[:, [other, entailment]], (seen.classes[other], seen.classes[entailment])
    )
    return tokens, head, _draw_both(seen.request, one, each)


def _draw_similarity(seen: Inside) -> tuple[str, str, str]:
    """Tokens, pooling and postprocessing of a text and its label sentences."""
    labels, cosines = seen.request.labels, np.array(seen.cosines)
    tokens = _draw_tokens(
        seen,
        ["The text", *(f"“{seen.request.template.format(label)}”" for label in labels)],
        "the text and the template with each label in it into tokens, each a sequence of its own.",
    )
    head = (
        sentence(POOLED.format(how=seen.pooling))
        + shape(
            [Axis("text and label sentences", 1 + len(labels)), Axis("hidden", seen.hidden[0][1][-1].size)]
        )
        + number_table(("label", "cosine with the text"), number_rows(labels, cosines))
    )
    one = compete_table(labels, cosines, "cosine", TEMPERATURE)
    return tokens, head, _draw_both(seen.request, one, clipped_table(labels, cosines))


def _draw_both(request: Request, one: str, each: str) -> str:
    """The two ways to scores, the one that gave the answer first."""
    lone = sentence(LONE) if len(request.labels) == 1 and not request.multi_label else ""
    ways = [("One answer", one), ("Several labels may be right", each)]
    if _each(request):
        ways.reverse()
    (used, how), (other, how_not) = ways
    return f"{lone}<h4>{used}: this run</h4>{how}<h4>{other}: not this run</h4>{how_not}"


def attribute(ran: Ran, models: ModelManager, label: int | None = None) -> Carried:
    """Which tokens made the entailment logit of a label, or its cosine; label: its number, None for the best.

    For similarity those of the text: the label's sentence stays as it is.
    """
    import torch

    request = ran.request
    with models.use(OFFER, ran.checkpoint) as loaded:
        encodings, _ = preprocess(request, loaded)
        config, classes = loaded.model.config, classes_of(loaded.model.config.id2label)
        if label is None or label >= len(request.labels):
            output = torch.stack(loaded.share(joint)(encodings))
            best = postprocess(output, request.labels, _each(request), config)[0][0]
            label = request.labels.index(best)
        if classes:
            encoding, pooled, name = (
                encodings[label],
                False,
                f"the {config.id2label[classes.entailment]} logit",
            )
        else:
            encoding, pooled, name = encodings[0], not _pools_first(_folder(loaded)), "the cosine"
        inputs = tokenization.padded([encoding], loaded)
        mask = inputs["attention_mask"].to(loaded.device)

        def score(output: Any) -> torch.Tensor:
            if classes:
                return output.logits[:, classes.entailment].float()
            return _output(output, mask, loaded) @ target

        if not classes:
            other = tokenization.padded([encodings[1 + label]], loaded)
            target = loaded.compute(lambda: forward(other, loaded))[0].to(loaded.device).clone()
        found = attribution.carried(
            loaded,
            inputs,
            inside.tokens_of(inputs, loaded.processor)[0],
            request.labels,
            label,
            score,
            f"{name} of “{request.labels[label]}”",
            pooled,
        )
        return replace(found, remarks=_unknown(request, loaded))


def _method(loaded: Loaded, multi_label: bool) -> str:
    if classes_of(loaded.model.config.id2label):
        how = "against contradiction, for each label alone" if multi_label else "compared across the labels"
        return f"Scores: how strongly the text entails the sentence with the label, {how}."
    if multi_label:
        return "Scores: cosine similarity of text and label sentence. They are not probabilities."
    return f"Scores: softmax of the similarities of text and label sentences, at temperature {TEMPERATURE}."


def beside(
    text: str,
    extra: str,
    choice: str,
    models: ModelManager,
    settings: Settings,
    report: Report,
    stopped: Stopped,
) -> Compared:
    """What Compare shows of one text: its scores for the labels in `extra`."""
    result = run(text, extra, False, TEMPLATE, choice, models, report, stopped, settings.batch)
    return Compared(result.status, result.scores)


def code(ran: Ran, models: ModelManager, public: bool) -> str:
    """The program that scores the same labels."""
    asked = ran.request
    with models.use(OFFER, ran.checkpoint) as loaded:
        return snippets.zero_shot(
            snippets.place_of(loaded, public, (asked.text, asked.template, *asked.labels)),
            asked.text,
            asked.labels,
            asked.template,
            asked.multi_label,
            limit=tokenization.longest_input(loaded),
            id2label=loaded.model.config.id2label,
            pooling=snippets.pooling_of(loaded.model.name_or_path),
            temperature=TEMPERATURE,
        )


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
        answer = gr.HTML(showing.EMPTY, label="Labels and scores")
    ran = gr.State()
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
    ) -> tuple[str, Ran, Status]:
        result = run(text, labels, multi_label, template, choice, models, report, stopped, settings.batch)
        asked = validate(text, labels, template, multi_label)
        return markup.bars(result.scores), Ran(asked, result.status.checkpoint), result.status

    page.runs(act, [text, labels, multi_label, template], [answer, ran])
    page.examples(EXAMPLES, [text, labels, multi_label, template])
    named = {"text": text, "candidate_labels": labels, "multi_label": multi_label}
    page.linked({**named, "hypothesis_template": template})

    def carried(ran: Ran, text: int, label: int | None) -> tuple[tuple[str, ...], int, str]:
        found = attribute(ran, models, label)
        return found.labels, found.chosen, inside_markup.attribution(found)

    with page.drawer("Inside") as drawer:
        stations = gr.HTML()
        drawers.attribution(drawer, ran, lambda ran: [ran.request.text], carried)
    drawer.shows(lambda ran: draw_inside(look_inside(ran, models)), [ran], [stations])

    page.code(lambda ran: code(ran, models, visits.is_exposed(settings)), ran)

    def zero_shot(
        text: str,
        candidate_labels: str | list[str] = LABELS,
        multi_label: bool = False,
        hypothesis_template: str = TEMPLATE,
        checkpoint: str = "auto",
        stopped: Stopped = never,
    ) -> dict[str, float]:
        """Sort a text into labels of your own, on which no model was trained.

        Args:
            text: The text to sort.
            candidate_labels: The labels, as a list, or as a text with commas between them.
            multi_label: Whether several may be right: then each is scored alone, else the scores sum to 1.
            hypothesis_template: The sentence that each label is put into, at its one {}.
            checkpoint: "auto", "course", "starter", or owner/name or owner/name@revision on the hub.

        Returns:
            the likeliest label, the score of each, from 0 to 1, as its confidence, and remarks
        """
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
        return answers.labelled(result.scores, result.status.remarks)

    def zero_shot_batch(
        texts: list[str],
        candidate_labels: str | list[str] = LABELS,
        multi_label: bool = False,
        hypothesis_template: str = TEMPLATE,
        checkpoint: str = "auto",
        stopped: Stopped = never,
    ) -> list[dict[str, Any]]:
        """Sort many texts into the same labels of your own, in one call.

        Args:
            texts: Texts, each with something in it.
            candidate_labels: The labels, as a list, or as a text with commas between them.
            multi_label: Whether several may be right: then each is scored alone, else the scores sum to 1.
            hypothesis_template: The sentence that each label is put into, at its one {}.
            checkpoint: "auto", "course", "starter", or owner/name or owner/name@revision on the hub.

        Returns:
            for each text, in the order given, its likeliest label, the score of each, and remarks
        """
        found = run_many(
            answers.texts(texts, MOST_PAIRS),
            candidate_labels,
            multi_label,
            hypothesis_template,
            checkpoint,
            models,
            stopped=stopped,
            batch=settings.batch,
        )
        return [answers.labelled(scores, remarks) for scores, remarks in found]

    def labels_parameter() -> Any:
        """A text, or what no box for a text takes: a list."""
        box = endpoints.hidden(gr.Textbox, "candidate_labels", value=LABELS)
        text_only = box.preprocess
        box.preprocess = lambda payload: payload if isinstance(payload, list) else text_only(payload)
        return box

    def options() -> list[Any]:
        return [
            labels_parameter(),
            endpoints.hidden(gr.Checkbox, "multi_label", value=False),
            endpoints.hidden(gr.Textbox, "hypothesis_template", value=TEMPLATE),
            endpoints.checkpoint_parameter(),
        ]

    page.endpoint(
        zero_shot,
        [endpoints.hidden(gr.Textbox, "text"), *options()],
        [endpoints.scores_output()],
        About((answers.LABELS,), {"candidate_labels": answers.TEXT_OR_TEXTS}, {"text": TEXT}),
    )
    page.endpoint(
        zero_shot_batch,
        [endpoints.hidden(gr.JSON, "texts"), *options()],
        [endpoints.hidden(gr.JSON, "scores")],
        About(
            (answers.rows(answers.LABELS),),
            {"texts": answers.up_to(MOST_PAIRS), "candidate_labels": answers.TEXT_OR_TEXTS},
            {"texts": [TEXT, "The minister resigned on Monday"]},
        ),
    )


DEMO = Demo(
    "zero_shot",
    "Zero-shot",
    2,
    "A model that has learnt what follows from a sentence can sort texts into labels it has never seen.",
    OFFER,
    build,
    compare=Comparison(
        "text",
        TEXT,
        beside,
        lambda text, extra, checkpoint, models, settings: draw_inside(
            look_inside(Ran(validate(text, extra, TEMPLATE, False), checkpoint), models)
        ),
        extra="Candidate labels",
        extra_example=LABELS,
    ),
)
