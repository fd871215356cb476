"""Attribution: which tokens carried a decision, and where did the model look when it decided?

Integrated gradients (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365), by Captum, on the token
embeddings: from a text of padding to the visitor's text on a straight line, the gradients along the way
say how much of the change each token has made. They sum to the whole change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from components.compute import tokenization
from components.explain import inside
from components.explain.inside import Tokens
from components.models import finite
from components.models.eager import twin
from components.models.manager import Loaded

if TYPE_CHECKING:
    import torch

    Score = Callable[[Any], torch.Tensor]  # the model's output for a batch -> one number each, [batch]

T = TypeVar("T")
Embeddings = tuple[Any, ...]  # of each use of the token embedding [batch, sequence, hidden]

FEWEST, MOST = 16, 128  # steps from padding to the text
ENOUGH = 0.002  # of all that the tokens speak for and against: what their sum may be off
SECONDS = 20.0  # a more exact integral is not begun that would end later
AT_ONCE = 4096  # tokens of one pass there and back; others have their turns between two


@dataclass(frozen=True)
class Attributions:
    """What each token has added to a score, `[sequence]`: for it above 0, against it below.

    score: of the text; blank: of padding in its place; delta: what the sum of `values` is above
    score - blank, 0 for an exact integral; steps: that it was computed in.
    """

    values: np.ndarray
    score: float
    blank: float
    delta: float
    steps: int

    @property
    def exact(self) -> bool:
        """Whether the sum is right within a small share of all that the tokens speak for and against."""
        return abs(self.delta) <= ENOUGH * float(np.abs(self.values).sum())


@dataclass(frozen=True)
class Carried:
    """Which tokens carried one decision. labels: all that can be asked about; chosen: the one that was.

    score: what was attributed, in words. attention: see `attention`; position: where it looked from; remarks:
    what is to be said of the text.
    """

    tokens: Tokens
    labels: tuple[str, ...]
    chosen: int
    score: str
    attributions: Attributions
    attention: np.ndarray | None
    position: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Call:
    """One use of the token embedding in a pass: by which layer, and the ids that it read `[1, sequence]`."""

    layer: Any
    ids: torch.Tensor


def integrated_gradients(
    loaded: Loaded,
    inputs: Mapping[str, torch.Tensor],
    score: Score,
    clock: Callable[[], float] = time.monotonic,
) -> Attributions:
    """What each token of one input `[1, sequence]` has added to its score.

    The baseline has padding tokens in place of all but special tokens, which so get nothing; lengths,
    positions and the attention mask stay. Steps are doubled until the sum is right, or time is up. Raises
    ValueError for a model that reads its tokens in an order of its own.
    """
    import torch

    model = loaded.share(twin)
    given = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
    ids = given["input_ids"]
    special = torch.tensor(sorted(tokenization.special_ids(loaded.processor)), device=loaded.device)
    blank = ids.where(torch.isin(ids, special), loaded.processor.pad_token_id)
    started = clock()
    calls = loaded.compute(_with_gradients(lambda: _calls(model, given)))
    shifts = [_shift(ids, call.ids) for call in calls]

    @torch.no_grad()
    def ends() -> tuple[Embeddings, Embeddings, list[float]]:
        text = tuple(call.layer(call.ids) for call in calls)
        padding = tuple(
            call.layer(_shifted(blank, call.ids, shift)) for call, shift in zip(calls, shifts, strict=True)
        )
        both = tuple(torch.cat(pair) for pair in zip(padding, text, strict=True))
        return padding, text, _scores(model, given, calls, score, both).float().tolist()

    padding, text, (low, high) = loaded.compute(_with_gradients(ends))
    steps = FEWEST
    while True:
        begun = clock()
        parts = _integral(loaded, lambda *at: _scores(model, given, calls, score, at), padding, text, steps)
        values = np.sum([_unshifted(part, shift) for part, shift in zip(parts, shifts, strict=True)], axis=0)
        delta = float(values.sum() - (high - low))
        now = clock()
        found = Attributions(values, high, low, delta, steps)
        if found.exact or steps >= MOST or now - started + 2 * (now - begun) > SECONDS:
            return found
        steps *= 2


def _with_gradients(step: Callable[[], T]) -> Callable[[], T]:
    """The same step, for `Loaded.compute`, whose inference mode would record no gradients."""

    def outside() -> T:
        import torch

        with torch.inference_mode(False), torch.enable_grad():
            return step()

    return outside


def _integral(
    loaded: Loaded,
    score: Callable[..., torch.Tensor],
    padding: Embeddings,
    text: Embeddings,
    steps: int,
) -> list[np.ndarray]:
    """Of each use of the embedding what each place has added, `[sequence]`, in at least so many steps.

    The way is cut into pieces of one pass each; the integrals over the pieces add up.
    """
    from captum.attr import IntegratedGradients

    pieces = -(-steps * text[0].shape[1] // AT_ONCE)
    method = IntegratedGradients(score)

    def piece(number: int) -> list[np.ndarray]:
        begin, end = (_between(padding, text, i / pieces) for i in (number, number + 1))
        # On the device's own thread, and with no part of the graph left when it is done.
        found = method.attribute(end, begin, n_steps=-(-steps // pieces))
        sums = [part[0].float().sum(-1).detach().cpu().numpy().astype(np.float64) for part in found]
        finite.require(sum(map(np.sum, sums)))  # gradients overflow as well
        return sums

    done = [
        loaded.compute(_with_gradients(lambda number=number: piece(number)))  # type: ignore[misc]
        for number in range(pieces)
    ]
    return [np.sum(parts, axis=0) for parts in zip(*done, strict=True)]


def _between(padding: Embeddings, text: Embeddings, share: float) -> Embeddings:
    return tuple(low + share * (high - low) for low, high in zip(padding, text, strict=True))


def _calls(model: Any, given: Mapping[str, torch.Tensor]) -> list[_Call]:
    """Where a pass uses the token embedding: once, or in the encoder and again in the decoder."""
    import torch

    calls: list[_Call] = []

    def note(layer: Any, read: tuple[Any, ...], output: Any) -> None:
        calls.append(_Call(layer, read[0]))

    with torch.no_grad(), _hooked(_token_layers(model), note):
        model(**given)
    return calls


def _scores(
    model: Any, given: Mapping[str, torch.Tensor], calls: Sequence[_Call], score: Score, at: Embeddings
) -> torch.Tensor:
    """The score `[batch]` of embeddings put in place of the tokens' own."""
    rows = {name: tensor.expand(len(at[0]), -1) for name, tensor in given.items()}
    ready = iter(at)
    with _hooked({call.layer for call in calls}, lambda layer, read, output: next(ready)):
        return score(model(**rows))


def _token_layers(model: Any) -> set[Any]:
    """The layers that make embeddings of token ids; encoder and decoder may share their weights."""
    import torch

    weight = model.get_input_embeddings().weight
    layers = (layer for layer in model.modules() if isinstance(layer, torch.nn.Embedding))
    return {layer for layer in layers if layer.weight is weight}


@contextmanager
def _hooked(layers: set[Any], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shift(ids: torch.Tensor, read: torch.Tensor) -> int:
    """By how many places what a layer reads is behind the input: a decoder begins with a token of its own."""
    import torch

    if torch.equal(ids, read):
        return 0
    if read.shape == ids.shape and torch.equal(ids[:, :-1], read[:, 1:]):
        return 1
    raise ValueError("the tokens of the input are not where they are looked for")


def _shifted(blank: torch.Tensor, read: torch.Tensor, shift: int) -> torch.Tensor:
    """The baseline's ids as that layer would read them."""
    import torch

    return torch.cat([read[:, :shift], blank[:, : blank.shape[1] - shift]], 1)


def _unshifted(values: np.ndarray, shift: int) -> np.ndarray:
    """By place in the layer `[sequence]` -> by token of the input. What begins a decoder never changes."""
    return np.concatenate([values[shift:], np.zeros(shift)])


def deciding(loaded: Loaded, ids: Sequence[int], pooled: bool = False) -> int | None:
    """The place whose last hidden state the head reads, None where it reads the mean of all.

    pooled: whether it does. An encoder's is the first; a decoder's the last, that of an encoder-decoder the
    last end of a sequence.
    """
    config = loaded.model.config
    if config.is_encoder_decoder:
        ends = [place for place, one in enumerate(ids) if one == config.eos_token_id]
        return ends[-1] if ends else None
    if inside.is_causal(loaded.model):
        return len(ids) - 1
    return None if pooled or getattr(config, "classifier_pooling", "") == "mean" else 0


def attention(loaded: Loaded, inputs: Mapping[str, torch.Tensor], position: int | None) -> np.ndarray | None:
    """Where the last layer looks from that position, mean over its heads: `[sequence]`, its sum is 1.

    The mean over all positions where that is None. Of an encoder-decoder what the decoder's position sees
    of the encoder's tokens. None for a model that gives no such weights.
    """
    model = loaded.share(twin)
    given = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
    output = loaded.compute(lambda: model(**given, output_attentions=True))
    layers = output.get("cross_attentions") or output.get("attentions")
    length = given["input_ids"].shape[1]
    if not layers or layers[-1] is None or tuple(layers[-1].shape[-2:]) != (length, length):
        return None
    rows = layers[-1][0].float().mean(0)
    return (rows.mean(0) if position is None else rows[position]).cpu().numpy()


def carried(
    loaded: Loaded,
    inputs: Mapping[str, torch.Tensor],
    tokens: Tokens,
    labels: Sequence[str],
    chosen: int,
    score: Score,
    name: str,
    pooled: bool = False,
) -> Carried:
    """Attributions of one input `[1, sequence]` and, beside them, the attention of the deciding place.

    score, name: what is attributed; pooled: whether it comes from the mean over all tokens.
    """
    place = deciding(loaded, inputs["input_ids"][0].tolist(), pooled)
    return Carried(
        tokens=tokens,
        labels=tuple(labels),
        chosen=chosen,
        score=name,
        attributions=integrated_gradients(loaded, inputs, score),
        attention=attention(loaded, inputs, place),
        position="all tokens on average" if place is None else f"“{tokens.tokens[place].text}”",
    )
