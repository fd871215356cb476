"""What the test command says of the audit of dependencies."""

from __future__ import annotations

import json

from tests.__main__ import verdict


def report(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


GOOD = {"name": "good", "version": "1", "vulns": []}


def test_a_known_vulnerability_ends_the_tests():
    bad = {"name": "bad", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    assert verdict(report(GOOD, bad)) == (False, "known vulnerabilities: bad 2: CVE-1")


def test_what_was_not_audited_is_said():
    skipped = {"name": "other", "skip_reason": "Dependency not found"}
    assert verdict(report(GOOD)) == (True, "no known vulnerabilities in 1 packages")
    right, said = verdict(report(GOOD, skipped))
    assert right and said.endswith("in 1 packages; not in the database, so not audited: other")
    assert verdict(report(skipped))[1].startswith("not audited: ")


def test_a_database_that_cannot_be_reached_is_said():
    assert verdict("") == (True, "not audited: the database of vulnerabilities cannot be reached")
