"""The log: one line an event, for people or for programs, without what visitors typed."""

from __future__ import annotations

import json
import logging
import time
import traceback
from types import TracebackType

CHATTY = ("httpx", "httpx2", "httpcore", "mcp")
Exc = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Discreet(logging.Formatter):
    """Shows where an error happened and of which class it is. What it says may hold a visitor's words."""

    def formatException(self, ei: Exc) -> str:
        kind, _, trace = ei
        frames = "".join(traceback.format_tb(trace))
        return f"Traceback (most recent call last):\n{frames}{kind.__name__ if kind else ''}"


class JsonLines(Discreet):
    """An object a line: time (UTC), level, logger, message, the fields of the event, and an error's place."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{when}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(style: str, exposed: bool) -> None:
    """Log to the standard error stream as "text" or "json"; exposed: whether strangers may be visitors."""
    text = "%(asctime)s %(name)s %(message)s"
    plain = Discreet(text) if exposed else logging.Formatter(text)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if style == "json" else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
