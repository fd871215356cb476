"""Repositories in the form that the hub has them in: what is known of each, and what the app makes of it."""

from __future__ import annotations

import json
import tracemalloc
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from benchmarks import catalogue
from components.models.loading import load, weights_bytes
from components.models.manager import ModelManager
from components.weights.checkpoints import Checkpoint, Offer
from components.weights.hub import fetch, inspect
from tests import repositories
from tests.hub_server import HubServer
from tests.repositories import PICKLE, SAFETENSORS, ending, facts

NAMES = sorted(facts())
NUMBER = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes
PICKLED = ("Helsinki-NLP/opus-mt-en-fr", "cardiffnlp/twitter-roberta-base-sentiment-latest")
# Small ones of these differ in nothing from others that are tried: other language pairs, other sizes.
ALIKE = {
    "openai/whisper-base",
    "openai/whisper-small",
    *(f"Helsinki-NLP/opus-mt-{pair}" for pair in ("fr-en", "en-de", "de-en", "en-es")),
}
OFFERED = {source.repo_id: (tab, source) for tab, source in reversed(catalogue.offered())}


@pytest.fixture(autouse=True)
def without_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """All that is offered, small, at the revisions that the tabs ask for."""
    place = tmp_path_factory.mktemp("hub")
    with HubServer() as server:
        for name, (_, source) in OFFERED.items():
            known, folder = facts()[name], place / name
            repositories.make(known, folder, small=True)
            server.add(name, folder, revision=source.revision)
            if known.is_converted:
                repositories.make(known, place / "converted" / name, small=True, converted=True)
                server.add_pull_request(name, place / "converted" / name)
        yield server


def recipe(name: str) -> Any:
    offers = catalogue.TABS[OFFERED[name][0]][1]
    return next(o.recipe for o in offers if name in (o.course.name, *(one.name for one in o.alternatives)))


def formats(names: Any) -> set[str]:
    return {ending(name) for name in names} & set(catalogue.WEIGHTS)


# What is known


def test_there_are_facts_of_all_that_is_offered_and_of_nothing_else():
    assert set(OFFERED) == set(NAMES)
    for name, (_, source) in OFFERED.items():
        assert source.revision == "main" or facts()[name].commit.startswith(source.revision)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_has_the_size_that_the_hub_states(name):
    known = facts()[name]
    config = transformers.AutoConfig.for_model(**repositories.configuration(known))
    with torch.device("meta"):
        state = getattr(transformers, known.model)(config).state_dict(keep_vars=True)
    # Tied weights are one object under several names.
    numbers = {id(tensor): tensor.numel() for tensor in state.values()}
    size = sum(numbers.values()) * NUMBER[known.dtype]
    for tensor, shape in known.extra.items():
        size += torch.Size(shape).numel() * (8 if tensor.endswith("position_ids") else NUMBER[known.dtype])
    # Rounded to three digits on the page, and the file has names as well.
    assert size == pytest.approx(known.files[known.weights], rel=0.006)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_is_known_has_the_stated_length(name):
    known = facts()[name]
    for path, text in known.content.items():
        assert json.loads(text) and len(text) == known.files[path]


# What is served


def test_a_large_file_is_hashed_and_sent_block_by_block(tmp_path):
    size = 400_000_000
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(size)
    with HubServer() as server:
        tracemalloc.start()
        server.add("a/b", tmp_path)
        url = f"{server.url}/a/b/resolve/main/model.safetensors"
        request = urllib.request.Request(url, headers={"Range": f"bytes={size - 7}-"})
        with urllib.request.urlopen(request) as answer:
            assert (answer.status, answer.read()) == (206, bytes(7))
        with urllib.request.urlopen(url) as answer:
            assert answer.headers["Content-Length"] == str(size)
            assert answer.read(10) == bytes(10)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < size / 40


def test_a_repository_has_the_files_of_the_true_one(hub):
    for name in NAMES:
        known, (_, source) = facts()[name], OFFERED[name]
        folder = hub.repositories[name].revisions[source.revision]
        made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert made == set(known.files)
        if known.weights == SAFETENSORS:
            tensors = load_file(folder / SAFETENSORS)
            kinds = {tensor.dtype for name, tensor in tensors.items() if name not in known.extra}
            assert kinds - {torch.int64} == {getattr(torch, known.dtype)}
            assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_would_be_fetched_of_each(hub, tmp_path, name):
    _, source = OFFERED[name]
    listing = inspect(source, recipe(name), endpoint=hub.url, cache_dir=tmp_path)
    known = facts()[name]
    wanted = ".safetensors" if SAFETENSORS in known.files or known.is_converted else ".bin"
    assert formats(file.name for file in listing.files) == {wanted}
    assert not any(file.name.startswith(("onnx/", "openvino/")) for file in listing.files)
    assert not {"training_args.bin", "README.md", "map.jpeg"} & {file.name for file in listing.files}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALIKE])
def test_each_answers_in_its_tab(hub, tmp_path, name):
    tab, source = OFFERED[name]

    def choose(offer: Offer, choice: str) -> tuple[Checkpoint, str]:
        return Checkpoint(choice, source, offer.recipe), ""

    def brought(checkpoint: Checkpoint, report: Any) -> Path:
        return fetch(source, checkpoint.recipe, report, endpoint=hub.url, cache_dir=tmp_path)

    cpu = torch.device("cpu")
    models = ModelManager(
        choose,
        brought,
        lambda one, folder: load(one, folder, cpu, torch.float32),
        weights_bytes,
        lambda: 10**12,
    )
    run, _ = catalogue.TABS[tab]
    # Random weights understand nothing of a recording, and what is unclear is left out.
    assert run(name, models) or tab == "speech"
    sent = {request.path for request in hub.requests(f"{name}/resolve/", "GET") if request.sent}
    known = facts()[name]
    assert formats(sent) == {".safetensors" if known.is_converted else ending(known.weights)}


@pytest.mark.parametrize("file", [SAFETENSORS, PICKLE])
def test_shards_are_one_checkpoint(tmp_path, file):
    names = {SAFETENSORS: "distilbert/distilbert-base-uncased", PICKLE: PICKLED[1]}
    known = facts()[names[file]]
    repositories.make(known, tmp_path / "folder", small=True, shards=3)
    with HubServer({known.name: tmp_path / "folder"}) as server:
        source, cache = OFFERED[known.name][1], tmp_path / "cache"
        listing = inspect(source, recipe(known.name), endpoint=server.url, cache_dir=cache)
    stem, _, suffix = file.rpartition(".")
    fetched = {f.name for f in listing.files if f.name.startswith(stem) and f.name.endswith(suffix)}
    assert fetched == {f"{stem}-{i:05}-of-00003.{suffix}" for i in (1, 2, 3)}
