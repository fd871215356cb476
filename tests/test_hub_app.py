"""The whole app against a hub of its own: from HF_ENDPOINT to an answer, and when the hub goes away.

huggingface_hub reads its environment once, at import; so each story runs in an interpreter of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demos import generation, image, sentiment, translation, zero_shot
from tests import tiny
from tests.hub_server import HubServer

ROOT = Path(__file__).resolve().parent.parent

STORY = """
import os, sys
import app
from components.errors import DemoError
from components.hub import HubStatus
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
from components.hub import HubStatus
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
