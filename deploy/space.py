"""Space: which files of this repository make a Hugging Face Space, and how do they get there?

    python -m deploy.space --repo-id owner/name --dry-run
    python -m deploy.space --repo-id owner/name --private --hardware cpu-basic

HF_TOKEN and HF_ENDPOINT mean what they mean to huggingface_hub. The Space holds the same files afterwards:
what an earlier upload left there and this one does not have is deleted in the same commit.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 10_000_000  # bytes of a file; more belongs into a model repository

# What the app does not need there. The weights of the starters stay here: the hub is at hand.
LEFT_OUT = (
    "checkpoints/*/*.safetensors",
    "benchmarks/*",
    "deploy/*",
    "tests/*",
    "training/*",
    "Dockerfile",
)
KEYS = ("*.key", "*.p12", "*.pem", "*.pfx", "id_ed25519*", "id_rsa*", "*.token", "credentials*")
SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----")


class Refusal(Exception):
    """Why nothing was uploaded, in a sentence or two."""


@dataclass(frozen=True)
class Part:
    """A file that goes up. path: in the repository; size: in bytes."""

    path: str
    size: int


def listed(root: Path) -> list[str]:
    """The files that git tracks below root; without git, all but hidden ones and what Python compiled."""
    try:
        done = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=True)
        paths = [os.fsdecode(path) for path in done.stdout.split(b"\0") if path]
    except (OSError, subprocess.CalledProcessError):
        paths = []
    return sorted(paths or _walked(root))


def _walked(root: Path) -> Iterator[str]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name != "__pycache__" and not name.startswith(".")]
        yield from ((Path(folder) / name).relative_to(root).as_posix() for name in names)


def selected(root: Path = ROOT) -> tuple[list[Part], list[Part]]:
    """What goes up, and what of the listed files stays here: hidden ones, links, and LEFT_OUT."""
    up: list[Part] = []
    here: list[Part] = []
    for path in listed(root):
        file = root / path
        if not file.is_symlink() and not file.is_file():
            continue  # deleted, and git has not been told
        hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
        stays = hidden or file.is_symlink() or any(fnmatch(path, pattern) for pattern in LEFT_OUT)
        (here if stays else up).append(Part(path, file.lstat().st_size))
    return up, here


def check(parts: Sequence[Part], root: Path = ROOT) -> None:
    """Raises Refusal for a file that is too large or holds a secret, or if there is no app."""
    for part in parts:
        if part.size > LARGEST:
            raise Refusal(
                f"{part.path} has {size(part.size)}, and at most {size(LARGEST)} go up in one file: "
                "leave it out, or put it into a model repository."
            )
        name = PurePosixPath(part.path).name
        if any(fnmatch(name, key) for key in KEYS) or SECRET.search((root / part.path).read_bytes()):
            raise Refusal(f"{part.path} looks like a secret: remove it, and make the secret invalid.")
    if not {"README.md", "app.py", "requirements.txt"} <= {part.path for part in parts}:
        raise Refusal("README.md, app.py and requirements.txt are needed to make a Space.")


def size(count: int) -> str:
    """Bytes as a visitor of the Space would read them."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def told(up: Sequence[Part], here: Sequence[Part]) -> str:
    """A line for each file that goes up, their sum, and what stays here."""
    wide = max((len(part.path) for part in up), default=0)
    lines = [f"{part.path:{wide}}  {size(part.size):>8}" for part in up]
    lines.append(f"{len(up)} files go up, {size(sum(part.size for part in up))}.")
    if here:
        places = sorted({part.path.split("/")[0] for part in here})
        lines.append(
            f"{len(here)} files stay here, {size(sum(part.size for part in here))}: {', '.join(places)}."
        )
    return "\n".join(lines)


def upload(
    repo_id: str,
    parts: Sequence[Part],
    root: Path = ROOT,
    private: bool = False,
    hardware: str | None = None,
) -> str:
    """Make the Space if there is none and commit the files; its address. private: if it is made now.

    Raises Refusal in a sentence: the name, no token, no connection, no right.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceHardware, get_token

    flavour = SpaceHardware(hardware) if hardware else None
    with _in_sentences(repo_id):
        if not get_token():
            raise Refusal("There is no token of the hub. Run `hf auth login`, or set HF_TOKEN.")
        api = HfApi()
        url = api.create_repo(
            repo_id,
            repo_type="space",
            space_sdk="gradio",
            private=private or None,
            space_hardware=flavour,
            exist_ok=True,
        )
        wanted = {part.path for part in parts}
        old = api.list_repo_files(url.repo_id, repo_type="space")
        # Hidden files there, such as .gitattributes, are the hub's.
        stale = [path for path in old if path not in wanted and not path.startswith(".")]
        api.create_commit(
            url.repo_id,
            repo_type="space",
            operations=[
                *(CommitOperationAdd(part.path, root / part.path) for part in parts),
                *(CommitOperationDelete(path, is_folder=False) for path in stale),
            ],
            commit_message="Upload the app",
        )
        if flavour:
            # That of a Space that was there before.
            api.request_space_hardware(url.repo_id, flavour)
        return str(url)


@contextmanager
def _in_sentences(repo_id: str) -> Iterator[None]:
    """Turn what huggingface_hub and the system raise into a Refusal."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError:
        raise Refusal(f'"{repo_id}" cannot be the name of a Space. Write it as owner/name.') from None
    except OfflineModeIsEnabled:
        raise Refusal("HF_HUB_OFFLINE is set, so nothing can be uploaded.") from None
    except HfHubHTTPError as error:
        raise Refusal(_answered(repo_id, error.response.status_code, error.server_message)) from error
    except ValueError as error:
        if "README" not in str(error):
            raise
        raise Refusal(f"The hub does not take the README: {str(error).splitlines()[-1]}") from error
    except (HTTPError, OSError) as error:
        raise Refusal("The hub cannot be reached. Try again when there is a connection.") from error


def _answered(repo_id: str, status: int, message: str | None) -> str:
    said = f" It says: {message}" if message else ""
    if status == 401:
        return "The hub does not know this token. Run `hf auth login`, or set another HF_TOKEN." + said
    if status in (403, 404):
        return f"This token may not write to {repo_id}. Take one with the right to write there." + said
    if status == 402:
        return "The hub wants a subscription or credits for this hardware." + said
    if status == 429:
        return "The hub has had too many requests from here. Wait a few minutes." + said
    return f"The hub answered with error {status}." + said


def hardware_names() -> list[str]:
    """What a Space can run on, as huggingface_hub knows it."""
    from huggingface_hub import SpaceHardware

    return [one.value for one in SpaceHardware]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.space", description="Upload this app as a Hugging Face Space."
    )
    parser.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="the Space")
    parser.add_argument("--dry-run", action="store_true", help="print what would go up, and ask nobody")
    parser.add_argument("--private", action="store_true", help="for a new Space: only its owner sees it")
    parser.add_argument("--hardware", choices=hardware_names(), metavar="NAME", help="such as cpu-basic")
    given = parser.parse_args(arguments)
    up, here = selected()
    print(told(up, here), flush=True)
    try:
        check(up)
        if given.dry_run:
            print(f"Nothing was uploaded to {given.repo_id}: this was a dry run.")
        else:
            print(f"It is at {upload(given.repo_id, up, ROOT, given.private, given.hardware)}")
    except Refusal as refusal:
        sys.exit(str(refusal))


if __name__ == "__main__":
    main()
