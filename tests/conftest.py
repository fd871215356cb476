"""What the tests share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")


@pytest.fixture(scope="session")
def starter_cache() -> Path:
    """Where the starters' weights are kept between runs: what `app.py` uses."""
    from components.settings import parse

    return parse([], os.environ).cache / "starters"
