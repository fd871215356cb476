"""Agents: what do the app's tools take as files, and what do they give back, for who calls them through MCP?

Gradio makes a tool of each endpoint. Its answers are Python's, figures included, and its files only
addresses on the public network; `fit` changes both.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from components.settings import LOCAL

UPLOADED = "/gradio_api/file="
WHO = "This app asks for a user and a password. Send them in the header Authorization, as Basic."
WHAT_A_FILE_IS = (
    "Give a file as an http or https URL on the public network, as the URL of a file uploaded here, or as a "
    "data: URL with base64."
)


def fit(server: Any, local: bool) -> None:
    """Fit Gradio's MCP server (`Blocks.mcp_server_obj` after launch) for agents.

    Answers are JSON, without figures. A file may also be the URL of one that was uploaded here and, where
    only the person at this machine can reach the app (local), a path on it. Where the app asks for a
    password, an agent gives it as HTTP has it (Authorization: Basic).
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
        return made, places

    def convert(values: dict[str, Any], places: list[list[str | int]]) -> Any:
        request, cache = server.mcp_server.request_context.request, Path(server.blocks.GRADIO_CACHE)
        files = {
            name: as_file(value, cache, request.headers, local, server.blocks.max_file_size)
            for name, value in values.items()
            if [name] in places and isinstance(value, str)
        }
        return to_files({**values, **files}, places)

    def prepare(name: str, values: dict[str, Any]) -> tuple[Any, ...]:
        asks()  # before a file is looked for or written
        endpoint, given, headers, function = arguments(name, values)
        # The app is asked by itself; runs are counted by the address of who asked first.
        client = server.mcp_server.request_context.request.client
        return endpoint, given, {**headers, "x-forwarded-for": client.host if client else ""}, function

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
    value: str, cache: Path, headers: Mapping[str, str], local: bool, most: float | None = None
) -> dict[str, Any] | str:
    """Gradio's record of a file on this machine, or the value where it is an address for Gradio to fetch.

    cache: where uploaded files are; headers: of the request; most: bytes that an uploaded file may have.
    Raises ValueError with a sentence.
    """
    host = headers.get("host", "")
    if value.startswith("data:"):
        if most is not None and len(value) * 3 / 4 > most:
            raise ValueError(f"The file is too large: at most {most / 1e6:.0f} MB are taken.")
        return value
    if value.startswith(("http://", "https://")):
        address = urlsplit(value)
        _, uploaded, path = address.path.partition(UPLOADED)
        # A private address, which Gradio would not fetch.
        if not uploaded or address.netloc != host:
            return value
        file = Path(unquote(path)).resolve()
        if not file.is_relative_to(cache.resolve()) or not file.is_file():
            raise ValueError("There is no uploaded file of that address. Upload it again.")
        return _record(file)
    # A page elsewhere whose name leads to this machine is known by that name, what a proxy sends by its mark.
    here = bool(host) and urlsplit(f"//{host}").hostname in LOCAL
    if not local or not here or "x-forwarded-for" in headers or "forwarded" in headers:
        raise ValueError(f"This is not the address of a file. {WHAT_A_FILE_IS}")
    file = Path(value).expanduser()
    if not file.is_absolute() or not file.is_file():
        raise ValueError(f"There is no such file; a path must be absolute. {WHAT_A_FILE_IS}")
    return _record(file)


def _record(file: Path) -> dict[str, Any]:
    return {"path": str(file), "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}
