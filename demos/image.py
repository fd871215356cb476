"""Image classification: what is in the picture?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from PIL import Image

from components.compute.batching import MOST, Batcher
from components.explain import inside, saliency, snippets
from components.explain.inside import Architecture, Axis
from components.explain.saliency import Maps
from components.inputs import given
from components.inputs.pictures import (
    READ,
    SAID,
    as_seen,
    data_uri,
    encoded,
    fit,
    fitted,
    processor_steps,
    read_picture,
)
from components.models import finite
from components.models.eager import twin
from components.models.manager import Loaded, ModelManager, survives_out_of_memory
from components.models.status import Status, status_of
from components.page import answers, endpoints, events, showing, ui, visits
from components.page.answers import About
from components.page.demo import Compared, Comparison, Demo
from components.page.patches import as_uploaded
from components.progress import Report, Stopped, never, unreported
from components.server.line import Line
from components.show import markup, saliency_markup
from components.show.inside_markup import (
    MOST_LABELS,
    architecture_facts,
    fact_list,
    hidden_states,
    number_table,
    sentence,
    shape,
    stations,
    to_probabilities_table,
)
from components.weights.checkpoints import Checkpoint, Hub, Offer, Recipe
from components.weights.wheels import EFFICIENTNET

if TYPE_CHECKING:
    import torch

    from components.settings import Settings

TOP_K = 5
MOST_ON_CPU = 8  # pictures in a batch there: the features of more do not fit into its caches
EXAMPLES = ("lion.jpg", "cheetah.jpg", "tower.jpg")
STATIONS = ("Image processor", "Model", "Head", "Postprocessing", "Where it looked")
OPACITY = 0.6  # of the map over the picture, to begin with
SET_OPACITY = '(value) => document.documentElement.style.setProperty("--map-opacity", value)'
READERS = {True: "the class token", False: "the patches, on average"}
PATCHES = (
    "The picture is cut into {rows} × {columns} patches of {width} × {height} pixels. Each becomes a token: "
    "a vector of {hidden} numbers."
)
FEATURES = (
    "The picture has become {rows} × {columns} cells, each of {channels} numbers: the last feature map."
)
MAPS = {
    "rollout": "Attention is followed through the layers, back to the patches.",
    "Grad-CAM": "The last feature map is weighted by how much it matters for a label.",
}
MOST_ATTENTION = 500_000_000  # bytes of the attention of all layers and heads
TOO_MANY = (
    "There is no map of this picture: attention among {count:,} patches, in every layer and head, would take "
    "{size:.1f} GB. A picture that is less long has fewer."
)
NO_MAP = (
    "There is no map for this architecture. Attention rollout needs attention among all patches in every "
    "layer, Grad-CAM a last feature map that the head reads; {name} has neither."
)


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
    most = int(given.number(top_k, "Top-k", 1, 1000))
    return read_picture(path, most_megapixels), most


def preprocess(image: Image.Image, processor: Any) -> torch.Tensor:
    """Resized, cropped and normalised as the checkpoint wants it: `[1, 3, height, width]`."""
    return processor(images=fitted(image, processor), return_tensors="pt")["pixel_values"]


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
        sizes=loaded.turns.sizes,
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
        said = fit(image.size, loaded.processor).words
        remarks = (f"The picture has {image.width} × {image.height} pixels.", *image.info.get(SAID, ()))
        remarks += tuple(f"{one}." for one in said)
        return Result(scores, status_of(loaded, started, remarks))


@dataclass(frozen=True)
class Ran:
    """What the drawers need to know of a run: the uploaded file, the settings, and the checkpoint's name."""

    path: str
    top_k: int
    checkpoint: str


@dataclass(frozen=True)
class Inside:
    """What happened to a picture on its way to the answer.

    size: its width and height; steps: of the image processor; pixels, hidden: shapes of what goes into the
    model and of its last hidden states; picture: what it saw, `[height, width, 3]` bytes; grid: rows and
    columns of patches, where the hidden states stand for patches; patch: height and width of one; labels,
    logits, probabilities: in the order of the classes; maps: where it looked, if that can be told; no_map:
    why it cannot.
    """

    size: tuple[int, int]
    steps: tuple[tuple[str, str], ...]
    pixels: tuple[Axis, ...]
    picture: np.ndarray
    architecture: Architecture
    hidden: tuple[Axis, ...]
    grid: tuple[int, int] | None
    patch: tuple[int, int] | None
    labels: tuple[str, ...]
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    maps: Maps | None
    no_map: str = ""


@dataclass(frozen=True)
class Pass:
    """What is seen of one forward pass, in float32 on the CPU.

    logits: `[labels]`; hidden: the last ones, `[1, tokens, hidden]` or `[1, channels, height, width]`, None
    where the architecture does not give them; attentions: of each layer `[heads, query, key]`, if all look
    at the whole picture; gradients: of the likeliest labels' logits with respect to the feature map,
    `[labels, channels, height, width]`.
    """

    logits: torch.Tensor
    hidden: torch.Tensor | None
    attentions: tuple[torch.Tensor, ...] = ()
    gradients: torch.Tensor | None = None


def look_inside(ran: Ran, models: ModelManager, most_megapixels: float = 50) -> Inside:
    """The same pass again, with all that is between and what tells where the model looked."""
    image, _ = validate(ran.path, ran.top_k, most_megapixels)
    with models.use(OFFER, ran.checkpoint) as loaded:
        config, pixels = loaded.model.config, preprocess(image, loaded.processor)
        architecture = inside.architecture(loaded)
        attends = architecture.family != "convolutional"
        size = attention_bytes(pixels, config) if attends else 0
        watch = pass_with_attentions if attends else pass_with_gradients
        if size > MOST_ATTENTION:
            watch = pass_with_states
        seen = loaded.compute(lambda: watch(pixels, loaded))
        if attends and seen.hidden is not None and seen.hidden.ndim == 4:
            # Attention and convolutions in one, such as MobileViT.
            seen = loaded.compute(lambda: pass_with_gradients(pixels, loaded))
        picture = as_seen(pixels[0].numpy(), loaded.processor)
        patch = patch_size(config)
        grid = patches(seen, pixels, patch)
        labels = tuple(str(config.id2label[i]) for i in range(len(seen.logits)))
        no_map = NO_MAP.format(name=architecture.name)
        if size > MOST_ATTENTION and grid:
            no_map = TOO_MANY.format(count=grid[0] * grid[1], size=size / 1e9)
        return Inside(
            size=image.size,
            steps=tuple(("first", one) for one in fit(image.size, loaded.processor).words)
            + processor_steps(loaded.processor),
            pixels=inside.axes(pixels, "batch", "channels", "height", "width"),
            picture=picture,
            architecture=architecture,
            hidden=hidden_axes(seen, grid),
            grid=grid,
            patch=patch,
            labels=labels,
            logits=tuple(seen.logits.tolist()),
            probabilities=tuple(seen.logits.softmax(-1).tolist()),
            maps=maps_of(seen, grid, labels, encoded(picture, "jpeg")),
            no_map=no_map,
        )


def pass_with_attentions(pixels: torch.Tensor, loaded: Loaded) -> Pass:
    """For what attends, on the device's turn. pixels: `[1, 3, height, width]`."""
    model = loaded.share(twin)
    with hidden_of(model) as hidden:
        output = model(pixel_values=pixels.to(loaded.device, loaded.dtype), output_attentions=True)
    layers = [layer for layer in output.get("attentions") or () if layer is not None]
    # Of windows there are many in a batch.
    everywhere = all(layer.ndim == 4 and len(layer) == 1 for layer in layers)
    return Pass(
        output.logits[0].float().cpu(),
        hidden[0].float().cpu() if hidden else None,
        tuple(layer[0].float().cpu() for layer in layers) if everywhere else (),
    )


def pass_with_states(pixels: torch.Tensor, loaded: Loaded) -> Pass:
    """Without the attention, where that of so many patches takes too much memory, on the device's turn."""
    import torch

    with torch.inference_mode(), hidden_of(loaded.model) as hidden:
        output = loaded.model(pixel_values=pixels.to(loaded.device, loaded.dtype))
    return Pass(output.logits[0].float().cpu(), hidden[0].float().cpu() if hidden else None)


def attention_bytes(pixels: torch.Tensor, config: Any) -> int:
    """What the attention among all patches takes, in every layer and head, in float32; 0 if not known."""
    patch, vision = patch_size(config), getattr(config, "vision_config", config)
    heads, layers = (getattr(vision, name, None) for name in ("num_attention_heads", "num_hidden_layers"))
    if patch is None or not isinstance(heads, int) or not isinstance(layers, int):
        return 0
    return 4 * layers * heads * ((pixels.shape[-2] // patch[0]) * (pixels.shape[-1] // patch[1])) ** 2


def pass_with_gradients(pixels: torch.Tensor, loaded: Loaded) -> Pass:
    """For what has a last feature map, on the device's turn. pixels: `[1, 3, height, width]`.

    One pass gives the gradients of all labels that are shown. captum's LayerGradCam takes a pass for each,
    and a layer that gives its tensor bare; Transformers' models give theirs in a record.
    """
    import torch

    # What is made in inference mode has no gradient.
    with torch.inference_mode(False), torch.enable_grad(), hidden_of(loaded.model) as hidden:
        moved = pixels.to(loaded.device, loaded.dtype)
        logits = loaded.model(pixel_values=moved).logits[0]
        scores = logits.detach().float().cpu()
        features = hidden[0] if hidden else None
        each: list[Any] = [None]
        if features is not None and features.ndim == 4:
            # A head may read something else.
            options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
            each = [torch.autograd.grad(logits[i], features, **options)[0] for i in top(scores)]
        gradients = torch.cat(each).float().cpu() if each[0] is not None else None
        if gradients is not None:
            finite.require(gradients.sum())
        return Pass(
            scores, features.detach().float().cpu() if features is not None else None, gradients=gradients
        )


@contextmanager
def hidden_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """A list into which a forward pass puts its last hidden states, before the head."""
    kept: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        if getattr(output, "last_hidden_state", None) is not None:
            kept.append(output.last_hidden_state)

    hooks = [part.register_forward_hook(keep) for part in model.children()]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def patch_size(config: Any) -> tuple[int, int] | None:
    """Height and width of a patch in pixels, None where there are none."""
    size = getattr(getattr(config, "vision_config", config), "patch_size", None)
    return (size, size) if isinstance(size, int) else tuple(size) if size else None


def patches(seen: Pass, pixels: torch.Tensor, patch: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns of patches that the hidden states stand for, None where they do not."""
    if seen.hidden is None or seen.hidden.ndim != 3 or patch is None:
        return None
    return saliency.patch_grid(seen.hidden.shape[1], pixels.shape[-2], pixels.shape[-1], patch)


def hidden_axes(seen: Pass, grid: tuple[int, int] | None) -> tuple[Axis, ...]:
    """The shape of the last hidden states with names, () where the architecture does not give them."""
    if seen.hidden is None:
        return ()
    if seen.hidden.ndim == 4:
        return inside.axes(seen.hidden, "batch", "channels", "height", "width")
    tokens = "tokens"
    if grid:
        extra = seen.hidden.shape[1] - grid[0] * grid[1]
        first = {0: "", 1: "class token + "}.get(extra, f"class token + {extra - 1} more + ")
        tokens = f"({first}{grid[0]} × {grid[1]} patches)"
    return inside.axes(seen.hidden, "batch", tokens, "hidden")


def maps_of(seen: Pass, grid: tuple[int, int] | None, labels: Sequence[str], picture: bytes) -> Maps | None:
    """Attention rollout by layer, or Grad-CAM by label, or None where neither is defined."""
    if seen.gradients is not None and seen.hidden is not None:
        shown = top(seen.logits)
        values = saliency.grad_cam(seen.hidden[0].numpy(), seen.gradients.numpy())
        return Maps("Grad-CAM", picture, values, tuple(labels[i] for i in shown))
    sizes = {layer.shape[1:] for layer in seen.attentions}
    if not grid or seen.hidden is None or sizes != {(seen.hidden.shape[1],) * 2}:
        return None
    reached = saliency.rollout([layer.numpy() for layer in seen.attentions])
    values = saliency.rollout_maps(reached, grid)
    layers = tuple(f"layer {i} of {len(values)}" for i in range(1, len(values) + 1))
    extra = seen.hidden.shape[1] > grid[0] * grid[1]
    return Maps("rollout", picture, values, layers, READERS[extra])


def top(logits: torch.Tensor) -> list[int]:
    """The classes of the highest logits, highest first."""
    return logits.topk(min(MOST_LABELS, len(logits))).indices.tolist()


def draw_inside(seen: Inside) -> str:
    """The four stations, and where it looked, as HTML but for the map itself."""
    width, height = seen.size
    png = data_uri(encoded(seen.picture, "png"), "png")
    processor = (
        sentence(f"The picture has {width} × {height} pixels. By the checkpoint's own settings:")
        + fact_list(seen.steps)
        + sentence("What goes into the model has the shape")
        + shape(seen.pixels)
        + sentence("Made a picture again, that is what the model saw:")
        + saliency_markup.framed(png)
    )
    order = sorted(range(len(seen.labels)), key=lambda i: -seen.logits[i])[:MOST_LABELS]
    rows = [(seen.labels[i], str(i), f"{seen.logits[i]:.4f}") for i in order]
    highest = f"; the {len(rows)} highest" if len(rows) < len(seen.labels) else ""
    return stations(
        processor,
        architecture_facts(seen.architecture) + _draw_hidden(seen),
        sentence(f"The classification head makes one logit for each of {len(seen.labels):,} labels{highest}:")
        + number_table(("label", "class", "logit"), rows),
        to_probabilities_table(seen.labels, seen.logits, seen.probabilities, sigmoid=False)
        + sentence("id2label in the checkpoint's configuration names the classes."),
        sentence(MAPS[seen.maps.kind] if seen.maps else seen.no_map),
        titles=STATIONS,
    )


def _draw_hidden(seen: Inside) -> str:
    if not seen.hidden:
        return ""
    sizes = [axis.size for axis in seen.hidden]
    if seen.grid:
        rows, columns = seen.grid
        height, width = seen.patch or (0, 0)
        words = PATCHES.format(rows=rows, columns=columns, width=width, height=height, hidden=sizes[-1])
        small = data_uri(encoded(seen.picture, "jpeg"), "jpeg")
        return sentence(words) + saliency_markup.grid_over(small, seen.grid) + hidden_states(seen.hidden)
    features = FEATURES.format(rows=sizes[-2], columns=sizes[-1], channels=f"{sizes[1]:,}")
    return hidden_states(seen.hidden) + (sentence(features) if len(sizes) == 4 else "")


def code(ran: Ran, models: ModelManager, public: bool, most_megapixels: float = 50) -> str:
    """The program that names what is in a picture likewise."""
    image, _ = validate(ran.path, ran.top_k, most_megapixels)
    with models.use(OFFER, ran.checkpoint) as loaded:
        done = fit(image.size, loaded.processor)
        place = snippets.place_of(loaded, public)
        return snippets.image(place, ran.top_k, image.info[READ], done.box, done.factor)


def beside(
    path: str,
    extra: str,
    choice: str,
    models: ModelManager,
    settings: Settings,
    report: Report,
    stopped: Stopped,
) -> Compared:
    """What Compare shows of one picture: its likeliest labels."""
    limit = settings.max_image_megapixels
    result = run(path, TOP_K, choice, models, report, stopped, limit, settings.batch)
    return Compared(result.status, result.scores)


def build(demo: Demo, models: ModelManager, settings: Settings, line: Line) -> None:
    page = ui.Page(demo, line)
    examples = [gr.media.get_image(name) for name in EXAMPLES]
    with page.inputs():
        image = as_uploaded(
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
        answer = gr.HTML(showing.EMPTY, label="Labels and probabilities")
    ran = gr.State()

    def act(
        path: str | None, top_k: int, choice: str, report: Report, stopped: Stopped
    ) -> tuple[str, Ran, Status]:
        limit = settings.max_image_megapixels
        result = run(path, top_k, choice, models, report, stopped, limit, settings.batch)
        done = Ran(str(path), int(top_k), result.status.checkpoint)
        return markup.bars(result.scores, most=20), done, result.status

    page.runs(act, [image, top_k], [answer, ran])
    page.examples([[example] for example in examples], [image])
    page.linked({"image": image, "top_k": top_k})

    with page.drawer("Inside") as drawer:
        shown = gr.HTML()
        with gr.Row():
            label = gr.Dropdown([], label="Label asked about", visible=False)
            layer = gr.Slider(1, 2, 1, step=1, precision=0, label="Layer", visible=False)
            opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="Opacity of the map", visible=False)
        overlay = gr.HTML(elem_classes="saliency")
        maps = gr.State()

    def look(ran: Ran) -> tuple[Any, ...]:
        seen = look_inside(ran, models, settings.max_image_megapixels)
        found, hide = seen.maps, gr.update(visible=False)
        if not found:
            return draw_inside(seen), hide, hide, hide, None, None
        by_label = by_layer = hide
        count = len(found.names)
        if found.kind == "Grad-CAM":
            shares = sorted(seen.probabilities, reverse=True)[:count]
            named = [f"{name}, {markup.percent(p)}" for name, p in zip(found.names, shares, strict=True)]
            choices = [(name, place) for place, name in enumerate(named)]
            by_label = gr.update(choices=choices, value=0, visible=True)
        elif count > 1:
            by_layer = gr.update(maximum=count, value=count, visible=True)
        over = saliency_markup.draw_map(found, found.first)
        return draw_inside(seen), by_label, by_layer, gr.update(visible=True), over, found

    drawer.shows(look, [ran], [shown, label, layer, opacity, overlay, maps])
    drawer.changes(label, saliency_markup.draw_map, [maps, label], [overlay])
    drawer.changes(
        layer, lambda maps, layer: saliency_markup.draw_map(maps, layer - 1), [maps, layer], [overlay]
    )
    # In the browser alone, and for the whole page: what a map is drawn into may be made anew.
    opacity.change(None, opacity, None, js=SET_OPACITY, **events.QUIET)

    limit = settings.max_image_megapixels
    page.code(lambda ran: code(ran, models, visits.is_exposed(settings), limit), ran)

    def classify_image(
        image: str, top_k: int = TOP_K, checkpoint: str = "auto", stopped: Stopped = never
    ) -> dict[str, Any]:
        """Name what is in a picture: the likeliest labels with their probabilities.

        Args:
            image: The picture, such as PNG, JPEG or WebP.
            top_k: How many labels, from 1 on.
            checkpoint: "auto", "course", "starter", or owner/name or owner/name@revision on the hub.

        Returns:
            the likeliest label, the confidence of each, from 0 to 1, and remarks
        """
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
        return answers.labelled(result.scores, result.status.remarks)

    page.endpoint(
        classify_image,
        [
            as_uploaded(endpoints.hidden(gr.Image, "image", type="filepath", image_mode=None)),
            endpoints.hidden(gr.Number, "top_k", value=TOP_K, precision=0),
            endpoints.checkpoint_parameter(),
        ],
        [endpoints.scores_output()],
        About((answers.LABELS,), {"top_k": {"minimum": 1}}),
    )


DEMO = Demo(
    "image",
    "Image classification",
    6,
    "A picture becomes a grid of patches, or of features, and a head on top names what they show.",
    OFFER,
    build,
    compare=Comparison(
        "image",
        EXAMPLES[0],
        beside,
        lambda path, extra, checkpoint, models, settings: draw_inside(
            look_inside(Ran(path, TOP_K, checkpoint), models, settings.max_image_megapixels)
        ),
    ),
)
