"""Pickled weights: what becomes safetensors, what is refused, and what the process that reads them can do."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from components.errors import CheckpointError
from components.progress import Progress
from components.weights import pickles, unpickling
from demos import translation, zero_shot
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
ZIPPED, LEGACY = True, False
ENOUGH = 10**9


class Evil:
    """A pickle that runs a program when it is read by anything that believes it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def saved(path: Path, content: Any, zipped: bool = ZIPPED) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    """A file in torch's format with this pickle, and more entries by name."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **more}.items():
            file.writestr(f"archive/{name}", content)
    return path


def converted(
    source: Path, folder: Path, tied: dict[str, str] | None = None, **limits: Any
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (target,) = pickles.convert([source], "a/b", folder, tied or {}, **limits)
    return load_file(target)


def refused(source: Path, most: int = ENOUGH) -> str:
    """Why a file is refused, found in this process."""
    with pytest.raises(unpickling.Refused) as caught:
        unpickling.apart(unpickling.untied(unpickling.read(source), {}), most)
    return str(caught.value)


# What becomes of tensors


@pytest.mark.parametrize("zipped", [ZIPPED, LEGACY])
def test_tensors_of_all_kinds_keep_type_shape_and_values(tmp_path, zipped):
    base = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict(
        double=torch.rand(3, dtype=torch.float64),
        half=torch.rand(3).half(),
        brain=torch.rand(3).bfloat16(),
        ids=torch.arange(5),
        bytes=torch.arange(5, dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        number=torch.tensor(3.5),
        nothing=torch.empty(0, 4),
        parameter=nn.Parameter(torch.rand(2, 2)),
        turned=base.T,
        part=base[1:3, 2:],
        whole=base,
        again=base,
    )
    path = saved(tmp_path / "w.bin", state, zipped)
    tensors = unpickling.apart(unpickling.untied(unpickling.read(path), {}), ENOUGH)
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name
        assert tensors[name].is_contiguous()
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values() if tensor.numel()}) == 12


def test_what_the_model_ties_again_is_written_once_and_all_else_is_kept(tmp_path):
    shared, other = torch.rand(5, 3), torch.rand(5, 3)
    state = {"embed": shared, "head": shared, "twin": shared, "equal": shared.clone(), "other": other}
    state = unpickling.read(saved(tmp_path / "w.bin", state))
    tied = {"head": "embed", "equal": "embed", "other": "embed", "absent": "embed", "twin": "absent"}
    # "equal" and "other" are tensors of their own in the file; whether they are tied is for transformers.
    assert unpickling.untied(state, tied).keys() == {"embed", "twin", "equal", "other"}


@pytest.mark.parametrize(
    ("make", "recipe", "zipped", "left_out"),
    [
        (tiny.marian, translation.RECIPE, LEGACY, 3),
        (tiny.bart, zero_shot.RECIPE, ZIPPED, 2),
    ],
)
def test_tied_embeddings_come_out_as_transformers_has_them(tmp_path, make, recipe, zipped, left_out):
    folder = make()
    model_class = getattr(
        transformers, recipe.model(transformers.AutoConfig.from_pretrained(folder).to_dict())
    )
    model = model_class.from_pretrained(folder)
    state = model.state_dict()
    tied = pickles.tied_names(recipe, folder)
    told: list[Progress] = []
    out = tmp_path / "out"
    out.mkdir()
    (target,) = pickles.convert([saved(tmp_path / "w.bin", state, zipped)], "a/b", out, tied, told.append)
    weights = load_file(target)
    assert len(state) - len(weights) == left_out
    assert all(torch.equal(weights[name], state[name]) for name in weights)
    model.config.save_pretrained(out)
    again, info = model_class.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    size = (tmp_path / "w.bin").stat().st_size
    assert {step.stage for step in told} == {"converting"} and {step.total for step in told} == {size}
    assert [step.done for step in told] == sorted(step.done for step in told) and told[-1].done > 0.4 * size


def test_shards_become_shards_with_an_index(tmp_path):
    parts = [{"a": torch.rand(3), "b": torch.rand(2)}, {"c": torch.rand(4)}]
    sources = [saved(tmp_path / f"{i}.bin", part) for i, part in enumerate(parts)]
    out = tmp_path / "out"
    out.mkdir()
    *shards, index = pickles.convert(sources, "a/b", out, {})
    assert [shard.name for shard in shards] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert index.name == "model.safetensors.index.json"
    for shard, part in zip(shards, parts, strict=True):
        weights = load_file(shard)
        assert weights.keys() == part.keys()
        assert all(torch.equal(weights[name], part[name]) for name in part)
        assert all(f'"{name}": "{shard.name}"' in index.read_text() for name in part)


def test_ties_of_a_configuration_that_makes_no_model_are_none(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "marian", "d_model": "many"}')
    assert pickles.tied_names(translation.RECIPE, tmp_path) == {}


# What is refused


@pytest.mark.parametrize("zipped", [ZIPPED, LEGACY])
def test_a_program_in_a_pickle_is_refused_and_never_run(tmp_path, zipped):
    mark = tmp_path / "mark"
    path = saved(tmp_path / "w.bin", {"weight": torch.rand(3), "more": Evil(mark)}, zipped)
    with pytest.raises(pickles.UnusableError) as caught:
        converted(path, tmp_path / "out")
    assert str(caught.value) == (
        "pytorch_model.bin of a/b is not a plain list of weights, and nothing else is read from it. "
        "Choose a checkpoint with safetensors."
    )
    assert not mark.exists()
    assert not list((tmp_path / "out").iterdir())
    # It is one, as whoever believes it finds out.
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_without_torch_is_refused(tmp_path, protocol):
    mark = tmp_path / "mark"
    (tmp_path / "w.bin").write_bytes(pickle.dumps(Evil(mark), protocol))
    assert refused(tmp_path / "w.bin") in ("objects", "damaged")
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        torch.ones(2),
        {},
        {"state_dict": {"weight": torch.ones(2)}},
        {"weight": torch.ones(2), "epoch": 3},
        {"weight": torch.ones(2), "note": "text"},
        {"weight": [torch.ones(2)]},
        {1: torch.ones(2)},
        {"weight": None},
    ],
)
def test_anything_but_a_flat_list_of_tensors_is_refused(tmp_path, content):
    assert refused(saved(tmp_path / "w.bin", content)) == "objects"


def test_a_whole_model_and_a_script_are_refused(tmp_path):
    assert refused(saved(tmp_path / "model.bin", nn.Linear(2, 2))) == "objects"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.bin")
    assert refused(tmp_path / "script.bin") == "packed"


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(4).to_sparse(),
        lambda: torch.ones(4, 4).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        lambda: torch.ones(4, dtype=torch.complex128),
        lambda: torch.ones(4, device="meta"),
    ],
)
def test_weights_that_safetensors_cannot_hold_are_refused(tmp_path, make):
    assert refused(saved(tmp_path / "w.bin", {"weight": make(), "other": torch.ones(2)})) == "kinds"


@pytest.mark.parametrize("zipped", [ZIPPED, LEGACY])
def test_a_file_that_is_cut_off_is_damaged(tmp_path, zipped):
    path = saved(tmp_path / "w.bin", {"weight": torch.rand(1000)}, zipped)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert refused(path) in ("damaged", "objects"), share


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"<html>no such file</html>" * 9, b"PK\x03\x04" + b"x" * 99]
)
def test_what_is_no_pickle_at_all_is_damaged(tmp_path, content):
    (tmp_path / "w.bin").write_bytes(content)
    assert refused(tmp_path / "w.bin") in ("damaged", "objects")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    zeros = bytes(50_000_000)
    bomb = archive(tmp_path / "w.bin", b"", zipfile.ZIP_DEFLATED, **{"data/0": zeros})
    assert bomb.stat().st_size < 100_000
    assert refused(bomb) == "packed"


def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path):
    one = torch.ones(1).expand(10**6, 10**6)
    assert refused(saved(tmp_path / "w.bin", {"weight": one})) == "large"
    many = torch.ones(1000)
    names = saved(tmp_path / "n.bin", {f"weight.{i}": many for i in range(1000)})
    assert refused(names, most=2 * names.stat().st_size) == "large"


@pytest.mark.parametrize("deep", [b"}X\1\0\0\0a" * 50_000 + b"}" + b"s" * 50_000, b"N" + b"\x85" * 100_000])
def test_what_is_nested_deep_is_refused(tmp_path, deep):
    assert refused(archive(tmp_path / "w.bin", b"\x80\2" + deep + b".")) == "objects"


def test_a_file_that_only_claims_to_be_large_takes_no_memory(tmp_path):
    path = saved(tmp_path / "w.bin", {"weight": torch.rand(1000)}, LEGACY)
    whole = path.read_bytes()
    # In the old format the number of elements is a plain integer behind the name of the device.
    claimed = pickle.dumps(1000, 2)[2:-1]
    assert whole.count(claimed) >= 1
    path.write_bytes(whole.replace(claimed, pickle.dumps(10**12, 2)[2:-1]))
    with pytest.raises(pickles.UnusableError, match=r"pytorch_model\.bin of a/b"):
        converted(path, tmp_path / "out", memory=200_000_000)


# Limits of the process


def test_time_is_limited(tmp_path):
    os.mkfifo(tmp_path / "never.bin")
    with pytest.raises(CheckpointError, match=r"took longer than 0 seconds to convert\. Try again later"):
        converted(tmp_path / "never.bin", tmp_path / "out", seconds=0.2)


def test_who_stops_ends_the_process(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "never.bin")
    started: list[subprocess.Popen[bytes]] = []
    ordinary = subprocess.Popen

    def noted(*values: Any, **named: Any) -> subprocess.Popen[bytes]:
        started.append(ordinary(*values, **named))
        return started[-1]

    class Left(BaseException):
        pass

    def leave(progress: Progress) -> None:
        raise Left

    monkeypatch.setattr(pickles.subprocess, "Popen", noted)
    with pytest.raises(Left):
        converted(tmp_path / "never.bin", tmp_path / "out", report=leave)
    (process,) = started
    assert process.returncode is not None and process.returncode < 0


CONFINED = """
import os, socket, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from components.weights.unpickling import confine
inside, outside = Path(sys.argv[2]), Path(sys.argv[3])
server = socket.create_server(("127.0.0.1", 0))
address = server.getsockname()
if not confine(inside):
    sys.exit("no Landlock")

def tried(what):
    try:
        what()
        return "done"
    except OSError as error:
        return type(error).__name__

print(tried(lambda: (inside / "new").write_text("x")))
print(tried(lambda: (inside / "new").rename(inside / "other")))
print(tried(lambda: (outside / "new").write_text("x")))
print(tried(lambda: (outside / "old").write_text("x")))
print(tried(lambda: (outside / "old").unlink()))
print(tried(lambda: (outside / "folder").mkdir()))
print(tried(lambda: (inside / "other").rename(outside / "other")))
(inside / "link").symlink_to(outside / "old")
print(tried(lambda: (inside / "link").write_text("x")))
print(tried(lambda: os.execv("/bin/true", ["true"])))
print((outside / "old").read_text())
print(tried(lambda: socket.create_connection(address)))
"""


def test_the_process_writes_only_its_folder_and_runs_and_reaches_nothing(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir(), outside.mkdir()
    (outside / "old").write_text("as it was")
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(ROOT), str(inside), str(outside)], capture_output=True, text=True
    )
    if "no Landlock" in done.stderr:
        pytest.skip("this system has no Landlock")
    *files, link, run, read, connection = done.stdout.splitlines()
    assert files == ["done", "done", *["PermissionError"] * 4, files[-1]] and files[-1] != "done"
    assert (link, run, read) == ("PermissionError", "PermissionError", "as it was")
    assert connection in ("PermissionError", "done")  # since version 4 of Landlock
    assert (outside / "old").read_text() == "as it was" and [*outside.iterdir()] == [outside / "old"]


LIMITED = """
import sys
sys.path.insert(0, sys.argv[1])
from components.weights.unpickling import limit
limit(100_000_000, 20_000_000, 60)
held = bytearray(50_000_000)
try:
    more = bytearray(200_000_000)
except MemoryError:
    print("no more memory")
with open(sys.argv[2], "wb") as out:
    try:
        out.write(bytes(40_000_000))
    except OSError as error:
        print("no larger file")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are those of Linux")
def test_memory_and_the_size_of_files_are_limited(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(ROOT), str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["no more memory", "no larger file"], done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
@pytest.mark.parametrize(("size", "told"), [(300_000, errno.EFBIG), (10**9, None)])
def test_what_keeps_safetensors_from_writing_is_told_by_its_number(tmp_path, size, told):
    script = f"""
import json, resource, sys
sys.path.insert(0, {str(ROOT)!r})
from components.weights import unpickling
unpickling.confine = lambda folder: True
unpickling.limit = lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
unpickling.main()
"""
    source = saved(tmp_path / "w.bin", {"weight": torch.ones(100_000)})
    target = tmp_path / "model.safetensors"
    order = {"path": sys.path, "sources": [str(source)], "targets": [str(target)], "tied": {}}
    command = [
        sys.executable,
        "-c",
        script,
        json.dumps({**order, "memory": 0, "bytes": 10**9, "seconds": 60}),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == ([{"errno": told}] if told else [])
    assert target.exists() is not bool(told)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert unpickling.number_in(full) == errno.ENOSPC
    assert unpickling.number_in(SafetensorError("no metadata")) is None
    monkeypatch.setattr(pickles, "_run", lambda *_: {"errno": errno.ENOSPC})
    path = saved(tmp_path / "w.bin", {"weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="The disk is full; a/b stopped while it was converted"):
        converted(path, tmp_path / "out")


def test_the_program_sees_no_secrets_and_imports_nothing_of_the_app(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen: dict[str, Any] = {}

    class Ended:
        returncode = 1
        stdout = io.BytesIO(b"Traceback: it broke")

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self, seconds: float) -> int:
            return 1

        def kill(self) -> None:
            pass

    def popen(command: list[str], **options: Any) -> Ended:
        seen.update(options, command=command)
        return Ended()

    monkeypatch.setattr(pickles.subprocess, "Popen", popen)
    path = saved(tmp_path / "w.bin", {"weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin of a/b could not be converted\. Choose"):
        converted(path, tmp_path / "out")
    assert seen["command"][1] == "-I" and seen["cwd"] == tmp_path / "out"
    assert not {"HF_TOKEN", "HOME"} & seen["env"].keys()
    assert seen["stdin"] == subprocess.DEVNULL


@pytest.mark.parametrize("content", [b"no safetensors", b"\xff" * 100])
def test_what_it_writes_is_looked_at(tmp_path, monkeypatch, content):
    out = tmp_path / "out"
    out.mkdir()

    def run(*_: Any) -> dict[str, Any]:
        (out / "model.safetensors").write_bytes(content)
        return {}

    monkeypatch.setattr(pickles, "_run", run)
    path = saved(tmp_path / "w.bin", {"weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="could not be converted"):
        converted(path, out)
    (out / "model.safetensors").unlink()
    monkeypatch.setattr(
        pickles, "_run", lambda *_: (out / "model.safetensors").symlink_to("/etc/passwd") or {}
    )
    with pytest.raises(CheckpointError, match="could not be converted"):
        converted(path, out)
