"""Showing: what outputs show before and instead of an answer, and files of one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

INVITATION = "The answer appears here. An example is filled in: press Run."
EMPTY = f'<p class="empty">{INVITATION}</p>'


def blank(output: gr.components.Component) -> Any:
    """What an output shows when there is no answer: nothing. What a visitor has chosen stays.

    A selector that was hidden to begin with, such as that of sentences, belongs to the answer.
    """
    selector = isinstance(output, gr.Dropdown) and not output.visible
    if selector or isinstance(output, gr.DownloadButton | gr.Dataframe):
        return gr.update(value=None, visible=False)
    if isinstance(output, gr.Plot | gr.Audio) and not output.visible:
        return gr.update(value=None, visible=False)
    if isinstance(output, gr.Slider):
        return gr.update(visible=False) if not output.visible else gr.skip()
    return gr.skip() if isinstance(output, gr.Radio | gr.Dropdown) else None


def download(name: str, content: str) -> str:
    """A temporary file of that name for a download button; Gradio's cache deletes it after an hour."""
    cache = Path(gr.utils.get_upload_folder())  # only what lies there is deleted
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tour-", dir=cache))
    path = folder / name
    # Without the mark at its start a spreadsheet takes a table for one in an old encoding.
    path.write_text(content, encoding="utf-8-sig" if path.suffix == ".csv" else "utf-8")
    return str(path)
