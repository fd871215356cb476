"""Measures: what benchmarks and training scripts both read and count, without the app."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BINS = 10  # of confidence


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank; a stray carriage return counts as white space."""
    content = path.read_bytes().decode("utf-8-sig").replace("\r", " ")
    return [line.strip(" ") for line in content.split("\n") if line.strip()]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line."""
    return [json.loads(line) for line in read_lines(path)]


def reference_streams(grouped: Sequence[Sequence[str]]) -> list[list[Any]]:
    """References `[items][references]` as sacrebleu wants them, `[references][items]`; None fills up."""
    most = max(map(len, grouped))
    return [[refs[i] if i < len(refs) else None for refs in grouped] for i in range(most)]


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error, from 0 to 1 (Guo et al. 2017): how far confidence is from accuracy.

    confidence, right: `[items]`; the mean gap of BINS bins of equal width, weighted by their items.
    """
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(places, confidence - right, BINS)
    return float(np.abs(gaps).sum() / len(right))
