"""Tiny checkpoints: ordinary Hugging Face folders with random weights, made once for a test run.

Weights are drawn wide, so that different inputs give clearly different answers.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import json
import shutil
import tempfile
import zlib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from components.models.loading import weights_bytes
from components.models.manager import Loaded, ModelManager
from components.page.demo import Demo
from components.server.line import Line
from components.settings import Settings
from components.weights.checkpoints import Checkpoint, Hub, Offer, Recipe
from tests import where

WORDS = """i you we it this that is was not so very much have been waiting for my whole life course hate love
house the a sport weather history fun class about education politics business text"""
CHATML = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ENGLISH = [
    "You like this house.",
    "The weather is nice today.",
    "My name is Anna and I live in Berlin.",
    "Shall we go for a walk in the park?",
    "A man is standing on a ladder cleaning a window.",
    "Quick brown foxes jump over lazy dogs; Victor zips by.",
]
FRENCH = [
    "Tu aimes cette maison.",
    "Il fait beau aujourd'hui.",
    "Je m'appelle Anna et j'habite à Berlin.",
    "On va se promener dans le parc ?",
    "Un homme est debout sur une échelle et lave une fenêtre.",
    "Voix ambiguë d'un cœur qui préfère les jattes de kiwis.",
]
WIDE = 0.8  # standard deviation of the weights


@cache
def _home() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _save(name: str, *parts: Any) -> Path:
    folder = _home() / name
    for part in parts:
        part.save_pretrained(folder)
    return folder


def _named(kind: str, *what: Any) -> str:
    """The kind and a number that differs wherever the arguments do."""
    return f"{kind}-{zlib.crc32(repr(what).encode()):08x}"


def _seed() -> None:
    import torch

    torch.manual_seed(20)


def _wordpieces() -> dict[str, int]:
    """Any text of lower-case Latin letters, digits and marks can be written with these."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'{}<>/=-:"
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS.split(),
        *letters,
        *(f"##{c}" for c in letters),
    ]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}


def _bytes(*special: str) -> dict[str, int]:
    """A vocabulary in which every byte is a token, after the special ones."""
    from tokenizers.pre_tokenizers import ByteLevel

    return {piece: i for i, piece in enumerate((*special, *sorted(ByteLevel.alphabet())))}


@cache
def distilbert(labels: tuple[str, ...] = ("NEGATIVE", "POSITIVE"), problem: Any = None) -> Path:
    """A DistilBERT classifier that takes 64 tokens; one word more or less is one token more or less."""
    from transformers import BertTokenizer, DistilBertConfig, DistilBertForSequenceClassification

    _seed()
    vocabulary = _wordpieces()
    config = DistilBertConfig(
        vocab_size=len(vocabulary),
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=64,
        initializer_range=WIDE,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=problem,
    )
    # Some hub checkpoints of DistilBERT carry BERT's tokenizer, which also makes token_type_ids.
    tokenizer = BertTokenizer(vocabulary, model_max_length=512)
    return _save(
        _named("distilbert", *labels, problem), DistilBertForSequenceClassification(config), tokenizer
    )


@cache
def masked_distilbert() -> Path:
    """A DistilBERT with a masked language modelling head that takes 64 tokens."""
    from transformers import BertTokenizer, DistilBertConfig, DistilBertForMaskedLM

    _seed()
    vocabulary = _wordpieces()
    config = DistilBertConfig(
        vocab_size=len(vocabulary),
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=64,
        initializer_range=WIDE,
    )
    tokenizer = BertTokenizer(vocabulary, model_max_length=512)
    return _save("masked-distilbert", DistilBertForMaskedLM(config), tokenizer)


@cache
def masked_roberta() -> Path:
    """A RoBERTa with a masked language modelling head and a byte vocabulary that takes 60 tokens."""
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizer

    _seed()
    vocabulary = _bytes("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=62,
        initializer_range=WIDE,
    )
    tokenizer = RobertaTokenizer(vocabulary, [], model_max_length=512)
    return _save("masked-roberta", RobertaForMaskedLM(config), tokenizer)


@cache
def bart(labels: tuple[str, ...] = ("contradiction", "neutral", "entailment")) -> Path:
    """A BART classifier with a byte vocabulary that takes 96 tokens."""
    from transformers import BartConfig, BartForSequenceClassification, BartTokenizer

    _seed()
    vocabulary = _bytes("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    config = BartConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=96,
        init_std=WIDE,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    tokenizer = BartTokenizer(vocabulary, [], model_max_length=1024)
    return _save(_named("bart", *labels), BartForSequenceClassification(config), tokenizer)


@cache
def sentence_encoder(pooling: str = "mean") -> Path:
    """A BERT encoder in the layout of sentence-transformers; pooling: mean or cls."""
    from transformers import BertConfig, BertModel, BertTokenizer

    _seed()
    vocabulary = _wordpieces()
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    folder = _save(f"encoder-{pooling}", BertModel(config), BertTokenizer(vocabulary, model_max_length=512))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    return folder


@cache
def llama(chat: bool = False, sentencepiece: bool = False) -> Path:
    """A Llama that takes 128 tokens.

    sentencepiece: a vocabulary of words with ▁ and bytes to fall back on, as Llama 2 has; else bytes
    alone, as in GPT-2.
    """
    from transformers import GPT2Tokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    _seed()
    tokenizer: Any
    if sentencepiece:
        pieces = [
            "<unk>",
            "<s>",
            "</s>",
            *(f"<0x{i:02X}>" for i in range(256)),
            "▁",
            *"abcdefghijklmnopqrstuvwxyz",
        ]
        merges = []
        for word in ("feel", "like", "go", "it"):
            for i in range(len(word)):
                left = "▁" + word[:i]
                pieces.append(left + word[i])
                merges.append((left, word[i]))
        pieces = list(dict.fromkeys(pieces))
        merges = list(dict.fromkeys(merges))
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        tokenizer = LlamaTokenizer(vocabulary, merges, model_max_length=128)
    else:
        vocabulary = _bytes("<s>", "</s>")
        tokenizer = GPT2Tokenizer(
            vocabulary, [], bos_token="<s>", eos_token="</s>", unk_token="</s>", model_max_length=128
        )
    if chat:
        tokenizer.chat_template = CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=WIDE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return _save(_named("llama", chat, sentencepiece), LlamaForCausalLM(config), tokenizer)


def _pieces(lines: list[str], name: str) -> Path:
    """A unigram vocabulary trained on a few lines, in a .spm file."""
    import sentencepiece

    source, prefix = _home() / f"{name}.txt", _home() / name
    source.write_text("\n".join(lines * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(source),
        model_prefix=str(prefix),
        vocab_size=70,
        model_type="unigram",
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=0,
        unk_id=1,
        pad_id=-1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model").rename(prefix.with_suffix(".spm"))


@cache
def marian(languages: tuple[str, ...] = (), pair: tuple[str, str] | None = ("en", "fr")) -> Path:
    """A Marian model laid out as opus-mt is: two sentencepiece files under one vocabulary, padding last.

    languages: codes for checkpoints with several target languages, such as >>fra<<.
    """
    import sentencepiece
    from transformers import GenerationConfig, MarianConfig, MarianMTModel, MarianTokenizer

    _seed()
    files = [_pieces(ENGLISH, "source"), _pieces(FRENCH, "target")]
    pieces = ["</s>", "<unk>"]
    for file in files:
        trained = sentencepiece.SentencePieceProcessor(model_file=str(file))
        pieces += [trained.id_to_piece(i) for i in range(len(trained))]
    pieces += [*languages, "<pad>"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    vocab = _home() / f"marian-vocab-{len(languages)}.json"
    vocab.write_text(json.dumps(vocabulary))
    codes: Any = {"source_lang": pair[0], "target_lang": pair[1]} if pair else {}
    tokenizer = MarianTokenizer(str(files[0]), str(files[1]), str(vocab), model_max_length=512, **codes)
    pad = vocabulary["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=0.4,
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=0,
        share_encoder_decoder_embeddings=True,
    )
    model = MarianMTModel(config)
    model.generation_config = GenerationConfig(
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=0,
        bad_words_ids=[[pad]],
        max_length=64,
        num_beams=2,
    )
    # A taste for ending: random weights alone would go on for ever.
    model.final_logits_bias[0, 0] = 6
    return _save(_named("marian", languages, pair), model, tokenizer)


@cache
def vit(labels: tuple[str, ...] = ("cat", "dog", "crane", "<b>lion</b>", "tower", "crane")) -> Path:
    """A ViT classifier of pictures of 32 x 32."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    _seed()
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        initializer_range=WIDE,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return _save(_named("vit", *labels), ViTForImageClassification(config), processor)


def checkpoint(folder: Path, recipe: Recipe) -> Checkpoint:
    """A hub checkpoint of that name; where it comes from is up to the manager."""
    return Checkpoint(f"tiny/{folder.name}", Hub(f"tiny/{folder.name}"), recipe)


def loaded(folder: Path, recipe: Recipe) -> Loaded:
    """The folder loaded as the app does it, in float32."""
    return where.load(checkpoint(folder, recipe), folder)


def manager(folder: Path, note: str = "") -> ModelManager:
    """The real manager and loader; whatever is chosen, this folder answers. Choices are in `.asked`."""
    asked: list[str] = []

    def choose(offer: Offer, choice: str) -> tuple[Checkpoint, str]:
        asked.append(choice)
        return checkpoint(folder, offer.recipe), note

    models = ModelManager(
        choose=choose,
        fetch=lambda checkpoint, report: folder,
        load=where.load,
        size=weights_bytes,
        free=lambda: 10**12,
    )
    models.asked = asked  # type: ignore[attr-defined]
    return models


def forced(model: Any, rows: list[list[int]]) -> None:
    """Make a causal language model write these tokens: at step i the i-th of each row, then the last one."""
    step = 0

    def write(module: Any, inputs: Any, output: Any) -> None:
        nonlocal step
        for row, tokens in enumerate(rows):
            output.logits[row, -1] = -1e4
            output.logits[row, -1, tokens[min(step, len(tokens) - 1)]] = 1e4
        step += 1

    model.register_forward_hook(write)


def hooks(model: Any) -> list[Any]:
    """All that is called after a part of the model has run."""
    return [hook for part in model.modules() for hook in part._forward_hooks.values()]


def counted(model: Any) -> list[int]:
    """A list that grows by the number of tokens read each time the model runs."""
    calls: list[int] = []
    model.register_forward_pre_hook(
        lambda module, inputs, named: calls.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    return calls


def tab(demo: Demo, models: ModelManager, **settings: Any) -> Tab:
    """A tab built as in the app, without a server."""
    import gradio as gr

    with gr.Blocks() as app:
        demo.build(demo, models, Settings(**settings), Line())
    return Tab(app)


def confidences(answer: dict[str, Any]) -> dict[str, float]:
    """Labels with the confidence of each, of what an endpoint that classifies answers."""
    return {row["label"]: row["confidence"] for row in answer["confidences"]}


class Tab:
    """What is behind a tab: `endpoint(name)`, whose streams come as a list, and `press(*input values)`."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def endpoint(self, name: str) -> Any:
        call = next(fn.fn for fn in self.app.fns.values() if fn.api_name == name)

        async def answer(*values: Any) -> Any:
            if inspect.isasyncgenfunction(call):
                return [step async for step in call(*values)]
            return await call(*values)

        def answered(*values: Any, **named: Any) -> Any:
            given = inspect.signature(call).bind(*values, **named)
            given.apply_defaults()
            return asyncio.run(answer(*given.args))

        return answered

    def press(
        self, *values: Any, checkpoint: str = "auto", session: str = "visitor"
    ) -> list[tuple[Any, ...]]:
        """What the Run button's handler yields: outputs, the problem and the status line, no Stop button."""
        (run,) = [fn for fn in self.app.fns.values() if fn.name == "handler" and fn.show_progress_on]

        async def collect() -> list[tuple[Any, ...]]:
            request = SimpleNamespace(session_hash=session, username=None, client=None)
            steps = [step async for step in run.fn(request, *values, checkpoint)]
            return [(*step[:-3], *step[-2:]) for step in steps]

        return asyncio.run(collect())

    def pick(self, *values: Any) -> list[Any]:
        """What each selector that redraws something answers to these inputs."""
        redraw = [fn for fn in self.app.fns.values() if fn.name == "handler" and not fn.show_progress_on]
        return [fn.fn(*values) for fn in redraw if len(fn.inputs) == len(values)]
