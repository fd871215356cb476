"""Texts: reading many from a file, how long one may be, and what to say of one that was cut."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.batching import Cost
from components.errors import InputError
from components.models import Loaded

if TYPE_CHECKING:
    import torch

Encoding = dict[str, list[int]]  # what a tokenizer makes of one text: input_ids, attention_mask, ...

LARGEST = 5_000_000  # bytes of a text file
DELIMITERS = ",;\t"
ONE_COLUMN = "\x1f"  # a delimiter that no text has
TEXT_COLUMNS = ("text", "sentence", "content", "review", "comment")


def read_texts(path: Path) -> list[str]:
    """The lines of a TXT file, or a column of a CSV file: the one named text, else the first with words.

    Raises InputError for a file that is gone, empty, too large or not text.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"The file has {size / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} MB are read.")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError("The file is no longer on this server. Upload it once more.") from error
    if b"\0" in raw:
        raise InputError("The file is not plain text. Save it as a TXT or CSV file in UTF-8.")
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        content = raw.decode("cp1252", errors="replace")
    if not content.strip():
        raise InputError("The file is empty. Choose one with a text on each line.")
    if path.suffix.lower() != ".csv":
        return content.splitlines()
    try:
        return _column(content)
    except csv.Error as error:
        raise InputError(
            "The CSV file cannot be read: a quotation mark may be left open. Check it."
        ) from error


def _column(content: str) -> list[str]:
    """The texts of a CSV file. It is read row by row: lists for all rows would cost more than the reading."""
    delimiter = _delimiter(content)
    rows = _rows(content, delimiter)
    first = next(rows, None)
    if first is None:
        raise InputError("The file is empty. Choose one with a text in each row.")
    header = [cell.strip().lower() for cell in first]
    for i, name in enumerate(header):
        if name in TEXT_COLUMNS:
            return [row[i] for row in rows if len(row) > i]
    if len(header) == 1:
        return [first[0], *(row[0] for row in rows)]
    widest = _widest(_rows(content, delimiter), len(header))
    return [row[widest] for row in _rows(content, delimiter) if len(row) > widest]


def _widest(rows: Iterator[list[str]], columns: int) -> int:
    """The column with most characters, not counting numbers."""
    widths = [0] * columns
    for row in rows:
        for i, cell in enumerate(row[:columns]):
            if not _is_number(cell):
                widths[i] += len(cell)
    return widths.index(max(widths))


def _rows(content: str, delimiter: str) -> Iterator[list[str]]:
    """The rows of a CSV file that are not blank."""
    reader = csv.reader(io.StringIO(content), delimiter=delimiter, skipinitialspace=delimiter != ONE_COLUMN)
    return (row for row in reader if any(map(str.strip, row)))


def _delimiter(content: str) -> str:
    """What stands between the columns of a CSV file: a comma, a semicolon or a tab."""
    first = next(line for line in content.splitlines() if line.strip())
    if not any(mark in first for mark in DELIMITERS):
        # One column, whose texts may hold commas without quotation marks.
        return ONE_COLUMN
    try:
        # Of what it finds only the delimiter holds: quoting it judges by the first rows.
        return csv.Sniffer().sniff(content[:4096], DELIMITERS).delimiter
    except csv.Error:
        return ","


def _is_number(cell: str) -> bool:
    return cell.strip().replace(".", "", 1).replace("-", "", 1).isdigit()


def safe_cell(text: str) -> str:
    """A text that a spreadsheet shows as it stands and does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def longest_input(loaded: Loaded) -> int:
    """Tokens that the model takes, special tokens included."""
    config = loaded.model.config
    positions = getattr(config, "max_position_embeddings", None) or 512
    # RoBERTa and MPNet count positions from its padding token on.
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= config.pad_token_id + 1
    return min(positions, loaded.processor.model_max_length)


def tokenized(texts: list[str], loaded: Loaded, limit: int) -> tuple[list[Encoding], list[str | None]]:
    """Each text as tokens, unpadded, and what was kept of it if it was cut to `limit` tokens, else None."""
    tokenizer = loaded.processor
    kept: list[str | None] = [None] * len(texts)
    with loaded.lock:
        encodings = one_by_one(tokenizer(texts, truncation=False, verbose=False))
        long = [i for i, encoding in enumerate(encodings) if length(encoding) > limit]
        for i in long:
            encodings[i] = dict(tokenizer(texts[i], truncation=True, max_length=limit))
            kept[i] = tokenizer.decode(encodings[i]["input_ids"], skip_special_tokens=True)
    return encodings, kept


def one_by_one(tokens: Mapping[str, list[list[int]]]) -> list[Encoding]:
    """What a tokenizer made of several texts, apart."""
    return [dict(zip(tokens, row, strict=True)) for row in zip(*tokens.values(), strict=True)]


def padded(encodings: Sequence[Encoding], loaded: Loaded) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and what else there is, `[batch, sequence]`, as long as the longest."""
    return dict(loaded.processor.pad(list(encodings), return_tensors="pt"))


def length(encoding: Encoding) -> int:
    """In tokens, special tokens included."""
    return len(encoding["input_ids"])


def pass_cost(loaded: Loaded) -> Cost:
    """What a batch of texts costs a model, in tokens: the padded ones, and what a pass costs besides.

    That is a few dozen on a CPU (measured on MiniLM), and far more where few tokens leave the device idle.
    """
    besides = 32 if loaded.device.type == "cpu" else 4096
    return lambda count, longest: count * longest + besides


def truncation_remarks(kept: list[str | None], limit: int) -> tuple[str, ...]:
    """What to say of the texts that were cut; kept: what was read of each, None for all of it."""
    cut = [text for text in kept if text is not None]
    if not cut:
        return ()
    which = "The text was" if len(kept) == 1 else f"{len(cut)} of {len(kept)} texts were"
    return (f"{which} cut to the {limit} tokens that the model takes. Read up to: “… {cut[0][-80:]}”",)
