"""Hearing: what happens between a window of sound and the tokens that were written for it?

One pass of Whisper over a window whose tokens are known: the encoder, and the decoder once over all
tokens, each of which it is to predict from those before it (teacher forcing).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components.compute.whisper import STEP, languages
from components.compute.windows import Decoded, Rules, is_multilingual, prompt_of, token_ends
from components.explain import inside
from components.explain.inside import Axis
from components.explain.spectrogram import log_mel
from components.models import eager, finite

if TYPE_CHECKING:
    import torch

    from components.models.manager import Loaded


@dataclass(frozen=True)
class Written:
    """A token of the decoder's text and how sure the model was of it.

    kind: "start", "language", "task", "timestamp", "end", "special" or "text". logit, probability: of
    this token at its place, from what came before; highest: the token with the highest logit there, and
    that; None for the first, which nothing comes before. allowed: its probability among those that
    Whisper's rules allow there, None for tokens that were asked for.
    """

    text: str
    id: int
    kind: str
    logit: float | None = None
    probability: float | None = None
    highest: tuple[str, float] | None = None
    allowed: float | None = None


@dataclass(frozen=True, eq=False)
class Heard:
    """What one pass over a window brought.

    mel: its log-Mel spectrogram [Mel bins, frames]; features, encoder, decoder, logits: shapes of what the
    encoder reads, of the last hidden states of encoder and decoder, and of what the head makes of them;
    prompt, written: tokens that were asked for, and those that the decoder wrote, with the end of text
    unless it was cut off. no_speech: probability of <|nospeech|>; languages: those of its likeliest
    languages, by name, for multilingual checkpoints. attentions: `[layers, heads, written, positions]`,
    the cross-attention while each of them was written, float32; ends: where each token ends, in seconds of
    the window, () where the checkpoint does not say which heads tell.
    """

    mel: np.ndarray
    features: tuple[Axis, ...]
    encoder: tuple[Axis, ...]
    decoder: tuple[Axis, ...]
    logits: tuple[Axis, ...]
    prompt: tuple[Written, ...]
    written: tuple[Written, ...]
    no_speech: float
    languages: tuple[tuple[str, float], ...]
    attentions: np.ndarray
    ends: tuple[float, ...]


MOST_LANGUAGES = 5  # that are told


def hear(
    loaded: Loaded, samples: np.ndarray, tokens: tuple[int, ...], language: str | None, task: str
) -> Heard:
    """A window once more, with all that is between its sound and its tokens.

    samples: float32 [samples], mono, 16 kHz; tokens: what was decoded from it, without prompt and end of
    text; language: its code, None for English-only checkpoints.
    """
    import torch

    model = loaded.model
    mel = log_mel(loaded.processor.feature_extractor, samples)
    features = torch.from_numpy(mel)[None].to(loaded.device, loaded.dtype)
    states = loaded.compute(lambda: model.get_encoder()(features).last_hidden_state)
    prompt = prompt_of(model, language, task)
    cut_off = len(tokens) >= model.config.max_target_positions // 2
    text = [*prompt, *tokens, *([] if cut_off else [model.generation_config.eos_token_id])]

    def decode() -> tuple[Any, torch.Tensor, list[float]]:
        output = loaded.share(eager.twin).get_decoder()(
            input_ids=torch.tensor([text[:-1]], device=loaded.device),
            encoder_hidden_states=states,
            output_attentions=True,
            use_cache=False,
        )
        logits = model.get_output_embeddings()(output.last_hidden_state).float()
        return output, logits.cpu(), _allowed(Rules(model, len(prompt)), text, len(prompt), logits[0])

    output, logits, allowed = loaded.compute(decode)
    finite.require(finite.total_of(logits))
    attentions = tuple(weights.float().cpu() for weights in output.cross_attentions)
    written = _written(loaded, text, logits[0], len(prompt), allowed)
    first = logits[0, 0].softmax(-1)
    ends: tuple[float, ...] = ()
    if getattr(model.generation_config, "alignment_heads", None):
        ends = token_ends(model, Decoded(tokens, 0.0, 0.0, language, attentions), samples.size)
    return Heard(
        mel=mel,
        features=inside.axes(features, "batch", "Mel bins", "frames of 10 ms"),
        encoder=inside.axes(states, "batch", f"positions of {1000 * STEP:.0f} ms", "hidden"),
        decoder=inside.axes(output.last_hidden_state, "batch", "tokens read", "hidden"),
        logits=inside.axes(logits, "batch", "tokens read", "vocabulary"),
        prompt=tuple(written[: len(prompt)]),
        written=tuple(written[len(prompt) :]),
        no_speech=float(first[model.generation_config.no_timestamps_token_id - 1]),
        languages=_languages(model, logits[0, 0]),
        attentions=np.stack([one[0, :, len(prompt) - 1 :].numpy() for one in attentions]),
        ends=ends,
    )


def mean_attention(
    heard: Heard,
    heads: list[tuple[int, int]] | None = None,
    layer: int | None = None,
    head: int | None = None,
) -> np.ndarray:
    """Cross-attention `[written, positions]`: the mean of these (layer, head), or of what is left open.

    layer, head: counted from 0, None for all of them.
    """
    if heads is not None:
        return np.mean([heard.attentions[one] for one in heads], axis=0)
    layers = slice(None) if layer is None else slice(layer, layer + 1)
    some = slice(None) if head is None else slice(head, head + 1)
    return heard.attentions[layers, some].mean(axis=(0, 1))


def alignment_heads(model: Any) -> list[tuple[int, int]] | None:
    """(layer, head) of those that follow the sound, as the checkpoint says; None where it does not."""
    named = getattr(model.generation_config, "alignment_heads", None)
    return [(int(layer), int(head)) for layer, head in named] if named else None


def _allowed(rules: Rules, text: list[int], prompt: int, logits: torch.Tensor) -> list[float]:
    """Probability of each token after the prompt among those allowed at its place; logits [read, tokens]."""
    return [
        float(rules([text[:place]], logits[place - 1 : place]).softmax(-1)[0, text[place]])
        for place in range(prompt, len(text))
    ]


def _written(
    loaded: Loaded, text: list[int], logits: torch.Tensor, prompt: int, allowed: list[float]
) -> list[Written]:
    """The tokens of a text; logits `[read, vocabulary]`, of which each row is about the next token."""
    probabilities, (highest, best) = logits.softmax(-1), logits.max(-1)
    tokens = [Written(_shown(loaded, text[0]), text[0], "start")]
    for place, one in enumerate(text[1:], 1):
        row = place - 1
        tokens.append(
            Written(
                _shown(loaded, one),
                one,
                _kind(loaded, one, place, prompt),
                float(logits[row, one]),
                float(probabilities[row, one]),
                (_shown(loaded, int(best[row])), float(highest[row])),
                allowed[place - prompt] if place >= prompt else None,
            )
        )
    return tokens


def _kind(loaded: Loaded, token: int, place: int, prompt: int) -> str:
    config = loaded.model.generation_config
    if place < prompt:
        return ("start", "language", "task")[place]
    if token > config.no_timestamps_token_id:
        return "timestamp"
    if token == config.eos_token_id:
        return "end"
    return "special" if token in loaded.processor.tokenizer.all_special_ids else "text"


def _shown(loaded: Loaded, token: int) -> str:
    """A token as text; timestamps by their seconds, and bytes that make no letter alone by their signs."""
    begin = loaded.model.generation_config.no_timestamps_token_id + 1
    if token >= begin:
        return f"<|{(token - begin) * STEP:.2f}|>"
    tokenizer = loaded.processor.tokenizer
    text = tokenizer.decode([token])
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text


def _languages(model: Any, logits: torch.Tensor) -> tuple[tuple[str, float], ...]:
    """The likeliest languages with their probabilities; logits `[vocabulary]` after the first token."""
    if not is_multilingual(model):
        return ()
    named, names = model.generation_config.lang_to_id, languages(model)
    shares = logits[list(named.values())].softmax(-1).tolist()
    known = [(names[token.strip("<|>")], share) for token, share in zip(named, shares, strict=True)]
    return tuple(sorted(known, key=lambda pair: -pair[1])[:MOST_LANGUAGES])
