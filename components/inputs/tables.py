"""Texts: reading many from a file, how long one may be, and what to say of one that was cut."""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InputError

if TYPE_CHECKING:
    pass


LARGEST = 5_000_000  # bytes of a text file
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "vertical bar": "|", "none": ""}
TEXT_COLUMNS = ("text", "sentence", "content", "review", "comment")
SAMPLE = 200  # rows that tell delimiter and header
LONGEST_CELL = 100  # lines; a quotation mark that is closed no sooner was left open
MOST_OPEN = 20  # quotation marks left open in a file, until all in it count as text
BOMS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# Old encodings that texts still come in; of others, similar ones are found by chance.
ENCODINGS = (
    *(f"windows-125{i}" for i in range(9)),
    *("iso-8859-2", "koi8-r", "macroman", "cp932", "euc-jp", "gb18030", "big5", "cp949"),
)
BROKEN = "\ufffd"  # stands for a byte that is not of its encoding
FAVOURED = 0.6  # of the confidence in the likeliest encoding, for the one of Western Europe to be taken


@dataclass(frozen=True)
class Reading:
    """How a file is read. delimiter: "" where each line is a text; header: whether the first row names the
    columns; column: the number of the one with the texts, from 0 on."""

    delimiter: str
    header: bool
    column: int


@dataclass(frozen=True)
class Asked:
    """How a visitor wants a file to be read, as in `Reading`; None: as it looks."""

    delimiter: str | None = None
    header: bool | None = None
    column: int | None = None


AS_IT_LOOKS = Asked()


@dataclass(frozen=True)
class Texts:
    """The texts of a file, the row of each, from 1 on as a spreadsheet or an editor counts, and remarks."""

    texts: tuple[str, ...]
    rows: tuple[int, ...]
    remarks: tuple[str, ...] = ()

    @classmethod
    def of_lines(cls, content: str, remarks: tuple[str, ...] = ()) -> Texts:
        lines = content.splitlines()
        return cls(tuple(lines), tuple(range(1, len(lines) + 1)), remarks)


@dataclass(frozen=True)
class Preview:
    """How a file would be read: the names of its columns, its first rows, and remarks."""

    reading: Reading
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]


@dataclass
class Found:
    """What is to be said of a file. opened: lines with a quotation mark that is never closed; without: rows
    that end before their text; short, long: others with fewer or more cells than the first one."""

    opened: list[int] = field(default_factory=list)
    without: int = 0
    short: int = 0
    long: int = 0

    def remarks(self) -> tuple[str, ...]:
        said = []
        if self.opened:
            more = f", and {len(self.opened) - 1} more" if len(self.opened) > 1 else ""
            said.append(
                f"A quotation mark in line {self.opened[0]} is never closed{more}: it counts as text."
            )
        if self.without:
            said.append(f"Rows too short to have a text, which were left out: {self.without:,}.")
        for rows, cells in ((self.short, "fewer"), (self.long, "more")):
            if rows:
                said.append(
                    f"Rows with {cells} cells than the first one, whose texts are kept whole: {rows:,}."
                )
        return tuple(said)


def read(path: Path, asked: Asked = AS_IT_LOOKS) -> Texts:
    """The lines of a TXT file, or a column of a CSV file: the one named text, else the one with most words.

    Raises InputError for a file that is gone, empty, too large or not text.
    """
    content, remarks = _content(path)
    if path.suffix.lower() != ".csv" and not asked.delimiter:
        return Texts.of_lines(content, remarks)
    found = Found()
    reading, first_row, lines = _looked_at(content, asked)
    texts, numbers = [], []
    place, width = reading.column, 0
    for number, row, line in _rows(lines, reading.delimiter, found, first_row):
        if not any(map(str.strip, row)):
            continue
        width = width or len(row)
        if number == first_row and reading.header:
            continue
        if len(row) <= place:
            found.without += 1
            continue
        found.short += len(row) < width
        found.long += len(row) > width
        text = row[place]
        if len(row) > width and place == width - 1 and '"' not in line:
            # It has delimiters in it without quotation marks around it.
            text = line.split(reading.delimiter, place)[place].strip()
        texts.append(text)
        numbers.append(number)
    return Texts(tuple(texts), tuple(numbers), (*remarks, *found.remarks()))


def preview(path: Path, asked: Asked = AS_IT_LOOKS, most: int = 5) -> Preview:
    """How `read` would read the file, with its first rows."""
    content, remarks = _content(path)
    if path.suffix.lower() != ".csv" and not asked.delimiter:
        lines = [line for line in islice(content.splitlines(), SAMPLE) if line.strip()]
        return Preview(Reading("", False, 0), ("text",), tuple((line,) for line in lines[:most]), remarks)
    found = Found()
    reading, first_row, lines = _looked_at(content, asked)
    sample = [row for _, row, _ in islice(_rows(lines, reading.delimiter, found, first_row), SAMPLE)]
    sample = [row for row in sample if any(map(str.strip, row))]
    width = len(sample[0])
    named = sample.pop(0) if reading.header else []
    columns = tuple(
        named[i].strip() or f"column {i + 1}" if named else f"column {i + 1}" for i in range(width)
    )
    rows = tuple(tuple((row + [""] * width)[:width]) for row in sample[:most])
    return Preview(reading, columns, rows, (*remarks, *found.remarks()))


def _content(path: Path) -> tuple[str, tuple[str, ...]]:
    """What is written in a file, and what is to be said of its encoding."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"The file has {size / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} MB are read.")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError("The file is no longer on this server. Upload it once more.") from error
    encoding = next((name for bom, name in BOMS.items() if raw.startswith(bom)), None) or _without_bom(raw)
    if b"\0" in raw and not encoding.startswith(("utf-16", "utf-32")):
        raise InputError("The file is not plain text. Save it as a TXT or CSV file in UTF-8.")
    content = raw.decode(encoding, "replace")
    if not content.strip():
        raise InputError("The file is empty. Choose one with a text on each line.")
    if not encoding.startswith("utf-"):
        return content, (f"The file is not in UTF-8; it was read as {encoding}.",)
    damaged = content.count(BROKEN) - raw.count(BROKEN.encode())
    if encoding.startswith("utf-8") and damaged > 0:
        line = content.count("\n", 0, content.index(BROKEN)) + 1
        what = "1 byte is" if damaged == 1 else f"{damaged:,} bytes are"
        return content, (f"{what} not UTF-8, the first in line {line}, and shown as {BROKEN}.",)
    return content, ()


def _without_bom(raw: bytes) -> str:
    """The encoding of a text. UTF-8 even if some bytes are broken; UTF-16 by its zeros."""
    start = raw[:4096]
    half = max(1, len(start) // 2)
    even, odd = start[::2].count(0), start[1::2].count(0)
    for name, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros > 0.3 * half and others < 0.1 * half:
            return name
    try:
        raw.decode()
        return "utf-8"
    except UnicodeDecodeError:
        pass
    # Each broken byte is one mark; what is whole has at least two bytes.
    text = raw.decode(errors="replace")
    broken = text.count(BROKEN)
    whole = sum(not mark.isascii() for mark in text) - broken
    if broken <= whole / 4:
        return "utf-8"
    import chardet

    likely = chardet.detect_all(raw, ignore_threshold=True, include_encodings=ENCODINGS)
    names = {str(one["encoding"]).lower(): one["confidence"] for one in likely if one["encoding"]}
    best = max(names, key=lambda name: names[name], default="windows-1252")
    # A short text says little, and most of those that reach this are from there.
    return "windows-1252" if names.get("windows-1252", 0) >= FAVOURED * names.get(best, 0) else best


def _looked_at(content: str, asked: Asked) -> tuple[Reading, int, list[str]]:
    """How a CSV file is read, the number of its first row, and its lines from there on.

    What is None is found. A first line such as "sep=;" names the delimiter, as spreadsheets have it.
    """
    if not content.strip(f'{"".join(DELIMITERS.values())}"{string.whitespace}'):
        raise InputError("The file is empty. Choose one with a text in each row.")
    delimiter, header, column = asked.delimiter, asked.header, asked.column
    lines = io.StringIO(content, newline="").readlines()
    first_row = 1
    if lines[0].strip().strip('"').lower().startswith("sep=") and len(lines) > 1:
        named = lines.pop(0).strip().strip('"')[4:5] or "\t"
        first_row = 2
        delimiter = named if delimiter is None else delimiter
    if delimiter is None:
        delimiter = _delimiter(lines)
    sample = [row for _, row, _ in islice(_rows(lines, delimiter, Found(), first_row), SAMPLE)]
    sample = [row for row in sample if any(map(str.strip, row))]
    if not sample:
        raise InputError("The file is empty. Choose one with a text in each row.")
    names = [cell.strip().lower() for cell in sample[0]]
    if header is None:
        header = _has_header(names, sample[1:])
    if column is None or not 0 <= column < len(names):
        named_so = [i for i, name in enumerate(names) if header and name in TEXT_COLUMNS]
        column = named_so[0] if named_so else _widest(sample[header:], len(names))
    return Reading(delimiter, header, column), first_row, lines


def _has_header(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: it has a usual name, or a word above numbers."""
    if any(name in TEXT_COLUMNS for name in names):
        return True
    if any(map(_is_number, names)) or not rows or not all(names):
        return False
    columns = ([row[i] for row in rows if len(row) > i] for i in range(len(names)))
    return any(cells and sum(map(_is_number, cells)) > 0.8 * len(cells) for cells in columns)


def _widest(rows: Iterable[Sequence[str]], columns: int) -> int:
    """The column with most characters, not counting numbers."""
    widths = [0] * columns
    for row in rows:
        for i, cell in enumerate(row[:columns]):
            if not _is_number(cell):
                widths[i] += len(cell)
    return widths.index(max(widths))


def _rows(
    lines: Sequence[str], delimiter: str, found: Found, number: int = 1
) -> Iterator[tuple[int, list[str], str]]:
    """The rows of a CSV file with their numbers, from `number` on, and the first line of each.

    Blank ones count. A row in which a quotation mark is opened and not closed where it should be is one line,
    as it stands.
    """
    if not delimiter:
        yield from ((number + at, [line.rstrip("\r\n")], line) for at, line in enumerate(lines))
        return
    number_of_first, at, quoting = number - 1, 0, True
    while at < len(lines):
        if not quoting:
            yield number, _cut(lines[at], delimiter), lines[at]
            at, number = at + 1, number + 1
            continue
        fed = _Fed(lines, at)
        try:
            for row in csv.reader(fed, delimiter=delimiter, skipinitialspace=True, strict=True):
                first, at = at, fed.at
                fed.start = at
                yield number, row, lines[first]
                number += 1
        except csv.Error:
            found.opened.append(at + 1 + number_of_first)
            yield number, _cut(lines[at], delimiter), lines[at]
            at, number = at + 1, number + 1
            quoting = len(found.opened) < MOST_OPEN


class _Fed:
    """Lines for a CSV reader, from `at` on; a row, which begins at `start`, gets at most LONGEST_CELL."""

    def __init__(self, lines: Sequence[str], at: int) -> None:
        self._lines, self.at, self.start = lines, at, at

    def __iter__(self) -> _Fed:
        return self

    def __next__(self) -> str:
        if self.at >= min(len(self._lines), self.start + LONGEST_CELL):
            raise StopIteration
        self.at += 1
        return self._lines[self.at - 1]


def _cut(line: str, delimiter: str) -> list[str]:
    """The cells of a line in which quotation marks are text."""
    return [cell.strip() for cell in line.rstrip("\r\n").split(delimiter)]


def _delimiter(lines: Sequence[str]) -> str:
    """What stands between the columns of a CSV file: what parts most of its first rows into as many cells,
    two at least; "" if there is nothing such: one column, whose texts may hold commas."""
    best, found = (0.5, 1), ""
    first = next(line for line in lines if line.strip())
    for delimiter in filter(None, DELIMITERS.values()):
        if delimiter not in first:
            continue
        widths = [len(row) for _, row, _ in islice(_rows(lines, delimiter, Found()), SAMPLE) if any(row)]
        usual = max(set(widths), key=widths.count, default=1)
        score = (sum(width == usual for width in widths) / max(1, len(widths)), usual)
        if usual > 1 and len(widths) > 1 and score >= best:
            best, found = score, delimiter
    return found


def _is_number(cell: str) -> bool:
    return cell.strip().replace(".", "", 1).replace("-", "", 1).isdigit()


def safe_cell(text: str) -> str:
    """A text that a spreadsheet shows as it stands and does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
