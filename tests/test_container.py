"""The container: the linter finds nothing, and the file does what it says. No engine is needed.

What a RUN or a health check would do is done here, with a `pip` that only writes down what it was asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.server import health

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Each instruction and what stands behind it, continued lines kept."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    found = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)$", "\n".join(lines), re.M)
    return [(name, text.strip()) for name, text in found]


def all_of(name: str) -> list[str]:
    return [text for instruction, text in instructions() if instruction == name]


def the(name: str) -> str:
    """What the only instruction of that name says."""
    (text,) = all_of(name)
    return text


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in the("ENV").replace("\\\n", " ").split())


def test_the_linter_finds_nothing():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "--no-color", "--format", "json", str(DOCKERFILE)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == []
    assert done.returncode == 0, done.stderr


def test_the_linter_would_find_something(tmp_path):
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.read_text().replace("USER 1000", "USER root"))
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, str(tmp_path / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "DL3002" in done.stdout


def test_nobody_is_root():
    names = [name for name, _ in instructions()]
    assert the("USER") == "1000"
    assert names.index("USER") < names.index("ENTRYPOINT")
    made = [text for text in all_of("RUN") if "useradd" in text]
    assert len(made) == 1 and "--uid 1000" in made[0] and "chown tour:tour /cache" in made[0]


def test_the_python_is_one_that_the_project_allows():
    assert the("FROM") == "python:${PYTHON}-slim"
    (version,) = [text.removeprefix("PYTHON=") for text in all_of("ARG") if text.startswith("PYTHON=")]
    least = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert least
    assert tuple(map(int, version.split("."))) >= tuple(map(int, least[1].split(".")))


def test_the_port_and_the_volume_are_those_that_the_app_is_told():
    assert the("EXPOSE") == environment()["GRADIO_SERVER_PORT"] == "7860"
    assert environment()["GRADIO_SERVER_NAME"] == "0.0.0.0"
    assert {environment()[name].rpartition("/")[0] for name in ("HF_HOME", "TOUR_CACHE")} == {the("VOLUME")}


def test_the_app_reads_what_it_is_told():
    from components.settings import parse

    settings = parse([], environment())
    assert (settings.host, settings.port) == ("0.0.0.0", 7860)
    assert settings.cache == Path("/cache/transformer-tour")


def test_the_app_is_told_to_stop_itself():
    # In the other form a shell would be told, and pass nothing on.
    assert json.loads(the("ENTRYPOINT")) == ["python", "app.py"]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last line that fits it or a folder above counts."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!").removeprefix("**/")
        if line and not line.startswith("#"):
            parts = path.split("/")
            above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
            anywhere = "**/" in line and any(fnmatch(part, pattern) for part in parts)
            if anywhere or any(
                fnmatch(one, pattern) and one.count("/") == pattern.count("/") for one in above
            ):
                out = not line.startswith("!")
    return out


def copied() -> list[str]:
    return [source for text in all_of("COPY") for source in text.split()[:-1]]


def test_what_is_copied_is_there_and_not_ignored():
    assert {"app.py", "components", "demos", "checkpoints", "requirements.txt"} <= set(copied())
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".env",
        "tests/test_app.py",
        "training/common.py",
        "components/__pycache__/x.pyc",
        "checkpoints/marian-en-fr/work/state.pt",
        "notes.txt",
    ],
)
def test_nothing_else_gets_into_the_image(path):
    assert ignored(path)
    assert not ignored("checkpoints/marian-en-fr/model.safetensors")


def test_all_that_the_app_imports_is_copied():
    script = (
        "import sys, app; root = sys.argv[1];"
        "print(*{m.__file__ for m in list(sys.modules.values()) if (getattr(m, '__file__', '') or '')"
        ".startswith(root)}, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    tops = {Path(line).relative_to(ROOT).parts[0] for line in done.stdout.split()}
    assert {"app.py", "components", "demos"} <= tops <= set(copied())


PIP = """#!/bin/sh
echo "$@" >> "$ASKED"
"""


def installed(tmp_path: Path, **arguments: str) -> tuple[int, list[str]]:
    """The exit status of the RUN that installs, with these build arguments, and what pip was asked."""
    (run,) = [text for text in all_of("RUN") if "pip install" in text]
    given = dict(text.split("=", 1) for text in all_of("ARG"))
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text(PIP)
    pip.chmod(0o755)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    done = subprocess.run(
        ["/bin/sh", "-c", run],
        cwd=tmp_path,
        env={
            "PATH": f"{pip.parent}:{os.environ['PATH']}",
            "ASKED": str(tmp_path / "asked"),
            **given,
            **arguments,
        },
        capture_output=True,
        text=True,
        timeout=30,
    )
    asked = tmp_path / "asked"
    return done.returncode, asked.read_text().splitlines() if asked.exists() else []


def test_the_build_for_the_cpu_comes_from_the_index_that_is_given(tmp_path):
    status, asked = installed(tmp_path, TORCH_INDEX="https://example.org/cpu")
    pin = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(), re.M)
    assert status == 0 and pin
    assert asked == [
        f"install --no-cache-dir --no-deps --index-url https://example.org/cpu {pin[0]}",
        "install --no-cache-dir -r requirements.txt",
    ]


@pytest.mark.parametrize(
    "arguments", [{}, {"DEVICE": "cuda"}, {"DEVICE": "cuda", "TORCH_INDEX": "https://example.org/cpu"}]
)
def test_otherwise_it_is_what_the_usual_index_has(tmp_path, arguments):
    assert installed(tmp_path, **arguments) == (0, ["install --no-cache-dir -r requirements.txt"])


def test_no_third_device(tmp_path):
    assert installed(tmp_path, DEVICE="tpu") == (1, [])


class Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not to the terminal."""


def healthy(*options: str, **variables: str) -> bool:
    """What the health check says beside an app with these options and variables."""
    command = json.loads(the("HEALTHCHECK").partition("CMD ")[2])
    assert command[0] == "python"
    environment = {
        **os.environ,
        "GRADIO_SERVER_PORT": "7860",
        "http_proxy": "http://127.0.0.1:9",
        **variables,
    }
    # In place of the container's first process; "app.py" is what this one is told.
    first = [sys.executable, "-c", "import sys; sys.stdin.read()", "app.py", *options]
    with subprocess.Popen(first, stdin=subprocess.PIPE) as process:
        assert process.stdin
        done = subprocess.run(
            [sys.executable, *command[1:], str(process.pid)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=30,
        )
        process.stdin.close()
    assert b"Traceback" not in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize(("status", "alive"), [(200, True), (500, False), (404, False)])
def test_the_health_check(status, alive):
    handler = type("Bound", (Health,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = str(server.server_port)
        assert healthy(GRADIO_SERVER_PORT=port) is alive
        assert healthy("--share", f"--port={port}", GRADIO_SERVER_NAME="0.0.0.0") is alive
        server.shutdown()
    assert not healthy(GRADIO_SERVER_PORT=port)


@pytest.mark.parametrize(
    ("words", "environment", "asked"),
    [
        (["python", "app.py"], {}, "http://127.0.0.1:7860/healthz"),
        (["docker-init", "--", "python", "/app/app.py", "--port", "9000"], {}, "http://127.0.0.1:9000/healthz"),
        (["python", "app.py", "--host", "::"], {"GRADIO_SERVER_PORT": "81"}, "http://[::1]:81/healthz"),
        (["python", "app.py", "--host", "fd00::2"], {}, "http://[fd00::2]:7860/healthz"),
        (["sh", "-c", "something else"], {"GRADIO_SERVER_PORT": "82"}, "http://127.0.0.1:82/healthz"),
        (["python", "app.py", "--ssl-certfile", __file__, "--ssl-keyfile", __file__], {}, "https://127.0.0.1:7860/healthz"),
    ],
)  # fmt: skip
def test_what_the_health_check_asks(tmp_path, words, environment, asked):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "cmdline").write_text("".join(f"{word}\0" for word in words))
    assert health.address(health.told(1, environment, tmp_path)) == asked
    assert health.address(health.told(2, environment, tmp_path)).startswith("http://127.0.0.1:")
