"""What an operator relies on: health, metrics, logs, passwords, HTTPS, and what a public link prints."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest
from gradio_client import Client
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

import app
from components.errors import Busy
from components.models.manager import ModelManager
from components.server import logs
from components.server.access import Limits, Visitor
from components.server.line import Ended, Line
from components.server.metrics import Metrics
from components.settings import parse

ROOT = Path(__file__).resolve().parent.parent
WAIT = 120.0  # seconds for what takes a few on a machine with nothing else to do
SECRET = "zebra crossing at midnight"


@contextmanager
def started(*options: str, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    """The app as the README starts it: its address, the process, and the file with its error stream."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = Path(os.environ.get("TMPDIR", "/tmp")) / f"tour-{port}.log"
    command = [sys.executable, "app.py", "--checkpoints", "starter", "--port", str(port), *options]
    with errors.open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **variables}
        )
    scheme = "https" if "--ssl-certfile" in options else "http"
    try:
        url = f"{scheme}://{'[::1]' if '::' in options else '127.0.0.1'}:{port}"
        until = time.monotonic() + WAIT
        while True:
            try:
                if httpx.get(f"{url}/readyz", verify=False, trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, errors.read_text()
            assert time.monotonic() < until, errors.read_text()
            Event().wait(0.2)
        yield url, process, errors
    finally:
        process.terminate()
        process.communicate(timeout=WAIT)
        errors.unlink()


def test_runs_are_counted_timed_and_logged_without_what_was_typed():
    with started("--log-format", "json", "--auth", "ann:secret") as (url, _, log):
        assert httpx.get(f"{url}/config").status_code == 401
        with pytest.raises(ValueError, match="Could not login"):
            Client(url, auth=("ann", "wrong"), verbose=False)
        client = Client(url, auth=("ann", "secret"), verbose=False)
        client.predict(SECRET, api_name="/sentiment")
        with pytest.raises(Exception, match="no text yet"):
            client.predict("  ", api_name="/sentiment")
        families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
        samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert samples["tour_runs_total", (("task", "sentiment"),)] == 2
    assert samples["tour_errors_total", (("kind", "InputError"), ("task", "sentiment"))] == 1
    assert samples["tour_run_seconds_count", (("task", "sentiment"),)] == 2
    assert samples["tour_batch_size_count", ()] == samples["tour_batch_size_sum", ()] == 1
    assert samples["tour_model_loads_total", ()] == 1
    assert samples["tour_queue_length", ()] == samples["tour_running", ()] == 0
    assert next(v for (name, _), v in samples.items() if name == "tour_model_bytes") > 1e6
    runs = [line for line in lines if line["logger"] == "tour.runs"]
    assert [(run["number"], run["lane"], run["outcome"]) for run in runs] == [
        (1, "sentiment", "ok"),
        (2, "sentiment", "InputError"),
    ]
    assert runs[0]["seconds"] > 0
    assert "zebra" not in json.dumps(lines) and "secret" not in json.dumps(lines)


def test_a_public_link_that_cannot_be_made_leaves_the_page_up_with_a_password():
    # An address that answers nothing.
    with started("--share", GRADIO_SHARE_SERVER_ADDRESS="127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9") as (
        url,
        process,
        log,
    ):
        assert process.stdout
        said = [process.stdout.readline() for _ in range(3)]
        assert httpx.get(f"{url}/config").status_code == 401
        words = said[0].split()
        assert said[0].startswith("The page asks for a user and a password: tour, ")
        assert f"The page is up at {url}" in said[1]
        assert said[2].startswith("There is no public link (") and f"stays up at {url}" in said[2]
        client = Client(url, auth=("tour", words[-1]), verbose=False)
        assert client.predict("Fine.", api_name="/sentiment")["label"] == "POSITIVE"
        assert "Traceback" not in log.read_text()


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here to make a certificate with")
def test_the_page_is_served_over_https_below_a_path(tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    options = ["--ssl-certfile", str(tmp_path / "cert.pem"), "--ssl-keyfile", str(tmp_path / "key.pem")]
    with started(*options, "--root-path", "/tour") as (url, _, _):
        page = httpx.get(url, verify=False)
        assert page.status_code == 200 and "Transformer Tour" in page.text
        assert httpx.get(f"{url}/config", verify=False).json()["root"].endswith("/tour")


def test_health_says_ready_when_it_is_and_no_more_when_it_stops():
    line, ready = Line(), Event()
    client = TestClient(Starlette(routes=app.routes(Metrics(), line, ready, parse([], {}))))
    assert client.get("/healthz").json() == {"alive": True, "ready": False}
    assert client.get("/readyz").status_code == 503
    ready.set()
    assert client.get("/readyz").status_code == 200
    line.close(0, 0)
    assert client.get("/healthz").json() == {"alive": True, "ready": False}
    assert client.get("/readyz").status_code == 503


@pytest.mark.parametrize(
    ("options", "client", "status"),
    [
        ([], "8.8.8.8", 200),
        (["--share"], "8.8.8.8", 403),
        (["--share"], "testclient", 403),
        (["--share"], "10.1.2.3", 200),
        (["--host", "0.0.0.0"], "::1", 200),
    ],
)
def test_metrics_are_not_for_strangers(options, client, status):
    assert metrics_asked(options, client, {"Host": "127.0.0.1:7860"}) == status


@pytest.mark.parametrize("options", [[], ["--share"], ["--host", "0.0.0.0"], ["--root-path", "tour"]])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "tour.example"}, 403),
        ({"Host": "8.8.8.8"}, 403),
        ({"Host": "["}, 403),
        ({"Host": ""}, 403),
        ({"X-Forwarded-For": "10.0.0.1"}, 403),
        ({"X-Forwarded-Proto": "https"}, 403),
        ({"X-Forwarded-Host": "localhost"}, 403),
        ({"X-Forwarded-Prefix": "/tour"}, 403),
        ({"Forwarded": "for=10.0.0.1"}, 403),
        ({"Via": "1.1 proxy"}, 403),
        ({"X-Real-IP": "10.0.0.1"}, 403),
    ],
)
def test_metrics_are_not_for_what_came_through_a_proxy(options, headers, status):
    assert metrics_asked(options, "127.0.0.1", {"Host": "127.0.0.1", **headers}) == status


def test_metrics_are_for_the_network_by_its_own_names():
    for name in ("tour:7860", "10.1.2.3:7860"):
        assert metrics_asked(["--host", "0.0.0.0"], "10.1.2.9", {"Host": name}) == 200


def metrics_asked(options: list[str], client: str, headers: dict[str, str]) -> int:
    routes = app.routes(Metrics(), Line(), Event(), parse(options, {}))
    return (
        TestClient(Starlette(routes=routes), client=(client, 1)).get("/metrics", headers=headers).status_code
    )


def test_what_was_refused_is_counted_too():
    metrics = Metrics()
    line = Line(64, Limits(1), metrics.ended)
    metrics.watch(line, ModelManager(choose=None, fetch=None, load=None, size=None, free=None))  # type: ignore[arg-type]
    ticket = line.enter("sentiment", 1, lambda stopped: None, Visitor("ann", "192.0.2.1"))
    assert ticket.done.wait(5)
    with pytest.raises(Busy):
        line.enter("sentiment", 1, lambda stopped: None, Visitor("ann", "192.0.2.1"))
    text = metrics.text().decode()
    assert 'tour_runs_total{task="sentiment"} 2.0' in text
    assert 'tour_errors_total{kind="Busy",task="sentiment"} 1.0' in text


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_log_tells_where_an_error_was_and_not_what_it_said(style):
    formatter = logs.JsonLines() if style == "json" else logs.Discreet("%(name)s %(message)s")
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = logging.LogRecord("tour", logging.ERROR, "x.py", 1, "error %s", ("abc",), sys.exc_info())
    text = formatter.format(record)
    assert "error abc" in text and "ValueError" in text and "test_operations.py" in text
    assert SECRET not in text.replace("raise ValueError(SECRET)", "")


def test_a_line_of_json_holds_the_fields_of_the_event():
    record = logging.LogRecord("tour.runs", logging.INFO, "x.py", 1, "run %d", (7,), None)
    record.fields = {"number": 7, "lane": "speech"}
    line = json.loads(logs.JsonLines().format(record))
    assert (line["message"], line["level"], line["number"], line["lane"]) == ("run 7", "info", 7, "speech")
    assert line["time"].endswith("Z")


def test_a_run_that_ends_in_an_error_of_its_own_counts_as_a_fault():
    over: list[Ended] = []
    line = Line(told=over.append)

    def broken(stopped):
        raise RuntimeError

    line.enter("image", 1, broken).done.wait(5)
    while not over:
        Event().wait(0.01)
    assert (over[0].lane, over[0].outcome) == ("image", "fault")


@pytest.mark.parametrize("entry", ["nobody", "@/no/such/file"])
def test_users_that_cannot_be_read_end_the_start_with_a_sentence(entry):
    with pytest.raises(SystemExit, match=r"--auth: .*(user:password|cannot be read)"):
        app.users_of(parse(["--auth", entry], {}))


def test_a_public_link_has_a_password_unless_it_is_meant_to_have_none(capsys):
    assert app.users_of(parse(["--share", "--public"], {})) == {}
    assert app.users_of(parse(["--host", "0.0.0.0"], {})) == {}
    assert app.users_of(parse(["--share", "--auth", "ann:x"], {})) == {"ann": "x"}
    assert capsys.readouterr().out == ""
    (user, password), = app.users_of(parse(["--share"], {})).items()  # fmt: skip
    assert user == "tour" and len(password) == 12 and password in capsys.readouterr().out
