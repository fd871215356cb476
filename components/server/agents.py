"""Agents: what do the app's tools take as files, and what do they give back, for who calls them through MCP?

Gradio makes a tool of each endpoint. Its answers are Python's, figures included, and its files only
addresses on the public network; `fit` changes both.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from components.server.access import is_far

UPLOADED = "/gradio_api/file="
WHO = "This app asks for a user and a password. Send them in the header Authorization, as Basic."
WHAT_A_FILE_IS = (
    "Give a file as an http or https URL on the public network, as the URL of a file uploaded here, or as a "
    "data: URL with base64."
)
# The same for what is missing, elsewhere, unreadable or a folder: a path tells nothing about this machine.
NO_FILE = f"This is not the address of a file that can be had here. {WHAT_A_FILE_IS}"
NO_FILE_IN = f"{NO_FILE} A path is taken of a file in the folder that this app was started with, too."


def fit(server: Any, folder: Path | None = None) -> None:
    """Fit Gradio's MCP server (`Blocks.mcp_server_obj` after launch) for agents.

    Answers are JSON, without figures. A file may also be the URL of one that was uploaded here, and the path
    of one in `folder`. Where the app asks for a password, an agent gives it as HTTP has it (Authorization:
    Basic).
    """
    to_files = server.convert_strings_to_filedata
    arguments = server._prepare_tool_call_args
    nobody = server._get_or_create_client
    schema_of = server.get_input_schema
    known: dict[tuple[str, str], Any] = {}  # the app's own clients, by who asks through them

    def asks() -> tuple[str, str] | None:
        """User and password where the app wants some. Raises ValueError if it does not know them."""
        auth = server.blocks.auth
        if not auth:
            return None  # what a proxy in front asked for is not for the app
        who = credentials(server.mcp_server.request_context.request.headers.get("authorization"))
        if who is None or not (auth(*who) if callable(auth) else who in map(tuple, auth)):
            raise ValueError(WHO)
        return who

    def schema(name: str, told: dict[str, str] | None = None) -> tuple[Any, Any]:
        made, places = schema_of(name, told)
        for one in made["properties"].values():
            one.pop("additional_description", None)  # the same as its description, for Gradio's page
            if "anyOf" in one:  # not every agent reads that
                one["type"] = [option["type"] for option in one["anyOf"]]
        return made, places

    def convert(values: dict[str, Any], places: list[list[str | int]]) -> Any:
        request, cache = server.mcp_server.request_context.request, Path(server.blocks.GRADIO_CACHE)
        most = server.blocks.max_file_size
        files = {
            name: as_file(value, cache, request.headers, folder, most)
            for name, value in values.items()
            if [name] in places and isinstance(value, str)
        }
        # Deleted as uploads are.
        server.blocks.upload_file_set.update(
            file["path"] for file in files.values() if isinstance(file, dict)
        )
        return to_files({**values, **files}, places)

    def prepare(name: str, values: dict[str, Any]) -> tuple[Any, ...]:
        asks()  # before a file is looked for or written
        endpoint, given, headers, function = arguments(name, values)
        # The app is asked by itself; runs are counted by the address of who asked first.
        request = server.mcp_server.request_context.request
        if request.client and is_far(request.headers, request.scope.get("http_version", "1.1")):
            headers = {**headers, "x-forwarded-for": request.client.host}
        return endpoint, given, headers, function

    def client() -> Any:
        from gradio_client import Client

        who = asks()
        if who is None:
            return nobody()
        if who not in known:
            # As Gradio makes its own, which does not log in.
            known[who] = Client(
                server.local_url,
                auth=who,
                download_files=False,
                verbose=False,
                analytics_enabled=False,
                ssl_verify=False,
                _skip_components=False,
                headers={"x-gradio-user": "mcp"},
            )
        return known[who]

    server.get_input_schema = schema
    server.convert_strings_to_filedata = convert
    server._get_or_create_client = client
    server._prepare_tool_call_args = prepare
    server.postprocess_output_data = lambda data, root: contents(data, server.types.TextContent)


def credentials(header: str | None) -> tuple[str, str] | None:
    """User and password of a header Authorization, None if there are none (RFC 7617)."""
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return user, password


def contents(answers: Sequence[Any], content: Callable[..., Any]) -> list[Any]:
    """One `content(type="text", text=...)` for each output, as `as_text` has it.

    Outputs of a function with several come as a tuple in a list, or where progress was asked for as a list.
    """
    if len(answers) == 1 and isinstance(answers[0], tuple):
        (answers,) = answers
    texts = [as_text(answer) for answer in answers]
    return [content(type="text", text=text) for text in texts if text is not None]


def as_text(answer: Any) -> str | None:
    """A text as it is, anything else as JSON; None where there is nothing. Of a figure only its remarks."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, dict) and answer.get("type") == "plotly":
        remarks = answer.get("remarks")
        return json.dumps({"remarks": remarks}, ensure_ascii=False) if remarks else None
    if answer is None or answer == []:
        return None
    return json.dumps(answer, ensure_ascii=False)


def as_file(
    value: str,
    cache: Path,
    headers: Mapping[str, str],
    folder: Path | None = None,
    most: float | None = None,
) -> dict[str, Any] | str:
    """Gradio's record of a file in its cache, or the value where it is an address for Gradio to fetch.

    cache: where uploaded files are; headers: of the request; folder: of which files are taken by their paths,
    which are copied to the cache; most: bytes that a file may have. Raises ValueError with a sentence.
    """
    if value.startswith("data:"):
        if most is not None and len(value) * 3 / 4 > most:
            raise ValueError(_too_large(most))
        about, _, content = value.partition(",")
        try:
            data = base64.b64decode(content, validate=True)
        except ValueError:
            raise ValueError(NO_FILE if folder is None else NO_FILE_IN) from None
        kind = about.removeprefix("data:").partition(";")[0]
        with _kept(f"file{mimetypes.guess_extension(kind) or ''}", cache) as target:
            target.write(data)
        return _record(Path(target.name))
    if value.startswith(("http://", "https://")):
        address = urlsplit(value)
        _, uploaded, path = address.path.partition(UPLOADED)
        if not uploaded:
            return value
        # Whatever a proxy makes of the name of this host: nobody else knows where an uploaded file is.
        file = _uploaded(unquote(path), cache)
        if file is None and address.netloc != headers.get("host", ""):
            return value
        if file is None:
            raise ValueError("There is no uploaded file of that address. Upload it again.")
        return _record(file)
    if folder is None:
        raise ValueError(NO_FILE)
    try:
        with opened_in(folder, value) as source:
            if most is not None and os.fstat(source.fileno()).st_size > most:
                raise ValueError(_too_large(most))
            with _kept(Path(value).name, cache) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    except OSError as error:
        raise ValueError(NO_FILE_IN) from error
    return _record(Path(target.name))


def opened_in(folder: Path, name: str) -> IO[bytes]:
    """An ordinary file in a folder or below, by its path, absolute or from the folder on.

    Links are followed where they stay in the folder. What was checked is what is opened: each part of the
    way, without a link, from the folder on. Raises OSError for everything else.
    """
    try:
        root = folder.resolve(strict=True)
        *folders, last = (root / name).resolve(strict=True).relative_to(root).parts
    except (ValueError, RuntimeError) as error:  # elsewhere, the folder itself, a NUL, a loop of links
        raise FileNotFoundError(name) from error
    if os.open not in os.supports_dir_fd:
        return _ordinary(os.open(root.joinpath(*folders, last), os.O_RDONLY))
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in folders:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # A pipe would keep us waiting.
        return _ordinary(os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at))
    finally:
        os.close(at)


def _ordinary(handle: int) -> IO[bytes]:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileNotFoundError
    return os.fdopen(handle, "rb")


def _kept(name: str, cache: Path) -> IO[bytes]:
    """A new file of that name where uploads are."""
    cache.mkdir(parents=True, exist_ok=True)
    return (Path(tempfile.mkdtemp(dir=cache)) / name).open("wb")


def _uploaded(path: str, cache: Path) -> Path | None:
    """The file of an upload, None if there is none."""
    try:
        file = Path(path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None
    return file if file.is_relative_to(cache.resolve()) and file.is_file() else None


def _too_large(most: float) -> str:
    return f"The file is too large: at most {most / 1e6:.0f} MB are taken."


def _record(file: Path) -> dict[str, Any]:
    return {"path": str(file), "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}
