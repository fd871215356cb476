"""Tiny Whispers: random weights, windows of two seconds, and what generate makes of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from components.inputs import audio
from components.models.manager import Loaded
from tests import where

SECONDS = 2  # of a window; positions are half the frames, which are 100 a second
POSITIONS = 50 * SECONDS
MOST_TOKENS = 20  # after the prompt: half of the decoder's positions
LINES = ["the quick brown fox jumps over the lazy dog", "le renard brun saute par-dessus le chien", "one two"]


def tokenizer(codes: tuple[str, ...], size: int | None = None) -> WhisperTokenizer:
    """A byte-level tokenizer with Whisper's special tokens in Whisper's order.

    size: tokens before the special ones, filled up with some that no text leads to; None for those learnt.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(LINES, trainer)
    bpe = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in bpe["merges"]]
    vocabulary = dict(bpe["vocab"])
    for i in range(len(vocabulary), size or 0):
        vocabulary[f"<|fill-{i}|>"] = i
    vocabulary["<|endoftext|>"] = len(vocabulary)
    made = WhisperTokenizer(vocab=vocabulary, merges=merges)
    names = ["startoftranscript", *codes, "translate", "transcribe"]
    names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
    specials = [AddedToken(f"<|{name}|>", special=True, normalized=False) for name in names]
    made.add_tokens(specials, special_tokens=True)
    return made


def whisper(codes: tuple[str, ...] = (), seed: int = 0, **more: Any) -> Loaded:
    """A random Whisper; codes: its languages, none for English only; more: of its generation settings.

    It writes no end before its time.
    """
    torch.manual_seed(seed)
    words = tokenizer(codes or ("en",))
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "startoftranscript")}
    stamp: Any = words.convert_tokens_to_ids("<|notimestamps|>")
    tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["endoftext"])
    tokens["decoder_start_token_id"] = ids["startoftranscript"]
    config = WhisperConfig(
        vocab_size=stamp + 1 + POSITIONS + 1,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=16,
        max_source_positions=POSITIONS,
        max_target_positions=40,
        init_std=0.4,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **tokens,
    )
    model = WhisperForConditionalGeneration(config).eval()
    settings = {
        "alignment_heads": [[0, 0], [1, 1]],
        "max_length": 40,
        "is_multilingual": bool(codes),
    } | tokens
    settings["no_timestamps_token_id"] = stamp
    if codes:
        settings["lang_to_id"] = {f"<|{c}|>": words.convert_tokens_to_ids(f"<|{c}|>") for c in codes}
        tasks = ("translate", "transcribe")
        settings["task_to_id"] = {t: words.convert_tokens_to_ids(f"<|{t}|>") for t in tasks}
    model.generation_config = GenerationConfig(**(settings | more))
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=SECONDS)
    return lent(model, WhisperProcessor(extractor, words))


def lent(model: Any, processor: Any) -> Loaded:
    """As the manager lends it."""
    checkpoint: Any = None
    model = model.to(where.device())
    where.answers_where_asked(model)
    return Loaded(checkpoint, model, processor, where.device(), model.dtype, 0, 0.0)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=int(seconds * audio.RATE))).astype(np.float32)


def features(loaded: Loaded, samples: np.ndarray) -> torch.Tensor:
    extractor = loaded.processor.feature_extractor
    return extractor(samples, sampling_rate=audio.RATE, return_tensors="pt").input_features


def generated(loaded: Loaded, samples: np.ndarray, **options: Any) -> Any:
    """What Transformers' own generate gives for one window."""
    return loaded.model.generate(
        features(loaded, samples),
        return_timestamps=True,
        force_unique_generate_call=True,
        max_length=MOST_TOKENS,
        **options,
    )


def text_tokens(loaded: Loaded, sequence: torch.Tensor, prompt: int) -> list[int]:
    """Without prompt and end of text."""
    end = loaded.model.generation_config.eos_token_id
    tokens = sequence.tolist()
    start = tokens[prompt:] if tokens[0] == loaded.model.generation_config.decoder_start_token_id else tokens
    return [token for token in start if token != end]
