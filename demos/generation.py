"""Text generation: how does a language model go on from a prompt?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from components import markup, ui
from components.checkpoints import Checkpoint, Hub, Offer, Recipe
from components.decoding import Sampling, Step, decode
from components.demo import Demo, Status, status_of
from components.errors import InputError
from components.line import Line
from components.models import Loaded, ModelManager, survives_out_of_memory
from components.progress import Report, Stopped, never, unreported
from components.wheels import SMOLLM2

if TYPE_CHECKING:
    import torch

PROMPT = "So today, I just feel like"
EXAMPLES = [
    [PROMPT],
    ["In this course, we will teach you how to"],
    ["The three most important things about attention are"],
    ["Once upon a time, in a library where nobody read,"],
]
MODES = ("completion", "chat")
SHOW_EVERY = 0.1  # seconds; nobody reads faster, and each look at the text costs the others time
# Field, lowest and highest value taken.
RANGES = {
    "new tokens": (1, 1024),
    "number of sequences": (1, 4),
    "temperature": (0, 5),
    "top-k": (0, 1000),
    "top-p": (0, 1),
    "repetition penalty": (0.5, 3),
    "seed": (0, 2**32 - 1),
}


def _fits(config: dict[str, Any]) -> str | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    name = (config.get("architectures") or ["an unknown architecture"])[0]
    # Encoders have a causal form as well; a checkpoint of one was not trained to write.
    if name in CAUSAL.values() and (name.endswith("ForCausalLM") or name.endswith("LMHeadModel")):
        return None
    return (
        f"it is {name}, and this tab needs a causal language model (…ForCausalLM), "
        "such as HuggingFaceTB/SmolLM2-360M."
    )


RECIPE = Recipe("generation", lambda config: "AutoModelForCausalLM", "AutoTokenizer", _fits)
OFFER = Offer(
    course=Checkpoint("HuggingFaceTB/SmolLM2-360M", Hub("HuggingFaceTB/SmolLM2-360M"), RECIPE),
    starter=Checkpoint("SmolLM2-135M-Instruct (Q4_1)", SMOLLM2, RECIPE),
    alternatives=(
        Checkpoint("openai-community/gpt2", Hub("openai-community/gpt2"), RECIPE),
        Checkpoint("HuggingFaceTB/SmolLM2-360M-Instruct", Hub("HuggingFaceTB/SmolLM2-360M-Instruct"), RECIPE),
        Checkpoint("Qwen/Qwen2.5-0.5B-Instruct", Hub("Qwen/Qwen2.5-0.5B-Instruct"), RECIPE),
    ),
)


@dataclass(frozen=True)
class Request:
    """What is asked; mode "chat" puts the prompt into the checkpoint's chat template."""

    prompt: str
    most: int
    sequences: int
    sampling: Sampling
    mode: str = "completion"


@dataclass(frozen=True)
class Result:
    """The continuations so far, without the prompt; status only when they are complete."""

    sequences: tuple[str, ...]
    tokens: int
    chat: bool  # whether the checkpoint has a chat template
    status: Status | None = None


def validate(
    prompt: str | None,
    max_new_tokens: float = 40,
    num_return_sequences: float = 1,
    temperature: float = 0.7,
    top_k: float = 50,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    seed: float = 0,
    mode: str = "completion",
) -> Request:
    """Raises InputError without a prompt or for a number that is missing or out of its range."""
    if not (prompt or "").strip():
        raise InputError("There is no prompt yet. Type the beginning of a text and run again.")
    numbers = (max_new_tokens, num_return_sequences, temperature, top_k, top_p, repetition_penalty, seed)
    for (name, (low, high)), value in zip(RANGES.items(), numbers, strict=True):
        if value is None or not low <= value <= high:
            raise InputError(f"{name[0].upper()}{name[1:]} must be between {low} and {high}.")
    if top_p == 0:
        raise InputError("Top-p must be above 0: it is the share of probability that is kept.")
    if mode not in MODES:
        raise InputError("The mode is completion or chat.")
    sampling = Sampling(float(temperature), int(top_k), float(top_p), float(repetition_penalty), int(seed))
    return Request(prompt or "", int(max_new_tokens), int(num_return_sequences), sampling, mode)


def preprocess(request: Request, loaded: Loaded) -> tuple[torch.Tensor, str | None]:
    """The prompt's ids `[sequences, length]`, and what was kept of it if its beginning was cut.

    Raises InputError for chat mode with a checkpoint that has no chat template.
    """
    tokenizer = loaded.processor
    with loaded.lock:
        if request.mode == "chat":
            if not tokenizer.chat_template:
                raise InputError("This checkpoint has no chat template. Choose completion.")
            messages = [{"role": "user", "content": request.prompt}]
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )["input_ids"]
        else:
            ids = tokenizer(request.prompt, return_tensors="pt", verbose=False)["input_ids"]
    room = _positions(loaded) - request.most
    if room < 1:
        raise InputError(
            f"This checkpoint takes {_positions(loaded)} tokens in all. Ask for fewer new tokens."
        )
    kept = None
    if ids.shape[1] > room:
        ids = ids[:, -room:]
        kept = tokenizer.decode(ids[0], skip_special_tokens=True)
    return ids.expand(request.sequences, -1), kept


def _positions(loaded: Loaded) -> int:
    config = loaded.model.config.get_text_config()
    return int(
        getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048
    )


def forward(ids: torch.Tensor, request: Request, loaded: Loaded, stopped: Stopped) -> Iterator[Step]:
    """The next token of each sequence, step by step; None for a sequence that has ended."""
    yield from decode(loaded, ids.to(loaded.device), request.most, request.sampling, stopped)


def postprocess(
    prompt: list[int], tokens: list[list[int]], loaded: Loaded, complete: bool
) -> tuple[str, ...]:
    """Token ids of each sequence as text. A character whose last bytes are to come is left out.

    Decoded after the end of the prompt, because some vocabularies drop the space before a first word.
    """
    tail = prompt[-8:]
    with loaded.lock:
        lead = len(loaded.processor.decode(tail, skip_special_tokens=True))
        texts = [loaded.processor.decode(tail + ids, skip_special_tokens=True)[lead:] for ids in tokens]
    return tuple(text if complete else text.rstrip("\ufffd") for text in texts)


@survives_out_of_memory
def run(
    request: Request,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
) -> Iterator[Result]:
    """Continue a prompt; yields the text so far now and then, and at last all of it with the status."""
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        ids, kept = preprocess(request, loaded)
        prompt = ids[0].tolist()
        tokens: list[list[int]] = [[] for _ in range(request.sequences)]
        chat = bool(loaded.processor.chat_template)
        count, shown = 0, 0.0
        for step in forward(ids, request, loaded, stopped):
            for row, token in zip(tokens, step, strict=True):
                if token is not None:
                    row.append(token.id)
                    count += 1
            if (now := time.perf_counter()) - shown >= SHOW_EVERY:
                shown = now
                yield Result(postprocess(prompt, tokens, loaded, complete=False), count, chat)
        taken = time.perf_counter() - started
        remarks = [f"{count} tokens, {count / taken:.1f} tokens/s."]
        if kept is not None:
            remarks.append(f"The beginning of the prompt was cut to fit. Read from: “{kept[:80]} …”")
        if stopped():
            remarks.append("Stopped.")
        status = status_of(loaded, started, tuple(remarks))
        yield Result(postprocess(prompt, tokens, loaded, complete=True), count, chat, status)


def build(demo: Demo, models: ModelManager, settings: object, line: Line) -> None:
    page = ui.Page(demo, line)
    with page.inputs():
        prompt = gr.Textbox(PROMPT, label="Prompt", lines=3, max_lines=12)
        mode = gr.Radio(
            list(MODES),
            value="completion",
            label="Mode",
            info="Chat puts the prompt into the template that this checkpoint was trained on.",
            visible=False,
        )
        with gr.Row():
            most = gr.Slider(1, 512, 40, step=1, label="New tokens", min_width=140)
            sequences = gr.Slider(1, 4, 2, step=1, label="Sequences", min_width=140)
    with page.options():
        temperature = gr.Slider(
            0, 2, 0.7, step=0.05, label="Temperature", info="0: always the likeliest token"
        )
        top_k = gr.Slider(0, 200, 50, step=1, label="Top-k", info="0: no limit")
        top_p = gr.Slider(0.05, 1, 0.95, step=0.05, label="Top-p", info="1: no limit")
        penalty = gr.Slider(0.5, 2, 1, step=0.05, label="Repetition penalty", info="1: none")
        seed = gr.Number(0, label="Seed", precision=0, info="Same seed, same text.")
    with page.results():
        answer = gr.HTML(ui.EMPTY, label="Continuations")
    knobs = [prompt, most, sequences, temperature, top_k, top_p, penalty, seed, mode]

    def act(*values: Any) -> Iterator[tuple[Any, ...]]:
        *asked, choice, report, stopped = values
        request = validate(*asked)
        for result in run(request, choice, models, report, stopped):
            lead = request.prompt if request.mode == "completion" else ""
            yield (
                markup.sequences(lead, result.sequences),
                gr.update(visible=result.chat) if result.status else gr.skip(),
                result.status,
            )

    page.runs(act, knobs, [answer, mode])
    page.examples(EXAMPLES, [prompt])

    def generate(
        prompt: str,
        max_new_tokens: int = 40,
        num_return_sequences: int = 1,
        temperature: float = 0.7,
        top_k: int = 50,
        top_p: float = 0.95,
        seed: int = 0,
        checkpoint: str = "auto",
        stopped: Stopped = never,
    ) -> Iterator[dict[str, list[str]]]:
        """Continuations of a prompt, streamed; `sequences` holds them without it. Temperature 0 is greedy."""
        request = validate(prompt, max_new_tokens, num_return_sequences, temperature, top_k, top_p, 1.0, seed)
        for result in run(request, checkpoint, models, unreported, stopped):
            yield {"sequences": list(result.sequences)}

    page.endpoint(
        generate,
        [
            ui.hidden(gr.Textbox, "prompt"),
            ui.hidden(gr.Number, "max_new_tokens", value=40, precision=0),
            ui.hidden(gr.Number, "num_return_sequences", value=1, precision=0),
            ui.hidden(gr.Number, "temperature", value=0.7),
            ui.hidden(gr.Number, "top_k", value=50, precision=0),
            ui.hidden(gr.Number, "top_p", value=0.95),
            ui.hidden(gr.Number, "seed", value=0, precision=0),
            ui.checkpoint_parameter(),
        ],
        [ui.hidden(gr.JSON, "sequences")],
    )


DEMO = Demo(
    "generation",
    "Text generation",
    3,
    "A decoder predicts the next token from those before it, again and again: that is how it writes.",
    OFFER,
    build,
    at_once=16,
)
