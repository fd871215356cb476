"""The real huggingface_hub client against a hub on this machine."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.errors import CheckpointError, InputError
from components.progress import Progress, Report, unreported
from components.weights.checkpoints import ROOT, Hub, Recipe
from components.weights.hub import HubStatus, Listing, fetch, inspect, on_disk, parse
from tests.hub_server import HubServer, etag

NAME = "someone/tiny-feelings"
PARAMETERS = 500_000
NEEDED = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "source.spm",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "model.safetensors",
}
USELESS = (
    "README.md",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
    "model.fp16.safetensors",
    "old.pth",
    "tiny.gguf",
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/openvino_model.xml",
)


def fits(config: dict[str, Any]) -> str | None:
    if "DistilBertForSequenceClassification" in config.get("architectures", []):
        return None
    return "it does not classify texts. Choose a text classifier."


RECIPE = Recipe("sentiment", lambda config: "AutoModelForSequenceClassification", "AutoTokenizer", fits)


def make_repository(folder: Path, seed: int = 0, shards: int = 0, **config: Any) -> Path:
    """A checkpoint of PARAMETERS random numbers in float32, among files that nobody needs."""
    for name in USELESS + tuple(NEEDED - {"model.safetensors"}):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{{}} {name}")
    kind = {"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(kind | {"dtype": "float32"} | config))
    numbers = np.random.default_rng(seed).standard_normal(PARAMETERS).astype(np.float32)
    if not shards:
        save_file({"weight": numbers}, folder / "model.safetensors")
        return folder
    names = {f"weight.{i}": f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)}
    for (tensor, name), part in zip(names.items(), np.split(numbers, shards), strict=True):
        save_file({tensor: part}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def hub(repository: Path) -> Iterator[HubServer]:
    with HubServer({NAME: repository}) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def visitor_without_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client wanted to wait before it asks again; it does not."""
    wanted: list[float] = []
    clock = SimpleNamespace(sleep=wanted.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    return wanted


def get(hub: HubServer, cache: Path, name: str = NAME, report: Report = unreported, **limits: Any) -> Path:
    return fetch(parse(name), RECIPE, report, endpoint=hub.url, cache_dir=cache, **limits)


def look(hub: HubServer, cache: Path, name: str = NAME, **limits: Any) -> Listing:
    return inspect(parse(name), RECIPE, endpoint=hub.url, cache_dir=cache, **limits)


def refused(hub: HubServer, cache: Path, name: str = NAME, **limits: Any) -> str:
    """The sentence with which a checkpoint is refused, before anything large was asked for."""
    with pytest.raises(CheckpointError) as caught:
        get(hub, cache, name, **limits)
    assert not [r for r in hub.requests(method="GET") if "safetensors" in r.path and ".index." not in r.path]
    return str(caught.value)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# What a visitor types


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("google/vit-base-patch16-224", Hub("google/vit-base-patch16-224", "main")),
        ("  google/vit-base-patch16-224@3f49326 ", Hub("google/vit-base-patch16-224", "3f49326")),
        ("gpt2", Hub("gpt2", "main")),
        ("a/b@refs/pr/3", Hub("a/b", "refs/pr/3")),
        ("https://huggingface.co/openai/whisper-base.en", Hub("openai/whisper-base.en", "main")),
        ("https://huggingface.co/openai/whisper-base.en/", Hub("openai/whisper-base.en", "main")),
        ("huggingface.co/gpt2?library=transformers", Hub("gpt2", "main")),
        ("https://huggingface.co/a/b/tree/v1.0", Hub("a/b", "v1.0")),
        ("https://huggingface.co/a/b/blob/refs%2Fpr%2F3/config.json", Hub("a/b", "refs/pr/3")),
    ],
)
def test_parse(text: str, expected: Hub) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a/b/c",
        "two words",
        "../etc",
        "a//b",
        "owner/",
        "https://huggingface.co/datasets/a/b",
        "x" * 200,
    ],
)
def test_parse_says_how_to_write_it(text: str) -> None:
    with pytest.raises(InputError, match="for example google/vit-base-patch16-224"):
        parse(text)


@pytest.mark.parametrize("revision", ["../../main", "/etc/passwd", "a b", "a/../../b"])
def test_parse_keeps_revisions_inside_the_cache(revision: str) -> None:
    with pytest.raises(InputError, match="is not a revision"):
        parse(f"a/b@{revision}")


# A download


def test_fetch_brings_what_is_needed_and_nothing_else(hub: HubServer, cache: Path, repository: Path) -> None:
    folder = get(hub, cache)
    assert names(folder) == NEEDED
    for name in NEEDED:
        assert (folder / name).read_bytes() == (repository / name).read_bytes()
    for name in USELESS:
        assert not hub.requests(f"/{name}")
    size = (repository / "model.safetensors").stat().st_size
    assert hub.sent("model.safetensors") == size


def test_fetch_reports_bytes_of_all_files(hub: HubServer, cache: Path) -> None:
    seen: list[Progress] = []
    folder = get(hub, cache, report=seen.append)
    total = sum((folder / name).stat().st_size for name in NEEDED)
    here_for_the_check = (folder / "config.json").stat().st_size
    assert seen[0] == Progress("downloading", here_for_the_check, total)
    assert seen[-1] == Progress("downloading", total, total)
    done = [progress.done or 0 for progress in seen]
    assert done == sorted(done)
    assert len(done) >= 4


def test_inspect_lists_files_and_commit(hub: HubServer, cache: Path, repository: Path) -> None:
    listing = look(hub, cache)
    assert {file.name for file in listing.files} == NEEDED
    assert listing.bytes == sum((repository / name).stat().st_size for name in NEEDED)
    assert listing.commit == hub.add(NAME, repository)
    assert listing.parameters == PARAMETERS
    assert listing.config["model_type"] == "distilbert"
    assert hub.requests("config.json") and not hub.requests(".safetensors")


def test_shards_come_as_the_index_lists_them(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", shards=2)
    (source / "model-00009-of-00009.safetensors").write_bytes(b"left over")
    hub.add("a/sharded", source)
    folder = get(hub, cache, "a/sharded")
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert names(folder) == NEEDED - {"model.safetensors"} | shards | {"model.safetensors.index.json"}
    assert on_disk(parse("a/sharded"), cache) == folder
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert on_disk(parse("a/sharded"), cache) is None


def test_a_missing_shard_is_noticed_first(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source", shards=2)
    (source / "model-00002-of-00002.safetensors").unlink()
    hub.add("a/sharded", source)
    assert "is incomplete (model-00002-of-00002.safetensors)" in refused(hub, cache, "a/sharded")


@pytest.mark.parametrize(
    "index",
    [
        '{"weight_map": {"weight": "pytorch_model.bin"}}',
        '{"weight_map": {"w": "../x.safetensors"}}',
        "[]",
        "{",
    ],
)
def test_an_index_that_names_no_safetensors(hub: HubServer, cache: Path, tmp_path: Path, index: str) -> None:
    source = make_repository(tmp_path / "source", shards=2)
    (source / "model.safetensors.index.json").write_text(index)
    hub.counts = False
    hub.add("a/sly", source)
    assert "is incomplete (the list of its weights)" in refused(hub, cache, "a/sly")
    assert not hub.requests("pytorch_model.bin")
    assert on_disk(parse("a/sly"), cache) is None


def test_revisions(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    other = make_repository(tmp_path / "other", seed=1)
    commit = hub.add(NAME, other, revision="v2")
    for revision in ("v2", commit, commit[:7]):
        folder = get(hub, cache, f"{NAME}@{revision}")
        assert folder.name == commit
        assert on_disk(parse(f"{NAME}@{revision}"), cache) == folder
    assert (folder / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert get(hub, cache) != folder


def test_a_legacy_name_without_owner(hub: HubServer, cache: Path, repository: Path) -> None:
    hub.add("tiny", repository)
    assert names(get(hub, cache, "tiny")) == NEEDED


def test_large_files_from_another_host_get_no_token(
    hub: HubServer, cache: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.add(NAME, repository, access="gated")
    hub.cdn = True
    hub.cut_at(0.5)
    folder = get(hub, cache)
    assert (folder / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()
    first, second = hub.requests("/cdn/", method="GET")
    assert not first.authorized and not second.authorized and second.range
    assert all(request.authorized for request in hub.requests("/resolve/"))


def test_a_mirror_whose_listing_has_no_sizes(hub: HubServer, cache: Path, repository: Path) -> None:
    hub.blobs = hub.counts = False
    listing = look(hub, cache)
    assert listing.bytes == sum((repository / name).stat().st_size for name in NEEDED)
    assert abs(listing.parameters - PARAMETERS) < 100  # from the size, so the header counts too
    assert names(get(hub, cache)) == NEEDED


def test_the_whole_library_gets_along_with_this_server(hub: HubServer, cache: Path, repository: Path) -> None:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(NAME, endpoint=hub.url, cache_dir=cache))
    assert names(folder) == names(repository)
    assert on_disk(parse(NAME), cache) == folder


# A download that is cut


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_a_download_goes_on_where_it_stopped(
    hub: HubServer, cache: Path, repository: Path, fraction: float
) -> None:
    hub.cut_at(fraction, then_gone=True)
    with pytest.raises(
        CheckpointError, match=r"stopped answering after \d of 2 MB\. Try again: the download"
    ):
        get(hub, cache)
    assert on_disk(parse(NAME), cache) is None
    size = (repository / "model.safetensors").stat().st_size
    arrived = int(size * fraction)
    assert hub.sent("model.safetensors") == arrived

    hub.heal()
    hub.log.clear()
    seen: list[Progress] = []
    folder = get(hub, cache, report=seen.append)
    assert [r.range for r in hub.requests("model.safetensors", "GET")] == [f"bytes={arrived}-"]
    assert hub.sent("model.safetensors") == size - arrived
    assert (folder / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()
    small = sum((repository / name).stat().st_size for name in NEEDED - {"model.safetensors"})
    assert seen[0] == Progress("downloading", small + arrived, small + size)
    assert seen[-1] == Progress("downloading", small + size, small + size)
    assert not list(cache.rglob("*.incomplete"))


def test_a_short_cut_is_not_noticed(hub: HubServer, cache: Path, repository: Path) -> None:
    hub.cut_at(0.3)
    hub.cut_at(0.6)
    get(hub, cache)
    size = (repository / "model.safetensors").stat().st_size
    ranges = [request.range for request in hub.requests("model.safetensors", "GET")]
    assert ranges == [None, f"bytes={int(size * 0.3)}-", f"bytes={int(size * 0.6)}-"]
    assert hub.sent("model.safetensors") == size


def test_a_server_without_ranges_starts_again(hub: HubServer, cache: Path, repository: Path) -> None:
    hub.cut_at(0.5, then_gone=True)
    with pytest.raises(CheckpointError):
        get(hub, cache)
    hub.heal()
    hub.ranges = False
    seen: list[Progress] = []
    folder = get(hub, cache, report=seen.append)
    assert (folder / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()
    assert seen[-1].done == seen[-1].total


def test_a_damaged_download_is_thrown_away(hub: HubServer, cache: Path, repository: Path) -> None:
    weights = repository / "model.safetensors"
    blobs = cache / "models--someone--tiny-feelings" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag(weights)}.incomplete").write_bytes(b"\0" * 1_000_000)
    with pytest.raises(CheckpointError, match="arrived damaged and was thrown away"):
        get(hub, cache)
    assert on_disk(parse(NAME), cache) is None
    assert (get(hub, cache) / "model.safetensors").read_bytes() == weights.read_bytes()


def test_the_disk_fills_up(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if path.suffix == ".incomplete" and path.name.count(".") == 1 and mode in ("ab", "wb"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return ordinary(path, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(CheckpointError, match=r"The disk is full; .* stopped at 0 of 2 MB. Make room"):
            get(hub, cache)
    assert names(get(hub, cache)) == NEEDED


def by_two(visit: Callable[[], Path]) -> list[Path]:
    """What two visitors get who come at the same moment."""
    together = threading.Barrier(2)

    def come(number: int) -> Path:
        together.wait()
        return visit()

    with ThreadPoolExecutor(2) as visitors:
        return list(visitors.map(come, range(2)))


def test_two_visitors_download_once(hub: HubServer, cache: Path, repository: Path) -> None:
    folders = by_two(lambda: get(hub, cache))
    assert len(folders) == 2 and folders[0] == folders[1]
    assert hub.sent("model.safetensors") == (repository / "model.safetensors").stat().st_size


# What is refused, before anything large is fetched


def test_unknown_repository(hub: HubServer, cache: Path) -> None:
    assert "There is no model nobody/nothing on the hub" in refused(hub, cache, "nobody/nothing")


def test_unknown_revision(hub: HubServer, cache: Path) -> None:
    assert "has no revision v9. Leave out what follows the @" in refused(hub, cache, f"{NAME}@v9")


def test_gated_and_private(
    hub: HubServer, cache: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("a/gated", repository, access="gated")
    hub.add("a/private", repository, access="private")
    for token in (None, "hf_wrong"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        assert "Ask for access on its page and set HF_TOKEN" in refused(hub, cache, "a/gated")
        assert "or it is private" in refused(hub, cache, "a/private")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert names(get(hub, cache, "a/gated")) == NEEDED
    assert names(get(hub, cache, "a/private")) == NEEDED


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (
            {"model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"},
            "has no model.safetensors or pytorch_model.bin in its main folder, only tf_model.h5 (for "
            "TensorFlow) and flax_model.msgpack (for Flax) and onnx/model.onnx (for ONNX).",
        ),
        ({"config.json"}, "has no config.json"),
        ({"tokenizer.json", "tokenizer_config.json", "vocab.txt", "source.spm"}, "without a tokenizer"),
    ],
)
def test_parts_that_are_missing(
    hub: HubServer, cache: Path, tmp_path: Path, missing: set[str], sentence: str
) -> None:
    source = make_repository(tmp_path / "source")
    for name in missing:
        (source / name).unlink()
    hub.add("a/part", source)
    assert sentence in refused(hub, cache, "a/part")


def test_only_an_adapter(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source")
    (source / "model.safetensors").rename(source / "adapter_model.safetensors")
    hub.add("a/lora", source)
    assert "is only an adapter" in refused(hub, cache, "a/lora")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"architectures": ["DistilBertForMaskedLM"]}, "does not fit sentiment: it does not classify texts"),
        ({"model_type": "homemade", "auto_map": {"AutoModel": "code.Model"}}, "program code of its own"),
        ({"model_type": "homemade"}, "of an unknown kind (homemade)"),
        ({"model_type": ["distilbert"]}, "of an unknown kind"),
        ({"quantization_config": {"quant_method": "gptq"}}, "are quantized, which is not loaded here"),
    ],
)
def test_configurations_that_do_not_load(
    hub: HubServer, cache: Path, tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    hub.add("a/other", make_repository(tmp_path / "source", **config))
    assert sentence in refused(hub, cache, "a/other")


def test_an_unreadable_configuration(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    source = make_repository(tmp_path / "source")
    for content in ("{", "[1]", "null"):
        (source / "config.json").write_text(content)
        hub.add("a/broken", source)
        assert "config.json of a/broken cannot be read" in refused(hub, cache, "a/broken")


def test_too_large_for_memory(hub: HubServer, cache: Path) -> None:
    sentence = refused(hub, cache, free_memory=1_200_000)
    assert sentence == (
        f"{NAME} needs 2 MB of memory and 1 MB are free. Choose a model of at most 0.3 million parameters."
    )
    assert look(hub, cache, free_memory=1_000_000, bytes_per_parameter=2).parameters == PARAMETERS


def test_half_precision_on_disk_needs_twice_its_size_in_memory(
    hub: HubServer, cache: Path, tmp_path: Path
) -> None:
    source = make_repository(tmp_path / "source", dtype="float16")
    halves = np.zeros(PARAMETERS, dtype=np.float16)
    save_file({"weight": halves}, source / "model.safetensors")
    hub.add("a/half", source)
    for hub.counts in (True, False):
        assert "needs 2 MB of memory" in refused(hub, cache, "a/half", free_memory=1_900_000)


def test_too_large_for_the_disk(hub: HubServer, cache: Path) -> None:
    assert "needs 2 MB on disk and 1 MB are free" in refused(hub, cache, free_disk=1_000_000)


def test_what_is_here_needs_no_more_room(hub: HubServer, cache: Path) -> None:
    hub.cut_at(0.75, then_gone=True)
    with pytest.raises(CheckpointError):
        get(hub, cache)
    hub.heal()
    assert names(get(hub, cache, free_disk=600_000)) == NEEDED


def test_too_large_a_download(hub: HubServer, cache: Path) -> None:
    sentence = refused(hub, cache, max_download=1_000_000)
    assert "is a download of 2 MB and at most 1 MB are allowed here" in sentence


# A hub in trouble


def test_busy_for_a_while(hub: HubServer, cache: Path) -> None:
    hub.fail_next(1, 429, {"Retry-After": "30"}, matching="/api/")
    assert refused(hub, cache) == "The hub is busy and asks to wait 30 seconds. Try again."
    hub.fail_next(1, 429, {"ratelimit": '"api";r=0;t=55'}, matching="/api/")
    assert "wait 55 seconds" in refused(hub, cache)
    assert names(get(hub, cache)) == NEEDED


def test_busy_in_the_middle(hub: HubServer, cache: Path) -> None:
    hub.fail_next(1, 429, {"Retry-After": "7"}, matching="model.safetensors")
    with pytest.raises(CheckpointError, match=r"asks to wait 7 seconds\. Try again: the download goes on"):
        get(hub, cache)
    assert names(get(hub, cache)) == NEEDED


def test_broken_for_a_while(hub: HubServer, cache: Path) -> None:
    hub.fail_next(1, 500, matching="/api/")
    assert refused(hub, cache) == "The hub has a problem of its own (error 500). Try again."
    hub.fail_next(1, 503, matching="model.safetensors")
    with pytest.raises(CheckpointError, match="error 503"):
        get(hub, cache)
    assert names(get(hub, cache)) == NEEDED


def test_a_small_file_that_fails_is_asked_for_again(hub: HubServer, cache: Path, waits: list[float]) -> None:
    hub.fail_next(3, 500, matching="vocab.txt")
    assert names(get(hub, cache)) == NEEDED
    assert waits
    hub.fail_next(50, 500, matching="a/other/resolve")
    hub.repositories["a/other"] = hub.repositories[NAME]
    with pytest.raises(CheckpointError, match="error 500"):
        get(hub, cache, "a/other")


def test_gone_before_it_began(hub: HubServer, cache: Path) -> None:
    hub.gone = True
    assert refused(hub, cache) == "The hub did not answer. Try again."


def test_a_portal_in_between(hub: HubServer, cache: Path) -> None:
    hub.fail_next(
        1, 200, {"Content-Type": "text/html"}, "/api/", b"<html>Please sign in to this network</html>"
    )
    assert "could not be fetched (no proper answer from the hub)" in refused(hub, cache)


# Without a hub


def test_a_copy_on_disk_needs_no_hub(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_disk(parse(NAME), cache) is None
    folder = get(hub, cache)
    hub.log.clear()
    hub.gone = True
    assert on_disk(parse(NAME), cache) == folder
    assert get(hub, cache) == folder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert get(hub, cache) == folder
    assert not hub.log


def test_a_copy_on_disk_still_has_to_fit_the_task(hub: HubServer, cache: Path) -> None:
    get(hub, cache)
    other = Recipe("image", RECIPE.model, RECIPE.processor, lambda config: "it is made for text.")
    with pytest.raises(CheckpointError, match="does not fit image: it is made for text"):
        fetch(parse(NAME), other, endpoint=hub.url, cache_dir=cache)


def test_offline_and_not_on_disk(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "is not on this disk and offline mode (HF_HUB_OFFLINE) is set" in refused(hub, cache)
    assert not hub.log


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_copy_does_not_count(hub: HubServer, cache: Path, missing: str) -> None:
    folder = get(hub, cache)
    (folder / missing).unlink()
    assert on_disk(parse(NAME), cache) is None
    assert names(get(hub, cache)) == NEEDED


# Does the hub answer?


def test_status_is_asked_once_a_minute(hub: HubServer) -> None:
    now = [0.0]
    status = HubStatus(hub.url, clock=lambda: now[0])
    assert not hub.log
    assert status.reachable() and status.reason() == ""
    hub.fail_next(1, 503)
    now[0] = 59.9
    assert status.reachable() and len(hub.log) == 1
    now[0] = 60.0
    assert not status.reachable()
    assert status.reason() == "the hub answered with error 503" and len(hub.log) == 2
    now[0] = 120.0
    assert status.reachable() and len(hub.log) == 3


def test_status_is_asked_once_by_many(hub: HubServer) -> None:
    status = HubStatus(hub.url)
    hub.delay = 0.05
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(status.reachable())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8 and len(hub.log) == 1


def test_status_of_a_hub_that_hangs(hub: HubServer) -> None:
    hub.delay = 60.0
    status = HubStatus(hub.url, timeout=0.2)
    assert not status.reachable()
    assert status.reason() == "the hub did not answer within 0.2 seconds"
    assert HubStatus(hub.url)._timeout == 2.0


def test_status_of_a_dead_port() -> None:
    with HubServer() as server:
        url = server.url
    assert HubStatus(url).reason() == "the hub cannot be reached"


def test_status_of_a_silent_name_server(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    status = HubStatus(hub.url, timeout=0.1)
    monkeypatch.setattr(status, "_answer", lambda: "" if answered.wait() else "never")
    assert status.reason() == "the hub did not answer within 0.1 seconds"
    answered.set()


def test_status_offline_asks_nobody(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status = HubStatus(hub.url)
    assert not status.reachable() and status.reason() == "offline mode is set"
    assert not hub.log


# The environment


def test_the_variables_of_huggingface_hub_hold(hub: HubServer, repository: Path, tmp_path: Path) -> None:
    hub.add("a/private", repository, access="private")
    script = """
import sys
from components.weights import hub
assert not {"huggingface_hub", "transformers", "torch"} & set(sys.modules)
from components.weights.checkpoints import Recipe
status = hub.HubStatus()
recipe = Recipe("sentiment", lambda config: "", "AutoTokenizer", lambda config: None)
print(status.reachable(), hub.fetch(hub.parse("a/private"), recipe))
"""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": hub.token}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=inherited | settings, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    reachable, folder = run.stdout.split(maxsplit=1)
    assert reachable == "True"
    assert folder.startswith(str(tmp_path / "home" / "hub" / "models--a--private"))
    assert names(Path(folder.strip())) == NEEDED
