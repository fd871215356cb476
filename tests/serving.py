"""A page that tests can open: served from this process, on this machine alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr


@contextmanager
def served(page: gr.Blocks, **more: Any) -> Iterator[str]:
    """The address, with a slash at its end, until the block is left. more: what else `launch` takes."""
    _, address, _ = page.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False, **more
    )
    try:
        yield address
    finally:
        page.close(verbose=False)
