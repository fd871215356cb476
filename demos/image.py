"""Image classification: what is in the picture?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from components import markup, ui
from components.batching import MOST, Batcher
from components.checkpoints import Checkpoint, Hub, Offer, Recipe
from components.demo import Demo, Status, status_of
from components.errors import InputError
from components.line import Line
from components.models import Loaded, ModelManager, survives_out_of_memory
from components.pictures import read_picture
from components.progress import Report, Stopped, never, unreported
from components.wheels import EFFICIENTNET

if TYPE_CHECKING:
    import torch

    from components.settings import Settings

TOP_K = 5
MOST_ON_CPU = 8  # pictures in a batch there: the features of more do not fit into its caches
EXAMPLES = ("lion.jpg", "cheetah.jpg", "tower.jpg")


def _fits(config: dict[str, Any]) -> str | None:
    name = (config.get("architectures") or ["an unknown architecture"])[0]
    if name.endswith("ForImageClassification"):
        return None
    return (
        f"it is {name}, and this tab needs an image classifier (…ForImageClassification), "
        "such as google/vit-base-patch16-224."
    )


RECIPE = Recipe("image", lambda config: "AutoModelForImageClassification", "AutoImageProcessor", _fits)
OFFER = Offer(
    course=Checkpoint("google/vit-base-patch16-224", Hub("google/vit-base-patch16-224", "3f49326"), RECIPE),
    starter=Checkpoint("EfficientNet-Lite0", EFFICIENTNET, RECIPE),
    alternatives=(
        Checkpoint("microsoft/resnet-50", Hub("microsoft/resnet-50"), RECIPE),
        Checkpoint("facebook/convnext-tiny-224", Hub("facebook/convnext-tiny-224"), RECIPE),
        Checkpoint("facebook/deit-tiny-patch16-224", Hub("facebook/deit-tiny-patch16-224"), RECIPE),
    ),
)


@dataclass(frozen=True)
class Result:
    """The likeliest labels with their probabilities, likeliest first."""

    scores: tuple[tuple[str, float], ...]
    status: Status


def validate(path: str | None, top_k: float | None, most_megapixels: float) -> tuple[Image.Image, int]:
    """Raises InputError for a picture that cannot be read or a top_k below 1."""
    if top_k is None or not 1 <= top_k <= 1000:
        raise InputError("Top-k must be between 1 and 1000.")
    return read_picture(path, most_megapixels), int(top_k)


def preprocess(image: Image.Image, processor: Any) -> torch.Tensor:
    """Resized, cropped and normalised as the checkpoint wants it: `[1, 3, height, width]`."""
    return processor(images=image, return_tensors="pt")["pixel_values"]


def forward(pixels: torch.Tensor, loaded: Loaded) -> torch.Tensor:
    """Pixels `[batch, 3, height, width]` -> logits `[batch, labels]` in float32 on the CPU."""
    import torch

    with torch.inference_mode():
        return loaded.model(pixel_values=pixels.to(loaded.device, loaded.dtype)).logits.float().cpu()


def joint(loaded: Loaded) -> Batcher[torch.Tensor, torch.Tensor]:
    """The forward pass that all visitors of this model share; logits `[labels]` of each picture.

    Pictures that a processor leaves in different sizes do not go together.
    """
    import torch

    # Convolutions are faster with the channels of a pixel side by side: by a sixth, eight on a CPU.
    loaded.model.to(memory_format=torch.channels_last)
    return Batcher(
        lambda pictures: forward(torch.cat(pictures), loaded),
        size=lambda pixels: 1,
        cost=lambda count, _: count + 1,
        kind=lambda pixels: pixels.shape,
        turn=loaded.compute,
    )


def postprocess(logits: torch.Tensor, top_k: int, config: Any) -> tuple[tuple[str, float], ...]:
    """The top_k labels with their softmax probabilities, likeliest first, from logits `[labels]`."""
    values, indices = logits.softmax(-1).topk(min(top_k, logits.shape[-1]))
    return tuple(
        (str(config.id2label[i]), value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)
    )


@survives_out_of_memory
def run(
    path: str | None,
    top_k: float | None,
    choice: str,
    models: ModelManager,
    report: Report = unreported,
    stopped: Stopped = never,
    most_megapixels: float = 50,
    batch: int = MOST,
) -> Result:
    """Name what is in a picture; pictures of several visitors go through the model together."""
    image, most = validate(path, top_k, most_megapixels)
    with models.use(OFFER, choice, report, stopped) as loaded:
        started = time.perf_counter()
        together = min(batch, MOST_ON_CPU) if loaded.device.type == "cpu" else batch
        (logits,) = loaded.share(joint)([preprocess(image, loaded.processor)], stopped, together)
        scores = postprocess(logits, most, loaded.model.config)
        remarks = (f"The picture has {image.width} × {image.height} pixels.",)
        return Result(scores, status_of(loaded, started, remarks))


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    examples = [gr.media.get_image(name) for name in EXAMPLES]
    with page.inputs():
        image = ui.as_uploaded(
            gr.Image(
                examples[0],
                label="Picture",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard", "webcam"],
                height=300,
            )
        )
    with page.options():
        top_k = gr.Slider(1, 20, TOP_K, step=1, label="Top-k", info="How many labels are shown.")
    with page.results():
        answer = gr.HTML(ui.EMPTY, label="Labels and probabilities")

    def act(
        path: str | None, top_k: int, choice: str, report: Report, stopped: Stopped
    ) -> tuple[str, Status]:
        limit = settings.max_image_megapixels
        result = run(path, top_k, choice, models, report, stopped, limit, settings.batch)
        return markup.bars(result.scores, most=20), result.status

    page.runs(act, [image, top_k], [answer])
    page.examples([[example] for example in examples], [image])

    def classify_image(
        image: str, top_k: int = TOP_K, checkpoint: str = "auto", stopped: Stopped = never
    ) -> dict[str, float]:
        """The top_k labels of a picture with their probabilities."""
        result = run(
            image,
            top_k,
            checkpoint,
            models,
            stopped=stopped,
            most_megapixels=settings.max_image_megapixels,
            batch=settings.batch,
        )
        # ImageNet has two cranes: of labels of the same name the likeliest stays.
        return dict(reversed(result.scores))

    page.endpoint(
        classify_image,
        [
            ui.as_uploaded(ui.hidden(gr.Image, "image", type="filepath", image_mode=None)),
            ui.hidden(gr.Number, "top_k", value=TOP_K, precision=0),
            ui.checkpoint_parameter(),
        ],
        [ui.scores_output()],
    )


DEMO = Demo(
    "image",
    "Image classification",
    6,
    "A picture becomes a grid of patches, or of features, and a head on top names what they show.",
    OFFER,
    build,
)
