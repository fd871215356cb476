"""Tests: one file for each module; `python -m tests` runs all checks."""
