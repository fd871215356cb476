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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda", "mps"), default="cpu", help="where the models are, in float32"
    )


def pytest_configure(config: pytest.Config) -> None:
    from tests import where

    config.addinivalue_line("markers", "on_cpu: what is done on the CPU only")
    config.addinivalue_line("markers", "on_accelerator: what is slow on the CPU, and not done there")
    if problem := where.choose(config.getoption("device")):
        pytest.exit(problem, returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    elsewhere = "on_accelerator" if config.getoption("device") == "cpu" else "on_cpu"
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(elsewhere)])
    items[:] = [item for item in items if not item.get_closest_marker(elsewhere)]


@pytest.fixture(scope="session")
def starter_cache() -> Path:
    """Where the starters' weights are kept between runs: what `app.py` uses."""
    from components.settings import parse

    return parse([], os.environ).cache / "starters"


@pytest.fixture(scope="session")
def models(starter_cache):
    """The app's own manager with its starters."""
    from components.settings import parse
    from tests import where

    return where.manager(replace(parse([], os.environ), checkpoints="starter", keep_alive=-1))
