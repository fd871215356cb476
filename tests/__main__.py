"""The test command: install what the tests need, then format, lint, types, audit and tests."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = (
    ["pip", "install", "--quiet", "-r", "tests/requirements.txt"],
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["mypy"],
)


AUDIT = ["pip_audit", "-r", "requirements.txt", "--no-deps", "--disable-pip", "--format", "json"]


def verdict(report: str) -> tuple[bool, str]:
    """Whether an audit found nothing, and what to say of it. report: what pip-audit wrote."""
    try:
        packages = json.loads(report)["dependencies"]
    except ValueError:
        return True, "not audited: the database of vulnerabilities cannot be reached"
    known = [
        f"{one['name']} {one['version']}: {hole['id']}" for one in packages for hole in one.get("vulns", ())
    ]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if known:
        return False, "known vulnerabilities: " + ", ".join(known)
    if len(skipped) == len(packages):
        return True, "not audited: the database that can be reached holds none of the packages"
    said = f"no known vulnerabilities in {len(packages) - len(skipped)} packages"
    return True, said + (f"; not in the database, so not audited: {', '.join(skipped)}" if skipped else "")


def main() -> int:
    for step in (*STEPS, AUDIT, ["pytest", *sys.argv[1:]]):
        print("::", *step, flush=True)
        audits = step is AUDIT
        done = subprocess.run(
            [sys.executable, "-m", *step],
            cwd=ROOT,
            check=False,
            stdout=subprocess.PIPE if audits else None,
            stderr=subprocess.DEVNULL if audits else None,
            text=True,
        )
        right, said = verdict(done.stdout) if audits else (not done.returncode, "")
        if said:
            print(said, flush=True)
        if not right:
            return done.returncode or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
