"""What the server gives away: no file but those of the visitor, no address inside the network, no flood."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import httpx
import pytest
from gradio_client import Client
from PIL import Image

import app
from components.server.access import Limits
from components.server.line import Line
from components.server.metrics import Metrics
from components.settings import parse
from components.weights.hub import HubStatus
from tests.serving import served

ROOT = Path(__file__).resolve().parent.parent
MARK = "only the owner may read this line"
MOST = 1_000_000  # bytes of an upload
UP = [
    "..",
    "%2e%2e",
    "..%2f..",
    "%2e%2e%2f",
    "..%5c..",
    "....//",
    "%252e%252e",
    "..;",
    "%c0%ae%c0%ae",
    "..%00",
]


@pytest.fixture(scope="module")
def url(models) -> Iterator[str]:
    """The address of an app that others can open, with small limits."""
    settings = replace(parse(["--share", "--public"], os.environ), checkpoints="starter")
    line = Line(64, Limits(3))
    page = app.create_app(models, settings, HubStatus(), line)
    routes = app.routes(Metrics(), line, Event(), settings)
    with served(page, max_file_size=MOST, enable_monitoring=False, app_kwargs={"routes": routes}) as address:
        yield address.rstrip("/")


@pytest.fixture
def secret(tmp_path) -> Path:
    """A file of the machine that no visitor was given."""
    (tmp_path / "secret.txt").write_text(MARK)
    return tmp_path / "secret.txt"


def raw(url: str, path: str) -> httpx.Response:
    """What is answered to a path exactly as it is written; httpx would tidy it up."""
    target = httpx.URL(url).copy_with(raw_path=path.encode())
    with httpx.Client() as client:
        return client.send(httpx.Request("GET", target))


@pytest.mark.parametrize(
    "door",
    [
        "/gradio_api/file={}",
        "/gradio_api/file/{}",
        "/file={}",
        "/static/{}",
        "/assets/{}",
        "/svelte/{}",
        "/gradio_api/stream/{}/0/0/playlist-file",
        "/gradio_api/custom_component/x/client/component/{}",
        "/gradio_api/proxy={}",
        "/{}",
    ],
)
def test_no_file_of_the_machine_is_served(url, secret, door):
    here = str(secret)
    forms = [
        here,
        "/" + here,
        f"file://{here}",
        f"%2f{here.lstrip('/')}",
        here.replace("/", "%2f"),
        f"{here}%00.png",
    ]
    forms += ["/".join([up] * 12) + here for up in UP]
    forms += [f"{up}/{up}/{name}" for up in UP for name in ("app.py", ".git/config", "requirements.txt")]
    forms += [
        "app.py",
        ".git/config",
        str(ROOT / "app.py"),
        "/etc/passwd",
        "/proc/self/environ",
        "C:\\Windows\\win.ini",
    ]
    for form in forms:
        answer = raw(url, door.format(form))
        assert MARK not in answer.text, form
        for known in ("root:x:", "def create_app", "[core]", "gradio==", "PATH="):
            assert known not in answer.text, form


@pytest.mark.parametrize(
    "path", ["{secret}", "file://{secret}", "../../../../../../../../{secret}", "/etc/passwd"]
)
def test_a_path_in_place_of_an_upload_is_not_read(url, secret, path):
    given = path.format(secret=secret)
    client = Client(url, verbose=False)
    with pytest.raises(Exception) as refused:
        client.predict({"path": given, "meta": {"_type": "gradio.FileData"}}, api_name="/classify_image")
    assert MARK not in str(refused.value)
    call = httpx.post(
        f"{url}/gradio_api/call/classify_image",
        json={"data": [{"path": given, "meta": {"_type": "gradio.FileData"}}, 5, "auto"]},
    )
    assert "event: complete" not in stream(url, call)


def stream(url: str, call: httpx.Response) -> str:
    """What comes back of a call over plain HTTP; what was refused at once as it is."""
    if call.status_code != 200:
        return call.text
    event = call.json()["event_id"]
    return httpx.get(f"{url}/gradio_api/call/classify_image/{event}", timeout=60).text


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{port}/x.png",
        "http://localhost:{port}/x.png",
        "http://[::1]:{port}/x.png",
        "http://0.0.0.0:{port}/x.png",
        "http://2130706433:{port}/x.png",
        "http://0x7f000001:{port}/x.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/x.png",
        "http://[::ffff:127.0.0.1]:{port}/x.png",
        "http://[fd00::1]/x.png",
    ],
)
def test_an_address_inside_the_network_is_not_fetched(url, address):
    """The app itself stands for what else listens on this machine: it would notice."""
    asked: list[str] = []
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Inside(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            picture = io.BytesIO()
            Image.new("RGB", (8, 8)).save(picture, "PNG")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture.getvalue())

        def log_message(self, *args: object) -> None:
            """Not into the output of the tests."""

    inside = HTTPServer(("127.0.0.1", 0), Inside)
    threading.Thread(target=inside.serve_forever, daemon=True).start()
    try:
        given = {"path": address.format(port=inside.server_port), "meta": {"_type": "gradio.FileData"}}
        given |= {"url": given["path"]}
        call = httpx.post(f"{url}/gradio_api/call/classify_image", json={"data": [given, 5, "auto"]})
        assert "event: complete" not in stream(url, call)
        assert "event: complete" not in raw(url, f"/gradio_api/proxy={given['path']}").text
    finally:
        inside.shutdown()
        inside.server_close()
    assert asked == []


def test_an_upload_stays_in_its_folder_and_under_the_limit(url, tmp_path):
    answer = httpx.post(f"{url}/gradio_api/upload", files={"files": ("../../../tmp/evil.png", b"x")})
    (path,) = answer.json()
    assert Path(path).name == "evil.png" or ".." not in path
    assert not Path("/tmp/evil.png").exists()
    assert (
        Path(path).resolve().parts[:-2]
        == Path(os.environ.get("GRADIO_TEMP_DIR", Path(path).parents[1])).parts
    )
    big = httpx.post(f"{url}/gradio_api/upload", files={"files": ("big.png", b"x" * (2 * MOST))})
    assert big.status_code == 413


def test_the_address_of_an_upload_cannot_be_guessed_from_its_content(url):
    """Two apps give the same content different places."""
    (path,) = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.txt", b"same")}).json()
    import hashlib

    digests = {hashlib.new(name, b"same").hexdigest() for name in ("sha256", "md5", "sha1", "blake2b")}
    assert Path(path).parent.name not in digests
    assert len(Path(path).parent.name) >= 32


def test_who_asks_too_often_is_told_how_long_to_wait(url):
    client = Client(url, verbose=False)
    for _ in range(3):
        client.predict("Fine.", api_name="/sentiment")
    with pytest.raises(Exception, match=r"You have started 3 runs in a minute.* Try again in \d+ seconds"):
        client.predict("Fine.", api_name="/sentiment")
    Client(url, verbose=False).predict("Fine.", api_name="/sentiment")  # another visitor


def test_strangers_run_what_is_listed_only(url):
    client = Client(url, verbose=False)
    with pytest.raises(Exception, match="runs on its starters only"):
        client.predict("Fine.", "someone/else", api_name="/sentiment")
    shown = json.dumps(httpx.get(f"{url}/config").json())
    assert "runs only these" in shown and "type any owner/name" not in shown


@pytest.fixture(scope="module")
def near(models) -> Iterator[str]:
    """The address of an app that only this machine can open, as it is without options."""
    settings = replace(parse([], {}), requests_per_minute=2, checkpoints="auto")
    line = Line(64, Limits(2, far_only=True))
    manager = app.create_manager(settings, HubStatus())
    with served(app.create_app(manager, settings, HubStatus(), line)) as address:
        yield address.rstrip("/")


def asked(url: str, headers: dict[str, str], checkpoint: str = "starter") -> str:
    """What a client gets, through a proxy or not; the same client for the same headers."""
    body = {"data": ["Fine.", checkpoint], "session_hash": str(sorted(headers.items()))}
    call = httpx.post(f"{url}/gradio_api/call/sentiment", json=body, headers=headers, timeout=60)
    event = call.json()["event_id"]
    return httpx.get(f"{url}/gradio_api/call/sentiment/{event}", headers=headers, timeout=60).text


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "192.0.2.1"},
        {"Host": "tour.example"},
        {"Forwarded": "for=192.0.2.2"},
        {"Via": "1.1 x"},
    ],
)
def test_who_comes_through_a_proxy_has_the_limits_of_others(near, headers):
    assert "runs only the checkpoints in the list" in asked(near, headers, "someone/else")
    for _ in range(5):
        answers = asked(near, headers)
    assert "in a minute" in answers


def test_who_is_at_this_machine_has_none(near):
    assert "runs only the checkpoints in the list" not in asked(near, {}, "someone/else")
    assert all("event: complete" in asked(near, {}) for _ in range(5))


def test_an_upload_is_not_found_without_its_address(url):
    """Neither by its name nor by its folder, nor from a list of them."""
    (path,) = httpx.post(f"{url}/gradio_api/upload", files={"files": ("mine.png", MARK.encode())}).json()
    folder, cache = Path(path).parent, Path(path).parents[1]
    places = [
        cache,
        folder,
        f"{folder}/",
        f"{cache}/*/mine.png",
        cache / "mine.png",
        folder.name + "/mine.png",
    ]
    places += [f"{cache}/{'0' * 64}/mine.png", f"{folder}/../{folder.name}0/mine.png", cache / ".lock"]
    for place in map(str, places):
        assert MARK not in raw(url, f"/gradio_api/file={place}").text, place
        given = {"path": place, "meta": {"_type": "gradio.FileData"}}
        call = httpx.post(f"{url}/gradio_api/call/classify_image", json={"data": [given, 5, "auto"]})
        assert "event: complete" not in stream(url, call), place


def test_monitoring_and_editing_of_gradio_are_shut(url):
    assert "requests" not in httpx.get(f"{url}/monitoring/summary").text
    for path in ("/gradio_api/vibe-edit", "/gradio_api/undo-vibe-edit"):
        assert httpx.post(f"{url}{path}", json={"prompt": "x"}).status_code >= 400
    assert httpx.get(f"{url}/gradio_api/dev/reload").status_code >= 400
