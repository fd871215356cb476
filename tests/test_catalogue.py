"""The benchmark of the catalogue: its table, and one checkpoint from an empty cache to an answer."""

from __future__ import annotations

import re

import pytest

from benchmarks import catalogue
from benchmarks.catalogue import Row, Use
from components.weights.checkpoints import ROOT
from tests import repositories

PAGE = (ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8")
GOOD = Use([12.34, 5.67], [8.1, 4.0], 1_500_000_000, "cat")


def row(fetched: dict[str, int], use: Use = GOOD) -> Row:
    return Row("image", "owner/name", fetched, {".h5": 5, ".md": 1}, use)


def test_a_row_says_what_came_and_what_did_not():
    cells = catalogue.cells(row({".json": 4_000, ".txt": 60_000, ".safetensors": 2_500_000}))
    assert cells[2:] == (
        "2.5 MB .safetensors, 0.1 MB else",
        ".h5",
        "12.3 s (8.1 s)",
        "5.7 s (4.0 s)",
        "1,500 MB",
    )


def test_a_row_without_an_answer_says_why():
    for seconds in ([], [1.04]):
        refused = row({".json": 10}, Use(seconds, seconds, 5, "", "owner/name is gated."))
        shown = [f"{taken:.1f} s ({taken:.1f} s)" for taken in seconds] + ["no: owner/name is gated.", ""]
        assert catalogue.cells(refused)[4:6] == tuple(shown[:2])
        assert "does not answer" in (catalogue.wrong(refused) or "")


@pytest.mark.parametrize("formats", [(".safetensors", ".bin"), (".h5",), (".bin", ".onnx")])
def test_formats_that_should_have_stayed_are_named(formats):
    problem = catalogue.wrong(row(dict.fromkeys(formats, 1)))
    assert problem and formats[-1] in problem


@pytest.mark.parametrize("formats", [(".safetensors", ".json"), (".bin", ".txt"), (".json",)])
def test_one_format_is_right(formats):
    assert catalogue.wrong(row(dict.fromkeys(formats, 1))) is None


def test_an_unknown_name_measures_nothing(capsys):
    with pytest.raises(SystemExit, match="No checkpoint"):
        catalogue.main(["--only", "nobody/nothing"])


def test_a_checkpoint_is_used_twice_by_a_process_of_its_own(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    catalogue.main(["--only", "deit-tiny", "--small"])
    head, rule, told = capsys.readouterr().out.splitlines()
    assert head.count("|") == rule.count("|") == told.count("|")
    assert told.startswith("| image | facebook/deit-tiny-patch16-224 | ")
    cells = [cell.strip() for cell in told.strip("|").split("|")]
    # The bot's conversion stands beside the pickle and what TensorFlow reads.
    assert re.fullmatch(r"0.\d MB .safetensors, 0.\d MB else", cells[2]) and cells[3] == ".bin, .h5"
    assert all(re.fullmatch(r"\d+\.\d s \(\d+\.\d s\)", seconds) for seconds in cells[4:6])
    assert re.fullmatch(r"[\d,]+ MB", cells[6])


# The page


def test_the_page_has_the_forms_of_all_repositories():
    assert catalogue.forms() in PAGE


def test_the_page_has_a_measured_row_for_all_that_is_offered():
    rows = PAGE.partition(catalogue.heading())[2].partition("\n\n")[0].strip().splitlines()
    measured = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]
    assert [row[:2] for row in measured] == [(tab, hub.repo_id) for tab, hub in catalogue.offered()]
    for tab, name, fetched, left, *_ in measured:
        known = repositories.facts()[name]
        expected = ".safetensors" if known.is_converted else repositories.ending(known.weights)
        assert tab == "tokenizers" or f"MB {expected}" in fetched
        assert fetched.count("MB") == 1 + (tab != "tokenizers")
        assert not set(left.split(", ")) & {expected} or tab == "tokenizers"
