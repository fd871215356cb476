"""Repositories in the form that the hub has them in: the facts, the makers, and what is fetched of each."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import urllib.request
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks import catalogue
from components.checkpoints import Hub, Recipe
from components.hub import fetch
from tests import repositories
from tests.hub_server import HubServer, commit
from tests.repositories import PICKLE, SAFETENSORS, Facts, facts

ANY = Recipe("sentiment", lambda config: "AutoModel", "AutoTokenizer", lambda config: None)
NAMES = sorted(facts())
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


# Facts


def test_there_are_facts_of_all_that_is_offered_and_of_nothing_else():
    sources = [source for _, source in catalogue.offered()]
    assert {source.repo_id for source in sources} == set(NAMES)
    for source in sources:
        if source.revision != "main":
            assert facts()[source.repo_id].commit.startswith(source.revision)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_has_the_size_that_the_hub_states(name):
    known = facts()[name]
    config = transformers.AutoConfig.for_model(**repositories.configuration(known))
    with torch.device("meta"):
        model = getattr(transformers, known.model)(config)
    positions = [parameter for key, parameter in model.named_parameters() if "embed_positions" in key]
    numbers = sum(parameter.numel() for parameter in model.parameters())
    numbers += sum(
        buffer.numel() for key, buffer in model.named_buffers() if key in model.state_dict() and positions is not None
    )
    stated = known.files[known.weights]
    assert stated is not None
    size = numbers * BYTES[known.dtype]
    size += sum(torch.Size(shape).numel() * (8 if "position_ids" in key else BYTES[known.dtype])
                for key, shape in known.extra.items())  # fmt: skip
    # Rounded to three digits on the page; the file has its names as well.
    assert size == pytest.approx(stated, rel=0.006)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_is_known_has_the_stated_length(name):
    known = facts()[name]
    assert set(known.content) <= set(known.files)
    for path, text in known.content.items():
        assert len(text) == known.files[path]
        if path.endswith(".json"):
            json.loads(text)


def test_what_is_known_of_the_formats():
    pickled = {name for name in NAMES if facts()[name].weights == PICKLE}
    assert pickled == {
        "cardiffnlp/twitter-roberta-base-sentiment-latest",
        "facebook/convnext-tiny-224",
        "facebook/deit-tiny-patch16-224",
        *(f"Helsinki-NLP/opus-mt-{pair}" for pair in ("en-fr", "fr-en", "en-de", "de-en", "en-es")),
    }
