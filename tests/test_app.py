"""The app as it is started: what it imports before it answers, its address, and how it says no."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.serving import served

ROOT = Path(__file__).resolve().parent.parent

# Answers as soon as the page is up, with the heavy packages that were imported by then.
PROBE = """
import sys, app
heavy = ("torch", "transformers", "librosa", "plotly", "av")
app.warm = lambda: None
launch = app.gr.Blocks.launch
def answered(self, **options):
    _, url, _ = launch(self, **options)
    import urllib.request
    page = urllib.request.urlopen(url).read().decode()
    print("title", "Transformer Tour" in page, "at", url)
    print("heavy", [name for name in heavy if name in sys.modules])
    raise SystemExit(0)
app.gr.Blocks.launch = answered
sys.argv = ["app.py", *sys.argv[1:]]
app.main(app.parse(sys.argv[1:], __import__("os").environ))
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_page_is_up_before_torch_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "--port", str(free_port()), "--checkpoints", "starter"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "title True" in done.stdout, done.stderr
    assert "heavy []" in done.stdout


def test_a_port_in_use_is_said_in_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env={**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert f"Port {port} is in use" in done.stderr and "Traceback" not in done.stderr


def test_address_and_port_come_from_gradios_variables():
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=ROOT,
        env={**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"http://127.0.0.1:{port}" in done.stdout, done.stderr


def test_help_lists_every_setting_and_its_variable():
    from dataclasses import fields

    from components.settings import Settings

    done = subprocess.run(
        [sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    text = "".join(done.stdout.split())
    for field in fields(Settings):
        assert "--" + field.name.replace("_", "-") in text
        assert field.metadata["env"] in text


def test_the_page_comes_from_this_app_alone(models):
    """No address of another host stands in the page or in its theme."""
    from dataclasses import replace

    import app
    from components.page import ui
    from components.server.line import Line
    from components.settings import parse
    from components.weights.hub import HubStatus

    settings = replace(parse([], os.environ), checkpoints="starter")
    page = app.create_app(models, settings, HubStatus(), Line())
    with served(page, theme=ui.theme()) as url:
        css = urllib.request.urlopen(f"{url}theme.css").read().decode()
    assert "IBM Plex Sans" in css
    assert "@import" not in css and "url('http" not in css and 'url("http' not in css


@pytest.mark.parametrize("policy", ["auto", "starter"])
def test_the_masthead_says_where_models_run(policy):
    from dataclasses import replace

    import app
    from components.settings import parse

    class Gone:
        def reachable(self):
            return False

        def reason(self):
            return "the hub did not answer"

    text = app.masthead(replace(parse([], os.environ), checkpoints=policy), Gone())
    assert {"auto": "without the hub", "starter": "starters only"}[policy] in text
    assert "CPU" in text or "GPU" in text or "NVIDIA" in text


def test_every_setting_is_documented_as_it_is():
    from dataclasses import fields

    from components.settings import Settings

    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for field in fields(Settings):
        option = "--" + field.name.replace("_", "-")
        assert f"| `{option}` | `{field.metadata['env']}` | {field.metadata['help']} |" in page


def test_a_first_click_waits_until_transformers_is_imported(monkeypatch, models):
    """Half imported, it has no AutoConfig; so each use of a model goes through `warm` first."""
    import app
    from demos import sentiment

    warmed = []
    monkeypatch.setattr(app, "warm", lambda: warmed.append("warm"))
    with models.use(sentiment.OFFER, "starter"):
        assert warmed == ["warm"]


# Prepares as the app does after its launch, and says what is in memory then and how the first click went.
PRELOAD = """
import sys, app
def prepared(models, pinned, ready):
    prepare(models, pinned, ready)
    for row in models.snapshot():
        print("in memory:", row.task, row.state, row.pinned, row.loads)
    from demos import sentiment
    sentiment.run("fine", "auto", models)
    print("loads after the first click:", models.totals().loads)
    app.os.kill(app.os.getpid(), app.signal.SIGTERM)
prepare, app.prepare = app.prepare, prepared
sys.argv = ["app.py", *sys.argv[1:]]
app.main(app.parse(sys.argv[1:], __import__("os").environ))
"""


def started_with(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELOAD, "--port", str(free_port()), "--checkpoints", "starter", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_is_preloaded_is_there_before_the_first_click():
    done = started_with("--preload", "sentiment, translation")
    found = [line for line in done.stdout.splitlines() if line.startswith("in memory")]
    assert sorted(found) == [
        "in memory: sentiment loaded True 1",
        "in memory: translation loaded True 1",
    ], done.stderr
    assert "loads after the first click: 2" in done.stdout
    assert done.returncode == 0


def test_a_tab_that_there_is_not_cannot_be_preloaded():
    done = started_with("--preload", "weather")
    assert done.returncode == 1
    assert "--preload: there is no tab weather. The tabs are sentiment, " in done.stderr
    assert "Traceback" not in done.stderr
