"""Loading: how does a local Hugging Face folder become a model on a device, and how large will it be?"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import CheckpointError, ModelLoadError
from components.models.control import keep_as_text
from components.models.device import best_dtype, free_memory, spare_memory
from components.models.finite import Watch
from components.models.joined import join
from components.models.manager import Loaded, Place
from components.models.matrices import Ways, quicken
from components.models.memory import is_out
from components.models.pace import use_all
from components.models.quantization import bytes_of, quantize_decoder
from components.progress import Progress, Report, unreported
from components.weights.checkpoints import Checkpoint, check_here

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tour")

DECODERS = ("generation", "speech", "translation")  # tasks whose linear layers may be quantized


def weights_bytes(folder: Path, dtype_bytes: int = 4) -> int:
    """Bytes that the safetensors of a folder take in memory, each number in `dtype_bytes`.

    Raises ModelLoadError if a file is damaged.
    """
    return sum(_numbers(folder).values()) * dtype_bytes


def stored_dtype(folder: Path) -> torch.dtype:
    """What most numbers of the safetensors of a folder are stored in, whatever its config.json says.

    Raises ModelLoadError if a file is damaged.
    """
    import torch

    most = max(_numbers(folder).items(), key=lambda pair: pair[1], default=("F32", 0))[0]
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(most, torch.float32)


def _numbers(folder: Path) -> Counter[str]:
    """How many numbers the safetensors of a folder hold, by the format's name there, such as "BF16"."""
    from safetensors import SafetensorError, safe_open

    counts: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - no dictionary, it has keys() only
                    tensor = weights.get_slice(name)
                    counts[tensor.get_dtype()] += math.prod(tensor.get_shape())
        except SafetensorError as error:
            raise ModelLoadError(
                "The weights of this checkpoint are damaged on this disk. Choose another checkpoint."
            ) from error
    return counts


def place(
    device: Callable[[], torch.device],
    quantize: str = "none",
    ways: Ways | None = None,
    full: bool = False,
) -> Place:
    """Loading onto a device that is asked for when something is loaded: torch takes seconds to import.

    quantize: "int8" or "int4" for the linear layers of decoders, on the CPU only; ways: what is known of this
    machine's speed; full: in float32 on any device.
    """
    ways = ways or Ways()

    def dtype(folder: Path) -> torch.dtype:
        import torch

        on_cpu = device().type == "cpu"
        return torch.float32 if full or on_cpu else best_dtype(device(), stored_dtype(folder))

    def load_there(checkpoint: Checkpoint, folder: Path) -> Loaded:
        use_all()
        if device().type != "cpu":
            return read(checkpoint, folder, dtype(folder))
        return read(checkpoint, folder, dtype(folder), quantize, ways)

    return Place(
        load=load_there,
        # Whichever the 16 bits of an accelerator are: what is stored is looked up when it is loaded.
        size=lambda folder: weights_bytes(folder, 4 if full else best_dtype(device()).itemsize),
        free=lambda: free_memory(device()),
        move=lambda loaded, report: move(loaded, device(), report),
        spare=lambda: spare_memory(device()),
    )


def load(
    checkpoint: Checkpoint, folder: Path, device: torch.device, dtype: torch.dtype, quantize: str = "none"
) -> Loaded:
    """Read and move: model and processor of a local Hugging Face folder, ready to run on the device.

    quantize: "int8" or "int4" for the linear layers of decoders, on the CPU only.
    """
    if device.type != "cpu":
        return move(read(checkpoint, folder, dtype), device)
    return read(checkpoint, folder, dtype, quantize, Ways())


def move(loaded: Loaded, device: torch.device, report: Report = unreported) -> Loaded:
    """The same model on that device. Raises torch's error if there is no room."""
    if loaded.device == device:
        return loaded
    report(Progress("moving to the device"))
    started = time.perf_counter()
    loaded.model.to(device)
    return replace(loaded, device=device, seconds=loaded.seconds + time.perf_counter() - started)


def read(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype, quantize: str = "none", ways: Ways | None = None
) -> Loaded:
    """Load model and processor from a local Hugging Face folder into main memory, in evaluation mode.

    quantize, ways: for a model that stays there; ways: have a decoder's layers take the fastest of them.
    Raises ModelLoadError if its files do not make a model, CheckpointError if a part is missing: a head
    of random weights would answer at random.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    check_here(checkpoint)
    started = time.perf_counter()
    recipe = checkpoint.recipe
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        processor = getattr(transformers, recipe.processor).from_pretrained(folder, trust_remote_code=False)
        # A tokenizer without files loads with its special tokens only, and everything is unknown to it.
        if recipe.processor == "AutoTokenizer" and len(processor) <= len(processor.all_special_tokens):
            raise ValueError("the tokenizer has no vocabulary")
        if recipe.processor == "AutoTokenizer" and recipe.task != "masked":  # whose gap is a control token
            keep_as_text(processor)
        model_class = getattr(transformers, recipe.model(config.to_dict()))
        model, info = model_class.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=recipe.attention,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
        if info["mismatched_keys"]:
            raise ValueError(f"sizes differ from config.json: {sorted(info['mismatched_keys'])[0]}")
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if is_out(error, lambda: spare_memory(torch.device("cpu"))):
            raise MemoryError(str(error)) from error
        log.warning("%s does not load", checkpoint.name, exc_info=True)
        raise ModelLoadError(
            f"{checkpoint.name} could not be loaded: its files do not make a complete model. "
            "Choose another checkpoint."
        ) from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint.name} lacks weights that this task needs ({len(info['missing_keys'])} tensors, "
            f"such as {sorted(info['missing_keys'])[0]}). Choose a checkpoint fine-tuned for it."
        )
    if recipe.processor == "AutoTokenizer" and processor.pad_token is None:
        # Many decoders have none; what stands there is masked.
        processor.pad_token = processor.eos_token
        model.config.pad_token_id = processor.pad_token_id
    model.eval()
    if ways is not None and recipe.task in DECODERS:
        join(model)
    wanted = quantize != "none" and recipe.task in DECODERS
    quantized = quantize if wanted and quantize_decoder(model, quantize) else "none"
    if ways is not None and recipe.task in DECODERS:
        quicken(model, ways)
    return Loaded(
        checkpoint,
        model,
        processor,
        torch.device("cpu"),
        dtype,
        bytes_of(model),
        time.perf_counter() - started,
        quantized=quantized,
        watch=Watch(model),
    )
