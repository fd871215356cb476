"""What a Space's environment says, and that it says nothing elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.server import hosting
from components.settings import parse

# What CPU basic has, the free hardware.
BASIC = {
    "SYSTEM": "spaces",
    "SPACE_ID": "owner/tour",
    "SPACE_HOST": "owner-tour.hf.space",
    "CPU_CORES": "2",
    "MEMORY": "16Gi",
    "ACCELERATOR": "none",
}


def test_elsewhere_nothing_is_set():
    assert hosting.defaults({}) == {}
    assert hosting.defaults({"SPACE_ID": "", "CPU_CORES": "2"}, Path("/data")) == {}
    assert not hosting.on_space({}) and not hosting.zero_gpu({"SPACES_ZERO_GPU": "true"})


def test_the_free_hardware():
    assert hosting.defaults(BASIC) == {
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": "7860",
        "OMP_NUM_THREADS": "2",
        "TOUR_KEEP_ALIVE": "-1",
        "TOUR_MEMORY_BUDGET": "10.3",
        "TOUR_QUEUE": "32",
        "TOUR_MAX_AUDIO_MINUTES": "10",
    }


def test_without_a_word_about_cores_and_memory_it_is_the_free_hardware():
    assert hosting.defaults({"SPACE_ID": "owner/tour"}) == hosting.defaults(BASIC)


def test_settings_understand_all_of_it():
    settings = parse([], {**BASIC, **hosting.defaults(BASIC, Path("/data"))})
    assert (settings.host, settings.port) == ("0.0.0.0", 7860)
    assert (settings.memory_budget, settings.keep_alive, settings.queue) == (10.3, -1, 32)
    assert settings.max_audio_minutes == 10
    assert settings.cache == Path("/data/transformer-tour")
    assert (settings.preload, settings.share) == ("", False)


def test_everybody_can_open_a_space():
    assert parse([], hosting.defaults(BASIC)).exposed


@pytest.mark.parametrize(
    ("name", "value"), [(name, "mine") for name in hosting.defaults(BASIC, Path("/data"))]
)
def test_what_the_owner_has_set_stays(name, value):
    assert name not in hosting.defaults({**BASIC, name: value}, Path("/data"))


def test_an_empty_variable_is_not_set():
    assert hosting.defaults({**BASIC, "TOUR_QUEUE": ""})["TOUR_QUEUE"] == "32"


def test_caches_go_to_the_storage_that_stays():
    found = hosting.defaults(BASIC, Path("/data"))
    assert found["HF_HOME"] == "/data/.huggingface"
    assert found["TOUR_CACHE"] == "/data/transformer-tour"
    assert not {"HF_HOME", "TOUR_CACHE"} & set(hosting.defaults(BASIC))


def test_storage_is_a_folder_that_can_be_written_to(tmp_path, monkeypatch):
    assert hosting.storage(tmp_path) == tmp_path
    assert hosting.storage(tmp_path / "none") is None
    (tmp_path / "file").write_text("")
    assert hosting.storage(tmp_path / "file") is None
    # Whoever runs the tests may be root, who can write everywhere.
    monkeypatch.setattr(os, "access", lambda folder, mode: not mode & os.W_OK)
    assert hosting.storage(tmp_path) is None


def test_more_cores_take_longer_recordings():
    found = hosting.defaults({**BASIC, "CPU_CORES": "8", "MEMORY": "32Gi"})
    assert found["OMP_NUM_THREADS"] == "8"
    assert found["TOUR_MEMORY_BUDGET"] == "20.6"
    assert not {"TOUR_QUEUE", "TOUR_MAX_AUDIO_MINUTES"} & set(found)


def test_with_a_gpu_the_budget_is_what_is_free_there():
    found = hosting.defaults({**BASIC, "ACCELERATOR": "t4-small", "CPU_CORES": "4", "MEMORY": "15Gi"})
    assert "TOUR_MEMORY_BUDGET" not in found
    assert found["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    ("written", "lent"), [("true", True), ("1", True), ("T", True), ("false", False), ("", False)]
)
def test_a_gpu_that_is_lent(written, lent):
    environment = {**BASIC, "SPACES_ZERO_GPU": written}
    assert hosting.zero_gpu(environment) is lent
    assert ("TOUR_QUEUE" in hosting.defaults(environment)) is not lent


@pytest.mark.parametrize(
    ("cores", "threads"), [("4", "4"), ("1500m", "2"), ("500m", "1"), ("many", "2"), ("0", "2")]
)
def test_cores(cores, threads):
    assert hosting.defaults({**BASIC, "CPU_CORES": cores})["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize(
    ("memory", "budget"),
    [("16Gi", "10.3"), ("16G", "9.6"), ("16000000000", "9.6"), ("15360Mi", "9.7"), ("lots", "10.3")],
)
def test_memory(memory, budget):
    assert hosting.defaults({**BASIC, "MEMORY": memory})["TOUR_MEMORY_BUDGET"] == budget
