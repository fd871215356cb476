"""Quality: how often are the tabs right, and how far can chance have moved that number?

    python -m benchmarks.quality PATH [--tasks sentiment,image] [--checkpoint starter] [--limit 100]

PATH holds sentiment/dev.tsv, zero_shot/*.jsonl, en-fr/dev.tsv, speech/manifest.jsonl and
image/manifest.jsonl. Everything goes through the functions of the tabs, so that what is measured is
what a visitor gets.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app import create_manager
from benchmarks.measures import calibration_error, read_lines, read_records, reference_streams
from components.errors import DemoError
from components.explain import attention as explorer
from components.progress import never, unreported
from components.settings import parse
from components.weights.hub import HubStatus
from demos import image, masked, sentiment, speech, translation, zero_shot

if TYPE_CHECKING:
    from components.models.manager import Loaded, ModelManager

Z = 1.959964  # 95 % of a normal distribution lie within this many standard deviations
RESAMPLES = 1000  # of a bootstrap
SURE = 0.99
ALIGNED = Path(__file__).with_name("alignments.tsv")  # English, French, links of their words from 0
GAPS = 500  # sentences with a gap each
NAME = re.compile(r"\b[A-Z][a-z]+\b|\d+")
Scores = tuple[tuple[str, float], ...]  # labels with scores, best first
# Plain similarity, what the zero-shot tab is held against.
PLAIN_TEMPLATE = "This text is about {}."
PLAIN_TEMPERATURE = 0.05
COMPARED = 20  # texts for which the shortcut of the zero-shot measure is held against the tab itself
ZERO_SHOT_SETS = ("clinc_domains", "banking77")
HEADER = ("task", "checkpoint", "measure", "value", "95 % interval", "items", "seconds", "items/s")
NUMBERS = HEADER[3:]  # columns aligned to the right


@dataclass(frozen=True)
class Row:
    """One measured number. value, low, high: shares from 0 to 1, for BLEU and chrF points from 0 to 100;
    low and high bound the 95 % interval; seconds: for all items, loading of the model left out.
    """

    task: str
    checkpoint: str
    measure: str
    value: float
    low: float | None
    high: float | None
    items: int
    seconds: float


# Reading


def read_labelled(path: Path) -> list[tuple[int, str]]:
    """Label and text of each line of a tab-separated file with a header."""
    rows = [line.split("\t", 1) for line in read_lines(path)[1:]]
    return [(int(label), _one_line(text)) for label, text in rows]


def read_references(path: Path, back: bool = False) -> dict[str, list[str]]:
    """Each English sentence, in the order of the file, with all its different French translations.

    back: each French sentence with the English ones.
    """
    grouped: dict[str, list[str]] = {}
    for line in read_lines(path):
        source, target = map(_one_line, line.split("\t", 1)[:: -1 if back else 1])
        references = grouped.setdefault(source, [])
        if target not in references:
            references.append(target)
    return grouped


def chunks(lines: Sequence[str], most: int) -> Iterator[list[str]]:
    """The lines in runs of at most `most` characters, line breaks included.

    Raises ValueError for a line that is longer than that.
    """
    run: list[str] = []
    length = 0
    for line in lines:
        if len(line) >= most:
            raise ValueError(f"a line of {len(line)} characters is over the limit of {most}: {line[:60]}")
        if length + len(line) + 1 > most:
            yield run
            run, length = [], 0
        run.append(line)
        length += len(line) + 1
    if run:
        yield run


def _one_line(text: str) -> str:
    # The tabs take other line separators of Unicode for the end of a text too.
    return " ".join(text.split())


# Measures


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, from 0 to 1 (Wilson 1927)."""
    share = right / total
    centre = share + Z * Z / (2 * total)
    margin = Z * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total))
    scale = 1 + Z * Z / total
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def accuracy(task: str, checkpoint: str, measure: str, right: Sequence[bool], seconds: float) -> Row:
    """The row for how many answers were right."""
    low, high = wilson(sum(right), len(right))
    return Row(task, checkpoint, measure, sum(right) / len(right), low, high, len(right), seconds)


def error_interval(errors: Sequence[int], words: Sequence[int]) -> tuple[float, float]:
    """The 95 % interval of an error rate over clips, by drawing clips anew (Bisani and Ney 2004).

    errors, words: of each clip.
    """
    drawn = np.random.default_rng(0).integers(len(errors), size=(RESAMPLES, len(errors)))
    rates = np.asarray(errors)[drawn].sum(1) / np.asarray(words)[drawn].sum(1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def calibration_interval(confidence: Sequence[float], right: Sequence[bool]) -> tuple[float, float]:
    """The 95 % interval of the calibration error, by drawing items anew; chance only ever adds to it."""
    drawn = np.random.default_rng(0).integers(len(right), size=(RESAMPLES, len(right)))
    sure, hits = np.asarray(confidence), np.asarray(right)
    low, high = np.percentile([calibration_error(sure[one], hits[one]) for one in drawn], [2.5, 97.5])
    return float(low), float(high)


def is_positive(scores: Iterable[tuple[str, float]]) -> bool:
    """Whether labels speak for praise: positive against negative, or four and five stars against one and two.

    Raises ValueError for labels of another kind.
    """
    totals = {True: 0.0, False: 0.0}
    known = set()
    for label, score in scores:
        name = label.lower()
        if name.startswith(("pos", "label_1", "4", "5")):
            side = True
        elif name.startswith(("neg", "label_0", "1", "2")):
            side = False
        else:
            continue
        known.add(side)
        totals[side] += score
    if len(known) < 2:
        raise ValueError("its labels do not name a positive and a negative side")
    return totals[True] > totals[False]


def class_indices(label: str, id2label: Mapping[int, str]) -> set[int]:
    """Which of the 1,000 ImageNet classes a label stands for; two share the name crane, and so do maillots.

    Checkpoints with 1,001 classes begin with one for the background.
    """
    first = 1 if len(id2label) == 1001 else 0
    return {int(i) - first for i, name in id2label.items() if name == label}


# Tasks


def measure_sentiment(path: Path, choice: str, models: ModelManager, limit: int | None) -> Iterator[Row]:
    """On SST-2: accuracy, and how far from it the confidence is. On French: the share of sure answers, of
    which a model of English should have none.
    """
    items = read_labelled(path / "sentiment" / "dev.tsv")[:limit]
    references = read_references(path / "en-fr" / "dev.tsv").values()
    french = [reference for row in references for reference in row[:1]][:limit]
    with models.use(sentiment.OFFER, choice) as loaded:
        name = loaded.checkpoint.name

        def scored(texts: list[str]) -> list[Scores]:
            starts = range(0, len(texts), sentiment.MOST_TEXTS)
            parts = ["\n".join(texts[begin : begin + sentiment.MOST_TEXTS]) for begin in starts]
            return [row.scores for part in parts for row in sentiment.run(part, name, models).rows]

        started = time.perf_counter()
        found = scored([text for _, text in items])
        seconds = time.perf_counter() - started
        right = [is_positive(scores) == bool(label) for (label, _), scores in zip(items, found, strict=True)]
        yield accuracy("sentiment", name, "accuracy", right, seconds)
        confidence = [max(score for _, score in scores) for scores in found]
        low, high = calibration_interval(confidence, right)
        error = calibration_error(np.asarray(confidence), np.asarray(right))
        yield Row("sentiment", name, "calibration error", error, low, high, len(items), seconds)
        started = time.perf_counter()
        sure = [max(score for _, score in scores) >= SURE for scores in scored(french)]
        seconds = time.perf_counter() - started
        yield accuracy("sentiment, French", name, "sure answers", sure, seconds)


def measure_zero_shot(path: Path, choice: str, models: ModelManager, limit: int | None) -> Iterator[Row]:
    """Accuracy with the tab's template, beside that of plain similarity; candidates: all labels of a file."""
    for dataset in ZERO_SHOT_SETS:
        items = read_records(path / "zero_shot" / f"{dataset}.jsonl")
        labels = sorted({item["label"] for item in items})
        items = items[:limit]
        texts = [item["text"] for item in items]
        if zero_shot.parse_labels(", ".join(labels)) != tuple(labels):
            raise ValueError(f"{dataset} has labels that the tab cannot tell apart, or labels with commas")
        with models.use(zero_shot.OFFER, choice) as loaded:
            name = loaded.checkpoint.name

            def through_tab(text: str, joined: str = ", ".join(labels), name: str = name) -> Scores:
                return zero_shot.run(text, joined, False, zero_shot.TEMPLATE, name, models).scores

            kinds = [str(label).lower() for label in loaded.model.config.id2label.values()]
            started = time.perf_counter()
            if any(kind.startswith("entail") for kind in kinds):
                found = [through_tab(text) for text in texts]
                seconds = time.perf_counter() - started
            else:
                found = _labels_once(texts, labels, loaded)
                seconds = time.perf_counter() - started
                for text, scores in zip(texts[:COMPARED], found, strict=False):
                    check_scores(scores, through_tab(text))
        right = [item["label"] == scores[0][0] for item, scores in zip(items, found, strict=True)]
        yield accuracy(f"zero-shot, {dataset}", name, "accuracy", right, seconds)
        with models.use(zero_shot.OFFER, "starter") as loaded:
            name = loaded.checkpoint.name
            started = time.perf_counter()
            answers = _most_similar(texts, labels, loaded)
            seconds = time.perf_counter() - started
        right = [item["label"] == label for item, label in zip(items, answers, strict=True)]
        yield accuracy(f"zero-shot, {dataset}", name, "accuracy, plain similarity", right, seconds)


def _labels_once(texts: list[str], labels: list[str], loaded: Loaded) -> list[Scores]:
    """The scores of the tab's own functions, with the label sentences embedded once: no text changes them."""
    import torch

    def embed(text: str, names: Sequence[str]) -> torch.Tensor:
        request = zero_shot.Request(text, tuple(names), zero_shot.TEMPLATE, False)
        encodings, _ = zero_shot.preprocess(request, loaded)
        return torch.stack(loaded.share(zero_shot.joint)(encodings))

    hypotheses = embed(texts[0], labels)[1:]
    return [
        zero_shot.postprocess(torch.cat([embed(text, ()), hypotheses]), labels, False, loaded.model.config)
        for text in texts
    ]


def check_scores(scores: Scores, expected: Scores) -> None:
    """Raises RuntimeError if the labels or their scores differ by more than rounding."""
    wanted = dict(expected)
    if dict(scores).keys() != wanted.keys():
        raise RuntimeError("the measure and the tab have different labels")
    for label, score in scores:
        if abs(score - wanted[label]) > 1e-4:
            raise RuntimeError(f"the measure gives {label} {score:.5f} and the tab {wanted[label]:.5f}")


def _most_similar(texts: list[str], labels: list[str], loaded: Loaded) -> list[str]:
    """Plain similarity, written without the tab: mean of the last hidden states, cosine, softmax."""
    import torch

    def embed(sentences: list[str]) -> torch.Tensor:
        rows = []
        for begin in range(0, len(sentences), 32):
            batch = loaded.processor(
                sentences[begin : begin + 32], padding=True, truncation=True, return_tensors="pt"
            ).to(loaded.device)
            hidden = loaded.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            rows.append((hidden * mask).sum(1) / mask.sum(1))
        return torch.nn.functional.normalize(torch.cat(rows))

    with torch.inference_mode():
        cosines = embed(texts) @ embed([PLAIN_TEMPLATE.format(label) for label in labels]).T
        best = (cosines / PLAIN_TEMPERATURE).softmax(-1).argmax(-1)
    return [labels[i] for i in best.tolist()]


def measure_translation(path: Path, choice: str, models: ModelManager, limit: int | None) -> Iterator[Row]:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) between English and French, in the direction of
    the checkpoint, all references counted.
    """
    from sacrebleu.metrics import BLEU, CHRF

    with models.use(translation.OFFER, choice) as loaded:
        name = loaded.checkpoint.name
        back = from_french(loaded)
        grouped = dict(list(read_references(path / "en-fr" / "dev.tsv", back).items())[:limit])
        started = time.perf_counter()
        hypotheses: list[str] = []
        for part in chunks(list(grouped), translation.MOST_CHARACTERS):
            hypotheses += [result.text for result in translation.run_many(part, name, models)]
        seconds = time.perf_counter() - started
    references = reference_streams(list(grouped.values()))
    for metric in (CHRF(), BLEU()):
        score = metric.corpus_score(hypotheses, references, n_bootstrap=RESAMPLES)
        about = json.loads(score.format(width=4, signature=str(metric.get_signature()), is_json=True))
        mean, margin = about.get("confidence_mean", score.score), about.get("confidence_var", 0.0)
        yield Row(
            "translation",
            name,
            score.name.removesuffix("2"),
            score.score,
            mean - margin,
            mean + margin,
            len(hypotheses),
            seconds,
        )
    kept = kept_names(grouped, hypotheses)
    if kept:
        yield accuracy("translation", name, "names and numbers kept", kept, seconds)


def from_french(loaded: Loaded) -> bool:
    """Whether it translates French to English; a checkpoint that does not tell is taken for one into French.

    Raises ValueError for other languages.
    """
    source, target = translation.language_pair(loaded)
    pair = source[:2], target[:2]  # codes may have three letters
    if pair not in (("en", "fr"), ("fr", "en"), ("?", "?")):
        raise ValueError(f"it translates {source} to {target}, and the sentences are English and French")
    return pair == ("fr", "en")


def kept_names(grouped: Mapping[str, Sequence[str]], hypotheses: Sequence[str]) -> list[bool]:
    """Of each name and number that stands in a source and in all its references, whether it was kept."""
    return [
        name in set(NAME.findall(hypothesis))
        for (source, references), hypothesis in zip(grouped.items(), hypotheses, strict=True)
        for name in sorted(set(NAME.findall(source)).intersection(*map(NAME.findall, references)))
    ]


def aligned(weights: np.ndarray, queries: explorer.Spans, keys: explorer.Spans) -> set[tuple[int, int]]:
    """Links of a source word and a target word: what each target word looks at most, of `[query, key]`."""
    return {(int(key), query) for query, key in enumerate(explorer.merge(weights, queries, keys).argmax(-1))}


def measure_alignment(path: Path, choice: str, models: ModelManager, limit: int | None) -> Iterator[Row]:
    """Alignment error rate (Och and Ney 2003) of the head of the cross-attention that aligns best.

    On sentence pairs of our own, aligned by hand. A row of the attention belongs to the token that is
    predicted there.
    """
    lines = [line.split("\t") for line in read_lines(ALIGNED)[:limit]]
    with models.use(translation.OFFER, choice) as loaded:
        name, tokenizer = loaded.checkpoint.name, loaded.processor
        back = from_french(loaded)
        started = time.perf_counter()
        errors: dict[tuple[int, ...], list[int]] = {}
        for english, french, links in lines:
            source, target = (french, english) if back else (english, french)
            read = tokenizer(source)["input_ids"]
            wanted = tokenizer(text_target=target)["input_ids"][:-1]
            fed = (loaded.model.config.decoder_start_token_id, *wanted)
            ((_, _, cross),) = loaded.share(translation.joint_attention)([(tuple(read), fed)], never)
            keys = explorer.words(translation.source_pieces(read[:-1], loaded), ())
            queries = explorer.words(translation.target_pieces(wanted, loaded), ())
            numbers = (tuple(map(int, link.split("-"))) for link in links.split())
            sure = {pair[::-1] if back else pair for pair in numbers}
            for at in np.ndindex(*cross.shape[:2]):
                found = aligned(cross[at][: len(wanted), : len(read) - 1], queries, keys)
                counts = errors.setdefault(at, [0, 0])
                counts[0] += len(found) + len(sure) - 2 * len(found & sure)
                counts[1] += len(found) + len(sure)
        seconds = time.perf_counter() - started
    (layer, head), (wrong, of) = min(errors.items(), key=lambda row: row[1][0] / row[1][1])
    measure = f"alignment error, layer {layer + 1}, head {head + 1}"
    yield Row("translation", name, measure, wrong / of, None, None, len(lines), seconds)


def measure_masked(path: Path, choice: str, models: ModelManager, limit: int | None) -> Iterator[Row]:
    """How often the word that was taken out of an English sentence is the first, or among the first five.

    One word of each sentence, drawn once; only words that are one token, as a gap is.
    """
    drawn = np.random.default_rng(0)
    sentences = list(read_references(path / "en-fr" / "dev.tsv"))
    ranks: list[int | None] = []
    with models.use(masked.MASKED, choice) as loaded:
        name, tokenizer = loaded.checkpoint.name, loaded.processor
        started = time.perf_counter()
        for sentence in drawn.permutation(sentences)[: min(limit or GAPS, GAPS)]:
            places = [
                (match.start(), match.end())
                for match in re.finditer(r"(?<!\S)[A-Za-z]+", sentence)
                if len(tokenizer.tokenize(f" {match[0]}")) == 1
            ]
            if not places:
                continue
            begin, end = places[drawn.integers(len(places))]
            side = masked.fill(sentence[:begin], sentence[end:], name, models, unreported, never)
            wanted = sentence[begin:end].lower()
            tokens = [token.strip().lower() for token, _ in side.scores]
            ranks.append(tokens.index(wanted) if wanted in tokens else None)
        seconds = time.perf_counter() - started
    for most in (1, 5):
        right = [rank is not None and rank < most for rank in ranks]
        yield accuracy("masked", name, f"top-{most}", right, seconds)


def measure_speech(path: Path, choice: str, models: ModelManager, limit: int | None) -> Iterator[Row]:
    """Word error rate after Whisper's English normaliser (Radford et al. 2022), over all clips together."""
    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    folder = path / "speech"
    items = read_records(folder / "manifest.jsonl")[:limit]
    errors, words = [], []
    with models.use(speech.OFFER, choice) as loaded:
        name = loaded.checkpoint.name
        # The table of British spellings comes with the checkpoint, where it comes at all.
        tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        normalise = EnglishTextNormalizer(getattr(tokenizer, "english_spelling_normalizer", None) or {})
        started = time.perf_counter()
        texts = [transcript(folder / item["file"], name, models) for item in items]
        seconds = time.perf_counter() - started
    for item, text in zip(items, texts, strict=True):
        counts = jiwer.process_words(normalise(item["text"]), normalise(text))
        errors.append(counts.substitutions + counts.deletions + counts.insertions)
        words.append(counts.substitutions + counts.deletions + counts.hits)
    low, high = error_interval(errors, words)
    rate = sum(errors) / sum(words)
    yield Row("speech", name, "word error rate", rate, low, high, len(items), seconds)


def transcript(path: Path, choice: str, models: ModelManager) -> str:
    """What the speech tab has written when it is done with a clip."""
    results = speech.run(str(path), "none", "en", "transcribe", choice, models)
    return deque(results, maxlen=1).pop().text


def measure_image(path: Path, choice: str, models: ModelManager, limit: int | None) -> Iterator[Row]:
    """Top-1 and top-5 on photographs of ImageNet's classes, compared by class number, not by wording."""
    folder = path / "image"
    items = read_records(folder / "manifest.jsonl")[:limit]
    with models.use(image.OFFER, choice) as loaded:
        name, names = loaded.checkpoint.name, loaded.model.config.id2label
        if len(names) not in (1000, 1001):
            raise ValueError(f"it has {len(names)} classes, and the pictures are of ImageNet's 1,000")
        started = time.perf_counter()
        found = [image.run(str(folder / item["file"]), 5, name, models).scores for item in items]
        seconds = time.perf_counter() - started
    for most in (1, 5):
        right = [
            any(item["class_index"] in class_indices(label, names) for label, _ in scores[:most])
            for item, scores in zip(items, found, strict=True)
        ]
        yield accuracy("image", name, f"top-{most}", right, seconds)


TASKS: dict[str, Callable[[Path, str, ModelManager, int | None], Iterator[Row]]] = {
    "sentiment": measure_sentiment,
    "zero_shot": measure_zero_shot,
    "translation": measure_translation,
    "speech": measure_speech,
    "image": measure_image,
    "masked": measure_masked,
    "alignment": measure_alignment,
}


# Output


def cells(row: Row) -> tuple[str, ...]:
    """A row as it is printed: shares in percent, points as they are."""
    points = row.measure in ("BLEU", "chrF")

    def number(value: float) -> str:
        return f"{value:.1f}" if points else f"{100 * value:.1f}"

    interval = "" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}"
    return (
        row.task,
        row.checkpoint,
        row.measure,
        number(row.value) + ("" if points else " %"),
        interval,
        str(row.items),
        f"{row.seconds:.1f}",
        f"{row.items / max(row.seconds, 1e-9):.3g}",
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table whose columns line up, numbers to the right."""
    lines = [HEADER, *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    aligned = [
        [cell.rjust(width) if head in NUMBERS else cell.ljust(width) for cell, width, head in triples]
        for triples in (zip(line, widths, HEADER, strict=True) for line in lines)
    ]
    rule = [
        "-" * (width - 1) + (":" if head in NUMBERS else "-")
        for width, head in zip(widths, HEADER, strict=True)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (aligned[0], rule, *aligned[1:]))


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises SystemExit with a sentence for what cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description="How often are the tabs right?"
    )
    parser.add_argument("path", type=Path, help="folder with the data")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma separated; all if not given")
    parser.add_argument("--checkpoint", default="auto", help="auto, course, starter or owner/name[@revision]")
    parser.add_argument("--limit", type=int, help="at most this many items of each set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    options = parser.parse_args(given)
    options.tasks = [task.strip().replace("-", "_") for task in options.tasks.split(",") if task.strip()]
    unknown = [task for task in options.tasks if task not in TASKS]
    if unknown or not options.tasks:
        parser.error(f"--tasks takes {', '.join(TASKS)}, not {', '.join(unknown) or 'nothing'}")
    if "/" in options.checkpoint and len(options.tasks) > 1:
        parser.error("a checkpoint fits one task; name it with --tasks")
    if options.limit is not None and options.limit < 1:
        parser.error("--limit must be at least 1")
    if not options.path.is_dir():
        parser.error(f"there is no folder {options.path}")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a task could not be measured."""
    options = arguments(sys.argv[1:] if given is None else given)
    models = create_manager(parse([], os.environ), HubStatus())
    rows: list[Row] = []
    failed = False
    for task in options.tasks:
        print(f"measuring {task} …", file=sys.stderr, flush=True)
        try:
            for row in TASKS[task](options.path, options.checkpoint, models, options.limit):
                rows.append(row)
        except (DemoError, ValueError, OSError) as error:
            failed = True
            print(f"{task} was not measured: {error}", file=sys.stderr)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
