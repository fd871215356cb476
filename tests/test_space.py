"""The repository as a Space: its front matter, what goes up and what stays, the upload, and the app there."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import demos
from components.weights.checkpoints import Offer
from deploy import space
from deploy.space import Part, Refusal

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "hf_let_me_in"


# the front matter


@pytest.fixture(scope="module")
def front_matter() -> dict[str, Any]:
    from huggingface_hub import metadata_load

    return metadata_load(ROOT / "README.md") or {}


def offered() -> set[str]:
    """The course's checkpoint of every offer that stands in a tab's module."""
    names = set()
    for demo in demos.discover():
        module = sys.modules[demo.build.__module__]
        for value in vars(module).values():
            offers = value if isinstance(value, tuple) else (value,)
            names |= {offer.course.name for offer in offers if isinstance(offer, Offer)}
        if demo.offer:
            names.add(demo.offer.course.name)
    return names


def test_gradio_is_the_one_that_is_pinned(front_matter):
    pin = re.search(r"^gradio(?:\[[\w,]+\])?==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)
    assert pin
    assert (front_matter["sdk"], front_matter["sdk_version"]) == ("gradio", pin[1])


def test_python_is_one_that_the_project_allows(front_matter):
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = re.search(r"(\d+)\.(\d+)", project["requires-python"])
    asked = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", front_matter["python_version"])
    assert least and asked
    assert tuple(map(int, asked.groups()[:2])) >= tuple(map(int, least.groups()))


def test_the_hub_reads_all_of_it(front_matter):
    from huggingface_hub import SpaceCardData

    card = SpaceCardData(**front_matter)
    assert card.app_file == "app.py" and (ROOT / card.app_file).is_file()
    assert card.title == "Transformer Tour"
    assert card.license == "mit"
    assert card.tags and len(set(card.tags)) == len(card.tags)
    assert len(front_matter["short_description"]) <= 60, "the hub takes no longer one"
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= colours


def test_the_models_are_those_of_the_tabs(front_matter):
    from huggingface_hub.utils import validate_repo_id

    assert len(offered()) >= 6
    assert sorted(front_matter["models"]) == sorted(offered())
    for name in front_matter["models"]:
        validate_repo_id(name)


def test_what_is_fetched_with_the_image_are_weights_of_the_tabs(front_matter):
    for line in front_matter["preload_from_hub"]:
        name, files = line.split(" ")
        assert name in front_matter["models"]
        # The app makes safetensors of it when it starts from there, without a download.
        assert files == ("pytorch_model.bin" if name.startswith("Helsinki-NLP/") else "model.safetensors")


# what goes up


@pytest.fixture
def repository(tmp_path) -> Path:
    """A small one, without git."""
    root = tmp_path / "repository"
    for path, content in {
        "README.md": "---\ntitle: Tour\nsdk: gradio\n---\n",
        "app.py": "print('hello')\n",
        "requirements.txt": "gradio\n",
        "checkpoints/small/model.safetensors": "weights",
        "checkpoints/small/config.json": "{}",
        "components/__init__.py": "",
        "components/__pycache__/x.pyc": "compiled",
        "tests/test_app.py": "",
        ".env": "HF_TOKEN=secret",
        ".git/config": "[core]",
        ".ci/run": "",
    }.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


GOES_UP = [
    "README.md",
    "app.py",
    "checkpoints/small/config.json",
    "components/__init__.py",
    "requirements.txt",
]


def paths(parts: list[Part]) -> list[str]:
    return [part.path for part in parts]


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def test_weights_tests_and_hidden_files_stay_here(repository):
    up, here = space.selected(repository)
    assert paths(up) == GOES_UP
    assert paths(here) == [".env", "checkpoints/small/model.safetensors", "tests/test_app.py"]


def test_with_git_it_is_what_git_tracks(repository):
    (repository / "notes.txt").write_text("mine")
    shutil.rmtree(repository / ".git")
    git(repository, "init")
    git(repository, "add", "--force", ".env", "tests", *GOES_UP)
    (repository / "requirements.txt").unlink()
    up, here = space.selected(repository)
    assert paths(up) == [path for path in GOES_UP if path != "requirements.txt"]
    assert paths(here) == [".env", "tests/test_app.py"]


def test_links_stay_here(repository):
    (repository / "components" / "passwords").symlink_to("/etc/passwd")
    up, here = space.selected(repository)
    assert paths(up) == GOES_UP
    assert "components/passwords" in paths(here)


def test_a_file_over_ten_megabytes_is_refused(repository):
    parts = space.selected(repository)[0]
    space.check(parts, repository)
    with pytest.raises(Refusal, match=r"big.bin has 10.0 MB, and at most 10.0 MB go up"):
        space.check([*parts, Part("big.bin", 10_000_001)], repository)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("server.key", ""),
        ("components/id_rsa", ""),
        ("notes.md", "the token is " + "hf_" + "a1B2" * 9),
        ("config.json", "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE"),
    ],
)
def test_a_secret_is_refused(repository, name, content):
    (repository / name).write_text(content)
    with pytest.raises(Refusal, match="looks like a secret") as told:
        space.check(space.selected(repository)[0], repository)
    assert name in str(told.value) and "a1B2" not in str(told.value)


def test_without_an_app_there_is_no_space(repository):
    (repository / "app.py").unlink()
    with pytest.raises(Refusal, match=r"README.md, app.py and requirements.txt"):
        space.check(space.selected(repository)[0], repository)


def test_this_repository_can_go_up():
    up, here = space.selected()
    space.check(up)
    assert sum(part.size for part in up) < 10 * space.LARGEST
    assert not [path for path in paths(up) if path.startswith(("tests/", "training/", "."))]
    assert "checkpoints/marian-en-fr/model.safetensors" in paths(here)
    assert "checkpoints/marian-en-fr/source.spm" in paths(up)


def test_what_goes_up_is_told():
    told = space.told([Part("app.py", 1200), Part("a/b.flac", 2_500_000)], [Part("tests/x.py", 300)])
    assert told.splitlines() == [
        "app.py      1.2 kB",
        "a/b.flac    2.5 MB",
        "2 files go up, 2.5 MB.",
        "1 files stay here, 0.3 kB: tests.",
    ]


# the upload


class SpaceHub:
    """A hub on this machine that takes Spaces, by the protocol huggingface_hub speaks.

    taken: the settings of each Space when it was made; files: of each Space; owner: whose token TOKEN is.
    """

    def __init__(self, owner: str = "me") -> None:
        self.owner = owner
        self.taken: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.hardware: dict[str, str] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> SpaceHub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/validate-yaml":
            right = "title:" in json.loads(body)["content"]
            return (200, {}) if right else (400, {"errors": [{"message": "it has no title"}]})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/blobs/(\w+)", path):
            self.blobs[match[1]] = body
            return 200, {}
        if match := re.fullmatch(r"/spaces/(.+)\.git/info/lfs/objects/batch", path):
            return 200, {"objects": [self._action(one) for one in json.loads(body)["objects"]]}
        match = re.fullmatch(r"/api/spaces/([^/]+/[^/]+)(?:/(\w+))?(?:/main)?", path)
        if not match or match[1] not in self.files:
            return 404, {"error": "Repository not found"}
        name, what = match.groups()
        if what is None:
            return 200, {"id": name, "sha": "0" * 40, "siblings": []}
        if what == "tree":
            return 200, [{"type": "file", "path": path, "oid": "", "size": len(content)}
                         for path, content in self.files[name].items()]  # fmt: skip
        if what == "hardware":
            self.hardware[name] = json.loads(body)["flavor"]
            return 200, {
                "stage": "BUILDING",
                "hardware": {"current": None, "requested": None},
                "gcTimeout": 0,
            }
        if what == "preupload":
            return 200, {"files": [self._mode(one) for one in json.loads(body)["files"]]}
        assert what == "commit"
        self._commit(self.files[name], [json.loads(line) for line in body.splitlines()])
        return 200, {"commitUrl": f"{self.url}/spaces/{name}/commit/1", "commitOid": "1" * 40}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked["organization"] != self.owner:
            return 403, {"error": "You don't have the rights to create a space under this namespace"}
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.files:
            return 409, {"error": "exists", "url": f"{self.url}/spaces/{name}"}
        self.taken[name] = asked
        self.files[name] = {".gitattributes": b"*.safetensors filter=lfs\n", "old.py": b"left behind\n"}
        return 200, {"url": f"{self.url}/spaces/{name}"}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        binary = b"\0" in base64.b64decode(file["sample"])
        return {"path": file["path"], "uploadMode": "lfs" if binary else "regular", "shouldIgnore": False}

    def _action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.url}/blobs/{wanted['oid']}"}}}

    def _commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                content = self.blobs[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                files[value["path"]] = content
            else:
                files[value["path"]] = base64.b64decode(value["content"])


class _Handler(BaseHTTPRequestHandler):
    hub: SpaceHub
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}" or path.startswith("/blobs/")
        if known or path == "/api/validate-yaml":
            status, said = self.hub.answer(self.command, path, body)
        else:
            status, said = 401, {"error": "Invalid username or password."}
        answer = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        """Not to the terminal."""


@pytest.fixture
def hub() -> Iterator[SpaceHub]:
    with SpaceHub() as hub:
        yield hub


DEPLOY = """
import sys
from pathlib import Path
from deploy import space
root = Path(sys.argv.pop(1))
selected, check = space.selected, space.check
space.ROOT = root
space.selected, space.check = lambda: selected(root), lambda parts: check(parts, root)
space.main()
"""


def deploy(
    root: Path, endpoint: str, *options: str, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(root.parent / "hf"),
        "HF_HUB_DISABLE_XET": "1",  # the other way, of which there is no copy here
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **({"HF_TOKEN": token} if token else {}),
    }
    return subprocess.run(
        [sys.executable, "-c", DEPLOY, str(root), *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_new_space(hub, repository):
    (repository / "clip.flac").write_bytes(b"fLaC\0\0" + bytes(range(256)) * 10)
    done = deploy(repository, hub.url, "--repo-id", "me/tour", "--private", "--hardware", "cpu-basic")
    assert done.returncode == 0, done.stderr
    made = hub.taken["me/tour"]
    assert (made["type"], made["sdk"], made["hardware"]) == ("space", "gradio", "cpu-basic")
    assert made["visibility"] == "private"
    assert hub.hardware == {"me/tour": "cpu-basic"}
    files = hub.files["me/tour"]
    assert sorted(files) == sorted([".gitattributes", "clip.flac", *GOES_UP])
    assert all(files[path] == (repository / path).read_bytes() for path in [*GOES_UP, "clip.flac"])
    assert "app.py" in done.stdout and "6 files go up" in done.stdout
    assert f"It is at {hub.url}/spaces/me/tour" in done.stdout


def test_again_with_less(hub, repository):
    hub.files["me/tour"] = {".gitattributes": b"kept", "components/gone.py": b"", "app.py": b"old"}
    done = deploy(repository, hub.url, "--repo-id", "me/tour")
    assert done.returncode == 0, done.stderr
    assert sorted(hub.files["me/tour"]) == sorted([".gitattributes", *GOES_UP])
    assert hub.files["me/tour"]["app.py"] == (repository / "app.py").read_bytes()
    assert hub.hardware == {}


def test_a_dry_run_asks_nobody(hub, repository):
    done = deploy(repository, hub.url, "--repo-id", "me/tour", "--dry-run", token=None)
    assert done.returncode == 0, done.stderr
    assert hub.requests == [] and hub.files == {}
    assert "5 files go up" in done.stdout and "dry run" in done.stdout
    assert "README.md" in done.stdout and "safetensors" not in done.stdout


def told(done: subprocess.CompletedProcess[str]) -> str:
    """What a run that failed says, and that it is a sentence."""
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def test_no_token(hub, repository):
    assert "There is no token" in told(deploy(repository, hub.url, "--repo-id", "me/tour", token=None))
    assert hub.requests == []


def test_a_token_that_the_hub_does_not_know(hub, repository):
    said = told(deploy(repository, hub.url, "--repo-id", "me/tour", token="hf_other"))
    assert "does not know this token" in said and "Invalid username or password." in said


def test_no_right(hub, repository):
    said = told(deploy(repository, hub.url, "--repo-id", "somebody/tour"))
    assert "may not write to somebody/tour" in said
    assert hub.files == {}


def test_no_connection(repository):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        said = told(deploy(repository, f"http://127.0.0.1:{nobody.getsockname()[1]}", "--repo-id", "me/tour"))
    assert "The hub cannot be reached" in said


def test_a_name_that_cannot_be_one(hub, repository):
    assert '"a/b/c" cannot be the name' in told(deploy(repository, hub.url, "--repo-id", "a/b/c"))


def test_a_readme_that_the_hub_does_not_take(hub, repository):
    (repository / "README.md").write_text("---\nsdk: gradio\n---\n")
    said = told(deploy(repository, hub.url, "--repo-id", "me/tour"))
    assert "does not take the README" in said and "it has no title" in said


def test_what_may_not_go_up_is_said_before_anybody_is_asked(hub, repository):
    (repository / "big.bin").write_bytes(bytes(10_000_001))
    assert "big.bin has 10.0 MB" in told(deploy(repository, hub.url, "--repo-id", "me/tour"))
    assert hub.requests == []


def test_hardware_that_there_is_not(hub, repository):
    done = deploy(repository, hub.url, "--repo-id", "me/tour", "--hardware", "abacus")
    assert done.returncode == 2 and "abacus" in done.stderr


# the app there

# Looks at the page when it is up, then tells the app to stop. A tunnel would say so.
PROBE = """
import os, signal, sys, app
app.warm = lambda: None
app.networking.setup_tunnel = lambda *given, **named: print("tunnel") or "http://tunnel"
settings = app.parse(sys.argv[1:], os.environ)
launch = app.gr.Blocks.launch
def answered(self, **options):
    told = launch(self, **options)
    import urllib.request
    address = f"http://127.0.0.1:{self.server_port}/"
    print("title", "Transformer Tour" in urllib.request.urlopen(address).read().decode())
    print("listens on", self.server_name, "space", self.space_id, "share", self.share)
    print("threads", os.environ.get("OMP_NUM_THREADS"), "budget", settings.memory_budget)
    print("caches", os.environ["HF_HOME"], settings.cache)
    os.kill(os.getpid(), signal.SIGTERM)
    return told
app.gr.Blocks.launch = answered
app.main(settings)
from components.errors import CheckpointError
from demos import translation
try:
    translation.run("A house.", "auto", app.create_manager(settings, app.HubStatus()))
except CheckpointError as error:
    print("starter:", error)
"""


def as_on_a_space(folder: Path) -> Path:
    """A folder with what Gradio asks of the package `spaces`, which every Space has: nothing happens."""
    (folder / "spaces").mkdir(parents=True)
    (folder / "spaces" / "__init__.py").write_text("def gradio_auto_wrap(task):\n    return task\n")
    (folder / "spaces" / "reloading.py").write_text("def start_reload_server(**given):\n    pass\n")
    (folder / "spaces-0.51.3.dist-info").mkdir()
    (folder / "spaces-0.51.3.dist-info" / "METADATA").write_text("Name: spaces\nVersion: 0.51.3\n")
    return folder


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> str:
    """What the app says that was started from the files that go up, with the environment of a Space."""
    folder = tmp_path_factory.mktemp("space")
    home = folder / "app"
    with pytest.MonkeyPatch.context() as patch:
        # Also what git does not track yet.
        patch.setattr(space, "listed", lambda root: sorted(space._walked(root)))
        for part in space.selected()[0]:
            if part.size <= space.LARGEST:
                (home / part.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / part.path, home / part.path)
    assert not list(home.rglob("*.safetensors"))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    kept = ("GRADIO_", "HF_", "OMP_", "TOUR_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(kept)},
        "SYSTEM": "spaces",
        "SPACE_ID": "owner/tour",
        "SPACE_HOST": "owner-tour.hf.space",
        "SPACE_AUTHOR_NAME": "owner",
        "SPACE_REPO_NAME": "tour",
        "CPU_CORES": "2",
        "MEMORY": "16Gi",
        "ACCELERATOR": "none",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "TOUR_CACHE": str(folder / "cache"),
        "TOUR_SHARE": "1",
        "PYTHONPATH": str(as_on_a_space(folder / "site")),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "--checkpoints", "starter"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_page_answers_on_a_space(started):
    assert "title True" in started
    assert "listens on 0.0.0.0" in started


def test_a_space_makes_no_tunnel(started):
    assert "space owner/tour share False" in started
    assert "tunnel" not in started and "public link" not in started


def test_what_the_space_says_is_set(started):
    assert "threads 2 budget 10.3" in started
    assert re.search(r"caches \S+/hf \S+/cache", started)


def test_a_starter_that_stayed_behind_is_said_in_a_sentence(started):
    sentence = (
        "The starter Marian en-fr, small is not in this copy of the app. Choose a checkpoint of the hub."
    )
    assert f"starter: {sentence}" in started


def test_weights_that_stayed_behind_are_missed_when_they_are_needed(monkeypatch, tmp_path):
    """A merged starter when it is made, another when it is read; its tokenizer can be had all the same."""
    import torch

    from components.errors import CheckpointError
    from components.models import loading
    from components.progress import unreported
    from components.weights import sources
    from components.weights.checkpoints import Bundled, Checkpoint, Recipe
    from components.weights.wheels import MINILM

    monkeypatch.setattr(Bundled, "path", property(lambda self: tmp_path))
    recipe = Recipe("task", lambda config: "AutoModel", "AutoTokenizer", lambda config: None)
    merged = Checkpoint("Adapter", Bundled("adapter", MINILM), recipe)
    whole = Checkpoint("Whole", Bundled("whole"), recipe)

    def fetch(checkpoint: Checkpoint) -> Path:
        return sources.fetch(checkpoint, tmp_path, unreported, lambda: 10**12, 4)

    with pytest.raises(CheckpointError, match="The starter Adapter is not in this copy of the app"):
        fetch(merged)
    assert fetch(whole) == tmp_path
    with pytest.raises(CheckpointError, match="The starter Whole is not in this copy of the app"):
        loading.read(whole, tmp_path, torch.float32)
