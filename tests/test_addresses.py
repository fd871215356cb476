"""Where the app listens: what it cannot use gets a sentence, and it never asks itself through a proxy."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import app
from components.server import addresses
from components.settings import parse
from tests.test_operations import WAIT, started

ROOT = Path(__file__).resolve().parent.parent
IPV6 = Path("/proc/net/if_inet6").exists() and "00000000000000000000000000000001" in Path(
    "/proc/net/if_inet6"
).read_text(encoding="ascii")


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


@pytest.fixture
def free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return port_of(one)


@pytest.mark.parametrize("host", [None, "127.0.0.1", "localhost", "0.0.0.0"])
def test_a_free_port_is_taken_as_it_is(host, free):
    assert addresses.listening(host, free) == (host or "127.0.0.1", free)


@pytest.mark.skipif(not IPV6, reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_addresses_of_ipv6_are_written_as_in_an_address_of_the_web(host, free):
    assert addresses.listening(host, free) == (f"[{host.strip('[]')}]", free)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", None])
def test_a_port_in_use_is_said_and_the_next_free_one_taken(host, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = port_of(taken)
        with pytest.raises(ValueError, match=f"Port {port} is in use"):
            addresses.listening(host, port)
        monkeypatch.setattr(addresses, "FIRST", port)
        assert addresses.listening(host, None)[1] > port
        monkeypatch.setattr(addresses, "COUNT", 1)
        with pytest.raises(ValueError, match="are all in use"):
            addresses.listening(host, None)


NOT_HERE = ["192.0.2.7", "2001:db8::7", "no.such.host.invalid", "a b", "300.1.1.1", "x" * 300]


@pytest.mark.parametrize("host", NOT_HERE)
def test_a_host_that_is_not_this_machine_is_said(host, free):
    with pytest.raises(ValueError, match="no address"):
        addresses.listening(host, free)


def test_a_port_for_which_rights_are_missing(monkeypatch, free):
    monkeypatch.setattr(addresses, "_problem", lambda *place: errno.EACCES)
    with pytest.raises(ValueError, match="Port 80 needs more rights"):
        addresses.listening(None, 80)


@pytest.mark.parametrize("given", ["", "example.org", "localhost, .corp", "*"])
def test_own_addresses_go_through_no_proxy_and_others_as_before(given, monkeypatch):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    environment = {"no_proxy": given}
    addresses.go_direct(environment, "[fd00::2]")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment["no_proxy"].startswith(given.replace(" ", ""))
    with httpx.Client() as client:
        for url in ("http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/", "http://[fd00::2]:1/"):
            assert not proxied(client, url), url
        assert proxied(client, "http://huggingface.co/") is (given != "*")


def proxied(client: httpx.Client, url: str) -> bool:
    return client._transport_for_url(httpx.URL(url)) is not client._transport


@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "127.0.0.1:9", "https://user:x@proxy:3128"])
def test_a_proxy_that_can_be_used_is(value):
    addresses.check_proxies({"http_proxy": value, "ALL_PROXY": value, "no_proxy": "what ever"})


@pytest.mark.parametrize(
    "value", ["ftp://proxy", "gopher://secret@proxy:1", "http://[::", "://", "http://x:port"]
)
@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(name, value):
    with pytest.raises(ValueError, match=name) as said:
        addresses.check_proxies({name: value})
    assert "secret" not in str(said.value)


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here to make a certificate with")
def test_a_certificate_that_is_none_is_said(tmp_path):
    made = []
    for name, more in (("one", ["-nodes"]), ("two", ["-passout", "pass:word"])):
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", *more, "-days", "2", "-subj", "/CN=localhost",
             "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        made.append((certificate, key))
    (tmp_path / "none").write_text("no certificate")
    (certificate, key), (other, locked) = made
    addresses.check_certificate(certificate, key)
    none, gone = tmp_path / "none", tmp_path / "gone"
    wrong = [(certificate, locked), (key, certificate), (none, key), (certificate, none)]
    for pair in [*wrong, (other, key), (other, locked), (tmp_path, key), (gone, key)]:
        with pytest.raises(ValueError, match="--ssl-certfile and --ssl-keyfile"):
            addresses.check_certificate(*pair)


# The app as it is started


def ended(**variables: str) -> str:
    """What the app says at its end, which it comes to by itself."""
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"GRADIO_TEMP_DIR": f"{__file__}/below"}, "Name a folder for it with GRADIO_TEMP_DIR"),
        ({"all_proxy": "gopher://proxy"}, "all_proxy does not name a proxy"),
    ],
)
def test_what_keeps_the_app_from_starting_is_said_in_a_sentence(variables, says):
    assert says in ended(**variables)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "192.0.2.7"], "This machine has no address 192.0.2.7"),
        (["--ssl-certfile", __file__, "--ssl-keyfile", __file__], "are not a certificate"),
    ],
)
def test_where_the_app_cannot_listen_it_ends_with_a_sentence(options, says):
    with pytest.raises(SystemExit, match=says):
        app.where(parse(options, {}))


@pytest.mark.skipif(not IPV6, reason="this machine has no IPv6")
def test_the_app_starts_in_spite_of_a_proxy_that_refuses_and_leaves_no_file_behind(tmp_path):
    refuses = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    options = ["--host", "::", "--root-path", "tour", "--mcp"]
    with started(*options, **refuses, GRADIO_TEMP_DIR=str(tmp_path)) as (url, process, log):
        assert url.startswith("http://[::1]:")
        assert httpx.get(f"{url}/config", trust_env=False).json()["root"].endswith("/tour")
        sent = httpx.post(f"{url}/gradio_api/upload", files={"files": ("mine.txt", b"x")}, trust_env=False)
        assert Path(sent.json()[0]).is_relative_to(tmp_path) and Path(sent.json()[0]).exists()
        process.terminate()
        said, _ = process.communicate(timeout=WAIT)
        assert f"The page is up at {url}" in said
        assert "Traceback" not in log.read_text()
    assert list(tmp_path.iterdir()) == []
