"""The test command: install what the tests need, then format, lint, types and tests."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = (
    ["pip", "install", "--quiet", "-r", "tests/requirements.txt"],
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["mypy"],
    ["pytest", *sys.argv[1:]],
)


def main() -> int:
    for step in STEPS:
        print("::", *step, flush=True)
        if code := subprocess.run([sys.executable, "-m", *step], cwd=ROOT, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
