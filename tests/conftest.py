"""What the tests share."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis.configuration import set_hypothesis_home_dir

# No test talks to the hub; those of the hub source give their own server as the endpoint.
os.environ["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "1")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "tour-hypothesis")  # else a folder in the repository


@pytest.fixture(scope="session")
def starter_cache() -> Path:
    """Where the starters' weights are kept between runs: what `app.py` uses."""
    from components.settings import parse

    return parse([], os.environ).cache / "starters"


@pytest.fixture(scope="session")
def models(starter_cache):
    """The app's own manager with its starters."""
    import app
    from components.hub import HubStatus
    from components.settings import parse

    settings = replace(parse([], os.environ), checkpoints="starter", keep_alive=-1)
    return app.create_manager(settings, HubStatus())
