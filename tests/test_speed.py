"""The speed benchmark: its counting and printing, its client against a small server, a real comparison."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import psutil
import pytest
import soundfile

from benchmarks import alone, load, processes, rounds, speed, stage
from benchmarks.load import Answer, Burst
from benchmarks.rounds import Row, at_least, at_most
from tests import tiny


def burst(*seconds: float, whole: float | None = None) -> Burst:
    answers = tuple(Answer([number], value, value / 2) for number, value in enumerate(seconds))
    return Burst(sum(seconds) if whole is None else whole, answers)


def row(theirs, ours, target, **more) -> Row:
    return Row("work", "s", "peer", tuple(theirs), tuple(ours), target, **more)


# Rounds


def test_a_target_is_reached_from_its_own_side():
    assert at_least(2.5).reached(2.5) and not at_least(2.5).reached(2.49)
    assert at_most(0.8).reached(0.8) and not at_most(0.8).reached(0.81)
    assert (str(at_least(2.5)), str(at_most(1))) == ("at least 2.5", "at most 1")


def test_a_ratio_is_of_medians_and_its_spread_of_single_rounds():
    one = row([2, 4, 100], [1, 3, 1000], at_most(1))
    assert one.ratio == 3 / 4
    assert one.spread == (0.5, 10)
    assert one.reached


def test_a_row_is_reached_only_with_all_its_conditions():
    assert row([2], [1], at_most(1), also=(("the same", True),)).reached
    assert not row([2], [1], at_most(1), also=(("the same", True), ("none lost", False))).reached
    assert not row([2], [3], at_most(1), also=(("the same", True),)).reached


def test_sides_take_turns_and_the_order_turns_around():
    calls = []

    def side(name):
        calls.append(name)
        return burst(float(len(calls)))

    sides = {name: partial(side, name) for name in "ab"}
    done = rounds.alternate(sides, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert rounds.seconds(done["a"]) == (3, 6, 7) and rounds.seconds(done["b"]) == (4, 5, 8)
    calls.clear()
    rounds.alternate(sides, 1, warm_up=[partial(side, "w")])
    assert "".join(calls) == "wab"


def test_rates_and_waits_of_rounds():
    bursts = [burst(0.1, 0.2, 0.6, whole=0.5), burst(0.1, 0.1, 0.1, whole=0.1)]
    assert rounds.rates(bursts) == pytest.approx((6, 30))
    assert rounds.rates(bursts, 10) == pytest.approx((20, 100))
    assert rounds.milliseconds(bursts) == pytest.approx((200, 100))
    assert rounds.milliseconds(bursts, first=True) == pytest.approx((100, 50))


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.5, "1234"), (100, "100"), (99.96, "100"), (17.04, "17"), (0.01234, "0.0123")]
)
def test_numbers_have_three_digits_and_no_powers(value, shown):
    assert rounds.number(value) == shown
    assert rounds.note("a limit", [0, value, 1e9], "s") == f"a limit {shown} s"


def test_items_are_taken_from_all_over():
    assert rounds.evenly(range(10), 3) == [0, 3, 6]
    assert rounds.evenly("abc", 5) == ["a", "b", "c"]


def test_answers_are_counted_that_are_alike():
    assert rounds.alike(("abc", "abd"), "labels the same") == "2 of 3 labels the same"
    with pytest.raises(ValueError):
        rounds.alike(("abc", "ab"), "labels the same")


def test_the_table_is_markdown():
    one = row([10, 12], [30, 24], at_least(2.5), also=(("same text", True),), beside=("limit 40 s",))
    head, rule = rounds.heading().splitlines()
    first, second = (rounds.line(rounds.cells(each)) for each in (one, row([10], [30], at_most(3))))
    assert head.count("|") == rule.count("|") == first.count("|") == len(rounds.HEADER) + 1
    assert first == (
        "| work | peer | 11 s | 27 s | 2.45 (2.00 to 3.00) | at least 2.5 | no | same text; limit 40 s |"
    )
    assert second.endswith("| 3.00 (3.00 to 3.00) | at most 3 | yes |  |")


# Stage


def tone(path, seconds: float, rate: int = 8000):
    soundfile.write(path, np.full(int(seconds * rate), 0.5, np.float32), rate)
    return path


def test_clips_are_joined_with_pauses_while_they_fit(tmp_path):
    clips = [tone(tmp_path / "a.wav", 1), tone(tmp_path / "b.wav", 2)]
    used, length = stage.join_clips(clips, tmp_path / "long.wav", 6.1)
    # 1 and 2 and 1 second with half a second after each; another 2 would be too much.
    assert (used, length) == (3, 5.5)
    samples, rate = soundfile.read(tmp_path / "long.wav")
    assert rate == 8000 and len(samples) == 44_000
    loud = np.abs(samples) > 0.25
    assert loud[:8000].all() and not loud[8000:12_000].any() and loud[12_000:28_000].all()


def test_clips_that_cannot_be_joined_are_refused(tmp_path):
    clips = [tone(tmp_path / "a.wav", 1), tone(tmp_path / "b.wav", 1, rate=16_000)]
    with pytest.raises(ValueError, match="one rate"):
        stage.join_clips(clips, tmp_path / "long.wav", 10)
    with pytest.raises(ValueError, match="does not fit"):
        stage.join_clips(clips[:1], tmp_path / "long.wav", 1)


def test_words_are_compared_without_case_and_punctuation():
    assert stage.word_error_rate(["Printing, in the only sense."], ["printing in the only sense"]) == 0
    assert stage.word_error_rate(["one two", "three four"], ["one two", "three five"]) == 0.25


def test_without_faster_whisper_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install"):
        stage.ctranslate2_folder(tmp_path)
    assert not list(tmp_path.iterdir())


# Load


class Gradio(BaseHTTPRequestHandler):
    """What Gradio's two steps look like on the wire, with connections that stay open."""

    protocol_version = "HTTP/1.1"
    connections: set[tuple[str, int]]
    asked: dict[str, list]
    sessions: Counter[str]
    gate: threading.Barrier

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.connections.add(self.client_address)
        name = self.path.rsplit("/", 1)[1]
        if name == "missing":
            self.answer(404, b'{"detail": "no such endpoint"}')
            return
        key = f"{name}-{len(self.asked)}-{threading.get_ident()}"
        self.asked[key] = body["data"]
        self.sessions[body["session_hash"]] += 1
        self.answer(200, json.dumps({"event_id": key}).encode())

    def do_GET(self) -> None:
        key = self.path.rsplit("/", 1)[1]
        name, values = key.split("-")[0], self.asked[key]
        if name == "together":
            self.gate.wait(10)
        streams: dict[str, list[tuple[str, object]]] = {
            "stream": [
                ("generating", ["a"]),
                ("heartbeat", None),
                ("generating", ["ab"]),
                ("complete", values),
            ],
            "wrong": [("error", {"error": "There is no text yet."})],
            "silent": [("heartbeat", None)],
        }
        steps = streams.get(name, [("complete", values)])
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event, data in steps:
            chunk = f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *what: object) -> None:
        """Says nothing."""


@pytest.fixture
def gradio():
    """Its address, and the class with what it saw."""
    seen = {"connections": set(), "asked": {}, "sessions": Counter(), "gate": threading.Barrier(4)}
    handler = type("Seen", (Gradio,), seen)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()
        thread.join()


def test_events_are_told_apart_by_blank_lines():
    told = b"event: generating\ndata: [1]\n\n: a remark\ndata: a\r\ndata:b\n\n\nevent: lost\n\n"
    cut = b"event: cut\ndata: x"
    assert list(load.events((told + cut).splitlines(keepends=True))) == [
        ("generating", b"[1]"),
        ("message", b"a\nb"),
    ]


def test_each_client_keeps_its_connection_and_answers_stay_in_order(gradio):
    url, seen = gradio
    done = load.drive(url, "echo", [[number, "ü"] for number in range(20)], clients=3)
    assert [answer.data for answer in done.answers] == [[number, "ü"] for number in range(20)]
    assert len(seen.connections) <= 3 and len(seen.asked) == 20
    assert set(seen.sessions) <= {"client-0", "client-1", "client-2"} and seen.sessions.total() == 20
    assert 0 < max(answer.seconds for answer in done.answers) <= done.seconds


def test_clients_ask_at_the_same_time(gradio):
    url, _ = gradio
    # The server answers none before four are there.
    assert len(load.drive(url, "together", [["x"]] * 4, clients=4).answers) == 4


def test_the_first_of_a_stream_comes_before_its_end(gradio):
    url, _ = gradio
    (answer,) = load.drive(url, "stream", [["abc"]]).answers
    assert answer.data == ["abc"] and 0 < answer.first < answer.seconds


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "missing was refused: .*no such"),
        ("wrong", "no text yet"),
        ("silent", "without an answer"),
    ],
)
def test_what_fails_is_told(gradio, name, says):
    with pytest.raises(RuntimeError, match=says):
        load.drive(gradio[0], name, [["x"]] * 5, clients=2)


# Processes


def test_settings_for_one_side_do_not_reach_the_other(monkeypatch):
    monkeypatch.setenv("TOUR_QUANTIZE", "int8")
    monkeypatch.setenv("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    given = processes.environment(EXTRA="1")
    assert "TOUR_QUANTIZE" not in given and "GRADIO_ANALYTICS_CACHE_FREQUENCY" not in given
    assert given["OMP_NUM_THREADS"] == "3" and given["EXTRA"] == "1" and given["PATH"]


def test_a_server_that_does_not_start_says_why():
    command = ["-c", "import sys; sys.exit('no weights here')"]
    with pytest.raises(RuntimeError, match="no weights here"), processes.server(command):
        pytest.fail("it must not be entered")


def test_a_worker_that_fails_is_told_and_ended():
    before = set(psutil.Process().children())
    with processes.worker() as worker:
        (child,) = set(psutil.Process().children()) - before
        with pytest.raises(RuntimeError, match="nothing could not be measured"):
            worker.ask("nothing")
    assert not child.is_running()


def test_memory_is_watched_at_its_height():
    lines = "import sys\nfor line in sys.stdin:\n    b'x' * int(line); print(flush=True)\n"
    with subprocess.Popen([sys.executable, "-c", lines], stdin=-1, stdout=-1, text=True, bufsize=1) as child:
        assert child.stdin and child.stdout
        process = psutil.Process(child.pid)
        child.stdin.write("1\n")
        child.stdout.readline()
        before = process.memory_info().rss
        with processes.peak_memory(process) as peak:
            while peak.bytes < before + 200e6:  # what is given back at once may be missed
                child.stdin.write(f"{300 * 10**6}\n")
                child.stdout.readline()
        assert before + 200e6 < peak.bytes < before + 700e6
        processes.settle(process)
        child.stdin.close()


# Alone


def test_items_are_timed_one_by_one():
    done = alone.timed(lambda value: value * 2, [1, 2])
    assert done["answers"] == [2, 4] and all(value > 0 for value in done["seconds"])


def test_a_bare_loop_ends_where_generate_ends():
    folder = str(tiny.llama())
    alone.model_of.cache_clear()
    model, tokenizer = alone.model_of(folder, "AutoModelForCausalLM"), alone.processor_of(folder)
    (a,), (b,) = tokenizer(["a", "b"])["input_ids"]
    end = model.config.eos_token_id
    tiny.forced(model, [[a, b, end, a, b, end, a]])
    assert alone.generate(folder, ["c"], 6)["answers"] == ["ab"]
    assert alone.bare_loop(folder, ["c"], 6)["answers"] == [2]
    assert alone.bare_loop(folder, ["c"], 6)["answers"] == [6]
    assert alone.count_tokens(folder, ["ab", ""])["answers"] == [2, 0]
    alone.model_of.cache_clear()


def test_texts_go_through_in_batches_of_similar_lengths():
    folder = str(tiny.distilbert())
    texts = ["a b c d e f", "a", "a b c", "b"]
    together = alone.classify(folder, texts, 3)["answers"]
    assert [len(batch) for batch in together] == [3, 1]
    single = alone.classify(folder, sorted(texts, key=len), 1)["answers"]
    assert [label for batch in together for label in batch] == [label for (label,) in single]


# The whole


def test_two_servers_that_do_nothing_are_compared():
    with processes.server(["-m", "benchmarks.plain", "{}"]) as first, stage.plain({}) as second:
        assert first.url != second.url
        asked = [[str(number)] for number in range(8)]
        done = rounds.alternate(
            {
                "one": partial(load.drive, first.url, "noop", asked, 4),
                "two": partial(load.drive, second.url, "noop", asked, 4),
            },
            2,
        )
        processes.settle(second.process)
    assert not first.process.is_running() and not second.process.is_running()
    assert speed.data_of(done["one"][-1]) == speed.data_of(done["two"][-1]) == [values[0] for values in asked]
    one = Row(
        "nothing",
        "requests/s",
        "the same",
        rounds.rates(done["one"]),
        rounds.rates(done["two"]),
        at_least(0.01),
    )
    assert one.reached and 0.01 < one.ratio < 100
    assert "requests/s" in rounds.cells(one)[2]


def test_the_command_measures_what_is_named_and_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    def works(stage):
        yield row([1.0] * stage.bench.rounds, [2.0] * stage.bench.rounds, at_least(2))

    def fails(stage):
        raise RuntimeError("no weights here")

    monkeypatch.setattr(speed, "ROWS", {"works": works, "fails": fails, "other": fails})
    monkeypatch.setattr(speed, "starter_folders", dict)
    monkeypatch.setattr(speed, "description", lambda stage, rounds: f"{rounds} rounds")
    assert speed.main([str(tmp_path), "--only", "fails, works", "--rounds", "2"]) == 1
    printed = capsys.readouterr()
    assert "fails was not measured: no weights here" in printed.err and "other" not in printed.err
    assert printed.out.startswith("2 rounds\n\n| work |") and printed.out.count("2.00 (2.00 to 2.00)") == 1
    assert speed.main([str(tmp_path), "--only", "works"]) == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--only", "sound"], "not sound"),
        (["--only", " , "], "not nothing"),
        (["--rounds", "0"], "at least 1"),
        (["--rounds", "few"], "invalid int"),
    ],
)
def test_a_command_line_that_cannot_be_used_is_refused(tmp_path, capsys, given, says):
    with pytest.raises(SystemExit):
        speed.arguments([str(tmp_path), *given])
    assert says in capsys.readouterr().err


def test_all_rows_are_measured_by_default(tmp_path):
    options = speed.arguments([str(tmp_path)])
    assert options.only == list(speed.ROWS) and options.rounds == 5
    with pytest.raises(SystemExit):
        speed.arguments([str(tmp_path / "missing")])
