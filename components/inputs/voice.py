"""Voice: where in a recording does somebody speak?

Silero VAD (https://github.com/snakers4/silero-vad, MIT licence) tells it for each 32 ms: a short-time
Fourier transform, four convolutions and an LSTM of 128. Its weights come with the package `silero-vad`,
which is not imported: that would take all but one of PyTorch's threads from the whole process.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.inputs import audio

if TYPE_CHECKING:
    import torch

FRAME = 512  # samples, 32 ms
CONTEXT = 64  # samples of the frame before that are heard with each
AT_ONCE = 512  # frames that go through the convolutions together
BEGINS, GOES_ON = 0.5, 0.35  # probability of speech at which a voice begins, and below which it ends
SHORTEST = 4  # frames; what is voiced for less is a click
APART = 4  # frames; a shorter break is within a word
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of the LSTM


@cache
def _weights() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    package = importlib.util.find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the package silero-vad, which requirements.txt lists, is not installed")
    return load_file(Path(package.submodule_search_locations[0]) / "data" / "silero_vad_16k.safetensors")


def probabilities(samples: np.ndarray) -> np.ndarray:
    """How probably each frame holds speech, float32 [frames]; the last one may be shorter than the others.

    samples: float32 [samples], mono, 16 kHz, as loud as speech usually is; see `audio.raised`.
    """
    import torch
    from torch.nn import functional

    if not samples.size:
        return np.zeros(0, np.float32)
    weights = _weights()
    count = -(-samples.size // FRAME)
    padded = torch.zeros(CONTEXT + count * FRAME)
    padded[CONTEXT : CONTEXT + samples.size] = torch.from_numpy(np.ascontiguousarray(samples))
    frames = padded.unfold(0, CONTEXT + FRAME, FRAME)
    lstm = _lstm()

    def convolved(values: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.conv1d(values, weight, bias, stride=stride, padding=1).relu()

    found, state = [], None
    with torch.inference_mode():
        for at in range(0, count, AT_ONCE):
            values = functional.pad(frames[at : at + AT_ONCE], (0, CONTEXT), "reflect")[:, None]
            waves = functional.conv1d(values, weights["stft_conv.weight"], stride=128)
            cosines, sines = waves.split(waves.shape[1] // 2, 1)
            values = (cosines.square() + sines.square()).sqrt()
            for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
                values = convolved(values, name, stride)
            hidden, state = lstm(values[:, :, 0], state)
            logits = hidden.relu() @ weights["final_conv.weight"][0] + weights["final_conv.bias"]
            found.append(logits.sigmoid()[:, 0])
    return torch.cat(found).numpy()


def spans(samples: np.ndarray) -> list[tuple[int, int]]:
    """Where somebody speaks: (start, end) in samples of the recording, in order. samples: as above."""
    voiced, spoken = probabilities(samples), False
    marks = np.zeros(voiced.size, bool)
    for place, probability in enumerate(voiced):
        spoken = bool(probability >= (GOES_ON if spoken else BEGINS))
        marks[place] = spoken
    edges = np.flatnonzero(np.diff(np.r_[False, marks, False].astype(np.int8))).reshape(-1, 2)
    joined: list[list[int]] = []
    for start, end in edges.tolist():
        if joined and start - joined[-1][1] < APART:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return [
        (start * FRAME, min(end * FRAME, samples.size)) for start, end in joined if end - start >= SHORTEST
    ]


def is_heard(samples: np.ndarray) -> bool:
    """Whether somebody speaks, however softly. samples: float32 [samples] at 16 kHz, of any level."""
    return audio.speech_level(samples) >= audio.NOTHING_BELOW and bool(spans(audio.raised(samples)))


@cache
def _lstm() -> torch.nn.LSTM:
    import torch

    weights = _weights()
    size = weights["lstm_cell.weight_hh"].shape[1]
    lstm = torch.nn.LSTM(size, size).eval()
    lstm.load_state_dict({f"{name}_l0": weights[f"lstm_cell.{name}"] for name in NAMES})
    return lstm
