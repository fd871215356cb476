"""Fetching: files that a client names by a URL, fetched from the public network only, and only so much."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import tempfile
from pathlib import Path

import httpx

from components.errors import InputError

SECONDS = 60.0  # for all of a file, redirects included
REDIRECTS = 10
# On a Space the hub's names lead to addresses of its own network.
HUB = ("huggingface.co", "hf.co")

NOT = "The file at this address could not be fetched: "
INSIDE = NOT + "it must be reachable from the public network. Otherwise upload it."
UNREACHED = NOT + "nothing answers there. Check the address, or upload the file."
TOO_LONG = NOT + f"it takes longer than {SECONDS:.0f} seconds. Upload it instead."


async def fetch(url: str, folder: Path, most: float) -> Path:
    """The file at an http or https address, written to a new folder in `folder`.

    most: bytes. Raises InputError with a sentence where the address or one that it leads to is not on the
    public network, and where the file is too large, takes too long or cannot be had.
    """
    try:
        async with asyncio.timeout(SECONDS):
            for _ in range(REDIRECTS):
                answer = await _fetch(url, folder, most)
                if isinstance(answer, Path):
                    return answer
                url = answer
    except TimeoutError:
        raise InputError(TOO_LONG) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(UNREACHED) from error
    raise InputError(UNREACHED)


async def _fetch(url: str, folder: Path, most: float) -> Path | str:
    """The file, or the address to which this one leads."""
    at = httpx.URL(url)
    # A name is looked up once, for what was checked to be what is connected to.
    address = at.host if _of_hub(at.host) else await public_address(at.host)
    request = httpx.Request(
        "GET",
        at.copy_with(host=address),
        # A compressed answer might be any size once it is read.
        headers={"Host": at.netloc.decode(), "Accept-Encoding": "identity"},
        extensions={"sni_hostname": at.host},
    )
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.send(request, stream=True)
        try:
            if response.has_redirect_location:
                return str(at.join(response.headers["location"]))
            if response.status_code != httpx.codes.OK:
                answer = f"the answer is {response.status_code}. Check the address, or upload the file."
                raise InputError(NOT + answer)
            return await _written(response, folder, most)
        finally:
            await response.aclose()


async def _written(response: httpx.Response, folder: Path, most: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    count, path = 0, Path(tempfile.mkdtemp(dir=folder)) / "file"
    try:
        with path.open("wb") as file:
            async for block in response.aiter_raw():
                count += len(block)
                if count > most:
                    raise InputError(f"{NOT}it is larger than {most / 1e6:g} MB. Give a smaller one.")
                await asyncio.to_thread(file.write, block)
    except BaseException:
        shutil.rmtree(path.parent)
        raise
    return path


def _of_hub(host: str) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in HUB)


async def public_address(host: str) -> str:
    """An IP address of a host of which all are public. Raises InputError with a sentence."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, UnicodeError):
        raise InputError(UNREACHED) from None
    addresses = [str(where[0]).partition("%")[0] for *_, where in found]
    if not all(map(_public, addresses)):
        raise InputError(INSIDE)
    return addresses[0]


def _public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    within = getattr(ip, "sixtofour", None) or ip  # an IPv4 address may be wrapped into one of IPv6
    return ip.is_global and within.is_global and not (ip.is_multicast or ip.is_reserved)
