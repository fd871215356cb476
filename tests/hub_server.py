"""A hub on this machine: serves folders as model repositories, by the protocol huggingface_hub speaks.

    with HubServer({"owner/name": folder}) as hub:
        fetch(..., endpoint=hub.url)

It can be told to misbehave (`fail_next`, `cut_at`, `delay`, `gone`) and writes down what it was asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 50_000  # bytes; larger files count as kept in Git LFS, whose etag is their SHA-256
BLOCK = 65_536  # bytes of a body that are in memory at once

API = re.compile(
    r"/api/models/(?P<repo>.+?)(/(?P<what>revision|tree|commits)/(?P<revision>[^/]+)(/(?P<path>.*))?)?"
)
DISCUSSIONS = re.compile(r"/api/models/(?P<repo>.+?)/discussions(?P<revision>)")
WHEN = "2023-05-01T12:00:00.000Z"
RESOLVE = re.compile(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Request:
    """One line of the log. sent: bytes of the body that went out."""

    method: str
    path: str
    range: str | None
    authorized: bool
    status: int = 0
    sent: int = 0


@dataclass
class PullRequest:
    """Its files are those of the revision refs/pr/NUMBER; base: the commit below its own."""

    number: int
    author: str
    status: str
    base: str


@dataclass
class Repository:
    """revisions: the folder of each branch or tag; access: public, gated (files only) or private."""

    revisions: dict[str, Path]
    access: str = "public"
    pull_requests: list[PullRequest] = field(default_factory=list)

    def folder(self, revision: str) -> Path | None:
        """By branch, tag, or commit, the latter also shortened."""
        if revision in self.revisions:
            return self.revisions[revision]
        at = (folder for folder in self.revisions.values() if commit(folder).startswith(revision))
        return next(at, None) if len(revision) >= 7 else None


@dataclass
class HubServer:
    """folders: of the main branch of each repository. token: what opens gated and private ones.

    cdn: hand large files out by a redirect to another host name, as the real hub does.
    blobs: say sizes and hashes in listings, which some mirrors do not.
    ranges: answer a Range with 206, which some mirrors do not.
    counts: say how many parameters the safetensors have.
    ignores: what discussions are asked for, which some mirrors do.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    token: str = "hf_let_me_in"
    cdn: bool = False
    blobs: bool = True
    ranges: bool = True
    counts: bool = True
    ignores: bool = False
    delay: float = 0.0  # seconds before each answer
    gone: bool = False  # close each connection without an answer
    log: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repositories = {name: Repository({"main": folder}) for name, folder in self.folders.items()}
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self._failures: list[tuple[str, int, dict[str, str], bytes]] = []
        self._cuts: list[tuple[float, bool]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn_url = f"http://localhost:{self._server.server_port}/cdn"

    def __enter__(self) -> HubServer:
        # A short poll: the shutdown waits for one.
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone = True
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, folder: Path, revision: str = "main", access: str = "public") -> str:
        """Another repository, or another revision of one; returns its commit."""
        repository = self.repositories.setdefault(name, Repository({}))
        repository.revisions[revision], repository.access = folder, access
        return commit(folder)

    def add_pull_request(
        self,
        name: str,
        folder: Path,
        author: str = "SFconvertbot",
        status: str = "open",
        base: str = "",
    ) -> str:
        """A pull request of one commit with these files; returns its reference.

        base: the commit that it stands on, that of main if not given.
        """
        repository = self.repositories[name]
        number = len(repository.pull_requests) + 1
        base = base or commit(repository.revisions["main"])
        repository.pull_requests.append(PullRequest(number, author, status, base))
        repository.revisions[f"refs/pr/{number}"] = folder
        return f"refs/pr/{number}"

    def fail_next(
        self,
        times: int,
        status: int,
        headers: dict[str, str] | None = None,
        matching: str = "",
        body: bytes = b'{"error": "told to fail"}',
    ) -> None:
        """Answer the next requests whose path contains `matching` with this status, headers and body."""
        self._failures += [(matching, status, headers or {}, body)] * times

    def cut_at(self, fraction: float, times: int = 1, then_gone: bool = False) -> None:
        """Close the connection when this share of a large file is out, for so many answers."""
        self._cuts += [(fraction, then_gone)] * times

    def heal(self) -> None:
        """Forget all faults."""
        self.gone, self.delay = False, 0.0
        self._failures.clear()
        self._cuts.clear()

    def requests(self, containing: str = "", method: str = "") -> list[Request]:
        """What was asked for, by a part of the path and by method."""
        with self.lock:
            return [r for r in self.log if containing in r.path and method in ("", r.method)]

    def sent(self, containing: str = "") -> int:
        """Bytes of bodies that went out."""
        return sum(request.sent for request in self.requests(containing))

    def failure(self, path: str) -> tuple[int, dict[str, str], bytes] | None:
        """The fault that this path is to meet now, taken off the list."""
        with self.lock:
            for number, (matching, status, headers, body) in enumerate(self._failures):
                if matching in path:
                    del self._failures[number]
                    return status, headers, body
        return None

    def next_cut(self) -> tuple[float, bool] | None:
        with self.lock:
            return self._cuts.pop(0) if self._cuts else None

    def large_file(self, sha256: str) -> Path | None:
        """A file of any repository by its hash."""
        for repository in self.repositories.values():
            for folder in repository.revisions.values():
                for path in files(folder):
                    if is_large(path) and etag(path) == sha256:
                        return path
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes, and the second would wait

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Not to the terminal."""

    def _answer(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path = url.path
        bearer = self.headers.get("Authorization", "")
        self.entry = Request(self.command, path, self.headers.get("Range"), bool(bearer))
        with hub.lock:
            hub.log.append(self.entry)
        self.known = bearer == f"Bearer {hub.token}"
        if hub.delay:
            hub.stopped.wait(hub.delay)
        if hub.gone:
            self.close_connection = True
        elif failure := hub.failure(path):
            self._send(failure[0], failure[2], failure[1])
        elif path == "/":
            self._send(200, b"the hub")
        elif path.startswith("/cdn/") and (blob := hub.large_file(path.removeprefix("/cdn/"))):
            self._file(blob, {"ETag": f'"{etag(blob)}"'})
        elif match := DISCUSSIONS.fullmatch(path):
            self._discussions(match, parse_qs(url.query))
        elif match := API.fullmatch(path):
            self._api(match, parse_qs(url.query))
        elif match := RESOLVE.fullmatch(path):
            self._resolve(match)
        else:
            self._error(404, "", "Not found")

    def _open(self, match: re.Match[str], for_file: bool) -> Path | None:
        """The folder asked for, or None after an error went out."""
        repository = self.hub.repositories.get(unquote(match["repo"]))
        if repository is None:
            self._error(404, "RepoNotFound", "Repository not found")
        elif repository.access == "private" and not self.known:
            self._error(401, "RepoNotFound", "Invalid username or password.")
        elif repository.access == "gated" and for_file and not self.known:
            self._error(
                403 if self.entry.authorized else 401, "GatedRepo", "Access to this model is restricted."
            )
        elif (folder := repository.folder(unquote(match["revision"] or "main"))) is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
        else:
            return folder
        return None

    def _api(self, match: re.Match[str], query: dict[str, list[str]]) -> None:
        name = unquote(match["repo"])
        if (folder := self._open(match, for_file=False)) is None:
            return
        if match["what"] == "tree":
            self._json([{"type": "file", "path": f.pop("rfilename"), "oid": f.pop("blobId"), **f}
                        for f in listing(folder)])  # fmt: skip
            return
        repository = self.hub.repositories[name]
        if match["what"] == "commits":
            revision = unquote(match["revision"])
            own = [one for one in repository.pull_requests if f"refs/pr/{one.number}" == revision]
            history = [
                (commit(folder), own[0].author if own else "owner"),
                *((one.base, "owner") for one in own),
            ]
            self._json([{"id": id, "title": "", "message": "", "authors": [{"user": user}], "date": WHEN}
                        for id, user in history])  # fmt: skip
            return
        full = self.hub.blobs and "blobs" in query
        info: dict[str, Any] = {
            "id": name,
            "modelId": name,
            "sha": commit(folder),
            "private": repository.access == "private",
            "gated": "auto" if repository.access == "gated" else False,
            "tags": [],
            "siblings": [f if full else {"rfilename": f["rfilename"]} for f in listing(folder)],
        }
        if self.hub.counts and (counts := parameters(folder)):
            info["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
        self._json(info)

    def _discussions(self, match: re.Match[str], query: dict[str, list[str]]) -> None:
        if self._open(match, for_file=False) is None:
            return
        name = unquote(match["repo"])
        found = [
            {
                "num": one.number,
                "author": {"name": one.author, "type": "user"},
                "repo": {"name": name, "type": "model"},
                "title": "Adding `safetensors` variant of this model",
                "status": one.status,
                "createdAt": WHEN,
                "isPullRequest": True,
                "numComments": 1,
            }
            for one in reversed(self.hub.repositories[name].pull_requests)
            if self.hub.ignores or query.get("author", [one.author]) == [one.author]
        ]
        self._json({"discussions": found, "count": len(found), "start": 0, "numClosedDiscussions": 0})

    def _resolve(self, match: re.Match[str]) -> None:
        if (folder := self._open(match, for_file=True)) is None:
            return
        commit_header = {"X-Repo-Commit": commit(folder)}
        path = folder / unquote(match["path"])
        if not path.is_file():
            self._error(404, "EntryNotFound", "Entry not found", commit_header)
            return
        headers = commit_header | {"ETag": f'"{etag(path)}"'}
        if is_large(path):
            headers |= {"X-Linked-Etag": f'"{etag(path)}"', "X-Linked-Size": str(path.stat().st_size)}
            if self.hub.cdn:
                self._send(302, b"", headers | {"Location": f"{self.hub.cdn_url}/{etag(path)}"})
                return
        self._file(path, headers)

    def _file(self, path: Path, headers: dict[str, str]) -> None:
        """A file from the disk, block by block: it may be larger than memory."""
        size, start, status = path.stat().st_size, 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.entry.range or "")
        if wanted and self.hub.ranges:
            start, status = int(wanted[1]), 206
            if start >= size:
                self._send(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            headers = headers | {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        cut = self.hub.next_cut() if self.command == "GET" and is_large(path) else None
        stop = size - start if cut is None else max(int(size * cut[0]) - start, 0)
        self._head(status, size - start, headers | {"Accept-Ranges": "bytes"})
        if self.command == "GET":
            with path.open("rb") as body:
                body.seek(start)
                self._body(body, stop)
            if cut:  # the rest of what was promised never comes
                self.close_connection = True
        if cut and cut[1]:
            self.hub.gone = True

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"Content-Type": "application/json"} | told | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), headers or {})
        if self.command != "HEAD":
            self._body(io.BytesIO(body), len(body))

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.entry.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _body(self, body: BinaryIO, length: int) -> None:
        """So many bytes of it, unless the client hangs up before."""
        try:
            while length > 0 and (block := body.read(min(BLOCK, length))):
                self.wfile.write(block)
                self.entry.sent += len(block)
                length -= len(block)
        except ConnectionError:
            self.close_connection = True


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def is_large(path: Path) -> bool:
    return path.stat().st_size > LARGE


def etag(path: Path) -> str:
    """SHA-256 of a large file; of a small one the SHA-1 of its git blob."""
    return _etag(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=1000)
def _etag(path: Path, _changed: int, size: int) -> str:
    if size > LARGE:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    return hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()


def commit(folder: Path) -> str:
    """40 hexadecimal digits that change when a file does."""
    parts = (f"{path.relative_to(folder)} {etag(path)}" for path in files(folder))
    return hashlib.sha1("\n".join(parts).encode()).hexdigest()


def listing(folder: Path) -> list[dict[str, Any]]:
    """Each file as the hub lists it, with size and hashes."""
    entries = []
    for path in files(folder):
        size = path.stat().st_size
        entry = {"rfilename": path.relative_to(folder).as_posix(), "size": size, "blobId": etag(path)[:40]}
        if is_large(path):
            entry["lfs"] = {"sha256": etag(path), "oid": etag(path), "size": size, "pointerSize": 134}
        entries.append(entry)
    return entries


def parameters(folder: Path) -> dict[str, int]:
    """How many numbers of each type the safetensors hold, from the headers."""
    counts: dict[str, int] = {}
    index = folder / "model.safetensors.index.json"
    names = (
        {"model.safetensors"}
        if not index.exists()
        else set(json.loads(index.read_text())["weight_map"].values())
    )
    for path in (folder / name for name in names if (folder / name).is_file()):
        with path.open("rb") as content:
            header = content.read(*struct.unpack("<Q", content.read(8)))
        for name, tensor in json.loads(header).items():
            if name != "__metadata__":
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    return counts
