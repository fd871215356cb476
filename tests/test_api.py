"""The endpoints, as a client of the running app sees them: names, defaults and results on the starters."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gradio as gr
import httpx
import jsonschema
import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from demos import speech
from tests.serving import served

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


@pytest.fixture(scope="module")
def client(models):
    import os

    import app
    from components.server.line import Line
    from components.settings import parse
    from components.weights.hub import HubStatus

    settings = replace(parse([], os.environ), checkpoints="starter")
    page = app.create_app(models, settings, HubStatus(), Line())
    with served(page) as url:
        yield Client(url, verbose=False)


PARAMETERS = {
    "/sentiment": ["text", "checkpoint"],
    "/sentiment_batch": ["texts", "checkpoint"],
    "/zero_shot": ["text", "candidate_labels", "multi_label", "hypothesis_template", "checkpoint"],
    "/zero_shot_batch": ["texts", "candidate_labels", "multi_label", "hypothesis_template", "checkpoint"],
    "/classify_image": ["image", "top_k", "checkpoint"],
    "/generate": [
        "prompt",
        "max_new_tokens",
        "num_return_sequences",
        "temperature",
        "top_k",
        "top_p",
        "seed",
        "checkpoint",
    ],
    "/translate": ["text", "checkpoint"],
    "/translate_batch": ["texts", "checkpoint", "remarks"],
    "/fill_gap": ["text", "masked_checkpoint", "checkpoint"],
    "/transcribe": ["audio", "timestamps", "task", "checkpoint", "remarks"],
}


CONFIDENCES = "list[dict(label: str, confidence: float)]"
LABELS = f"dict(label: str, confidences: {CONFIDENCES}, remarks: list[str])"
SIDE = f"dict(label: str | None, confidences: {CONFIDENCES}, problem: str | None, remarks: list[str])"
SEGMENTS = "list[dict(text: str, start: float, end: float)]"
SHAPES = {
    "/sentiment": [LABELS],
    "/sentiment_batch": [f"list[{LABELS}]"],
    "/zero_shot": [LABELS],
    "/zero_shot_batch": [f"list[{LABELS}]"],
    "/classify_image": [LABELS],
    "/generate": ["dict(sequences: list[str], remarks: list[str])"],
    "/translate": [
        "str",
        "dict(type: Literal[plotly], plot: str (the figure as JSON), remarks: list[str])",
    ],
    "/translate_batch": ["list[str] | dict(translations: list[str], remarks: list[str])"],
    "/fill_gap": [f"dict(masked: {SIDE}, causal: {SIDE})"],
    "/transcribe": ["str", f"{SEGMENTS} | dict(segments: {SEGMENTS}, remarks: list[str])"],
}


def scores(answer):
    """Labels with their confidence, likeliest first in the answer."""
    found = {row["label"]: row["confidence"] for row in answer["confidences"]}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert answer["label"] == next(iter(found))
    return found


def strict(schema):
    """The same schema, in which an object has no more than what is listed."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {name: strict(value) for name, value in schema.items()} | closed


def fits(client, name, answer):
    """Whether an answer has the shape that the endpoint is said to have; gives the answer."""
    returns = client.view_api(return_format="dict")["named_endpoints"][name]["returns"]
    for one, about in zip(answer if len(returns) > 1 else (answer,), returns, strict=True):
        jsonschema.validate(one, strict(about["type"]))
    return answer


def ask(client, name, *arguments, **named):
    return fits(client, name, client.predict(*arguments, **named, api_name=name))


def test_names_parameters_and_defaults(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    names = {name: [p["parameter_name"] for p in e["parameters"]] for name, e in endpoints.items()}
    assert names == PARAMETERS
    for name, endpoint in endpoints.items():
        defaults = [parameter["parameter_has_default"] for parameter in endpoint["parameters"]]
        assert defaults == [False] + [True] * (len(defaults) - 1), name


def test_shapes(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert {
        name: [output["python_type"]["type"] for output in endpoint["returns"]]
        for name, endpoint in endpoints.items()
    } == SHAPES


@pytest.mark.parametrize("name", ["/zero_shot", "/zero_shot_batch"])
def test_labels_are_said_to_be_a_text_or_a_list(client, name):
    info = httpx.get(f"{client.src}gradio_api/info").json()["named_endpoints"][name]
    (labels,) = (one for one in info["parameters"] if one["parameter_name"] == "candidate_labels")
    assert labels["python_type"]["type"] == "str | list[str]"
    for taken in ("sport, film", ["sport", "film"]):
        jsonschema.validate(taken, labels["type"])
    for refused in (5, ["sport", 5], None, {"a": "b"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(refused, labels["type"])
    text = ["I saw a film"] if name.endswith("batch") else "I saw a film"
    answers = [ask(client, name, text, labels) for labels in ("sport, film", ["sport", "film"])]
    assert answers[0] == answers[1]


def test_everything_is_described_with_types_defaults_and_examples(client):
    info = httpx.get(f"{client.src}gradio_api/info").json()["named_endpoints"]
    assert info.keys() == PARAMETERS.keys()
    for name, endpoint in info.items():
        assert len(endpoint["description"]) > 30, name
        for parameter in endpoint["parameters"]:
            about = parameter["python_type"]
            assert len(about["description"]) > 10, (name, parameter)
            kinds = ("str", "int", "float", "bool", "list[str]", "str | list[str]", "filepath")
            assert about["type"] in kinds or about["type"].startswith("Literal["), (name, parameter)
            example, schema = parameter["example_input"], parameter["type"]
            jsonschema.validate(example, schema)
            assert example not in ("", "Hello!!", None, []), (name, parameter)
            if parameter["parameter_has_default"]:
                assert schema["default"] == parameter["parameter_default"], (name, parameter)
                jsonschema.validate(schema["default"], schema)
        for output in endpoint["returns"]:
            assert len(output["python_type"]["description"]) > 5, name


def test_examples_can_be_asked_as_they_stand(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    texts_only = [
        name for name, e in endpoints.items() if e["parameters"][0]["python_type"]["type"] != "filepath"
    ]
    assert len(texts_only) == 8
    for name in texts_only:
        ask(client, name, *(parameter["example_input"] for parameter in endpoints[name]["parameters"]))


def test_sentiment(client):
    answer = ask(client, "/sentiment", "I hate this so much!")
    assert answer["label"] == "NEGATIVE"
    assert scores(answer).keys() == {"NEGATIVE", "POSITIVE"}
    assert sum(scores(answer).values()) == pytest.approx(1)


def test_zero_shot(client):
    answer = ask(client, "/zero_shot", "History isn't really a fun class", "education, politics, business")
    # Measured once and written down in the notes on the starter: 0.74, 0.23, 0.03.
    assert scores(answer) == pytest.approx({"education": 0.74, "politics": 0.23, "business": 0.03}, abs=0.01)


def test_many_texts_get_the_answers_that_each_gets_alone(client):
    texts = ["I hate this\nso much!", "What a lovely day, and how kind of you to come all this way", "Fine."]
    many = ask(client, "/sentiment_batch", texts)
    assert [scores(one) for one in many] == [
        pytest.approx(scores(ask(client, "/sentiment", text)), abs=1e-4) for text in texts
    ]
    for several in (False, True):
        asked = ("work, pleasure, anger", several)
        many = ask(client, "/zero_shot_batch", texts, *asked)
        assert [scores(one) for one in many] == [
            pytest.approx(scores(ask(client, "/zero_shot", text, *asked)), abs=1e-4) for text in texts
        ]
    # Several sentences and several paragraphs in one text are one answer.
    texts = ["Two dogs are running. A man sleeps.", "You like this house", "A cat.\n\nThe dog is black."]
    many = ask(client, "/translate_batch", texts)
    assert many == [ask(client, "/translate", text)[0] for text in texts]
    assert many[2].count("\n") == 2 and "maison" in many[1]


def test_generate_streams_and_repeats_with_its_seed(client):
    asked = ("So today, I just feel like", 6, 2, 0.9, 50, 0.95)
    job = client.submit(*asked, 7, api_name="/generate")
    last = job.result()
    assert len(job.outputs()) > 2
    for step in job.outputs():
        fits(client, "/generate", step)
    assert len(last["sequences"]) == 2 and not any(s.startswith("So today") for s in last["sequences"])
    assert ask(client, "/generate", *asked, 7) == last
    assert ask(client, "/generate", *asked, 8) != last


def test_translate_gives_text_and_heatmap(client):
    text, plot = ask(client, "/translate", "You like this house")
    assert "maison" in text
    figure = json.loads(plot["plot"])
    assert figure["data"][0]["type"] == "heatmap"
    ticks = figure["layout"]["yaxis"]["ticktext"]
    assert "".join(ticks).replace("␣", " ").strip() == "You like this house"


LONG = "A good day. " * 400


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("/sentiment", (LONG,), lambda answer: answer["remarks"]),
        ("/sentiment_batch", (["Fine.", LONG],), lambda answer: answer[1]["remarks"]),
        ("/zero_shot", (LONG,), lambda answer: answer["remarks"]),
        ("/zero_shot_batch", (["Fine.", LONG],), lambda answer: answer[1]["remarks"]),
        ("/translate", ("a very long day and " * 300,), lambda answer: answer[1]["remarks"]),
        (
            "/translate_batch",
            (["a very long day and " * 300], "auto", True),
            lambda answer: answer["remarks"],
        ),
        ("/generate", ("So today, I just feel like ", 1), lambda answer: answer["remarks"]),
        ("/fill_gap", (f"{LONG[:3500]} ___",), lambda answer: answer["masked"]["remarks"]),
    ],
)
def test_answers_say_what_was_done_to_a_text(client, name, arguments, told):
    said = re.compile(r"\bcut\b|read only|clause by clause|ends in a space")
    answer = ask(client, name, *arguments)
    assert any(said.search(remark) for remark in told(answer)), answer
    short = ["Fine."] if name.endswith("_batch") else "Fine. ___" if name == "/fill_gap" else "Fine."
    answer = ask(client, name, short, *arguments[1:])
    if name.endswith("_batch") and isinstance(answer, list):
        answer = [None, *answer]
    assert not any(said.search(remark) for remark in told(answer)), answer


def test_remarks_stand_beside_lists_for_who_asks(client, tmp_path):
    assert ask(client, "/translate_batch", ["A cat."]) == [ask(client, "/translate", "A cat.")[0]]
    told = ask(client, "/translate_batch", ["A cat."], remarks=True)
    assert told == {"translations": ask(client, "/translate_batch", ["A cat."]), "remarks": []}
    soundfile.write(tmp_path / "nothing.wav", np.zeros(32000, np.float32), 16000)
    nothing = handle_file(str(tmp_path / "nothing.wav"))
    assert ask(client, "/transcribe", nothing, "segment") == ("", [])
    text, told = ask(client, "/transcribe", nothing, "segment", remarks=True)
    assert text == "" and told["segments"] == [] and "silence" in told["remarks"][0]


def test_fill_gap(client):
    answer = ask(client, "/fill_gap", "The capital of France is ___.")
    for side in answer.values():
        assert side["problem"] is None and sum(scores(side).values()) <= 1
    assert answer["causal"]["label"] == " Paris"


def test_fill_gap_says_which_side_has_no_answer(client):
    answer = ask(client, "/fill_gap", "The capital of France is ___.", masked_checkpoint="nobody/nothing")
    masked, causal = answer["masked"], answer["causal"]
    assert masked["label"] is None and masked["confidences"] == [] and "starters only" in masked["problem"]
    assert causal["problem"] is None and scores(causal)


def test_transcribe(client):
    clip = handle_file(str(speech.CLIP))
    text, segments = ask(client, "/transcribe", clip, "segment")
    assert "one token after another" in text
    assert segments[0]["start"] < segments[-1]["end"]
    text, none = ask(client, "/transcribe", clip)
    assert text and none == []
    assert len(ask(client, "/transcribe", clip, "word")[1]) > 15


def test_transcribe_streams(client, tmp_path):
    """What is longer than a window of 30 seconds comes in pieces."""
    sound, rate = soundfile.read(speech.CLIP, dtype="float32")
    soundfile.write(tmp_path / "long.flac", np.tile(sound, 1 + 70 * rate // len(sound)), rate)
    job = client.submit(handle_file(str(tmp_path / "long.flac")), "segment", api_name="/transcribe")
    last, _ = job.result()
    steps = [fits(client, "/transcribe", step)[0] for step in job.outputs()]
    assert len(steps) > 1 and steps[-1] == last
    assert 0 < len(steps[0]) < len(last) and last.startswith(steps[0][:40])


def test_labels_may_be_a_list(client):
    answer = ask(client, "/zero_shot", "History isn't really a fun class", ["education, school", "politics"])
    assert set(scores(answer)) == {"education, school", "politics"}


def test_classify_image(client):
    answer = ask(client, "/classify_image", handle_file(gr.media.get_image("lion.jpg")), 3)
    assert answer["label"] == "lion" and len(scores(answer)) == 3


@pytest.mark.parametrize(
    ("arguments", "name", "says"),
    [
        (("  ",), "/sentiment", "no text yet"),
        (("a text", " , "), "/zero_shot", "no labels yet"),
        (("a text", "x", False, "no place"), "/zero_shot", "exactly one"),
        (("a prompt", 0), "/generate", "between 1 and 1024"),
        (("",), "/translate", "no text yet"),
        (("a text", "nobody/nothing"), "/sentiment", "starters only"),
        ((["one", "  "],), "/sentiment_batch", "Text 2 of 2 is empty"),
        ((["x"] * 2001,), "/sentiment_batch", "at most 2000 go in one call"),
        (([],), "/zero_shot_batch", "no text yet"),
        ((["x"] * 501, "a, b, c, d"), "/zero_shot_batch", "2000 pairs of text and label"),
        (("one text",), "/translate_batch", "A list of texts is needed"),
        ((["a", "b"],), "/sentiment", "needed for “text”, and this is a list"),
        ((5,), "/translate", "needed for “text”, and this is a number"),
        (({"a": 1},), "/generate", "needed for “prompt”, and this is an object"),
        (("a text", 5), "/zero_shot", "needed for “candidate_labels”, and this is a number"),
        ((["a ___"],), "/fill_gap", "needed for “text”, and this is a list"),
        ((["one", 2],), "/translate_batch", "Text 2 of 2: A text is needed"),
        ((["x" * 12_000, "y" * 12_000],), "/translate_batch", "at most 20000"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(client, arguments, name, says):
    with pytest.raises(AppError, match=re.escape(says)):
        client.predict(*arguments, api_name=name)


def test_damaged_files_are_answered_with_a_sentence(client, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"not a picture")
    with pytest.raises(AppError, match="not a picture"):
        client.predict(handle_file(str(tmp_path / "picture.png")), api_name="/classify_image")
    (tmp_path / "sound.wav").write_bytes(b"RIFF but no more")
    with pytest.raises(AppError, match=r"[Cc]hoose|[Rr]ecord"):
        client.predict(handle_file(str(tmp_path / "sound.wav")), api_name="/transcribe")


def test_renamed_files_are_read_by_their_content(client, tmp_path):
    Image.new("CMYK", (300, 200), (0, 200, 200, 0)).save(tmp_path / "picture.png", format="JPEG")
    answer = client.predict(handle_file(str(tmp_path / "picture.png")), api_name="/classify_image")
    assert len(scores(answer)) == 5
    soundfile.write(tmp_path / "sound.mp3", np.zeros(16000, np.float32), 16000, format="WAV")
    assert client.predict(handle_file(str(tmp_path / "sound.mp3")), api_name="/transcribe")[0] == ""


def test_an_address_that_cannot_be_fetched_is_answered_with_a_sentence(client):
    for place in ("http://127.0.0.1:9/cat.jpg", "http://192.168.0.1/cat.jpg", "http://[::1]/cat.jpg"):
        with pytest.raises(AppError, match="could not be fetched"):
            client.predict(handle_file(place), api_name="/classify_image")


# Plain HTTP, and the documentation


def events(lines):
    """(event, data) of a stream of server-sent events."""
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines()) for block in lines.split("\n\n") if block
    ]
    return [(block["event"], json.loads(block["data"])) for block in blocks if block["event"] != "heartbeat"]


def curl(*arguments):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def streamed(client, name, **named):
    """The steps of a call by curl: a POST, then the stream of events."""
    url = f"{client.src}gradio_api/call/v2{name}"
    asked = curl(url, "-H", "Content-Type: application/json", "-d", json.dumps(named))
    return events(curl("-N", f"{url}/{json.loads(asked)['event_id']}"))


def test_curl_streams_generation(client):
    named = {"prompt": "So today, I just feel like", "max_new_tokens": 6, "seed": 7}
    *steps, (last, data) = streamed(client, "/generate", **named)
    assert len(steps) > 1 and {event for event, _ in steps} == {"generating"} and last == "complete"
    assert data == [ask(client, "/generate", **named)]


def test_curl_gives_all_values_in_their_order_as_well(client):
    """The older form of the same, without names."""
    url = f"{client.src}gradio_api/call/sentiment"
    asked = curl(url, "-H", "Content-Type: application/json", "-d", '{"data": ["I love it.", "auto"]}')
    ((event, (answer,)),) = events(curl("-N", f"{url}/{json.loads(asked)['event_id']}"))
    assert event == "complete" and answer["label"] == "POSITIVE"


def test_curl_uploads_and_streams_a_transcript(client):
    (path,) = json.loads(curl(f"{client.src}gradio_api/upload", "-F", f"files=@{speech.CLIP}"))
    audio = {"path": path, "meta": {"_type": "gradio.FileData"}}
    *_, (last, (text, segments)) = streamed(client, "/transcribe", audio=audio, timestamps="segment")
    assert last == "complete" and "one token after another" in text and segments


def test_curl_is_told_what_is_wrong(client):
    ((event, data),) = streamed(client, "/generate", prompt="")
    assert event == "error" and "no prompt yet" in data["error"]


def blocks(language):
    """The code in the documentation of the API."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.mark.parametrize(("language", "program"), [("python", sys.executable), ("bash", "bash")])
def test_the_programs_in_the_documentation_run(client, tmp_path, language, program):
    if not shutil.which(program) or (language == "bash" and not shutil.which("curl")):
        pytest.skip("bash or curl is not installed")
    sound, rate = soundfile.read(speech.CLIP)
    soundfile.write(tmp_path / "clip.wav", sound, rate)
    shutil.copy(gr.media.get_image("lion.jpg"), tmp_path / "cat.jpg")
    code = "".join(blocks(language))
    assert "http://127.0.0.1:7860" in code
    code = code.replace("http://127.0.0.1:7860", client.src.rstrip("/"))
    if language == "bash":
        code = "set -euo pipefail\n" + code
    done = subprocess.run([program, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "one token after another" in done.stdout
    if language == "bash":
        seen = events(done.stdout)
        assert {event for event, _ in seen} == {"generating", "complete"}
        assert seen[0][1][0]["sequences"]
