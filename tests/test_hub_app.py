"""The whole app against a hub of its own: from HF_ENDPOINT to an answer, and when the hub goes away.

huggingface_hub reads its environment once, at import; so each story runs in an interpreter of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from demos import generation, image, sentiment, translation, zero_shot
from tests import tiny
from tests.hub_server import HubServer, commit

ROOT = Path(__file__).resolve().parent.parent

STORY = """
import os, sys
import app
from components.errors import DemoError
from components.weights.hub import HubStatus
from components.settings import parse
from demos import sentiment
models = app.create_manager(parse([], os.environ), HubStatus())
seen = []
for choice in sys.argv[1:]:
    try:
        status = sentiment.run("I hate this so much!", choice, models, lambda step: seen.append(step)).status
        print("|".join([status.checkpoint, status.source, *status.remarks]))
    except DemoError as error:
        print(type(error).__name__, error)
bytes_seen = [step.done for step in seen if step.stage == "downloading" and step.done is not None]
print("bytes rise", bytes_seen == sorted(bytes_seen) and len(bytes_seen) > 0)
"""


def tell(story: str, hub: str, home: Path, *arguments: str, **environment: str) -> list[str]:
    """The lines that a story prints in a fresh interpreter whose hub is at that address."""
    clean = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", story, *arguments],
        cwd=ROOT,
        env={**clean, "HF_ENDPOINT": hub, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def course_server(**more: Path) -> HubServer:
    """A hub with a tiny checkpoint in the place of the course's for sentiment."""
    server = HubServer({name: folder for name, folder in more.items()})
    server.add(sentiment.OFFER.course.name, tiny.distilbert(), revision="714eb0f")
    return server


def test_auto_takes_the_course_checkpoint_and_keeps_it_when_the_hub_is_gone(tmp_path):
    with course_server() as hub:
        first = tell(STORY, hub.url, tmp_path, "auto")
        sent = hub.sent(".safetensors")
        assert first[0] == f"{sentiment.OFFER.course.name}|hub"
        assert first[1] == "bytes rise True"
        assert sent > 0
        hub.gone = True
        again = tell(STORY, hub.url, tmp_path, "auto", "course")
        assert again[:2] == [f"{sentiment.OFFER.course.name}|hub"] * 2
        assert hub.sent(".safetensors") == sent


def test_without_a_hub_the_starter_answers_and_says_why(tmp_path, models):
    # The session's manager makes sure that the starter is on the disk.
    sentiment.run("warm", "starter", models)
    with course_server() as hub:
        hub.gone = True
        lines = tell(STORY, hub.url, tmp_path, "auto", "course")
    assert lines[0].startswith(f"{sentiment.OFFER.starter.name}|starter|The starter answers because the hub")
    assert lines[1].startswith("CheckpointError")


def test_a_typed_checkpoint_is_checked_before_it_is_fetched(tmp_path):
    with course_server() as hub:
        hub.add("someone/translator", tiny.marian())
        hub.add("someone/secret", tiny.distilbert(), access="gated")
        hub.add("someone/mine", tiny.distilbert(("GOOD", "BAD")))
        asked = ("someone/translator", "someone/secret", "someone/nothing", "someone/mine", "someone/mine@v9")
        lines = tell(STORY, hub.url, tmp_path, *asked)
        assert "MarianMTModel" in lines[0] and "text classifier" in lines[0]
        assert lines[1].startswith("CheckpointError") and lines[2].startswith("CheckpointError")
        assert lines[3] == "someone/mine|hub"
        assert lines[4].startswith("CheckpointError") and "v9" in lines[4]
        assert not hub.sent("someone/translator/resolve/main/model.safetensors")


EVERY_TAB = """
import os, sys
import app
from components.weights.hub import HubStatus
from components.settings import parse
from demos import generation, image, sentiment, translation, zero_shot
models = app.create_manager(parse([], os.environ), HubStatus())
import gradio as gr
print(sentiment.run("a film", "course", models).status.checkpoint)
print(zero_shot.run("a film", "x, y", False, zero_shot.TEMPLATE, "course", models).status.checkpoint)
*_, last = generation.run(generation.validate("a film", 3), "course", models)
print(last.status.checkpoint)
result = translation.run("a film", "course", models)
translation.draw(translation.attend(result.sentences[0], "course", models))
print(result.status.checkpoint)
print(image.run(gr.media.get_image("lion.jpg"), 2, "course", models).status.checkpoint)
"""


@pytest.mark.parametrize("policy", ["hub", "auto"])
def test_every_course_architecture_comes_from_the_hub_through_its_tab(tmp_path, policy):
    offers = [demo.OFFER for demo in (sentiment, zero_shot, generation, translation, image)]
    folders = [tiny.distilbert(), tiny.bart(), tiny.llama(), tiny.marian(), tiny.vit()]
    with HubServer({}) as hub:
        for offer, folder in zip(offers, folders, strict=True):
            hub.add(offer.course.name, folder, revision=offer.course.source.revision)
        lines = tell(EVERY_TAB, hub.url, tmp_path, TOUR_CHECKPOINTS=policy)
    assert lines == [offer.course.name for offer in offers]


PROGRAMS = """
import os, shutil, sys
import app
from huggingface_hub import constants
from components.compute import tokenization
from components.explain import snippets
from components.weights.hub import HubStatus
from components.settings import parse
from demos import sentiment
models = app.create_manager(parse([], os.environ), HubStatus())
for choice in sys.argv[1:]:
    (row,) = sentiment.run("i love this course", choice, models).rows
    with models.use(sentiment.OFFER, choice) as loaded:
        place = snippets.place_of(loaded, public=True)
        limit = tokenization.longest_input(loaded)
    program = snippets.sentiment(place, ["i love this course"], limit=limit, sigmoid=False)
    names = {}
    shutil.rmtree(constants.HF_HUB_CACHE)  # what the app has put there would be taken
    exec(program, names)
    again = dict(zip(names["model"].config.id2label.values(), names["probabilities"][0].tolist()))
    print("SAME" if max(abs(again[label] - score) for label, score in row.scores) < 1e-5 else "OTHER")
    print("WITH", *[line for line in program.splitlines() if "evision" in line][:2], sep="|")
"""


def test_the_code_drawer_gives_the_same_where_weights_are_not_on_the_main_branch(tmp_path):
    converted, pickled = tiny.distilbert(("GOOD", "BAD")), tmp_path / "pickled"
    shutil.copytree(converted, pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with HubServer({"someone/offered": pickled, "someone/pickled": pickled}) as hub:
        hub.add_pull_request("someone/offered", converted)
        options = {"DISABLE_SAFETENSORS_CONVERSION": "1"}
        told = tell(PROGRAMS, hub.url, tmp_path, "someone/offered", "someone/pickled", **options)
        assert [line for line in told if line in ("SAME", "OTHER")] == ["SAME", "SAME"]
        offered, plain = [line for line in told if line.startswith("WITH")]
        assert "refs/pr/1" in offered and f'|revision = "{commit(converted)}"' in offered
        assert plain.startswith(f'WITH|revision = "{commit(pickled)}"')
        # Of the pull request nobody has needed the pickle; of the other one the app has, and transformers.
        assert not [r for r in hub.requests("someone/offered", "GET") if r.path.endswith(".bin")]
        assert len([r for r in hub.requests("someone/pickled", "GET") if r.path.endswith(".bin")]) == 2
