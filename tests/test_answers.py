"""What endpoints answer, and the lists of texts that they take."""

import re

import gradio as gr
import jsonschema
import pytest

from components.errors import InputError
from components.page import answers


def test_labels_are_as_gradio_has_them():
    scores = (("praise", 0.7), ("blame", 0.2), ("neither", 0.1))
    with gr.Blocks():
        wanted = gr.Label().postprocess(dict(scores)).model_dump()
    assert answers.labelled(scores) == {**wanted, "remarks": []}
    jsonschema.validate(answers.labelled(scores), answers.LABELS)


def test_of_two_labels_of_the_same_name_the_likelier_one_stays():
    found = answers.labelled([("crane", 0.5), ("lion", 0.3), ("crane", 0.2)])
    assert [(row["label"], row["confidence"]) for row in found["confidences"]] == [
        ("crane", 0.5),
        ("lion", 0.3),
    ]


def test_a_side_has_tokens_or_a_problem():
    told, silent = answers.side([(" Paris", 0.5)]), answers.side("It is not here.")
    assert told["label"] == " Paris" and told["problem"] is None
    assert silent == {"label": None, "confidences": [], "problem": "It is not here.", "remarks": []}
    jsonschema.validate({"masked": told, "causal": silent}, answers.SIDES)


def test_remarks_are_part_of_what_answers_have():
    said = ("It was cut.", "The checkpoint is another.")
    label = answers.labelled([("praise", 1.0)], said)
    assert label["remarks"] == answers.side("No gap.", said)["remarks"] == list(said)
    jsonschema.validate(label, answers.LABELS)
    figure = answers.figure('{"data": []}', said)
    jsonschema.validate(figure, answers.FIGURE)
    assert figure["remarks"] == list(said)
    schema = answers.with_remarks("segments", answers.SEGMENTS)
    segments = [{"text": "a", "start": 0.0, "end": 1.0}]
    assert answers.remarked("segments", segments, said, asked=False) is segments
    told = answers.remarked("segments", segments, said, asked=True)
    assert told == {"segments": segments, "remarks": list(said)}
    for answer in (segments, told):
        jsonschema.validate(answer, schema)


def test_texts_are_taken_in_their_order_without_the_space_around_them():
    assert answers.texts([" one ", "two\nlines", "one"], 3) == ["one", "two\nlines", "one"]
    assert answers.texts(["half a pair: \ud83d"], 1) == ["half a pair: ?"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (None, "A list of texts"),
        ("text", "A list of texts"),
        ({"0": "text"}, "A list of texts"),
        ([], "no text yet"),
        (["a"] * 4, "That is 4 texts; at most 3"),
        (["a", "\n\t "], "Text 2 of 2 is empty"),
        (["a", None], "Text 2 of 2 is empty"),
        ([["a"], "b"], "Text 1 of 2: A text is needed"),
        (["a", "b", "c" * 100_001], "Text 3 of 3: That is 100,001 characters"),
    ],
)
def test_what_is_no_list_of_texts(values, says):
    with pytest.raises(InputError, match=re.escape(says)):
        answers.texts(values, 3)


def test_limits_are_part_of_what_is_published():
    assert answers.up_to(3) == {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": 3,
    }
    jsonschema.validate(4, {"type": "integer", **answers.between(1, 4)})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(5, {"type": "integer", **answers.between(1, 4)})
