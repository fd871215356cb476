"""Behind a web server: the examples of docs/hosting.md, with a real nginx and a real Caddy."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import httpx
import pytest

import app
from components.page import ui
from components.server.access import Limits
from components.server.line import Line
from components.server.metrics import Metrics
from components.settings import parse
from components.weights.hub import HubStatus
from tests import test_browser
from tests.serving import served

context = test_browser.context  # the fixture
EXAMPLES = (Path(__file__).resolve().parent.parent / "docs" / "hosting.md").read_text(encoding="utf-8")
WAIT = 60.0  # seconds for what takes well under one
PROGRAMS = {
    name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    for name in ("nginx", "caddy")
}
NGINX = """
daemon off; master_process off; pid {home}/pid; error_log {home}/errors; worker_rlimit_nofile 1024;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    {example}
}}
"""
CADDY = """
{{
    admin off
    auto_https off
}}
{example}
"""


def example(program: str, below: bool) -> str:
    """The only block of the documentation under that heading."""
    place = "below a path" if below else "with a host of its own"
    section = EXAMPLES.split(f"## {program.capitalize() if program == 'caddy' else program}, {place}")[1]
    found = re.search(rf"```{program}\n(.*?)```", section.split("\n## ")[0], re.S)
    assert found
    return found[1]


class Gate:
    """In place of the tab's own work: a run that goes on when it is told to."""

    def __init__(self, page: gr.Blocks) -> None:
        self.go_on = Event()
        function = next(one for one in page.fns.values() if one.api_name == "generate")
        function.fn = self.run

    async def run(self, *values: Any) -> Any:
        import asyncio

        yield {"sequences": ["first"]}
        assert await asyncio.to_thread(self.go_on.wait, WAIT)
        yield {"sequences": ["first and second"]}


@contextmanager
def running(models: Any, *options: str) -> Iterator[tuple[str, Gate]]:
    settings = replace(parse([*options], {}), checkpoints="starter")
    line = Line(64, Limits(settings.requests_per_minute, far_only=not settings.exposed))
    page = app.create_app(models, settings, HubStatus(), line)
    routes = app.routes(Metrics(), line, Event(), settings)
    more: dict[str, Any] = {"css_paths": ui.STYLE, "head_paths": [ui.SCRIPT, ui.LINKS], "theme": ui.theme()}
    with served(page, root_path=settings.root_path, app_kwargs={"routes": routes}, **more) as address:
        yield address.rstrip("/"), Gate(page)


@pytest.fixture(scope="module")
def at_the_root(models) -> Iterator[tuple[str, Gate]]:
    with running(models) as app_and_gate:
        yield app_and_gate


@pytest.fixture(scope="module")
def below_a_path(models) -> Iterator[tuple[str, Gate]]:
    with running(models, "--root-path", "tour/") as app_and_gate:
        yield app_and_gate


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def proxy(program: str, text: str, home: Path) -> Iterator[int]:
    """nginx or Caddy with that configuration, in which PORT stands for the port that this gives."""
    path = PROGRAMS[program]
    if path is None:
        pytest.skip(f"there is no {program} here")
    port = free_port()
    frame = (NGINX if program == "nginx" else CADDY).format(
        home=home, example=text.replace("PORT", str(port))
    )
    (home / "conf").write_text(frame)
    command = [path, "-c", str(home / "conf"), "-e", str(home / "errors"), "-p", str(home)]
    if program == "caddy":
        command = [path, "run", "--adapter", "caddyfile", "--config", str(home / "conf")]
    with (home / "log").open("wb") as log:
        places = {"HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **places})
    try:
        while True:
            assert process.poll() is None, (home / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                Event().wait(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(WAIT)


def as_here(program: str, text: str, upstream: str) -> str:
    """An example with the ports of this machine."""
    text = text.replace("127.0.0.1:7860", upstream.removeprefix("http://"))
    if program == "nginx":
        return text.replace("listen 80;", "listen 127.0.0.1:PORT;")
    return re.sub(r"^((?:tour\.)?example\.org) \{", r"http://\1:PORT {\n    bind 127.0.0.1", text)


@pytest.mark.parametrize("below", [False, True], ids=["host", "path"])
@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_the_examples_of_the_documentation(program, below, at_the_root, below_a_path, tmp_path):
    upstream, gate = below_a_path if below else at_the_root
    with proxy(program, as_here(program, example(program, below), upstream), tmp_path) as port:
        host = f"{'example.org' if below else 'tour.example.org'}:{port}"
        path = "/tour" if below else ""
        site = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=f"{site}{path}", headers={"Host": host}, timeout=WAIT) as client:
            page = client.get("/")
            assert page.status_code == 200 and "Transformer Tour" in page.text
            assert_addresses_lead_back(client, page.text, site, path)
            assert client.get("/metrics").status_code == 403
            sound = b"x" * 3_000_000
            (place,) = client.post("/gradio_api/upload", files={"files": ("a.bin", sound)}).json()
            assert client.get(f"/gradio_api/file={place}").content == sound
            event = client.post("/gradio_api/call/v2/generate", json={"prompt": "So"}).json()["event_id"]
            gate.go_on.clear()
            heard = ""
            with client.stream("GET", f"/gradio_api/call/v2/generate/{event}") as stream:
                for text in stream.iter_text():
                    heard += text
                    if '"first"' in heard:
                        gate.go_on.set()  # nobody else says so: it has come before the rest was made
            assert "event: complete" in heard and "first and second" in heard


def assert_addresses_lead_back(client: httpx.Client, page: str, site: str, path: str) -> None:
    """As a browser takes them: from the page's own address on."""
    found = re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.S)
    assert found
    config = json.loads(found[1])
    home = httpx.URL(f"{site}{path}/?tab=image")
    assert str(home.join(config["root"])).rstrip("/") == f"{site}{path}"
    files = [one["url"] for one in files_in(config)]
    assert files
    for address in (files[0], files[-1]):
        assert client.get(home.join(address)).status_code == 200, address


def shown(context: Any, address: str) -> Any:
    """A page in the browser, once it is drawn."""
    page = context.new_page()
    page.goto(address)
    page.locator("button.run:visible").wait_for()
    return page


def test_a_browser_behind_a_careless_proxy_gets_answers_and_files(at_the_root, context, tmp_path):
    upstream, _ = at_the_root
    text = f"server {{ listen 127.0.0.1:PORT; location / {{ {CARELESS[1][1]} }} }}"
    with proxy("nginx", as_here("nginx", text, upstream), tmp_path) as port:
        page = shown(context, f"http://127.0.0.1:{port}/?tab=image")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_function(
            "[...document.querySelectorAll('.image-frame img')].some((one) => one.naturalWidth > 9)"
        )
        assert page.locator(".misplaced").count() == 0
        page.locator("button.run:visible").click()
        page.get_by_text("lion", exact=True).first.wait_for()
        assert all(url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:")) for url in asked)
        page.close()


def test_a_page_below_a_path_of_which_the_app_was_not_told_says_so(at_the_root, context, tmp_path):
    upstream, _ = at_the_root
    text = "server { listen 127.0.0.1:PORT; location /some/where/ { proxy_pass http://127.0.0.1:7860/; } }"
    with proxy("nginx", as_here("nginx", text, upstream), tmp_path) as port:
        page = shown(context, f"http://127.0.0.1:{port}/some/where/")
        said = page.locator(".misplaced")
        said.wait_for()
        assert "--root-path /some/where," in said.inner_text()
        page.close()


def files_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if str(value.get("url") or "").partition("file=")[1]:
            yield value
        for inner in value.values():
            yield from files_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from files_in(inner)


CARELESS = [
    ("nothing else", "proxy_pass http://127.0.0.1:7860;"),
    ("no Host", 'proxy_pass http://127.0.0.1:7860; proxy_set_header Host "";'),
    ("no port", "proxy_pass http://127.0.0.1:7860; proxy_set_header Host $host; proxy_http_version 1.1;"),
    ("HTTP/1.1", 'proxy_pass http://127.0.0.1:7860; proxy_set_header Host ""; proxy_http_version 1.1;'),
]


@pytest.mark.parametrize("directives", [text for _, text in CARELESS], ids=[name for name, _ in CARELESS])
def test_a_careless_proxy_spoils_no_address_and_is_not_taken_for_this_machine(
    directives, at_the_root, tmp_path
):
    upstream, _ = at_the_root
    text = f"server {{ listen 127.0.0.1:PORT; location / {{ {directives} }} }}"
    with proxy("nginx", as_here("nginx", text, upstream), tmp_path) as port:
        site = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=site, headers={"Host": "tour.example.org"}, timeout=WAIT) as client:
            page = client.get("/")
            if page.status_code == 400:
                assert directives == CARELESS[3][1]  # without a Host, HTTP/1.1 is none
                return
            assert_addresses_lead_back(client, page.text, site, "")
            assert client.get("/metrics").status_code == 403
