"""Decoding: how does a causal language model write, one token at a time?"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.progress import Stopped, never

if TYPE_CHECKING:
    import torch


COLD = 1e-4  # below this temperature logits overflow, and only the likeliest token would be drawn


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0: the likeliest one; top_k 0 and top_p 1: no limit."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0


def end_tokens(model: Any) -> list[int]:
    """The ids that end a text, from the checkpoint's generation settings; may be none."""
    end = model.generation_config.eos_token_id
    return [] if end is None else [end] if isinstance(end, int) else list(end)


def decode(
    model: Any,
    input_ids: torch.Tensor,
    most: int,
    sampling: Sampling,
    stopped: Stopped = never,
) -> Iterator[list[int | None]]:
    """Continue a prompt `[sequences, length]`, all rows alike, by at most `most` tokens.

    Yields the next token of each sequence, None for one that has ended, until all have ended or
    `stopped` says so, which is asked before each step. The key/value cache is kept between steps,
    and no inference mode is held while the caller is at work. Same seed, same tokens.
    """
    import torch
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    greedy = sampling.temperature < COLD
    if not greedy:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(sampling.top_p))
    # Drawn on the CPU, so that a seed means the same on every device.
    source = torch.Generator().manual_seed(sampling.seed)
    ends, rows = set(end_tokens(model)), input_ids.shape[0]
    running = [True] * rows
    history, cache, step_input = input_ids, None, input_ids

    # Logits of the last position are enough; not every architecture can leave out the others.
    last_only = (
        {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    )

    @torch.inference_mode()
    def step() -> torch.Tensor:
        nonlocal cache
        output = model(input_ids=step_input, past_key_values=cache, use_cache=True, **last_only)
        cache = output.past_key_values
        scores = processors(history, output.logits[:, -1].float())  # type: ignore[arg-type]
        if greedy:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1).cpu(), 1, generator=source)[:, 0].to(input_ids.device)

    for _ in range(most):
        if stopped() or not any(running):
            return
        chosen = step()
        history = torch.cat([history, chosen[:, None]], dim=1)
        step_input = chosen[:, None]
        tokens: list[int | None] = []
        for row, token in enumerate(chosen.tolist()):
            ended = token in ends or not running[row]
            running[row] = not ended
            tokens.append(None if ended else token)
        yield tokens
