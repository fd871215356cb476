"""Settings: what can be set when the app is started, on the command line and in the environment."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

POLICIES = ("auto", "hub", "starter")
QUANTIZE = ("none", "int8")


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


_count.__name__ = "number from 1 on"
_number.__name__, _amount.__name__ = "number", "positive number"  # argparse shows these


def _setting(default: Any, env: str, text: str, **options: Any) -> Any:
    """A field whose metadata is all that the command line and the README need."""
    about = {"env": env, "help": text, **options}
    if callable(default):
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """What `app.py` is started with. Each field is an option and an environment variable."""

    host: str | None = _setting(None, "GRADIO_SERVER_NAME", "address to listen on; 127.0.0.1 if not given")
    port: int | None = _setting(
        None, "GRADIO_SERVER_PORT", "port to listen on; the first free one from 7860 if not given", type=int
    )
    share: bool = _setting(False, "TOUR_SHARE", "make a public link", action="store_true")
    checkpoints: str = _setting(
        "auto",
        "TOUR_CHECKPOINTS",
        "hub: the course's checkpoints; starter: small ones that need no hub; auto: the hub if it answers",
        choices=POLICIES,
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
    quantize: str = _setting(
        "none",
        "TOUR_QUANTIZE",
        "int8: linear layers of decoders in 8 bits on the CPU, smaller and faster",
        choices=QUANTIZE,
    )
    max_audio_minutes: float = _setting(30.0, "TOUR_MAX_AUDIO_MINUTES", "longest audio taken", type=_amount)
    max_image_megapixels: float = _setting(
        50.0, "TOUR_MAX_IMAGE_MEGAPIXELS", "largest image taken", type=_amount
    )

    @property
    def public(self) -> bool:
        """Whether others than the person at this machine can open the page."""
        return self.share or self.host not in (None, "127.0.0.1", "localhost", "::1")


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
        if about.get("action") == "store_true":
            default: Any = (given or "").lower() in ("1", "true", "yes")
        else:
            default = given if given is not None else _default_of(one)
        parser.add_argument(option, default=default, help=f"{text} [{variable}]", **about)
    settings = Settings(**vars(parser.parse_args(arguments)))
    # argparse checks choices of options only, not of defaults that come from the environment.
    for one in fields(Settings):
        known, value = one.metadata.get("choices"), getattr(settings, one.name)
        if known and value not in known:
            parser.error(f"{one.metadata['env']} must be one of {', '.join(known)}, not {value!r}")
    return settings


def _default_of(one: Any) -> Any:
    return one.default_factory() if callable(one.default_factory) else one.default
