"""Fetching: from public addresses only, as they are connected to, and never more than the limit."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from components.errors import InputError
from components.server import fetching

CONTENT = bytes(range(256)) * 400
MOST = len(CONTENT)


class Files(BaseHTTPRequestHandler):
    """A few answers, by path."""

    asked: list[tuple[str, str, str]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"], self.headers["Accept-Encoding"]))
        if self.path in ("/file.bin", "/endless"):
            self.send_response(200)
            if self.path == "/file.bin":
                self.send_header("Content-Length", str(MOST))
            self.end_headers()
            self.wfile.write(CONTENT + b"x" * (self.path == "/endless"))
        elif self.path == "/gzip":
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(gzip.compress(CONTENT * 50))
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Not into the output of the tests."""


@pytest.fixture
def site(monkeypatch) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The address of a site that counts as public, and what it was asked: path, host, encoding."""
    real = fetching.public_address

    async def looked_up(host: str) -> str:
        return "127.0.0.1" if host == "files.example" else await real(host)

    monkeypatch.setattr(fetching, "public_address", looked_up)
    handler: Any = type("Bound", (Files,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://files.example:{server.server_port}", handler.asked
        server.shutdown()


def fetched(url: str, folder: Path, most: float = MOST) -> Path:
    return asyncio.run(fetching.fetch(url, folder, most))


def refused(url: str, folder: Path, most: float = MOST) -> str:
    with pytest.raises(InputError) as error:
        fetched(url, folder, most)
    assert not [path for path in folder.rglob("*") if path.is_file()]
    return str(error.value)


def test_a_file_is_written_as_it_is(site, tmp_path):
    url, asked = site
    path = fetched(f"{url}/file.bin", tmp_path / "new" / "cache")
    assert path.read_bytes() == CONTENT and path.parent.parent == tmp_path / "new" / "cache"
    # The site is asked under its name, not under the address that was checked.
    assert asked == [("/file.bin", url.removeprefix("http://"), "identity")]
    assert fetched(f"{url}/file.bin", tmp_path) != path


@pytest.mark.parametrize("path", ["/to//file.bin", "/to/../file.bin", "/to//to//file.bin"])
def test_it_goes_where_it_is_led(site, tmp_path, path):
    url, asked = site
    assert fetched(url + path, tmp_path).read_bytes() == CONTENT
    assert asked[-1][:2] == ("/file.bin", url.removeprefix("http://"))


@pytest.mark.parametrize(
    "inside", ["http://127.0.0.1:{port}/file.bin", "http://localhost:{port}/file.bin", "http://10.0.0.1/"]
)
def test_it_is_not_led_inside(site, tmp_path, inside):
    url, asked = site
    where = inside.format(port=url.rpartition(":")[2])
    assert "public network" in refused(f"{url}/to/{where}", tmp_path)
    assert len(asked) == 1


def test_it_is_not_led_on_for_ever(site, tmp_path):
    url, asked = site
    assert "could not be fetched" in refused(f"{url}/to/" * 30, tmp_path)
    assert len(asked) <= fetching.REDIRECTS


@pytest.mark.parametrize("path", ["/file.bin", "/endless"])
def test_no_more_than_the_limit_is_kept(site, tmp_path, path):
    url, _ = site
    assert "larger than 0.1 MB" in refused(url + path, tmp_path, 100_000)


def test_what_is_packed_all_the_same_stays_packed(site, tmp_path):
    url, _ = site
    assert gzip.decompress(fetched(f"{url}/gzip", tmp_path).read_bytes()) == CONTENT * 50


def test_what_takes_too_long_is_left(site, tmp_path, monkeypatch):
    url, _ = site
    monkeypatch.setattr(fetching, "SECONDS", 0.5)
    assert "takes longer" in refused(f"{url}/slow", tmp_path)


def test_what_is_not_there_is_said(site, tmp_path):
    url, _ = site
    assert "the answer is 404" in refused(f"{url}/none.jpg", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "http://no-such-host.invalid/x",
        "http://",
        "http://[::1",
        "http://a b/",
        "http://\x00/",
        "http://" + "a" * 300 + "/",
        "https://x:99999/",
    ],
)
def test_what_is_no_address_is_said(url, tmp_path):
    assert "could not be fetched" in refused(url, tmp_path)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("::1", "::", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "2002:7f00:1::"),
        *(
            "64:ff9b::7f00:1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "2130706433",
            "0x7f000001",
            "localhost",
        ),
    ],
)
def test_inside_addresses_in_all_their_forms(host):
    with pytest.raises(InputError, match=r"public network|nothing answers"):
        asyncio.run(fetching.public_address(host))


@pytest.mark.parametrize("host", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses_are_taken(host):
    assert asyncio.run(fetching.public_address(host)) == host


def test_one_inside_address_among_others_is_enough(monkeypatch):
    async def both(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", (address, 0)) for address in ("8.8.8.8", "10.0.0.1")]

    async def asked() -> str:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
        return await fetching.public_address("both.example")

    with pytest.raises(InputError, match="public network"):
        asyncio.run(asked())


@pytest.mark.parametrize(
    ("host", "of_hub"),
    [("huggingface.co", True), ("cdn-lfs.hf.co", True), ("nothf.co", False), ("hf.co.example", False)],
)
def test_the_hub_is_known_by_its_name(host, of_hub):
    assert fetching._of_hub(host) is of_hub
