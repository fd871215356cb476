"""Addresses: where does the app listen, can it, and does it find itself there?"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping, MutableMapping
from pathlib import Path

FIRST, COUNT = 7860, 100  # ports that are tried where none is given
OWN = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def listening(host: str | None, port: int | None) -> tuple[str, int]:
    """Host and port to listen on, an IPv6 address in brackets as in a URL; without a port the first free.

    Raises ValueError with a sentence where nobody can listen there.
    """
    name = (host or OWN[1]).removeprefix("[").removesuffix("]")
    try:
        *_, (family, _, _, _, place) = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ValueError(
            f"There is no address {name}. Give --host an address of this machine, or 0.0.0.0 for all of them."
        ) from None
    for number in [port] if port else range(FIRST, FIRST + COUNT):
        problem = _problem(family, str(place[0]), number)
        if problem is None:
            return (f"[{name}]" if ":" in name else name), number
        if problem != errno.EADDRINUSE:
            raise ValueError(_sentence(problem, name, number))
    raise ValueError(_sentence(errno.EADDRINUSE, name, port))


def _problem(family: int, address: str, port: int) -> int | None:
    """The number of the error that keeps a server from listening there, None if it can."""
    # Gradio tries 127.0.0.1 as well, whatever it is to listen on.
    for kind, place in {(family, address), (socket.AF_INET, OWN[1])}:
        try:
            with socket.socket(kind, socket.SOCK_STREAM) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if kind == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio does
                tried.bind((place, port))
                tried.listen()
        except OSError as error:
            return error.errno or errno.EINVAL
    return None


def _sentence(problem: int, host: str, port: int | None) -> str:
    if problem == errno.EADDRINUSE:
        where = f"Port {port} is" if port else f"The ports from {FIRST} on are all"
        return f"{where} in use. Stop what listens there, or choose another with --port."
    if problem in (errno.EACCES, errno.EPERM):
        return f"Port {port} needs more rights than this user has. Choose one from 1024 on with --port."
    return f"This machine has no address {host}. Give --host one that it has, or 0.0.0.0 for all of them."


def go_direct(environment: MutableMapping[str, str], host: str) -> None:
    """Have what the app asks of itself go to itself, and never through a proxy."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    own = [*OWN, host.strip("[]")]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(dict.fromkeys([*names, *own]))


def check_proxies(environment: Mapping[str, str]) -> None:
    """Raises ValueError with a sentence for a proxy in the environment that nobody here understands."""
    for name in PROXIES:
        for variable in (name, name.upper()):
            if address := environment.get(variable):
                _check_proxy(variable, address)


def _check_proxy(variable: str, address: str) -> None:
    import httpx

    try:
        httpx.HTTPTransport(proxy=address if "://" in address else f"http://{address}", verify=False)
    except ImportError:
        raise ValueError(
            f"{variable} names a SOCKS proxy, for which socksio is needed: pip install socksio. "
            f"Or name an HTTP proxy, or unset {variable}."
        ) from None
    except (ValueError, httpx.InvalidURL):
        # The address may hold a password.
        raise ValueError(
            f"{variable} does not name a proxy that can be used. Write it as http://host:port, or unset it."
        ) from None


def check_certificate(certificate: Path, key: Path) -> None:
    """Raises ValueError with a sentence for files that are not a certificate and its key, both in PEM."""
    try:
        # Without a password nobody is asked for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        mismatch = "MISMATCH" in (error.reason or "")
        why = "do not belong together" if mismatch else "are not a certificate and an open private key in PEM"
        raise ValueError(f"--ssl-certfile and --ssl-keyfile: {certificate} and {key} {why}.") from None
    except OSError as error:
        raise ValueError(f"--ssl-certfile and --ssl-keyfile: {error.filename} cannot be read.") from None


def reached_at(url: str) -> str:
    """The address of the app for who is at this machine: of all addresses one that a browser opens."""
    return url.replace("//[::]:", "//[::1]:").replace("//0.0.0.0:", "//127.0.0.1:")
