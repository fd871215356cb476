"""Snippets: which Python gives a run's very result with transformers alone?

A function for each task takes plain values and gives the text of a complete program. What visitors wrote
stands in it as string literals, which nothing can break out of, and never in a comment.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from components.compute.entailment import classes_of
from components.inputs.audio import RATE
from components.inputs.pictures import Read
from components.inputs.wording import Wording, restored
from components.models.control import control_tokens
from components.weights.checkpoints import Bundled, Checkpoint, Hub
from components.weights.formats import origin_of

if TYPE_CHECKING:
    from components.compute.decoding import Sampling
    from components.compute.whisper import Piece
    from components.models.manager import Loaded

WIDTH = 88  # characters of a literal on one line of a program
COMMIT = re.compile(r"[0-9a-f]{40}")
MADE_BY_THE_APP = """\
# The app makes this folder when its starter first runs. Run the app on your own machine, press Run on
# this tab, and write the folder's path here: it lies in ~/.cache/transformer-tour/starters."""
IN_THE_REPOSITORY = "# The folder is in the repository of this app: run the program there."
FROM_PULL_REQUEST = Template("""\
# This revision is $reference: the safetensors that the hub's conversion bot made of this checkpoint.""")
QUANTIZED = "# The app kept linear layers of this model in {}. Here they are float32: the result may differ."

SENTIMENT = Template("""\
# Sentiment: the labels of a text and their probabilities.
# pip install torch transformers
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

$checkpoint
texts = $texts$more

# Tokenizer: texts become token ids. Shorter ones are filled up with padding, which is masked.
tokenizer = AutoTokenizer.from_pretrained(checkpoint$revision$as_text
${pad}inputs = tokenizer(texts, padding=True, truncation=True, max_length=$limit, return_tensors="pt")$to

# Model and head: hidden states of each text, and from them one number for each label, the logits.
model = AutoModelForSequenceClassification.from_pretrained(checkpoint$revision, $dtype)$to
${model_pad}with torch.inference_mode():
    logits = model(**inputs).logits$back

# Postprocessing: $words makes probabilities, and id2label names them.
probabilities = logits.$to_probabilities
for text, row in zip(texts, probabilities.tolist()):
    print(text)
    for i in sorted(range(len(row)), key=lambda i: -row[i]):
        print(f"    {model.config.id2label[i]}: {row[i]:.4f}")
""")

ENTAILMENT = Template("""\
# Zero-shot classification: which of your own labels fits a text, by entailment (Yin et al. 2019).
# pip install torch transformers
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

$checkpoint
text = $text
labels = $labels
template = $template

# Tokenizer: one pair for each label. The text is the premise, the sentence with the label the hypothesis.
tokenizer = AutoTokenizer.from_pretrained(checkpoint$revision$as_text
${pad}premises = [text] * len(labels)
hypotheses = [template.format(label) for label in labels]
inputs = tokenizer(
    premises, hypotheses, padding=True, truncation="only_first", max_length=$limit, return_tensors="pt"
)$to

# Model and head: for each pair the logits of whether the premise entails the hypothesis.
model = AutoModelForSequenceClassification.from_pretrained(checkpoint$revision, $dtype)$to
${model_pad}with torch.inference_mode():
    logits = model(**inputs).logits$back

# Postprocessing. $scores
for i in scores.argsort(descending=True).tolist():
    print(f"{labels[i]}: {scores[i]:.4f}")
""")

SIMILARITY = Template("""\
# Zero-shot classification: which of your own labels fits a text, by similarity of sentences.
# pip install torch transformers
import torch
from transformers import AutoModel, AutoTokenizer

$checkpoint
text = $text
labels = $labels
template = $template

# Tokenizer: the text, and a sentence with each label.
tokenizer = AutoTokenizer.from_pretrained(checkpoint$revision$as_text
${pad}sentences = [text, *(template.format(label) for label in labels)]
inputs = tokenizer(sentences, padding=True, truncation=True, max_length=$limit, return_tensors="pt")$to

# Model: an encoder, whose hidden states have a vector for each token.
model = AutoModel.from_pretrained(checkpoint$revision, $dtype)$to
${model_pad}with torch.inference_mode():
    hidden = model(**inputs).last_hidden_state$back

# Pooling: one vector of length 1 for each sentence.
$pooled
vectors = torch.nn.functional.normalize(pooled, dim=-1)

# Postprocessing: the cosine of the text and each sentence. $scores
for i in scores.argsort(descending=True).tolist():
    print(f"{labels[i]}: {scores[i]:.4f}")
""")
CLS_POOLING = "pooled = hidden[:, 0]  # of the first token, as 1_Pooling/config.json says"
MEAN_POOLING = """\
mask = inputs["attention_mask"]$host.unsqueeze(-1)
pooled = (hidden * mask).sum(1) / mask.sum(1)  # the mean of its tokens, without padding"""

COMPLETION = 'ids = tokenizer(prompt, return_tensors="pt")["input_ids"]'
CHAT = """\
messages = [{"role": "user", "content": prompt}]  # the chat template of the checkpoint marks who speaks
ids = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)["input_ids"]"""
AS_TEXT = """\
# The prompt in the chat template of the checkpoint; what looks like a control token in it is text.
ids = torch.tensor(["""
DECODED = """\
# Postprocessing: token ids become text again, up to the end and without the prompt.
beginning = tokenizer.decode(prompt_ids, skip_special_tokens=True)
texts = []
for row in ids[:, len(prompt_ids) :].tolist():
    new = row[: next((i for i, token in enumerate(row) if token in ends), len(row))]
    text = tokenizer.decode(prompt_ids + new, skip_special_tokens=True)[len(beginning) :]
    texts.append(text.rstrip("\\ufffd"))  # without half a character at the end
    print($shown, end="\\n\\n")
"""
GREEDY = Template("""\
# Text generation: how a language model goes on from a prompt, always with the likeliest token.
# pip install torch transformers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

$checkpoint
prompt = $prompt
max_new_tokens = $most
sequences = $sequences

# Tokenizer: the prompt becomes token ids.
tokenizer = AutoTokenizer.from_pretrained(checkpoint$revision$as_text
$ids
ids = ids[:, -($positions - max_new_tokens) :]  # the model takes $positions tokens in all
prompt_ids = ids[0].tolist()
ids = ids.repeat(sequences, 1)$to

# Model and head: a decoder predicts the next token from those before it, again and again. Of the
# checkpoint's own generation settings only the ends of a text count.
model = AutoModelForCausalLM.from_pretrained(checkpoint$revision, $dtype)$to
ends = $ends
model.generation_config = GenerationConfig($end)
with torch.inference_mode():
    ids = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
${penalty}    )

$decoded""")
SAMPLED = Template("""\
# Text generation: how a language model goes on from a prompt, with tokens drawn at random.
# pip install torch transformers
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
$imports)

$checkpoint
prompt = $prompt
max_new_tokens = $most
sequences = $sequences
seed = $seed

# Tokenizer: the prompt becomes token ids.
tokenizer = AutoTokenizer.from_pretrained(checkpoint$revision$as_text
$ids
ids = ids[:, -($positions - max_new_tokens) :]  # the model takes $positions tokens in all
prompt_ids = ids[0].tolist()
ids = ids.repeat(sequences, 1)$to

# Model and head: a decoder gives a logit for each token of the vocabulary that may come next.
model = AutoModelForCausalLM.from_pretrained(checkpoint$revision, $dtype)$to
ends = $ends  # the tokens that end a text, from the checkpoint's generation settings

# How the next token is chosen: the logits are changed in this order, a softmax makes probabilities of
# them, and one token is drawn. model.generate does the same; here each step can be seen.
processors = LogitsProcessorList(
    [
$processors    ]
)
generator = torch.Generator().manual_seed(seed)
${begin}ended = torch.zeros(sequences, dtype=torch.bool)
with torch.inference_mode():
    while ids.shape[1] < len(prompt_ids) + max_new_tokens and not ended.all():
$forward
        scores = processors(ids, output.logits[:, -1].float())
        # Sequences that have ended draw on, so that the others get the same random numbers.
        token = torch.multinomial(scores.softmax(-1)$host, 1, generator=generator)
        ids = torch.cat([ids, token$to], dim=1)
        ended |= torch.isin(token[:, 0], torch.tensor(ends, dtype=torch.long))

$decoded""")
CACHED = """\
        unread = ids if cache is None else ids[:, -1:]
        output = model(input_ids=unread, past_key_values=cache, use_cache=True)
        cache = output.past_key_values"""
UNCACHED = "        output = model(input_ids=ids)"

TRANSLATION = Template("""\
# Translation: a sentence in another language, and which tokens look at which.
# pip install torch transformers sentencepiece
${imports}import torch
from transformers import AutoTokenizer, MarianMTModel

$checkpoint
${codes}$texts

tokenizer = AutoTokenizer.from_pretrained(checkpoint$revision$as_text
# Only this implementation of attention shows its weights.
model = MarianMTModel.from_pretrained(
    checkpoint$revision, $dtype, attn_implementation="eager"
)$to


def read(sentence):
    # Tokenizer: a sentence becomes token ids.
    return tokenizer(sentence, truncation=True, max_length=$positions, return_tensors="pt")$to


def write(inputs):
    # Model and head: the encoder reads, the decoder writes as the checkpoint's generation settings say.
    # A translation may be a few times as long as its sentence: that ends a loop.
    longest = (inputs["input_ids"].shape[1] + 31) // 32 * 96 + 20
    with torch.inference_mode():
        return model.generate(**inputs, max_length=min($positions, longest))


${postprocessing}print(translation)

# Attention: one pass over a sentence and its translation.
sentence = $sentences[$chosen]
inputs = read(sentence)
written = write(inputs)
fed = written[:, :-1]  # the last token is written but never read
with torch.inference_mode():
    output = model(**inputs, decoder_input_ids=fed, output_attentions=True)
# Each [layers, heads, queries, keys]; each row of keys sums to 1.
encoder = torch.cat(output.encoder_attentions)$back
decoder = torch.cat(output.decoder_attentions)$back
cross = torch.cat(output.cross_attentions)$back
print(tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()))
print(encoder[-1].mean(0))  # encoder self-attention, last layer, mean of heads
print(tokenizer.convert_ids_to_tokens(fed[0].tolist()))
print(cross[-1].mean(0))  # cross-attention: queries of the translation, keys of the sentence
""")

PARAGRAPHS = """\
# Postprocessing: token ids become text.
lines = []
for sentences in paragraphs:
    written = [write(read(sentence))[0] for sentence in sentences]
    lines.append(" ".join(tokenizer.decode(ids, skip_special_tokens=True) for ids in written))
translation = "\\n".join(lines)
"""
PARTS = """\
# What stays as it is, and what the model reads of each sentence, with how its translation is restored:
# stand-ins for what must not change, capitals, marks that the vocabulary lacks, line breaks.
"""
PUT_TOGETHER = Template("""\
$restored

# Postprocessing: token ids become text.
translation = ""
for part in parts:
    if isinstance(part, dict):
        how = {name: value for name, value in part.items() if name != "read"}
        written = tokenizer.decode(write(read(part["read"]))[0], skip_special_tokens=True)
        part = restored(written, **how)
    translation += part
""")

SPEECH = Template("""\
# Speech recognition: the words of a recording$when.
# pip install torch transformers librosa
import librosa
import torch
from transformers import AutoProcessor, WhisperForConditionalGeneration$pipeline

$checkpoint
recording = "recording.wav"  # the path of yours: WAV, FLAC, MP3 or OGG

# librosa reads the file, mixes it to mono and resamples it to the 16 kHz that Whisper hears.
samples, rate = librosa.load(recording, sr=16_000)
$remark
heard = $heard

processor = AutoProcessor.from_pretrained(checkpoint$revision)
model = WhisperForConditionalGeneration.from_pretrained(checkpoint$revision, $dtype)$to
$body
print(transcript)
$printed""")
SEGMENTS = Template("""
segments = []  # text, start and end in seconds
for first, last, taken in heard:
    # Feature extractor: a log-Mel spectrogram, filled up to the $seconds s of a window; more are several.
    long = last - first > $seconds
    inputs = processor(
        samples[round(first * rate) : round(last * rate)],
        sampling_rate=rate,
        truncation=not long,
        padding="longest" if long else "max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )$cast
    # Model, head and postprocessing: the encoder hears, the decoder writes words and timestamps.
$detected    with torch.inference_mode():
        output = model.generate(
            **inputs,
            return_timestamps=True,
            return_segments=True,
$options        )
    for segment in output["segments"][0]:
        said = processor.tokenizer.decode(segment["tokens"], skip_special_tokens=True)
        start, end = (min(first + float(segment[edge]), last) for edge in ("start", "end"))
        if start + 0.01 < taken:
            segments.append((said, start, end))
transcript = "".join(said for said, start, end in segments).strip()""")
WORDS = Template("""
# Feature extractor, model, head and postprocessing in one: the times of words come from the
# cross-attention of the checkpoint's alignment heads, by dynamic time warping. The app ends a word
# before its comma or full stop, so that the pause after it does not count.
recognize = pipeline(
    "automatic-speech-recognition",
    model=model,
    tokenizer=processor.tokenizer,
    feature_extractor=processor.feature_extractor,
)
segments = []  # words: text, start and end in seconds
for first, last, taken in heard:
    sound = {"raw": samples[round(first * rate) : round(last * rate)], "sampling_rate": rate}
$detected    output = recognize($options)
    for word in output["chunks"]:
        start, end = (min(first + time, last) for time in word["timestamp"])
        if start + 0.01 < taken:
            segments.append((word["text"], start, end))
transcript = "".join(said for said, start, end in segments).strip()""")
PRINTED = """\
for said, start, end in segments:
    print(f"{start:7.2f} {end:7.2f} {said.strip()}")
"""
DETECTED = "    # Without language= it is detected, here in each window.\n"
CUT = """\
# In seconds: from where to where the app heard a window, and up to where it took what it wrote, which is
# the end of a phrase or a pause. It passed over silence, made louder what is faint, and left out what could
# not be made out, after trying again at higher temperatures."""
UNCUT = """\
# In seconds: from where to where, and all is taken. In a longer recording than $seconds s the app looks for
# pauses to cut it at; here Transformers goes from one window to the next."""

IMAGE = Template("""\
# Image classification: what a picture shows.
# pip install torch transformers pillow
${imports}import torch
from PIL import $modules
from transformers import AutoImageProcessor, AutoModelForImageClassification

$checkpoint
picture = "picture.jpg"  # the path of yours
top_k = $top_k

$opened
# Turned as the camera says, and what is transparent on $ground.
image = ImageOps.exif_transpose(image)
${prepared}image = image.convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "$ground"), image).convert("RGB")
$fit
# Image processor: resized, cropped and normalised as the checkpoint wants it.
processor = AutoImageProcessor.from_pretrained(checkpoint$revision)
inputs = processor(images=image, return_tensors="pt")$cast

# Model and head: features of the picture, and from them one number for each label, the logits.
model = AutoModelForImageClassification.from_pretrained(checkpoint$revision, $dtype)$to
with torch.inference_mode():
    logits = model(**inputs).logits[0]$back

# Postprocessing: a softmax makes probabilities, and id2label names them.
probabilities = logits.softmax(-1)
values, classes = probabilities.topk(min(top_k, len(probabilities)))
for value, i in zip(values.tolist(), classes.tolist()):
    print(f"{model.config.id2label[i]}: {value:.4f}")
""")

OPENED = "image = Image.open(picture)\n"
ALL_ROWS = """\
# The end of this file is missing or damaged: what comes before it is kept.
image = Image.open(open(picture, "rb"))
try:
    image.load()
except Exception:
    image.tile = []
"""
NO_DETAIL = """\
# The end of this file is missing: the mark for it lets the decoder take what comes before.
image = Image.open(io.BytesIO(open(picture, "rb").read() + b"\\xff\\xd9"))
"""
PROFILE = """\
# From the colours of its profile to those that models have seen.
profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
image = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
"""
SHADES = Template("""\
# Its shades become those of 8 bits.
black, white = $low, $high
shades = np.nan_to_num(np.array(image, dtype="float32"), posinf=0, neginf=0).clip(black, white)
image = Image.fromarray(np.rint((shades - black) * (255 / ((white - black) or 1))).astype("uint8"))
""")
READ_WHOLE = Read()
AS_TYPED = """, split_special_tokens=True)
# That keeps as text what looks like a control token in one."""


@dataclass(frozen=True)
class Where:
    """What a program loads, and onto which device.

    checkpoint: a repository id or a folder; revision: of the repository, None for a folder; device:
    "cpu", "cuda" or "mps"; precision: as of `Loaded`; remark: comment lines on the folder;
    pads: whether the tokenizer has a padding token of its own; control: whether something in a text looks
    like a control token, which it is not.
    """

    checkpoint: str
    revision: str | None = None
    device: str = "cpu"
    precision: str = "float32"
    remark: str = ""
    pads: bool = True
    control: bool = False


def where(
    checkpoint: Checkpoint, folder: str, public: bool, device: str = "cpu", precision: str = "float32"
) -> Where:
    """Where a program finds the checkpoint that the app has loaded from `folder`.

    A repository with its revision, instead of "main" the commit if the folder has its name, and where the
    weights are those of a pull request, its commit, which has all else as well; a starter in its folder.
    public: without the path on this machine, and with a remark how to come by the folder.
    """
    source, name = checkpoint.source, Path(folder).name
    if isinstance(source, Hub):
        if origin := origin_of(Path(folder)):
            remark = FROM_PULL_REQUEST.substitute(reference=origin.reference)
            return Where(source.repo_id, origin.commit, device, precision, remark)
        commit = source.revision == "main" and COMMIT.fullmatch(name)
        return Where(source.repo_id, name if commit else source.revision, device, precision)
    if not public:
        return Where(folder, None, device, precision)
    if isinstance(source, Bundled) and source.base is None:
        return Where(f"checkpoints/{source.folder}", None, device, precision, IN_THE_REPOSITORY)
    return Where(name, None, device, precision, MADE_BY_THE_APP)


def place_of(loaded: Loaded, public: bool, texts: Sequence[str] = ()) -> Where:
    """`where` of what the manager lends; texts: what its tokenizer is to read."""
    folder, processor = str(loaded.model.name_or_path), loaded.processor
    place = where(loaded.checkpoint, folder, public, loaded.device.type, loaded.precision)
    pads = getattr(processor, "pad_token", "") != getattr(processor, "eos_token", None)
    return replace(place, pads=pads, control=any(control_tokens(text, processor) for text in texts))


def literal(text: str) -> str:
    """A Python literal of the text on one line, in double quotes where that needs no escape.

    What does not print as it stands is escaped: line ends of any kind, marks that turn the direction of
    writing, halves of surrogate pairs.
    """
    quoted = repr(text)
    return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in text else quoted


def wrapped(text: str, indent: int = 0) -> str:
    """The literal of a text; a long one in brackets, in pieces on lines of their own."""
    whole = literal(text)
    if len(whole) <= WIDTH:
        return whole
    space, width = " " * indent, WIDTH - indent
    pieces = re.findall(rf"[^\n]{{0,{width}}}\n|[^\n]{{1,{width}}}(?:\s|\Z)|[^\n]{{1,{width}}}", text)
    return "\n".join(["(", *(f"{space}    {literal(piece)}" for piece in pieces), f"{space})"])


def listed(texts: Sequence[str], indent: int = 0) -> str:
    """A list of texts, each on a line of its own."""
    space = " " * indent
    items = "".join(f"{space}    {wrapped(text, indent + 4)},\n" for text in texts)
    return f"[\n{items}{space}]" if texts else "[]"


def sentiment(where: Where, texts: Sequence[str], *, limit: int, sigmoid: bool, more: int = 0) -> str:
    """Labels of texts with their probabilities.

    limit: tokens that the model takes; sigmoid: each label has a probability of its own; more: texts of
    the run that are left out here.
    """
    return _program(
        SENTIMENT,
        where,
        texts=listed(texts),
        more=f"  # the first {len(texts)} of {len(texts) + more}" if more else "",
        limit=limit,
        words="a sigmoid of each logit" if sigmoid else "a softmax of the logits",
        to_probabilities="sigmoid()" if sigmoid else "softmax(-1)",
    )


def zero_shot(
    where: Where,
    text: str,
    labels: Sequence[str],
    template: str,
    multi_label: bool,
    *,
    limit: int,
    id2label: Mapping[int, str],
    pooling: str = "mean",
    temperature: float = 0.05,
) -> str:
    """Scores of candidate labels, by entailment where `id2label` has that class, else by similarity.

    limit: as for sentiment; pooling: "mean" or "cls", of a sentence encoder; temperature: of the
    softmax of its cosines.
    """
    each = multi_label or len(labels) == 1  # a softmax over a single label would always say 1
    classes = classes_of(id2label)
    if classes is None:
        how, scores = (
            ("Several labels may be right:\n# each has its own, from 0 up.", "cosines.clamp(min=0, max=1)")
            if each
            else (
                "Cosines lie close together,\n# and the low temperature of the softmax spreads them.",
                f"(cosines / {temperature}).softmax(0)",
            )
        )
        lines = [how, "cosines = vectors[1:] @ vectors[0]", f"scores = {scores}"]
    elif each:
        against = str(id2label[classes.against]).lower()
        name = "contradiction" if against.startswith("contra") else "no_entailment"
        lines = [
            f"For each label alone: a softmax of its logits of {name} and entailment.",
            f"{name}, entailment = {classes.against}, {classes.entailment}  "
            "# their numbers in model.config.id2label",
            f"scores = logits[:, [{name}, entailment]].softmax(-1)[:, 1]",
        ]
    else:
        lines = [
            "One label is right: a softmax of the logits of entailment over the labels.",
            f"entailment = {classes.entailment}  # its number in model.config.id2label",
            "scores = logits[:, entailment].softmax(0)",
        ]
    host = "" if where.device == "cpu" else ".cpu()"
    return _program(
        SIMILARITY if classes is None else ENTAILMENT,
        where,
        text=wrapped(text),
        labels=listed(labels),
        template=wrapped(template),
        limit=limit,
        pooled=CLS_POOLING if pooling == "cls" else MEAN_POOLING.replace("$host", host),
        scores="\n".join(lines),
    )


def pooling_of(folder: str) -> str:
    """How the sentence encoder in this folder makes one vector of a text: "cls" or "mean"."""
    config = Path(folder) / "1_Pooling" / "config.json"
    first = config.exists() and json.loads(config.read_text()).get("pooling_mode_cls_token")
    return "cls" if first else "mean"


def generation(
    where: Where,
    prompt: str,
    most: int,
    sequences: int,
    sampling: Sampling,
    mode: str = "completion",
    *,
    positions: int,
    ends: Sequence[int],
    cached: bool = True,
    ids: Sequence[int] = (),
) -> str:
    """Continuations of a prompt.

    most: new tokens; mode: "completion" or "chat"; positions: tokens that the model takes in all; ends:
    ids that end a text; cached: whether the model takes past_key_values; ids: of the prompt in chat mode, if
    it holds what looks like control tokens and is text.
    """
    penalty = sampling.repetition_penalty
    same = {
        "prompt": wrapped(prompt),
        "most": most,
        "sequences": sequences,
        "ids": COMPLETION if mode != "chat" else f"{AS_TEXT}{list(ids)}])" if ids else CHAT,
        "positions": positions,
        "ends": list(ends),
        "decoded": DECODED.replace("$shown", "texts[-1]" if mode == "chat" else "prompt + texts[-1]"),
    }
    if sampling.greedy:
        return _program(
            GREEDY,
            where,
            end=f"eos_token_id=ends, pad_token_id={ends[0]}" if ends else "",
            penalty=f"        repetition_penalty={penalty},\n" if penalty != 1 else "",
            **same,
        )
    processors = {
        "RepetitionPenaltyLogitsProcessor": penalty if penalty != 1 else None,
        "TemperatureLogitsWarper": sampling.temperature,
        "TopKLogitsWarper": sampling.top_k or None,
        "TopPLogitsWarper": sampling.top_p if sampling.top_p < 1 else None,
    }
    used = {name: value for name, value in processors.items() if value is not None}
    return _program(
        SAMPLED,
        where,
        seed=sampling.seed,
        imports="".join(f"    {name},\n" for name in used),
        processors="".join(f"        {name}({value}),\n" for name, value in used.items()),
        begin="cache = None  # keys and values of the tokens that have been read\n" if cached else "",
        forward=CACHED if cached else UNCACHED,
        host="" if where.device == "cpu" else ".cpu()",
        **same,
    )


def translation(
    where: Where,
    parts: Sequence[str | Wording],
    *,
    positions: int,
    prefix: str = "",
    sentence: int = 0,
) -> str:
    """A translation sentence by sentence, and the attention behind one of them.

    parts: sentences, and what stands between them; positions: tokens that the model takes; prefix: the code
    of a target language, such as ">>fra<<", for sentences without one; sentence: the number of the one whose
    attention is shown, from 0 on.
    """

    def coded(read: str) -> str:
        return f"{prefix} {read}" if prefix and not read.startswith(">>") else read

    paragraphs = _paragraphs(parts)
    if paragraphs is not None:
        items = "".join(f"    {listed([coded(one) for one in row], 4)},\n" for row in paragraphs)
        texts, imports, postprocessing = f"paragraphs = [\n{items}]", "", PARAGRAPHS
        sentences = "[sentence for sentences in paragraphs for sentence in sentences]"
    else:
        items = "".join(f"    {_part(part, coded)},\n" for part in parts)
        texts, imports = f"{PARTS}parts = [\n{items}]", "import re\n\n"
        postprocessing = PUT_TOGETHER.substitute(restored=inspect.getsource(restored))
        sentences = '[part["read"] for part in parts if isinstance(part, dict)]'
    return _program(
        TRANSLATION,
        where,
        texts=texts,
        imports=imports,
        postprocessing=postprocessing,
        sentences=sentences,
        codes="# Each sentence begins with the code of the language it is to be in.\n" if prefix else "",
        positions=positions,
        chosen=sentence,
    )


def _paragraphs(parts: Sequence[str | Wording]) -> list[list[str]] | None:
    """The sentences of each line if they are read as they stand, and only single spaces and line ends stand
    between them, else None."""
    rows: list[list[str]] = [[]]
    for part in parts:
        if isinstance(part, str):
            rows += [[] for _ in range(part.count("\n"))]
        elif part == Wording(part.read):
            rows[-1].append(part.read)
        else:
            return None
    whole = "".join(part if isinstance(part, str) else part.read for part in parts)
    return rows if "\n".join(map(" ".join, rows)) == whole else None


def _part(part: str | Wording, coded: Callable[[str], str]) -> str:
    if isinstance(part, str):
        return literal(part)
    values = {one.name: getattr(part, one.name) for one in fields(part)[1:]}
    different = {name: repr(value) for name, value in values.items() if value}
    items = {"read": literal(coded(part.read)), **different}
    written = ", ".join(f'"{name}": {value}' for name, value in items.items())
    return f"{{{written}}}"


def speech(
    where: Where,
    timestamps: str,
    language: str | None,
    task: str,
    *,
    multilingual: bool,
    seconds: float = 30,
    heard: Sequence[tuple[float, float, float]] | None = None,
) -> str:
    """The transcript of a recording with times, unless `timestamps` is "none".

    language: a code, None to detect it; multilingual: whether the checkpoint takes language and task;
    seconds: of a window; heard: what the app heard, as `heard_in` has it; None: the whole recording in
    one, so that Transformers goes through a long one.
    """
    options = {"language": language, "task": task} if multilingual else {}
    named = {name: literal(value) for name, value in options.items() if value}
    if timestamps == "word":
        given = ", ".join(f'"{name}": {value}' for name, value in named.items())
        asked = 'sound, return_timestamps="word"'
        body = WORDS
        written = f"\n        {asked}, generate_kwargs={{{given}}}\n    " if given else asked
    else:
        body, written = SEGMENTS, "".join(f"            {name}={value},\n" for name, value in named.items())
    # A sample takes 0.0000625 s.
    cuts = "".join(f"    ({', '.join(str(round(edge, 5)) for edge in row)}),\n" for row in heard or ())
    length = f"{seconds:g}"
    return _program(
        SPEECH,
        where,
        when="" if timestamps == "none" else ", and when they were said",
        pipeline=", pipeline" if timestamps == "word" else "",
        remark=(UNCUT if heard is None else CUT).replace("$seconds", length),
        heard="[(0, len(samples) / rate, len(samples) / rate)]"
        if heard is None
        else f"[\n{cuts}]"
        if cuts
        else "[]",
        body=body.substitute(
            seconds=length,
            options=written,
            detected=DETECTED if multilingual and not language else "",
            cast=_cast(where),
        ),
        printed="" if timestamps == "none" else PRINTED,
    )


def heard_in(pieces: Sequence[Piece]) -> list[tuple[float, float, float]]:
    """Start and end of each window in which the app has heard words, and the end of what it has taken of
    it, in seconds."""
    return [(p.window[0] / RATE, p.window[1] / RATE, p.done) for p in pieces if p.text]


def image(
    where: Where,
    top_k: int,
    read: Read = READ_WHOLE,
    box: tuple[int, int, int, int] | None = None,
    factor: int = 1,
) -> str:
    """The likeliest labels of a picture with their probabilities.

    read: how the app read this one, of which no more than it needs is in the program; box, factor: what the
    app did with it then, see `pictures.Fit`.
    """
    opened, prepared, imports, modules = OPENED, "", "", ["Image", "ImageOps"]
    if read.damage:
        opened = ALL_ROWS if read.damage == "rows" else NO_DETAIL
    if read.frame:
        opened += f"image.seek({read.frame})  # those before it are of one colour\n"
    if read.part:
        prepared += f"image = image.crop({read.part})  # the rows that are there\n"
    if read.profile:
        prepared += PROFILE
        modules.append("ImageCms")
    if read.damage == "detail" or read.profile:
        imports = "import io\n\n"
    if read.shades:
        low, high = (int(shade) if shade == int(shade) else shade for shade in read.shades)
        prepared += SHADES.substitute(low=low, high=high)
        imports = "import numpy as np\n"
    lines = []
    if box:
        lines += ["", "# Of so long a picture the app looks at the middle.", f"image = image.crop({box})"]
    if factor > 1:
        lines += ["", "# So large a picture would take gigabytes.", f"image = image.reduce({factor})"]
    fit = "\n".join([*lines[1:], ""]) if lines else ""
    return _program(
        IMAGE,
        where,
        imports=imports,
        modules=", ".join(sorted(modules)),
        opened=opened,
        prepared=prepared,
        ground=read.ground,
        top_k=top_k,
        cast=_cast(where),
        fit=fit and "\n" + fit,
    )


def _dtype(where: Where) -> str:
    return f"torch.{'float32' if where.precision in ('int8', 'int4') else where.precision}"


def _cast(where: Where) -> str:
    """For inputs that are numbers, not ids."""
    return "" if where.device == "cpu" else f".to(device, {_dtype(where)})"


def _program(template: Template, where: Where, /, **values: object) -> str:
    """A template with what all have in common, and these values."""
    elsewhere = where.device != "cpu"
    lines = [
        where.remark,
        f"checkpoint = {literal(where.checkpoint)}",
        f"revision = {literal(where.revision)}" if where.revision is not None else "",
        QUANTIZED.format(where.precision) if where.precision.startswith("int") else "",
        f"device = {literal(where.device)}  # where the app ran it, in {where.precision}"
        if elsewhere
        else "",
    ]
    return template.substitute(
        checkpoint="\n".join(line for line in lines if line),
        revision="" if where.revision is None else ", revision=revision",
        as_text=AS_TYPED if where.control else ")",
        dtype=f"dtype={_dtype(where)}",
        to=".to(device)" if elsewhere else "",
        back=".float().cpu()" if elsewhere else "",
        pad="" if where.pads else "tokenizer.pad_token = tokenizer.eos_token  # it has none of its own\n",
        model_pad="" if where.pads else "model.config.pad_token_id = tokenizer.pad_token_id\n",
        **values,
    )
