"""Lean: what does a decoding step of a Llama cost without all that other uses of the model need?

A step of a small model spends as long in dispatching operations as in reading weights. Its own forward
makes masks, repeats keys for each query head and rounds norms in several operations; what is left out
here is only that. The layers, the weights and the cache are the model's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from components.models.joined import KINDS, whole_of

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tour")

TOLERANCE = 1e-4  # of the largest logit, by which a step may differ from the model's own: rounding
ROUGH = 0.05  # likewise, where quantized layers round what they take and give to bfloat16


class Logits(NamedTuple):
    logits: torch.Tensor


def lean(model: Any) -> Any:
    """A faster call for steps of one token a row, with a model's own arguments; the model if there is none.

    On the CPU, for architectures that are known here and whose step has just been compared to theirs. To be
    called in inference mode.
    """
    if type(model).__name__ not in KINDS or next(model.parameters()).device.type != "cpu":
        return model
    if _watched(model):
        return model
    if set(getattr(model.config, "layer_types", None) or ()) - {"full_attention"}:
        return model
    try:
        step = LeanStep(model)
        if _alike(model, step):
            return step
        log.warning("the lean step of %s differs from the model's own and is not used", type(model).__name__)
    except (AttributeError, RuntimeError, TypeError) as error:
        log.warning("the lean step of %s is not used: %r", type(model).__name__, error)
    return model


def _watched(model: Any) -> bool:
    """Whether somebody wants to see each call of the model, or has put another function in its place.

    The watch for numbers that are not finite does not count: decoding looks at its logits itself.
    """
    hooks = [hook for hook in model._forward_hooks.values() if not getattr(hook, "watches_only", False)]
    return bool("forward" in vars(model) or hooks or model._forward_pre_hooks)


def _alike(model: Any, step: LeanStep) -> bool:
    """Whether both give the same logits for a token behind three others, and fill the cache alike."""
    import copy

    import torch

    ids = torch.arange(4)[None] % model.config.vocab_size
    cache = model(input_ids=ids[:, :3], use_cache=True, logits_to_keep=1).past_key_values
    other = copy.deepcopy(cache)
    asked = {
        "input_ids": ids[:, 3:],
        "position_ids": torch.tensor([[3]]),
        "use_cache": True,
        "logits_to_keep": 1,
    }
    theirs = model(**asked, past_key_values=cache).logits
    ours = step(**asked, past_key_values=other).logits
    pairs = [(theirs[:, -1], ours[:, -1])]
    for layer, like in zip(cache.layers, other.layers, strict=True):
        pairs += [(layer.keys, like.keys), (layer.values, like.values)]
    whole = any(buffer.dtype in (torch.int8, torch.uint8) for buffer in model.buffers())
    tolerance = ROUGH if whole else TOLERANCE
    return all(bool((a - b).abs().max() <= tolerance * a.abs().max()) for a, b in pairs)


class LeanStep:
    """One token of each row through the layers of a Llama. Raises AttributeError for what has other parts."""

    def __init__(self, model: Any) -> None:
        body, config = model.model, model.config
        self._model, self.device = model, model.device
        self._embed, self._rotary, self._head = body.embed_tokens, body.rotary_emb, model.lm_head
        self._heads, self._groups = config.num_attention_heads, config.num_key_value_heads
        self._layers = [
            (
                _norm(layer.input_layernorm),
                _together(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                _direct(layer.self_attn.o_proj),
                _norm(layer.post_attention_layernorm),
                _together(layer.mlp.gate_proj, layer.mlp.up_proj),
                layer.mlp.act_fn,
                _direct(layer.mlp.down_proj),
            )
            for layer in body.layers
        ]
        self._norm = _norm(body.norm)
        self._scaling = body.layers[0].self_attn.scaling

    def __call__(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: Any,
        attention_mask: torch.Tensor | None = None,
        **options: Any,
    ) -> Logits:
        """Tokens and positions `[rows, 1]` -> logits `[rows, 1, vocabulary]`.

        attention_mask: `[rows, columns]`, 1 for what is seen, all of it if not given.
        """
        import torch
        from torch.nn.functional import rms_norm, scaled_dot_product_attention

        if _watched(self._model):
            return self._model(
                input_ids=input_ids,
                position_ids=position_ids,
                past_key_values=past_key_values,
                attention_mask=attention_mask,
                **options,
            )
        x = self._embed(input_ids)
        cos, sin = self._rotary(x, position_ids)
        x, size = x[:, 0], cos.shape[-1]
        # rotate_half(x) * sin, with the sign where the half goes: x is rolled by half its size.
        sin = torch.cat((-sin[..., : size // 2], sin[..., size // 2 :]), -1)
        mask = None
        if attention_mask is not None:
            mask = torch.zeros(attention_mask.shape, dtype=x.dtype)
            mask = mask.masked_fill_(attention_mask == 0, -torch.inf)[:, None, None]
        turning = self._heads + self._groups  # heads of queries and keys
        for (before, to_heads, o_proj, between, gate_up, act, down), kept in zip(
            self._layers, past_key_values.layers, strict=True
        ):
            heads = to_heads(rms_norm(x, *before)).to(x.dtype).view(len(x), -1, size)
            turned = heads[:, :turning]
            turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
            queries = turned[:, : self._heads].view(len(x), self._groups, -1, size)
            keys, values = kept.update(turned[:, self._heads :, None], heads[:, turning:, None])
            # The heads that share keys are as so many tokens at one place, so no key is repeated.
            y = scaled_dot_product_attention(queries, keys, values, mask, scale=self._scaling)
            x = x + o_proj(y.reshape(len(x), -1))
            gate, up = gate_up(rms_norm(x, *between)).to(x.dtype).chunk(2, -1)
            x += down(act(gate).mul_(up))
        return Logits(self._head(rms_norm(x, *self._norm)[:, None]))


def _norm(layer: Any) -> tuple[list[int], torch.Tensor, float]:
    """What `rms_norm` takes beside its input."""
    return [layer.weight.shape[0]], layer.weight, layer.variance_epsilon


def _direct(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives its outputs for `[rows, inputs]`, past the cost of calling a module if it can be."""
    return getattr(layer, "few", layer)


def _together(*layers: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives the outputs of all of them, one behind the other, in one product where there is one."""
    import torch

    whole = whole_of(layers)
    return _direct(whole) if whole is not None else lambda x: torch.cat([layer(x) for layer in layers], -1)
