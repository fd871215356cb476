"""Settings: what can be set when the app is started, on the command line and in the environment."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

LOCAL = (None, "127.0.0.1", "localhost", "::1", "[::1]")
POLICIES = ("auto", "hub", "starter")
SWITCHES = ("store_true", argparse.BooleanOptionalAction)
LOGS = ("text", "json")
QUANTIZE = ("none", "int8", "int4")


def below(path: str) -> str:
    """The path of an app behind a proxy, with a slash before it and none behind; "" for the root.

    A whole address, with http:// or https://, stays one. Raises ValueError for what is no path.
    """
    text = path.strip()
    if text.startswith(("http://", "https://")):
        return text.rstrip("/")
    parts = [part for part in text.split("/") if part]
    if any(part in (".", "..") or set(part) & set(" ?#\\<>\"'") or not part.isprintable() for part in parts):
        raise ValueError("not a path")
    return "".join(f"/{part}" for part in parts)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transformer-tour"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _amount(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise ValueError
    return value


def _count_or_none(text: str) -> int:
    return int(text) and _count(text)


_count_or_none.__name__ = "number from 0 on"
_count.__name__ = "number from 1 on"
_port.__name__, below.__name__ = "port from 1 to 65535", "path such as /tour"
_number.__name__, _amount.__name__ = "number", "positive number"  # argparse shows these


def _setting(default: Any, env: str, text: str, **options: Any) -> Any:
    """A field whose metadata is all that the command line and docs/settings.md need."""
    about = {"env": env, "help": text, **options}
    if callable(default):
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """What `app.py` is started with. Each field is an option and an environment variable."""

    host: str | None = _setting(None, "GRADIO_SERVER_NAME", "address to listen on; 127.0.0.1 if not given")
    port: int | None = _setting(
        None, "GRADIO_SERVER_PORT", "port to listen on; the first free one from 7860 if not given", type=_port
    )
    root_path: str = _setting(
        "",
        "GRADIO_ROOT_PATH",
        "path of the app behind a proxy that forwards a part of a site to it",
        type=below,
    )
    ssl_certfile: Path | None = _setting(
        None, "TOUR_SSL_CERTFILE", "certificate for HTTPS, a PEM file", type=Path
    )
    ssl_keyfile: Path | None = _setting(None, "TOUR_SSL_KEYFILE", "its private key, a PEM file", type=Path)
    share: bool = _setting(
        False,
        "TOUR_SHARE",
        "make a public link, with a password of its own unless --auth or --public is given",
        action="store_true",
    )
    auth: tuple[str, ...] = _setting(
        (),
        "TOUR_AUTH",
        "who may enter: user:password, or @file with one such line for each; may be repeated, in the "
        "variable with spaces between",
        action="append",
    )
    public: bool = _setting(
        False, "TOUR_PUBLIC", "a public link that anyone may open without a password", action="store_true"
    )
    mcp: bool = _setting(False, "TOUR_MCP", "serve the tasks as tools for agents (MCP)", action="store_true")
    mcp_files: Path | None = _setting(
        None,
        "TOUR_MCP_FILES",
        "folder whose files agents may name by their paths; no other file of this machine is read for them",
        type=Path,
    )
    history: bool | None = _setting(
        None,
        "TOUR_HISTORY",
        "keep the runs in the visitor's browser; on if not given, off where others can open the page",
        action=argparse.BooleanOptionalAction,
    )
    checkpoints: str = _setting(
        "auto",
        "TOUR_CHECKPOINTS",
        "hub: the course's checkpoints; starter: small ones that need no hub; auto: the hub if it answers",
        choices=POLICIES,
    )
    any_checkpoint: bool = _setting(
        False,
        "TOUR_ANY_CHECKPOINT",
        "let visitors name any checkpoint of the hub, also where others can open the page",
        action="store_true",
    )
    max_download: float = _setting(
        10.0, "TOUR_MAX_DOWNLOAD", "GB that a visitor may make this machine download at once", type=_amount
    )
    cache: Path = _setting(_default_cache, "TOUR_CACHE", "folder for the starters' weights", type=Path)
    memory_budget: float = _setting(
        0.0,
        "TOUR_MEMORY_BUDGET",
        "GB that loaded models may take together; 0: four fifths of what is free at the first load",
        type=_amount,
    )
    keep_alive: float = _setting(
        10.0,
        "TOUR_KEEP_ALIVE",
        "minutes an idle model stays loaded; 0: not at all; -1: until its memory is needed",
        type=_number,
    )
    preload: str = _setting(
        "",
        "TOUR_PRELOAD",
        "tabs whose model is loaded at the start and stays, with commas between them: sentiment,speech",
    )
    batch: int = _setting(
        32,
        "TOUR_BATCH",
        "texts or pictures of several visitors that go through a model together",
        type=_count,
    )
    queue: int = _setting(
        64, "TOUR_QUEUE", "runs that may wait in line; further ones are refused", type=_count
    )
    requests_per_minute: int = _setting(
        30,
        "TOUR_REQUESTS_PER_MINUTE",
        "runs that a visitor may start in a minute where others can open the page; 0: no limit",
        type=_count_or_none,
    )
    quantize: str = _setting(
        "none",
        "TOUR_QUANTIZE",
        "int8, int4: linear layers of decoders in 8 or 4 bits on the CPU, smaller; int4 faster with AVX-512",
        choices=QUANTIZE,
    )
    max_audio_minutes: float = _setting(30.0, "TOUR_MAX_AUDIO_MINUTES", "longest audio taken", type=_amount)
    max_image_megapixels: float = _setting(
        50.0, "TOUR_MAX_IMAGE_MEGAPIXELS", "largest image taken", type=_amount
    )
    max_upload: float = _setting(400.0, "TOUR_MAX_UPLOAD", "MB that an uploaded file may have", type=_amount)
    log_format: str = _setting(
        "text", "TOUR_LOG_FORMAT", "how the log is written; json: an object a line", choices=LOGS
    )

    @property
    def exposed(self) -> bool:
        """Whether others than the person at this machine can open the page, by a proxy in front as well."""
        return self.share or self.host not in LOCAL or bool(self.root_path)

    @property
    def keeps_history(self) -> bool:
        """Whether runs are kept in the visitors' browsers."""
        return not self.exposed if self.history is None else self.history

    @property
    def takes_any_checkpoint(self) -> bool:
        """Whether visitors may name checkpoints that no tab offers."""
        return self.any_checkpoint or not self.exposed


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from options before environment variables before defaults.

    Raises SystemExit with a sentence, as argparse does, for a value that cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="Transformer Tour: see how Transformers solve tasks.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for one in fields(Settings):
        about = dict(one.metadata)
        variable, text = about.pop("env"), about.pop("help")
        option = "--" + one.name.replace("_", "-")
        given = environment.get(variable) or None
        default: Any = _default_of(one)
        if about.get("action") == "append":
            default = None  # argparse would add to it
        elif given is not None:
            default = _is_yes(given) if about.get("action") in SWITCHES else given
        parser.add_argument(option, default=default, help=f"{text} [{variable}]", **about)
    values = vars(parser.parse_args(arguments))
    values["auth"] = tuple(values["auth"] or environment.get("TOUR_AUTH", "").split())
    settings = Settings(**values)
    if bool(settings.ssl_certfile) != bool(settings.ssl_keyfile):
        parser.error("--ssl-certfile and --ssl-keyfile go together")
    for file in (settings.ssl_certfile, settings.ssl_keyfile):
        if file and not file.is_file():
            parser.error(f"there is no file {file}")
    if settings.mcp_files and not settings.mcp_files.is_dir():
        parser.error(f"--mcp-files: there is no folder {settings.mcp_files}")
    # argparse checks choices of options only, not of defaults that come from the environment.
    for one in fields(Settings):
        known, value = one.metadata.get("choices"), getattr(settings, one.name)
        if known and value not in known:
            parser.error(f"{one.metadata['env']} must be one of {', '.join(known)}, not {value!r}")
    return settings


def _is_yes(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on")


def _default_of(one: Any) -> Any:
    return one.default_factory() if callable(one.default_factory) else one.default
