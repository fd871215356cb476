"""Visits: who asks, and from where?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr
from gradio.context import LocalContext

from components.server.access import Visitor, is_far

if TYPE_CHECKING:
    from components.settings import Settings


def visitor(request: gr.Request | None) -> Visitor:
    """Who asks: the user where there are users, else the session; and from which address."""
    client = request.client if request else None
    name = (request.username or request.session_hash or "") if request else ""
    return Visitor(name, client.host if client else "", _is_far(request))


def asked_from_far() -> bool:
    """Whether what is done now was asked for by a request that may come from another machine.

    In the thread of a run and in any other that Gradio has given to a request; False elsewhere.
    """
    return _is_far(LocalContext.request.get(None))


def is_exposed(settings: Settings) -> bool:
    """Whether others can see what is shown now: others than who is at this machine."""
    return settings.exposed or asked_from_far()


def _is_far(request: gr.Request | None) -> bool:
    asked = getattr(request, "request", None)
    return asked is not None and is_far(asked.headers, asked.scope.get("http_version", "1.1"))
