"""Access: who may enter where a password is asked for, from where is asked, and how often may each ask?"""

from __future__ import annotations

import hmac
import ipaddress
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from components.errors import Busy

MINUTE = 60.0
CROWD = 30  # visitors who may share an address, such as a class
GUESSES = 10  # wrong passwords of one user in a minute, after which even the right one has to wait
GUEST = "tour"  # the user of a public link that nobody was named for


def read_users(entries: Sequence[str]) -> dict[str, str]:
    """Passwords by user from `user:password`, or `@file` with one such line for each.

    Raises ValueError with a sentence that does not repeat what was given: it may be a password.
    """
    users: dict[str, str] = {}
    for entry in entries:
        lines = [entry]
        if entry.startswith("@"):
            try:
                lines = Path(entry[1:]).expanduser().read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError):
                raise ValueError(f"{entry[1:]} cannot be read") from None
        for line in filter(str.strip, lines):
            user, colon, password = line.strip().partition(":")
            if not (user and colon and password):
                raise ValueError("write it as user:password, or @file with one such line for each user")
            users[user] = password
    return users


def new_password() -> str:
    """One that nobody guesses: 72 random bits, letters, digits, - and _."""
    return secrets.token_urlsafe(9)


def is_forwarded(headers: Mapping[str, str], version: str = "1.1") -> bool:
    """Whether a request bears the mark of a proxy: one of the headers that they add, or HTTP/1.0.

    headers: with names in small letters, as Starlette has them; version: of HTTP. Browsers and clients
    have spoken 1.1 and later for decades; nginx speaks 1.0 to what is behind it unless told otherwise.
    """
    marks = ("forwarded", "via", "x-real-ip", "x-original-host")
    return version == "1.0" or any(name in marks or name.startswith("x-forwarded") for name in headers)


def is_far(headers: Mapping[str, str], version: str = "1.1") -> bool:
    """Whether a request may come from another machine, wherever the app listens.

    It is near if it names this machine as its host and no proxy has marked it. A proxy may leave no mark, so
    near is not proven: no file of the machine is given for it.
    """
    return is_forwarded(headers, version) or not _is_loopback(host_of(headers))


def is_private(headers: Mapping[str, str]) -> bool:
    """Whether a request names a host of this machine or its network: a private address or one bare word."""
    host = host_of(headers)
    return bool(host) and (_is_loopback(host) or is_private_address(host) or not set(".:") & set(host))


def host_of(headers: Mapping[str, str]) -> str:
    """The name or address in the header Host, without port; "" if there is none that can be read."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_private_address(address: str) -> bool:
    """Whether it is an IP address of this machine or of a private network."""
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return False
    return one.is_loopback or one.is_private


@dataclass(frozen=True)
class Visitor:
    """name: the user, or a session, which is easily made anew; address: of one machine or many.

    far: whether the request may come from another machine, see `is_far`.
    """

    name: str
    address: str
    far: bool = False


NOBODY = Visitor("", "")


class Limiter:
    """So many times in a minute for each name, counted over the last sixty seconds."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._times: dict[str, deque[float]] = {}
        self._guard = threading.Lock()

    def wait(self, name: str) -> float:
        """Count this time, or say how many seconds there are to wait until it would be taken."""
        now = self._clock()
        with self._guard:
            times = self._times.setdefault(name, deque())
            while times and now - times[0] >= MINUTE:
                times.popleft()
            if len(times) >= self._per_minute:
                return MINUTE - (now - times[0])
            times.append(now)
            if len(self._times) > 1000:
                self._times = {who: one for who, one in self._times.items() if now - one[-1] < MINUTE}
        return 0.0


class Limits:
    """So many runs in a minute for each visitor, and CROWD times as many for each address; 0: no limit.

    A class of visitors may share an address, and one visitor may pretend to be many. far_only: those at
    this machine have no limit.
    """

    def __init__(
        self, per_minute: int, clock: Callable[[], float] = time.monotonic, far_only: bool = False
    ) -> None:
        self._per_minute, self._far_only = per_minute, far_only
        self._visitors, self._addresses = Limiter(per_minute, clock), Limiter(CROWD * per_minute, clock)

    def check(self, visitor: Visitor) -> None:
        """Raises Busy, with how long to wait, for a visitor who has asked too often."""
        if not self._per_minute or (self._far_only and not visitor.far):
            return
        seconds = self._visitors.wait(f"{visitor.address} {visitor.name}")
        if not seconds and (seconds := self._addresses.wait(visitor.address)):
            raise Busy(
                "From your network as many runs were started in a minute as this app takes. "
                f"Try again in {math.ceil(seconds)} seconds."
            )
        if seconds:
            raise Busy(
                f"You have started {self._per_minute} runs in a minute, which is as many as one visitor may "
                f"here. Try again in {math.ceil(seconds)} seconds."
            )


class Door:
    """Says whether a user's password is right; after several wrong ones nobody passes for a while."""

    def __init__(self, users: dict[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._users = {user: password.encode() for user, password in users.items()}
        self._wrong = Limiter(GUESSES, clock)
        self._shut: dict[str, float] = {}
        self._clock = clock

    def __call__(self, user: str, password: str) -> bool:
        if self._shut.get(user, 0) > self._clock():
            return False
        # Unknown users take as long as known ones.
        known = user in self._users
        right = hmac.compare_digest(self._users.get(user, b"\0"), password.encode()) and known
        if known and not right and (seconds := self._wrong.wait(user)):
            self._shut[user] = self._clock() + seconds
        return right
