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
    ("quantize", "int4", "int4"),
    ("max_audio_minutes", "5", 5.0),
    ("max_image_megapixels", "12.5", 12.5),
    ("root_path", "/tour", "/tour"),
    ("max_download", "2.5", 2.5),
    ("requests_per_minute", "0", 0),
    ("max_upload", "20", 20.0),
    ("log_format", "json", "json"),
]
SWITCHES = ("share", "public", "mcp", "any_checkpoint")
# Of more than one value, or together with another.
OTHERS = ("auth", "history", "ssl_certfile", "ssl_keyfile", "mcp_files")
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
    names = {name for name, _, _ in VALUES}
    assert {one.name for one in fields(Settings)} == names | set(SWITCHES) | set(OTHERS)


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


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize(
    ("written", "value"), [("1", True), ("true", True), ("YES", True), ("0", False), ("no", False)]
)
def test_switches(name, written, value):
    assert getattr(parse([], {VARIABLES[name]: written}), name) is value
    option = "--" + name.replace("_", "-")
    assert getattr(parse([option], {VARIABLES[name]: written}), name) is True


def test_users_of_options_stand_instead_of_those_of_the_variable():
    assert parse([], {"TOUR_AUTH": "ann:x  bob:y"}).auth == ("ann:x", "bob:y")
    assert parse(["--auth", "ann:x y", "--auth", "@users"], {"TOUR_AUTH": "eve:z"}).auth == (
        "ann:x y",
        "@users",
    )


def test_the_folder_for_agents_is_there(tmp_path, capsys):
    assert parse([], {"TOUR_MCP_FILES": str(tmp_path)}).mcp_files == tmp_path
    with pytest.raises(SystemExit):
        parse(["--mcp-files", str(tmp_path / "missing")], {})
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("tour", "/tour"),
        ("/tour/", "/tour"),
        (" a//b ", "/a/b"),
        ("/", ""),
        ("https://example.org/tour/", "https://example.org/tour"),
    ],
)
def test_the_path_behind_a_proxy_is_written_in_one_way(written, path):
    assert parse(["--root-path", written], {}).root_path == path
    assert parse([], {"GRADIO_ROOT_PATH": written}).root_path == path


def test_a_certificate_goes_with_its_key(tmp_path, capsys):
    files = tmp_path / "c.pem", tmp_path / "k.pem"
    given = ["--ssl-certfile", str(files[0])], {"TOUR_SSL_KEYFILE": str(files[1])}
    with pytest.raises(SystemExit):
        parse(*given)
    assert f"there is no file {files[0]}" in capsys.readouterr().err
    for file in files:
        file.write_text("")
    settings = parse(*given)
    assert (settings.ssl_certfile, settings.ssl_keyfile) == files


@pytest.mark.parametrize(
    ("arguments", "variable", "keeps"),
    [
        ([], "", True),
        (["--no-history"], "", False),
        (["--no-history"], "1", False),
        ([], "0", False),
        (["--share"], "", False),
        (["--host", "0.0.0.0"], "", False),
        (["--share", "--history"], "", True),
        (["--share"], "yes", True),
    ],
)
def test_history_is_kept_where_nobody_else_can_look_unless_chosen(arguments, variable, keeps):
    assert parse(arguments, {"TOUR_HISTORY": variable}).keeps_history is keeps


def test_strangers_choose_among_what_is_listed_unless_told_otherwise():
    assert parse([], {}).takes_any_checkpoint
    assert not parse(["--share"], {}).takes_any_checkpoint
    assert parse(["--share", "--any-checkpoint"], {}).takes_any_checkpoint


@pytest.mark.parametrize(
    ("arguments", "public"),
    [
        ([], False),
        (["--host", "127.0.0.1"], False),
        (["--host", "localhost"], False),
        (["--host", "0.0.0.0"], True),
        (["--host", "192.168.0.7"], True),
        (["--share"], True),
        (["--root-path", "tour"], True),
        (["--host", "::1"], False),
        (["--host", "[::1]"], False),
        (["--host", "::"], True),
    ],
)
def test_exposed_is_what_others_can_open(arguments, public):
    assert parse(arguments, {}).exposed is public


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--port", "http"], {}, "--port"),
        (["--port", "0"], {}, "--port"),
        (["--port", "70000"], {}, "--port"),
        (["--root-path", "/a/../b"], {}, "--root-path"),
        (["--root-path", "/a?b"], {}, "--root-path"),
        ([], {"GRADIO_ROOT_PATH": "/a b"}, "--root-path"),
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
        (["--requests-per-minute", "-1"], {}, "--requests-per-minute"),
        (["--log-format", "xml"], {}, "xml"),
        (["--ssl-keyfile", "k.pem"], {}, "--ssl-certfile"),
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
