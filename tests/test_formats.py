"""Which weights of a repository are taken, from the real client's calls to what lies in the cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, get_repo_discussions, scan_cache_dir
from safetensors.torch import load_file, save_file

from components.errors import CheckpointError
from components.progress import Progress, Report, unreported
from components.weights import formats, locks, pickles, unpickling
from components.weights.checkpoints import Hub
from components.weights.hub import fetch, inspect, on_disk, parse
from tests.hub_server import HubServer, commit
from tests.test_hub import NAME, PARAMETERS, RECIPE, by_two, make_repository

BIN, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def without_safetensors(folder: Path, shards: int = 0) -> Path:
    """The repository of test_hub with its numbers in pytorch_model.bin instead, or in shards of it."""
    make_repository(folder)
    numbers = torch.from_numpy(load_file(folder / "model.safetensors")["weight"].numpy())
    (folder / "model.safetensors").unlink()
    (folder / INDEX).unlink()
    if not shards:
        torch.save({"weight": numbers}, folder / BIN)
        return folder
    (folder / BIN).unlink()
    names = {f"weight.{i}": f"pytorch_model-0000{i + 1}-of-0000{shards}.bin" for i in range(shards)}
    for (tensor, name), part in zip(names.items(), numbers.chunk(shards), strict=True):
        torch.save({tensor: part.clone()}, folder / name)
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    return folder


def offered(folder: Path, source: Path, shards: int = 0) -> Path:
    """What a conversion bot would offer of that repository: the same, and safetensors."""
    shutil.copytree(source, folder)
    (folder / "README.md").write_text("a pull request")
    (folder / "config.json").write_text(json.dumps({"model_type": "none of this"}))
    made = make_repository(folder.with_name(f"{folder.name}-made"), shards=shards)
    for path in (*made.glob("model-*.safetensors"), *made.glob("model.safetensors*")):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_safetensors(tmp_path_factory.mktemp("pickled"))


@pytest.fixture(scope="module")
def offer(tmp_path_factory: pytest.TempPathFactory, pickled: Path) -> Path:
    return offered(tmp_path_factory.mktemp("offer") / "offer", pickled)


@pytest.fixture
def server(pickled: Path) -> Iterator[HubServer]:
    with HubServer({NAME: pickled}) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """What is converted; here, and not in a process of its own, which has tests of its own."""
    calls: list[list[Path]] = []

    def run(command: list[str], folder: Path, tell: Callable[[], None], seconds: float) -> dict[str, Any]:
        order = json.loads(command[-1])
        calls.append(order["sources"])
        tell()
        try:
            for source, target in zip(order["sources"], order["targets"], strict=True):
                save_file(unpickling.apart(unpickling.read(Path(source)), order["bytes"]), target)
        except unpickling.Refused as error:
            return {"refused": str(error)}
        return {}

    monkeypatch.setattr(pickles, "_run", run)
    return calls


def get(server: HubServer, cache: Path, name: str = NAME, report: Report = unreported, **limits: Any) -> Path:
    return fetch(parse(name), RECIPE, report, endpoint=server.url, cache_dir=cache, **limits)


def asked(server: HubServer) -> set[str]:
    """Names of the files whose content was asked for."""
    return {request.path.rsplit("/", 1)[-1] for request in server.requests("/resolve/", "GET")}


def weight(folder: Path) -> torch.Tensor:
    parts = [load_file(path) for path in sorted(folder.glob("model*.safetensors"))]
    return torch.cat([part[name] for part in parts for name in sorted(part)])


# Safetensors of the hub's own bot


@pytest.mark.parametrize("status", ["open", "merged"])
def test_the_bots_safetensors_of_this_very_commit_are_taken(
    server: HubServer, cache: Path, pickled: Path, offer: Path, status: str
) -> None:
    reference = server.add_pull_request(NAME, offer, status=status)
    folder = get(server, cache)
    assert folder.name == commit(pickled)
    assert (folder / "model.safetensors").read_bytes() == (offer / "model.safetensors").read_bytes()
    # All else is that of the revision asked for.
    assert json.loads((folder / "config.json").read_text())["model_type"] == "distilbert"
    assert formats.origin_of(folder) == formats.Origin(reference, commit(offer))
    assert not {BIN, INDEX, "tf_model.h5", "flax_model.msgpack", "model.onnx"} & asked(server)
    server.gone = True
    assert on_disk(parse(NAME), cache) == get(server, cache) == folder
    info = scan_cache_dir(cache)
    assert not info.warnings
    assert info.size_on_disk < 1.1 * (offer / "model.safetensors").stat().st_size
    # That of the pull request has no name in the cache, so that `hf cache prune` takes it away.
    info.delete_revisions(commit(offer)).execute()
    assert on_disk(parse(NAME), cache) == folder and (folder / "model.safetensors").is_file()
    assert not scan_cache_dir(cache).warnings


def test_the_bots_shards_are_taken(server: HubServer, cache: Path, pickled: Path, tmp_path: Path) -> None:
    sharded = offered(tmp_path / "offer", pickled, shards=4)
    server.add_pull_request(NAME, sharded)
    folder = get(server, cache)
    assert folder.name == commit(pickled) and len(list(folder.glob("model-*.safetensors"))) == 4
    assert on_disk(parse(NAME), cache) == folder
    assert torch.equal(weight(folder), torch.load(pickled / BIN, weights_only=True)["weight"])
    assert BIN not in asked(server) and not scan_cache_dir(cache).warnings


@pytest.mark.parametrize(
    "wrong",
    [
        {"author": "somebody"},
        {"author": "SFconvertbot2"},
        {"status": "closed"},
        {"status": "draft"},
        {"base": "0" * 40},
    ],
)
def test_pull_requests_of_others_or_of_another_commit_are_not(
    server: HubServer, pickled: Path, offer: Path, wrong: dict[str, str]
) -> None:
    server.add_pull_request(NAME, offer, **wrong)
    assert formats.bot_pull_request(Hub(NAME), commit(pickled), server.url) is None
    right = server.add_pull_request(NAME, offer)
    found = formats.bot_pull_request(Hub(NAME), commit(pickled), server.url)
    assert found == formats.Origin(right, commit(offer))
    server.ignores = True  # a mirror that gives all pull requests whoever was asked for
    assert formats.bot_pull_request(Hub(NAME), commit(pickled), server.url) == found


def test_an_older_revision_has_the_pull_request_of_its_own(
    server: HubServer, pickled: Path, offer: Path, tmp_path: Path
) -> None:
    old = without_safetensors(tmp_path / "old")
    (old / "README.md").write_text("as it was")
    server.add(NAME, old, revision="v1")
    first = server.add_pull_request(NAME, offer, status="merged", base=commit(old))
    second = server.add_pull_request(NAME, offer)
    assert formats.bot_pull_request(Hub(NAME), commit(old), server.url).reference == first  # type: ignore[union-attr]
    assert formats.bot_pull_request(Hub(NAME), commit(pickled), server.url).reference == second  # type: ignore[union-attr]


def test_where_a_hub_does_not_tell_there_is_none(
    server: HubServer, cache: Path, offer: Path, conversions: list[list[Path]]
) -> None:
    server.add_pull_request(NAME, offer)
    for status, body in (
        (404, b"{}"),
        (500, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"discussions": [1]}'),
    ):
        server.fail_next(1, status, matching="/discussions", body=body)
        assert formats.bot_pull_request(Hub(NAME), "c", server.url) is None
    for body in (b"[]", b"[1, 2]", b"{}", b'[{"id": 1}, {"id": "c"}]', b"null"):
        server.fail_next(1, 200, matching="/commits/", body=body)
        formats.bot_pull_request(Hub(NAME), "c", server.url)
    server.fail_next(1, 403, matching="/discussions")
    get(server, cache)
    assert len(conversions) == 1


@pytest.mark.parametrize(
    ("status", "told"), [(404, {"X-Error-Code": "RevisionNotFound"}), (503, {}), (0, {})]
)
def test_a_pull_request_that_is_gone_or_incomplete_keeps_nothing_away(
    server: HubServer,
    cache: Path,
    pickled: Path,
    tmp_path: Path,
    conversions: list[list[Path]],
    status: int,
    told: dict[str, str],
) -> None:
    broken = offered(tmp_path / "offer", pickled, shards=4)
    min(broken.glob("model-*.safetensors")).unlink()
    server.add_pull_request(NAME, broken)
    if status:
        server.fail_next(9, status, told, matching=f"/revision/{commit(broken)}")
    folder = get(server, cache)
    assert len(conversions) == 1 and formats.origin_of(folder) is None
    assert torch.equal(weight(folder), torch.load(pickled / BIN, weights_only=True)["weight"])


def test_the_server_tells_what_huggingface_hub_reads(server: HubServer, pickled: Path, offer: Path) -> None:
    server.add_pull_request(NAME, offer, author="somebody")
    server.add_pull_request(NAME, offer)
    api = HfApi(endpoint=server.url)
    one, other = api.get_repo_discussions(NAME)
    assert [(d.num, d.author, d.status, d.is_pull_request, d.git_reference) for d in (one, other)] == [
        (2, "SFconvertbot", "open", True, "refs/pr/2"),
        (1, "somebody", "open", True, "refs/pr/1"),
    ]
    assert [d.num for d in api.get_repo_discussions(NAME, author="SFconvertbot")] == [2]
    history = api.list_repo_commits(NAME, revision="refs/pr/2")
    assert [entry.commit_id for entry in history] == [commit(offer), commit(pickled)]
    assert history[0].authors == ["SFconvertbot"]
    assert api.model_info(NAME, revision=commit(offer)).sha == commit(offer)
    assert callable(get_repo_discussions)


# Pickled weights


@pytest.mark.parametrize("shards", [0, 4])
def test_pickled_weights_become_safetensors_once(
    cache: Path, tmp_path: Path, conversions: list[list[Path]], shards: int
) -> None:
    source = without_safetensors(tmp_path / "source", shards)
    told: list[Progress] = []
    with HubServer({NAME: source}) as server:
        folder = get(server, cache, report=told.append)
        assert not {"tf_model.h5", "flax_model.msgpack", "old.pth", "model.onnx"} & asked(server)
        server.gone = True
        assert get(server, cache) == on_disk(parse(NAME), cache) == folder
    assert len(conversions) == 1 and len(weight(folder)) == PARAMETERS
    assert folder.name == commit(source) and formats.origin_of(folder) is None
    downloads = [step for step in told if step.stage == "downloading"]
    assert downloads[-1].done == downloads[-1].total and told[-1].stage == "converting"
    # The safetensors take the place of the download.
    assert not [*cache.rglob("*.bin"), *cache.rglob("converting*"), *cache.rglob("*.incomplete")]
    info = scan_cache_dir(cache)
    assert not info.warnings and info.size_on_disk < 4 * PARAMETERS + 100_000
    (repository,) = info.repos
    strategy = info.delete_revisions(*[revision.commit_hash for revision in repository.revisions])
    strategy.execute()
    assert on_disk(parse(NAME), cache) is None and not scan_cache_dir(cache).repos


def test_a_real_conversion_ends_in_a_folder_like_any_other(
    server: HubServer, cache: Path, pickled: Path
) -> None:
    folder = get(server, cache)
    assert torch.equal(weight(folder), torch.load(pickled / BIN, weights_only=True)["weight"])
    assert [path.name for path in formats.held(folder)] == ["model.safetensors"]


def test_a_download_of_pickled_weights_goes_on_where_it_stopped(
    server: HubServer, cache: Path, pickled: Path, conversions: list[list[Path]]
) -> None:
    server.cut_at(0.5, then_gone=True)
    with pytest.raises(CheckpointError, match="goes on where it stopped"):
        get(server, cache)
    server.heal()
    server.log.clear()
    get(server, cache)
    size = (pickled / BIN).stat().st_size
    assert server.sent(BIN) == size - int(size * 0.5) and len(conversions) == 1


def test_a_damaged_pickle_is_thrown_away_before_it_is_read(
    server: HubServer, cache: Path, pickled: Path, conversions: list[list[Path]]
) -> None:
    etag = inspect(parse(NAME), RECIPE, endpoint=server.url, cache_dir=cache).files[-1].etag
    blobs = cache / "models--someone--tiny-feelings" / "blobs"
    (blobs / f"{etag}.incomplete").write_bytes(b"\0" * 1000)
    with pytest.raises(CheckpointError, match="arrived damaged"):
        get(server, cache)
    assert not conversions


def test_never_a_pickle_beside_safetensors(cache: Path, tmp_path: Path) -> None:
    with HubServer({NAME: make_repository(tmp_path / "both")}) as server:
        get(server, cache)
        assert not [name for name in asked(server) if name.endswith((".bin", ".h5", ".onnx", ".msgpack"))]
        assert not server.requests("/discussions")


def test_a_refused_pickle_does_not_stay(cache: Path, tmp_path: Path, conversions: list[list[Path]]) -> None:
    source = without_safetensors(tmp_path / "source")
    torch.save({"weight": torch.rand(100_000), "epoch": 3}, source / BIN)
    with (
        HubServer({NAME: source}) as server,
        pytest.raises(CheckpointError, match="is not a plain list of weights"),
    ):
        get(server, cache)
    assert not [path for path in cache.rglob("*") if path.stat().st_size > 200_000]
    assert on_disk(parse(NAME), cache) is None and not scan_cache_dir(cache).warnings


def test_a_conversion_that_is_left_begins_again(
    server: HubServer, cache: Path, conversions: list[list[Path]]
) -> None:
    class Left(BaseException):
        pass

    def leave(progress: Progress) -> None:
        if progress.stage == "converting":
            raise Left

    with pytest.raises(Left):
        get(server, cache, report=leave)
    assert on_disk(parse(NAME), cache) is None and not scan_cache_dir(cache).warnings
    assert not list(cache.rglob("converting*"))
    sent = server.sent(BIN)
    get(server, cache)
    assert len(conversions) == 2 and server.sent(BIN) == sent


def test_pickled_weights_of_another_program_are_converted_without_a_hub_and_kept(
    server: HubServer, cache: Path, pickled: Path, conversions: list[list[Path]]
) -> None:
    api = HfApi(endpoint=server.url)
    for name in ("config.json", "tokenizer.json", "vocab.txt", BIN):
        api.hf_hub_download(NAME, name, cache_dir=cache)
    server.gone = True
    folder = on_disk(parse(NAME), cache)
    assert folder and get(server, cache) == folder
    assert [path.name for path in formats.held(folder)] == ["model.safetensors"]
    assert (folder / BIN).read_bytes() == (pickled / BIN).read_bytes()
    assert not scan_cache_dir(cache).warnings


def test_two_visitors_convert_once(server: HubServer, cache: Path, conversions: list[list[Path]]) -> None:
    folders = by_two(lambda: get(server, cache))
    assert len(folders) == 2 and folders[0] == folders[1] and len(conversions) == 1


def test_who_waits_for_the_conversion_of_another_process_can_leave(
    server: HubServer,
    cache: Path,
    pickled: Path,
    conversions: list[list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub.utils import WeakFileLock

    monkeypatch.setattr(locks, "LOOK", 0.01)
    lock = cache / ".locks" / "models--someone--tiny-feelings" / f"{commit(pickled)}.conversion.lock"
    lock.parent.mkdir(parents=True)

    class Left(BaseException):
        pass

    def leave(progress: Progress) -> None:
        if progress.stage.startswith("waiting for another process"):
            raise Left

    with WeakFileLock(lock), pytest.raises(Left):
        get(server, cache, report=leave)
    assert not conversions
    get(server, cache)
    assert len(conversions) == 1


def test_room_is_needed_for_both_and_memory_as_for_any_other(server: HubServer, cache: Path) -> None:
    for limit, value, sentence in (
        ("free_disk", 3_000_000, "needs 4 MB on disk and 3 MB are free"),
        ("free_memory", 1_200_000, "needs 2 MB of memory and 1 MB are free"),
        ("max_download", 1_000_000, "is a download of 2 MB and at most 1 MB are allowed"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            get(server, cache, **dict[str, Any]({limit: value}))
    assert not server.sent(BIN)
    inspect(
        parse(NAME), RECIPE, endpoint=server.url, cache_dir=cache, free_disk=4_100_000, max_download=2_100_000
    )


@pytest.mark.parametrize("blobs", [True, False])
def test_a_small_pickle_and_a_mirror_without_sizes(
    cache: Path, tmp_path: Path, conversions: list[list[Path]], blobs: bool
) -> None:
    source = without_safetensors(tmp_path / "source")
    torch.save({"weight": torch.rand(10)}, source / BIN)
    with HubServer({NAME: source}, blobs=blobs) as server:
        assert len(weight(get(server, cache))) == 10


# Nothing that is read here


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            ["tf_model.h5"],
            "has no model.safetensors or pytorch_model.bin in its main folder, only tf_model.h5 (for",
        ),
        (
            ["flax_model.msgpack", "rust_model.ot"],
            "only flax_model.msgpack (for Flax) and rust_model.ot (for Rust)",
        ),
        (["onnx/model.onnx"], "only onnx/model.onnx (for ONNX)"),
        (["model.Q4.gguf"], "only model.Q4.gguf (for llama.cpp)"),
        (["weights.pt"], "only weights.pt (for other programs)"),
        ([], "in its main folder, nothing else either"),
    ],
)
def test_other_formats_are_named(cache: Path, tmp_path: Path, files: list[str], sentence: str) -> None:
    source = tmp_path / "source"
    for name in ("config.json", "tokenizer.json", *files):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("{}")
    with HubServer({NAME: source}) as server:
        with pytest.raises(CheckpointError) as caught:
            get(server, cache)
        assert sentence in str(caught.value) and "Choose a checkpoint with safetensors." in str(caught.value)
        assert not asked(server)


@pytest.mark.parametrize(
    "content", ["{", '{"weight_map": {"a": "../b.bin"}}', '{"weight_map": {"a": "b.bin"}}']
)
def test_an_index_of_shards_that_are_not_there(cache: Path, tmp_path: Path, content: str) -> None:
    source = without_safetensors(tmp_path / "source", shards=2)
    (source / INDEX).write_text(content)
    with HubServer({NAME: source}) as server, pytest.raises(CheckpointError, match="is incomplete"):
        get(server, cache)


def test_what_a_pull_request_has_left_does_not_count_for_a_conversion(
    server: HubServer, cache: Path, offer: Path, conversions: list[list[Path]]
) -> None:
    server.add_pull_request(NAME, offer)
    server.cut_at(0.5, then_gone=True)
    with pytest.raises(CheckpointError):
        get(server, cache)
    (folder,) = {path.parent for path in cache.glob("*/snapshots/*/tokenizer.json")}
    (folder / formats.ORIGIN).write_text('{"reference": "refs/pr/1", "commit": "c0ffee"}')
    assert formats.origin_of(folder) == formats.Origin("refs/pr/1", "c0ffee")
    server.heal()
    server.repositories[NAME].pull_requests[0].status = "closed"
    assert formats.origin_of(get(server, cache)) is None and len(conversions) == 1
