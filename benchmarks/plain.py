"""Plain: the app that a user would write, a pipeline or `generate` in the callback of each tab.

    python -m benchmarks.plain FOLDERS --port 7861

FOLDERS is a JSON object from the name of a tab to the local folder of its checkpoint. Everything not
said is Gradio's and Transformers' default, but for the number format: float32 on the CPU, as ours.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import soundfile
import soxr

from components.models.device import best_device, best_dtype
from components.models.loading import stored_dtype

TEMPLATE = "This text is about {}."
TEMPERATURE = 0.05


def create(folders: dict[str, str]) -> gr.Blocks:
    """A tab for each task, its model loaded on first use; and one that does nothing."""

    @cache
    def pipe(task: str, tab: str) -> Any:
        import transformers

        device = best_device()
        options: Any = {"device": device, "dtype": best_dtype(device, stored_dtype(Path(folders[tab])))}
        return transformers.pipeline(task, model=folders[tab], **options)  # type: ignore[call-overload]

    @cache
    def load(tab: str, kind: str) -> tuple[Any, Any]:
        import transformers

        device = best_device()
        dtype = best_dtype(device, stored_dtype(Path(folders[tab])))
        model = getattr(transformers, kind).from_pretrained(folders[tab], dtype=dtype).to(device)
        return transformers.AutoTokenizer.from_pretrained(folders[tab]), model

    def noop(text: str) -> str:
        return text

    def sentiment(text: str) -> dict[str, float]:
        return {
            row["label"]: row["score"] for row in pipe("text-classification", "sentiment")(text, top_k=None)
        }

    def zero_shot(text: str, labels: str) -> dict[str, float]:
        import torch

        tokenizer, model = load("zero_shot", "AutoModel")

        def embed(sentence: str) -> torch.Tensor:
            inputs = tokenizer(sentence, return_tensors="pt", truncation=True).to(model.device)
            with torch.no_grad():
                mean = model(**inputs).last_hidden_state.float().mean(1)
            return torch.nn.functional.normalize(mean)[0]

        names = [label.strip() for label in labels.split(",")]
        target = embed(text)
        cosines = torch.stack([embed(TEMPLATE.format(name)) @ target for name in names])
        return dict(zip(names, (cosines / TEMPERATURE).softmax(0).tolist(), strict=True))

    def generate(prompt: str, most: float) -> str:
        tokenizer, model = load("generation", "AutoModelForCausalLM")
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        output = model.generate(**inputs, max_new_tokens=int(most), do_sample=False)
        return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def translate(text: str) -> str:
        tokenizer, model = load("translation", "AutoModelForSeq2SeqLM")
        lines = []
        for line in text.splitlines():
            inputs = tokenizer(line, return_tensors="pt", truncation=True).to(model.device)
            lines.append(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
        return "\n".join(lines)

    def transcribe(path: str) -> str:
        samples, rate = soundfile.read(path, dtype="float32")
        sound = {"raw": soxr.resample(samples, rate, 16_000), "sampling_rate": 16_000}
        return pipe("automatic-speech-recognition", "speech")(sound, chunk_length_s=30)["text"]

    def classify_image(picture: Any) -> dict[str, float]:
        rows = pipe("image-classification", "image")(picture, top_k=5)
        return {row["label"]: row["score"] for row in rows}

    with gr.Blocks(title="Plain") as app:
        for function, inputs, output in (
            (noop, ["text"], "text"),
            (sentiment, ["text"], "label"),
            (zero_shot, ["text", "text"], "label"),
            (generate, ["text", "number"], "text"),
            (translate, [gr.Textbox(lines=3)], "text"),
            (transcribe, [gr.Audio(type="filepath")], "text"),
            (classify_image, [gr.Image(type="pil")], "label"),
        ):
            with gr.Tab(function.__name__):
                gr.Interface(function, inputs, output, api_name=function.__name__, flagging_mode="never")
    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain")
    parser.add_argument("folders", type=json.loads, help="JSON object: tab -> folder")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    create(options.folders).launch(server_name="127.0.0.1", server_port=options.port, ssr_mode=False)


if __name__ == "__main__":
    main()
