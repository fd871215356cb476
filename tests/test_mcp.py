"""The tools, as an agent sees them: the official MCP client against the running app on its starters."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
import soundfile
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from components.server import agents
from demos import speech
from tests.serving import served
from tests.test_api import PARAMETERS

LION = Path(gr.media.get_image("lion.jpg"))
WORDS = "one token after another"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What --mcp-files names: some files, and links to others."""
    made = tmp_path_factory.mktemp("given")
    (made / "below").mkdir()
    for file in (LION, speech.CLIP):
        shutil.copy(file, made / "below")
    outside = tmp_path_factory.mktemp("outside")
    shutil.copy(LION, outside / "secret.jpg")
    (made / "lion.jpg").symlink_to(made / "below" / LION.name)
    (made / "out.jpg").symlink_to(outside / "secret.jpg")
    (made / "out").symlink_to(outside)
    (made / "loop").symlink_to(made / "loop")
    (made / "gone.jpg").symlink_to(made / "nothing")
    os.mkfifo(made / "pipe")
    return made


@pytest.fixture(scope="module")
def page(models, folder):
    import app
    from components.server.line import Line
    from components.settings import parse
    from components.weights.hub import HubStatus

    settings = replace(parse([], os.environ), checkpoints="starter")
    page = app.create_app(models, settings, HubStatus(), Line())
    with served(page, mcp_server=True):
        agents.fit(page.mcp_server_obj, folder)
        yield page


async def met(
    page: gr.Blocks, act: Callable[[ClientSession], Awaitable[Any]], headers: dict[str, str] | None = None
) -> Any:
    async with (
        httpx.AsyncClient(headers=headers, timeout=120) as http,
        streamable_http_client(f"{page.local_url}gradio_api/mcp/", http_client=http) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await act(session)


def tools(page: gr.Blocks) -> dict[str, types.Tool]:
    async def listed(session: ClientSession) -> list[types.Tool]:
        return (await session.list_tools()).tools

    return {tool.name: tool for tool in asyncio.run(met(page, listed))}


def called(
    page: gr.Blocks,
    name: str,
    headers: dict[str, str] | None = None,
    progress: Any = None,
    **arguments: Any,
) -> types.CallToolResult:
    async def call(session: ClientSession) -> types.CallToolResult:
        return await session.call_tool(name, arguments, progress_callback=progress)

    return asyncio.run(met(page, call, headers))


def texts(result: types.CallToolResult) -> list[str]:
    assert not result.isError, result.content
    return [part.text for part in result.content if isinstance(part, types.TextContent)]


def problem(result: types.CallToolResult) -> str:
    assert result.isError
    (part,) = result.content
    assert isinstance(part, types.TextContent)
    return part.text


def test_every_endpoint_is_a_tool_that_says_what_it_does(page):
    listed = tools(page)
    assert {f"/{name}": list(tool.inputSchema["properties"]) for name, tool in listed.items()} == PARAMETERS
    for name, tool in listed.items():
        properties = tool.inputSchema["properties"]
        assert len(tool.description or "") > 40 and "Returns: " in (tool.description or ""), name
        assert tool.inputSchema["required"] == [next(iter(properties))], name
        for parameter, schema in properties.items():
            assert schema["type"] and len(schema["description"]) > 10, (name, parameter)
            assert "additional_description" not in schema, (name, parameter)
            assert "default" in schema or parameter in tool.inputSchema["required"], (name, parameter)


def test_what_a_tool_takes_is_typed(page):
    listed = {name: tool.inputSchema["properties"] for name, tool in tools(page).items()}
    tokens, seed = listed["generate"]["max_new_tokens"], listed["generate"]["seed"]
    assert (tokens["type"], tokens["minimum"], tokens["maximum"], tokens["default"]) == (
        "integer",
        1,
        1024,
        40,
    )
    assert seed["default"] == 0
    assert listed["transcribe"]["timestamps"]["enum"] == ["none", "segment", "word"]
    assert listed["zero_shot"]["multi_label"]["type"] == "boolean"
    many = listed["sentiment_batch"]["texts"]
    assert many["type"] == "array" and many["items"] == {"type": "string"} and many["maxItems"] == 2000
    # Without a type of its own, an agent would have to build Gradio's record of a file.
    assert listed["transcribe"]["audio"]["type"] == listed["classify_image"]["image"]["type"] == "string"


def test_texts_and_labels(page):
    (answer,) = texts(called(page, "sentiment", text="I hate this so much!"))
    assert json.loads(answer)["label"] == "NEGATIVE"
    (answer,) = texts(called(page, "sentiment_batch", texts=["I hate this.", "I love this."]))
    assert [row["label"] for row in json.loads(answer)] == ["NEGATIVE", "POSITIVE"]
    text, labels = "History isn't really a fun class", "education, politics"
    (answer,) = texts(called(page, "zero_shot", text=text, candidate_labels=labels))
    assert json.loads(answer)["label"] == "education"
    (many,) = texts(called(page, "zero_shot_batch", texts=[text], candidate_labels=labels))
    assert json.loads(many)[0]["label"] == "education"


@pytest.mark.parametrize("name", ["zero_shot", "zero_shot_batch"])
def test_an_agent_may_give_labels_as_a_list(page, name):
    tool = tools(page)[name]
    schema = tool.inputSchema["properties"]["candidate_labels"]
    assert schema["anyOf"] == [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    assert schema["type"] == ["string", "array"] and "as a list" in schema["description"]
    given = {"texts": ["I saw a film"]} if name.endswith("batch") else {"text": "I saw a film"}
    ways = ("sport, film", ["sport", "film"])
    (first,), (second,) = (texts(called(page, name, **given, candidate_labels=labels)) for labels in ways)
    assert first == second and "film" in first
    assert called(page, name, **given, candidate_labels=[1, 2]).isError


def test_translations_come_as_text_without_the_figure(page):
    (answer,) = texts(called(page, "translate", text="You like this house"))
    assert "maison" in answer and "plotly" not in answer
    (answer,) = texts(called(page, "translate_batch", texts=["You like this house", "Two dogs."]))
    first, second = json.loads(answer)
    assert "maison" in first and "chiens" in second


def test_agents_are_told_the_remarks(page, folder):
    long = "a very long day and " * 300
    text, told = texts(called(page, "translate", text=long))
    assert text and "clause by clause" in json.loads(told)["remarks"][0] and "plotly" not in told
    (answer,) = texts(called(page, "translate_batch", texts=[long, "Two dogs."], remarks=True))
    assert len(json.loads(answer)["translations"]) == 2 and json.loads(answer)["remarks"]
    soundfile.write(folder / "nothing.wav", np.zeros(32000, np.float32), 16000)
    text, told = texts(called(page, "transcribe", audio="nothing.wav", remarks=True))
    assert text == "" and "silence" in json.loads(told)["remarks"][0]


def test_a_gap(page):
    (answer,) = texts(called(page, "fill_gap", text="The capital of France is ___."))
    found = json.loads(answer)
    assert found["causal"]["problem"] is None and len(found["causal"]["confidences"]) > 1
    assert found["masked"]["label"]


def test_what_is_streamed_ends_in_the_whole_with_progress_and_without(page):
    arguments: dict[str, Any] = {
        "prompt": "So today, I just feel like",
        "max_new_tokens": 8,
        "temperature": 0,
    }
    told = []

    async def progress(step: float, total: float | None, message: str | None) -> None:
        told.append(message)

    (alone,) = texts(called(page, "generate", **arguments))
    (watched,) = texts(called(page, "generate", progress=progress, **arguments))
    assert alone == watched and told
    (continuation,) = json.loads(alone)["sequences"]
    assert len(continuation.split()) > 4


def test_files_by_path(page, folder):
    for path in (folder / "below" / LION.name, folder / "lion.jpg", f"below/{LION.name}"):
        (answer,) = texts(called(page, "classify_image", image=str(path), top_k=2))
        assert json.loads(answer)["label"] == "lion"
    clip = str(folder / "below" / speech.CLIP.name)
    text, segments = texts(called(page, "transcribe", audio=clip, timestamps="segment"))
    assert WORDS in text
    assert json.loads(segments)[0].keys() == {"text", "start", "end"}
    assert len(texts(called(page, "transcribe", audio=clip))) == 1


def test_every_other_path_gets_the_same_sentence(page, folder):
    """Missing, elsewhere, unreadable, a folder, a pipe, a link that leads out: a path tells nothing."""
    paths = ["out.jpg", "out/secret.jpg", "loop", "gone.jpg", "pipe", "below", "", ".", "..", "missing.jpg"]
    paths += [str(folder / path) for path in paths if path]
    paths += [
        str(LION),
        f"../../{LION}",
        "/etc/shadow",
        "/etc/passwd",
        "/no/such",
        "/",
        "~/.ssh/id_rsa",
        "~root",
    ]
    paths += [
        "/proc/self/environ",
        "/dev/zero",
        "a\0b",
        "x" * 5000,
        "file:///etc/passwd",
        f"{folder}/below/../../x",
    ]
    said = {problem(called(page, "classify_image", image=path)) for path in paths}
    assert len(said) == 1
    assert "not the address of a file" in said.pop()


def test_a_link_that_is_swapped_after_it_was_checked_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "given" / "below").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for place in ("given/below", "elsewhere"):
        (tmp_path / place / "file.txt").write_text(place)
    assert agents.opened_in(tmp_path / "given", "below/file.txt").read() == b"given/below"
    resolve = Path.resolve

    def swapped(path: Path, strict: bool = False) -> Path:
        found = resolve(path, strict=strict)
        if found.name == "file.txt":
            (tmp_path / "given" / "below").rename(tmp_path / "given" / "before")
            (tmp_path / "given" / "below").symlink_to(tmp_path / "elsewhere")
        return found

    monkeypatch.setattr(Path, "resolve", swapped)
    with pytest.raises(OSError):
        agents.opened_in(tmp_path / "given", "below/file.txt")


def test_what_an_agent_gave_is_deleted_as_uploads_are(page, folder):
    before = set(page.upload_file_set)
    texts(called(page, "classify_image", image="lion.jpg"))
    picture = "data:image/jpeg;base64," + base64.b64encode(LION.read_bytes()).decode()
    texts(called(page, "classify_image", image=picture))
    kept = [Path(path) for path in page.upload_file_set - before]
    assert {path.name for path in kept} >= {"lion.jpg", "file.jpg"}
    assert all(path.is_relative_to(Path(page.GRADIO_CACHE).resolve()) or path.exists() for path in kept)


def test_files_by_address(page, monkeypatch):
    with folder_served(speech.CLIP.parent) as address:
        # No file of this machine's network is fetched for anybody.
        said = problem(called(page, "transcribe", audio=f"{address}/{speech.CLIP.name}"))
        assert "could not be fetched" in said and "public network" in said
        monkeypatch.setattr("components.server.fetching.HUB", ["127.0.0.1"])
        text, *_ = texts(called(page, "transcribe", audio=f"{address}/{speech.CLIP.name}"))
        assert WORDS in text
    with folder_served(LION.parent) as address:
        (answer,) = texts(called(page, "classify_image", image=f"{address}/{LION.name}"))
        assert json.loads(answer)["label"] == "lion"
        assert "could not be fetched" in problem(called(page, "classify_image", image=f"{address}/none.jpg"))


class folder_served:
    """A folder on a port of this machine; its address inside `with`."""

    def __init__(self, folder: Path) -> None:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *values: Any) -> None:
                """The tests' output stays readable."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_files_within_the_call(page):
    picture = "data:image/jpeg;base64," + base64.b64encode(LION.read_bytes()).decode()
    (answer,) = texts(called(page, "classify_image", image=picture))
    assert json.loads(answer)["label"] == "lion"


def uploaded(page: gr.Blocks, file: Path) -> str:
    with file.open("rb") as content:
        answer = httpx.post(f"{page.local_url}gradio_api/upload", files={"files": content})
    return f"{page.local_url}gradio_api/file={answer.raise_for_status().json()[0]}"


def test_uploaded_files_by_their_address(page):
    address = uploaded(page, LION)
    (answer,) = texts(called(page, "classify_image", image=address))
    assert json.loads(answer)["label"] == "lion"
    folder = address.partition("file=")[2].rpartition("/")[0]
    for place in (str(LION), f"{folder}/../../../{LION}", "/etc/passwd"):
        said = problem(called(page, "classify_image", image=f"{page.local_url}gradio_api/file={place}"))
        assert "no uploaded file" in said


def test_gradios_own_helper_uploads_a_file_of_the_agents_machine(page):
    """`gradio upload-mcp` runs beside the agent and gives the address of what it has uploaded."""

    async def upload() -> str:
        server = StdioServerParameters(
            command=str(Path(sys.executable).parent / "gradio"),
            args=["upload-mcp", page.local_url, str(LION.parent)],
            env=dict(os.environ),
        )
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            return texts(await session.call_tool("upload_file_to_gradio", {"file": str(LION)}))[0]

    (answer,) = texts(called(page, "classify_image", image=asyncio.run(upload())))
    assert json.loads(answer)["label"] == "lion"


@pytest.mark.parametrize("path", [str(LION), "/etc/shadow", "/no/such", "/", "", "lion.jpg"])
def test_without_a_folder_no_path_is_opened_wherever_the_agent_is(tmp_path, path):
    said = set()
    for headers in (
        {"host": "127.0.0.1:7860"},
        {"host": "tour.example"},
        {},
        {"x-forwarded-for": "192.0.2.1"},
    ):
        with pytest.raises(ValueError, match="not the address of a file") as refused:
            agents.as_file(path, tmp_path, headers)
        said.add(str(refused.value))
    assert len(said) == 1 and "data: URL" in said.pop()


def test_a_file_within_the_call_has_the_limit_of_an_uploaded_one(tmp_path):
    picture = "data:image/png;base64," + "A" * 4000
    file = agents.as_file(picture, tmp_path, {}, most=4000)
    assert Path(file["path"]).stat().st_size == 3000 and file["orig_name"] == "file.png"
    with pytest.raises(ValueError, match="too large: at most 0 MB"):
        agents.as_file(picture, tmp_path, {}, most=2000)
    (tmp_path / "large").write_bytes(b"x" * 3000)
    with pytest.raises(ValueError, match="too large: at most 0 MB"):
        agents.as_file("large", tmp_path, {}, tmp_path, most=2000)
    for content in ("A", "<svg>", "%%%"):
        with pytest.raises(ValueError, match="not the address of a file"):
            agents.as_file(f"data:image/png;base64,{content}", tmp_path, {})


def test_an_uploaded_file_is_found_whatever_a_proxy_makes_of_the_address(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    for site in ("http://127.0.0.1:7860", "https://tour.example/tour", "http://localhost"):
        address = f"{site}/gradio_api/file={tmp_path}/a.png"
        assert agents.as_file(address, tmp_path, {"host": "other"})["path"] == str(tmp_path / "a.png")
        elsewhere = f"{site}/gradio_api/file=/etc/passwd"
        assert agents.as_file(elsewhere, tmp_path, {"host": "other"}) == elsewhere  # fetched, if it is public


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("sentiment", {"text": "  "}, "no text yet"),
        ("sentiment", {}, "'text' is a required property"),
        ("generate", {"prompt": "a", "max_new_tokens": 0}, "less than the minimum of 1"),
        ("generate", {"prompt": "a", "top_p": 0}, "Top-p must be above 0"),
        ("transcribe", {"audio": "clip.wav", "timestamps": "letter"}, "'letter' is not one of"),
        ("translate_batch", {"texts": ["one", " "]}, "Text 2 of 2 is empty"),
        ("sentiment_batch", {"texts": "one"}, "is not of type 'array'"),
        ("fill_gap", {"text": "no gap"}, "no gap"),
        ("no_such_tool", {}, "no_such_tool"),
    ],
)
def test_an_agent_is_told_what_is_wrong(page, name, arguments, says):
    assert says in problem(called(page, name, **arguments))


def test_several_outputs_and_figures():
    plot = {"type": "plotly", "plot": "{}"}
    for answers in ([("Bonjour", plot)], ["Bonjour", plot]):
        assert agents.contents(answers, dict) == [{"type": "text", "text": "Bonjour"}]
    assert agents.contents([("", [])], dict) == [{"type": "text", "text": ""}]
    assert agents.contents([["été", "neige"]], dict) == [{"type": "text", "text": '["été", "neige"]'}]


def test_runs_are_counted_by_the_address_of_the_agent(page):
    """The app asks itself: without a hint all agents would be one visitor."""
    seen = []
    line = next(fn for fn in page.fns.values() if fn.api_name == "sentiment")
    enter = line.fn
    assert enter is not None

    async def watched(text: str, checkpoint: str, request: gr.Request) -> Any:
        seen.append(request.client.host)
        return {"label": 1.0}

    line.fn = watched
    try:
        texts(called(page, "sentiment", {"X-Forwarded-For": "192.0.2.7"}, text="hello"))
        texts(called(page, "sentiment", text="hello"))
    finally:
        line.fn = enter
    assert seen == ["192.0.2.7", "127.0.0.1"]


def basic(word: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(word.encode()).decode()}"}


def test_where_a_password_is_asked_for_an_agent_gives_it():
    with gr.Blocks() as locked:

        def hello(whom: str) -> str:
            """Say hello to somebody."""
            return f"Hello, {whom}."

        gr.Button().click(hello, gr.Textbox(), gr.Textbox(), api_name="hello")
    with served(locked, mcp_server=True, auth=[("ann", "one:two")]):
        agents.fit(locked.mcp_server_obj)
        assert texts(called(locked, "hello", basic("ann:one:two"), whom="Bob")) == ["Hello, Bob."]
        # Who asks later is not taken for who asked before.
        for headers in (None, basic("ann:wrong"), basic("bob:one:two"), {"Authorization": "Basic ?"}):
            assert "asks for a user and a password" in problem(called(locked, "hello", headers, whom="Bob"))
        assert texts(called(locked, "hello", basic("ann:one:two"), whom="Eve")) == ["Hello, Eve."]


def test_a_password_for_a_proxy_in_front_is_not_the_apps(page):
    (answer,) = texts(called(page, "sentiment", basic("ann:one"), text="I love it."))
    assert json.loads(answer)["label"] == "POSITIVE"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None),
        ("Bearer abc", None),
        ("Basic", ("", "")),
        ("Basic ?", None),
        ("basic YW5uOm9uZTp0d28=", ("ann", "one:two")),
        ("Basic //79", None),
    ],
)
def test_credentials(header, found):
    assert agents.credentials(header) == found
