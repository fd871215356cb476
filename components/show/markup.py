"""Markup: how do scores, texts, times and notices look on the page?

Whatever comes from checkpoints and visitors is shown as text.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.models.status import Status
from components.progress import Progress

if TYPE_CHECKING:
    from components.models.manager import Snapshot, Totals


def problem(sentence: str) -> str:
    """An error message as HTML."""
    return f'<p role="alert">{html.escape(sentence)}</p>' if sentence else ""


def waiting(progress: Progress) -> str:
    """What is happening, and a bar where it is known how far it is."""
    bar = ""
    if progress.done is not None and progress.total:
        bar = f'<progress value="{progress.done}" max="{progress.total}"></progress>'
    return f'<p class="line" role="status">{html.escape(_begin(str(progress)))} … {bar}</p>'


def _begin(words: str) -> str:
    """With a capital letter; the rest stays, as in MB."""
    return words[:1].upper() + words[1:]


def remark(sentence: str) -> str:
    """A short notice as HTML."""
    return f'<p class="remark" role="status">{html.escape(sentence)}</p>'


def status_line(status: Status) -> str:
    """Checkpoint, source, device, dtype and times in one line, remarks below it."""
    parts = [
        f"<b>{html.escape(status.checkpoint)}</b>",
        f'<span class="badge">{status.source}</span>',
        html.escape(f"{status.device}, {status.dtype}"),
        f"loaded in {seconds(status.load_seconds)}",
        f"ran in {seconds(status.run_seconds)}",
    ]
    said = [*filter(None, [status.measured]), *status.remarks]
    remarks = "".join(f'<p class="remark">{html.escape(remark)}</p>' for remark in said)
    return f'<p class="line" role="status">{" · ".join(parts)}</p>{remarks}'


def seconds(value: float) -> str:
    """Two digits that matter: 0.034 s, 1.2 s, 85 s."""
    if value < 0.001:
        return "under 0.001 s"
    return f"{value:.0f} s" if value >= 9.95 else f"{float(f'{value:.2g}'):g} s"


def percent(share: float) -> str:
    """A share between 0 and 1 with one decimal."""
    return f"{100 * share:.1f} %"


def megabytes(count: int) -> str:
    """Bytes as MB."""
    return f"{count / 1e6:.0f} MB"


def clock(value: float) -> str:
    """Seconds as 1:05.3, with hours from the first hour on."""
    minutes, rest = divmod(round(max(value, 0), 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def bars(scores: Sequence[tuple[str, float]], most: int = 10, headline: bool = True) -> str:
    """Labels with scores between 0 and 1 as bars, in the order given; the first one large above them.

    Labels come from checkpoints and visitors: they are shown as text.
    """
    if not scores:
        return ""
    rows = "".join(
        f'<div class="bar"><span class="name">{html.escape(label)}</span>'
        f'<span class="track"><span style="width:{100 * score:.2f}%"></span></span>'
        f'<span class="number">{percent(score)}</span></div>'
        for label, score in scores[:most]
    )
    top, share = scores[0]
    first = f'<p class="answer">{html.escape(top)} <span>{percent(share)}</span></p>' if headline else ""
    rest = f'<p class="remark">and {len(scores) - most} more</p>' if len(scores) > most else ""
    return f'{first}<div class="bars">{rows}</div>{rest}'


def counts(labels: Sequence[str]) -> str:
    """How many texts got each label, as bars of shares."""
    tally = Counter(labels)
    head = f'<p class="answer">{len(labels)} texts</p>'
    return head + bars(
        [(f"{label} ({n})", n / len(labels)) for label, n in tally.most_common()], headline=False
    )


def chips(labels: Sequence[str]) -> str:
    """Labels as chips."""
    return f'<div class="chips">{"".join(f"<span>{html.escape(label)}</span>" for label in labels)}</div>'


def sequences(lead: str, texts: Sequence[str]) -> str:
    """Generated texts side by side, each after its prompt."""
    sections = "".join(
        f'<section><h3>Sequence {i}</h3><span class="prompt">{html.escape(lead)}</span>'
        f"{html.escape(text)}</section>"
        for i, text in enumerate(texts, 1)
    )
    return f'<div class="sequences">{sections}</div>'


def timed_lines(segments: Sequence[tuple[str, float, float]]) -> str:
    """Text with its times in seconds, one segment a line."""
    rows = "".join(
        f"<tr><td>{clock(start)}</td><td>{clock(end)}</td><td>{html.escape(text.strip())}</td></tr>"
        for text, start, end in segments
    )
    head = "<tr><th>from</th><th>to</th><th>text</th></tr>"
    return (
        f'<div class="timed"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>' if rows else ""
    )


def models_table(rows: Sequence[Snapshot], totals: Totals, runs: tuple[int, int]) -> str:
    """One entry for each model: what it is, where, who uses it; and the sums below."""
    entries = "".join(
        f"<li><b>{html.escape(row.name)}</b><div>{html.escape(' · '.join(_facts(row)))}</div></li>"
        for row in rows
    )
    held = sum(row.bytes for row in rows)
    sums = (
        f"{megabytes(held)} in all. {totals.loads} loads, {totals.hits} hits, {totals.evictions} evictions "
        f"since the start. {runs[0]} runs under way, {runs[1]} waiting."
    )
    return f"<ul>{entries}</ul><div>{sums}</div>" if rows else f"<div>No model is loaded. {sums}</div>"


def _facts(row: Snapshot) -> list[str]:
    if row.state != "loaded":
        return [row.task, row.progress or row.state]
    users = f"{row.users} in use" if row.users else f"idle for {seconds(row.idle_seconds)}"
    kept = ["stays loaded"] if row.pinned else []
    where = f"{row.device}, {row.dtype}"
    lent = f"loads {row.loads}, hits {row.hits}"
    return [row.task, megabytes(row.bytes), where, users, lent, *kept]
