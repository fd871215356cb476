"""Masked language model starter: can a sentence encoder learn to fill gaps?

LoRA on all-MiniLM-L6-v2 and a new head, which shares the encoder's embeddings as BERT's does (Devlin et al.
2018), trained to restore masked tokens of English sentences. Only the adapter, the biases and the head
are kept.

    python -m training.masked --data PATH --out checkpoints/minilm-masked
"""

import random
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoModelForMaskedLM, DataCollatorForLanguageModeling

from benchmarks.measures import read_records
from components.models.device import best_device
from training.common import (
    adapted,
    bucketed,
    encoder,
    keep,
    options,
    read_pairs,
    train,
)

RANK = 32
BATCH = 64
PEAK_RATE = 1e-3
WARMUP = 200
MASKED = 0.2  # of the tokens; BERT's 0.15 leaves short sentences without any
MAX_TOKENS = 64
SHORTEST = 4  # words
HELD_OUT = 2000  # sentences with one gap each, for the evaluation


def sentences(data: Path, split: str) -> list[str]:
    """The English sentences at hand, each once: of pairs with French ones, of inferences, of film reviews."""
    texts = [english for english, _ in read_pairs(data / "en-fr" / f"{split}.tsv")]
    for row in read_records(data / "nli" / f"{split}.jsonl"):
        texts += [row["premise"], row["hypothesis"]]
    if split == "train":
        texts += [text for _, text in read_pairs(data / "sentiment" / "train.tsv")[1:] if len(text) > 60]
    return list(dict.fromkeys(text.strip() for text in texts if len(text.split()) >= SHORTEST))


def restored(model: Any, inputs: dict[str, torch.Tensor], masked: torch.Tensor) -> torch.Tensor:
    """Logits `[masked tokens, vocabulary]`, of these places alone: the others would cost as much."""
    inner = model.base_model.model
    hidden = inner.bert(**inputs).last_hidden_state
    return inner.cls(hidden[masked])


def loss_of(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Cross-entropy of the masked tokens; which they are is drawn with torch's seed."""
    encodings = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, return_special_tokens_mask=True)
    rows = [dict(zip(encodings, row, strict=True)) for row in zip(*encodings.values(), strict=True)]
    inputs = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)(rows)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    labels = inputs.pop("labels")
    masked = labels != -100
    with torch.autocast(model.device.type, torch.bfloat16):
        logits = restored(model, inputs, masked)
    return cross_entropy(logits.float(), labels[masked])


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, texts: list[str], seed: int = 0) -> tuple[float, float]:
    """One random word of each sentence masked: how often it is the likeliest, and among the five likeliest.

    Words of one token only, as a gap is one token.
    """
    source, first, among, asked = random.Random(seed), 0, 0, 0
    for text in tqdm(texts, desc="filling gaps"):
        ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        words = tokenizer.convert_ids_to_tokens(ids)
        whole = [
            i for i in range(1, len(ids) - 1) if words[i].isalpha() and not words[i + 1].startswith("##")
        ]
        if not whole:
            continue
        place = source.choice(whole)
        wanted, ids[place] = ids[place], tokenizer.mask_token_id
        inputs = torch.tensor([ids], device=model.device)
        masked = inputs == tokenizer.mask_token_id
        likeliest = restored(model, {"input_ids": inputs}, masked)[0].topk(5).indices.tolist()
        first, among, asked = first + (likeliest[0] == wanted), among + (wanted in likeliest), asked + 1
    return first / asked, among / asked


def main() -> None:
    arguments = options(__doc__, "en-fr, nli and sentiment", epochs=1).parse_args()
    out, work, seed = arguments.out, arguments.out / "work", arguments.seed
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    folder, tokenizer = encoder()
    base = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager")
    # The biases of the head are trained with the others: they say how common each token is.
    model: Any = adapted(base, RANK, bias="all", modules_to_save=["transform"]).to(best_device())
    held_out = sentences(arguments.data, "dev")
    known = set(held_out)
    texts = [text for text in sentences(arguments.data, "train") if text not in known]
    print(f"{len(texts)} sentences")
    curve = train(
        model,
        lambda number: bucketed(texts, lambda text: len(tokenizer.tokenize(text)), BATCH, seed + number),
        lambda batch: loss_of(model, tokenizer, batch),
        steps=arguments.epochs * -(-len(texts) // BATCH),
        peak_rate=PEAK_RATE,
        warmup=WARMUP,
        seed=seed,
        work=work,
        average_last=0,
    )
    chosen = random.Random(seed).sample(held_out, min(HELD_OUT, len(held_out)))
    first, among = accuracy(model, tokenizer, chosen)
    print(f"top-1 {first:.4f}, top-5 {among:.4f} on {len(chosen)} held-out sentences")
    keep(model, out, curve)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
