"""Options before environment variables before defaults."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from components.settings import Settings, parse

# Field, what is written, and what it means.
VALUES = [
    ("host", "0.0.0.0", "0.0.0.0"),
    ("port", "8080", 8080),
    ("checkpoints", "starter", "starter"),
    ("cache", "some/folder", Path("some/folder")),
    ("memory_budget", "4.5", 4.5),
    ("keep_alive", "-1", -1.0),
    ("preload", "sentiment,speech", "sentiment,speech"),
    ("batch", "8", 8),
    ("queue", "100", 100),
    ("quantize", "int8", "int8"),
    ("max_audio_minutes", "5", 5.0),
    ("max_image_megapixels", "12.5", 12.5),
]
VARIABLES = {one.name: one.metadata["env"] for one in fields(Settings)}


def test_defaults():
    settings = parse([], {})
    assert (settings.host, settings.port, settings.share) == (None, None, False)
    assert settings.checkpoints == "auto"
    assert settings.memory_budget == 0
    assert settings.keep_alive == 10
    assert (settings.preload, settings.batch, settings.queue, settings.quantize) == ("", 32, 64, "none")
    assert settings.max_audio_minutes == 30
    assert settings.max_image_megapixels == 50
    assert settings.cache.name == "transformer-tour"
    assert settings == Settings()


@pytest.mark.parametrize(("name", "written", "value"), VALUES)
def test_each_option(name, written, value):
    settings = parse([f"--{name.replace('_', '-')}={written}"], {})
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize(("name", "written", "value"), VALUES)
def test_each_environment_variable(name, written, value):
    settings = parse([], {VARIABLES[name]: written})
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value) or isinstance(value, Path)


def test_every_setting_is_tested():
    assert {one.name for one in fields(Settings)} == {name for name, _, _ in VALUES} | {"share"}


def test_gradio_names_are_honoured():
    assert VARIABLES["host"] == "GRADIO_SERVER_NAME"
    assert VARIABLES["port"] == "GRADIO_SERVER_PORT"


def test_an_option_wins_over_a_variable():
    settings = parse(
        ["--port", "9000", "--checkpoints", "hub"], {"GRADIO_SERVER_PORT": "1", "TOUR_CHECKPOINTS": "auto"}
    )
    assert (settings.port, settings.checkpoints) == (9000, "hub")


def test_an_empty_variable_counts_as_none():
    assert parse([], dict.fromkeys(VARIABLES.values(), "")) == parse([], {})


@pytest.mark.parametrize(
    ("written", "value"), [("1", True), ("true", True), ("YES", True), ("0", False), ("no", False)]
)
def test_share(written, value):
    assert parse([], {"TOUR_SHARE": written}).share is value
    assert parse(["--share"], {"TOUR_SHARE": written}).share is True


@pytest.mark.parametrize(
    ("arguments", "public"),
    [
        ([], False),
        (["--host", "127.0.0.1"], False),
        (["--host", "localhost"], False),
        (["--host", "0.0.0.0"], True),
        (["--host", "192.168.0.7"], True),
        (["--share"], True),
    ],
)
def test_public_is_what_others_can_open(arguments, public):
    assert parse(arguments, {}).public is public


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--port", "http"], {}, "--port"),
        ([], {"GRADIO_SERVER_PORT": "http"}, "--port"),
        (["--checkpoints", "mine"], {}, "mine"),
        ([], {"TOUR_CHECKPOINTS": "mine"}, "TOUR_CHECKPOINTS"),
        (["--memory-budget", "much"], {}, "--memory-budget"),
        (["--memory-budget", "nan"], {}, "--memory-budget"),
        (["--memory-budget", "-1"], {}, "--memory-budget"),
        (["--keep-alive", "nan"], {}, "--keep-alive"),
        (["--batch", "0"], {}, "--batch"),
        (["--queue", "-3"], {}, "--queue"),
        (["--queue", "many"], {}, "--queue"),
        (["--quantize", "int3"], {}, "int3"),
        ([], {"TOUR_QUANTIZE": "int3"}, "TOUR_QUANTIZE"),
        (["--unknown"], {}, "--unknown"),
    ],
)
def test_what_cannot_be_used_ends_with_a_sentence(arguments, environment, named, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(arguments, environment)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_help_names_every_option_and_variable(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"], {})
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for one in fields(Settings):
        assert "--" + one.name.replace("_", "-") in shown
        assert f"[{one.metadata['env']}]" in shown


def test_the_cache_follows_the_desktop_standard(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert parse([], {}).cache == tmp_path / "transformer-tour"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse([], {}).cache == tmp_path / ".cache" / "transformer-tour"
