"""Integrated gradients where the answer is known, beside Captum's own, and among several visitors."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.explain import attribution, inside
from components.explain.inside import Tokens
from components.models import eager
from components.models.manager import Loaded
from demos import sentiment
from tests import tiny

TEXT = "I love this course so very much"


def classifier(labels: tuple[str, ...] = ("NEGATIVE", "POSITIVE")) -> Loaded:
    return tiny.loaded(tiny.distilbert(labels), sentiment.RECIPE)


def calm(loaded: Loaded) -> Loaded:
    """The same model with smaller weights: its gradients change slowly, so that few steps are exact."""
    import torch

    with torch.no_grad():
        for layer in loaded.model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(0.3)
    return loaded


def encoded(loaded: Loaded, text: str = TEXT) -> Any:
    return loaded.processor([text], return_tensors="pt")


def logit(place: int) -> Any:
    return lambda output: output.logits[:, place].float()


def found(loaded: Loaded, text: str = TEXT, place: int = 1) -> attribution.Attributions:
    return attribution.integrated_gradients(loaded, encoded(loaded, text), logit(place))


def planted(weights: dict[str, float]) -> Loaded:
    """The tiny classifier's tokenizer, and a model whose logits are plus and minus a sum of token weights."""
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    loaded = classifier()
    vocabulary = loaded.processor.get_vocab()

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(len(vocabulary), 3)
            self.head = torch.nn.Linear(3, 1)
            with torch.no_grad():
                self.words.weight.zero_()
                self.head.weight.copy_(torch.tensor([[1.0, 0.0, 2.0]]))
                self.head.bias.fill_(7.0)
                for word, weight in weights.items():
                    # Only what the head reads counts: weight - 3 + 2 * 1.5.
                    self.words.weight[vocabulary[word]] = torch.tensor([weight - 3, 99.0, 1.5])
            self.config: Any = SimpleNamespace(_attn_implementation="eager")

        def get_input_embeddings(self) -> Any:
            return self.words

        def forward(self, input_ids: Any, attention_mask: Any, **more: Any) -> Any:
            sums = self.head(self.words(input_ids)).squeeze(-1).sum(-1)
            return SequenceClassifierOutput(logits=torch.stack([-sums, sums], -1))

    model = Linear().eval()
    return Loaded(loaded.checkpoint, model, loaded.processor, loaded.device, loaded.dtype, 0, 0.0)


# Where the answer is known


def test_a_linear_model_gives_each_token_its_weight_less_that_of_padding():
    weights = {"love": 4.0, "hate": -2.5, "[PAD]": 0.5, "[CLS]": 100.0, "the": 0.5}
    ours = found(planted(weights), "love the hate i")
    # "i" was planted nowhere: its weight is 0.
    assert ours.values == pytest.approx([0, 3.5, 0, -3.0, -0.5, 0], abs=1e-4)
    assert ours.delta == pytest.approx(0, abs=1e-4)
    assert ours.score - ours.blank == pytest.approx(0, abs=1e-4)
    assert ours.steps == attribution.FEWEST
    assert ours.exact


def test_the_other_class_is_told_the_opposite():
    weights = {"love": 4.0, "hate": -2.5}
    for_it, against = (found(planted(weights), "love hate", place) for place in (1, 0))
    assert for_it.values == pytest.approx(-against.values)
    assert for_it.values[1] > 3 > 0 > for_it.values[2]


# Completeness


def direct(loaded: Loaded, ids: Any, embeddings: Any = None) -> Any:
    """The logits of ids with all tokens attended, by a plain call."""
    import torch

    with torch.no_grad():
        if embeddings is not None:
            return loaded.model(inputs_embeds=embeddings).logits[0]
        return loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]


@pytest.mark.parametrize("place", [0, 1])
def test_attributions_are_what_lies_between_padding_and_text(place):
    loaded = calm(classifier())
    ids = encoded(loaded)["input_ids"]
    blank = ids.clone()
    blank[:, 1:-1] = loaded.processor.pad_token_id
    ours = found(loaded, TEXT, place)
    assert ours.score == pytest.approx(float(direct(loaded, ids)[place]), abs=1e-4)
    assert ours.blank == pytest.approx(float(direct(loaded, blank)[place]), abs=1e-4)
    assert ours.delta == pytest.approx(ours.values.sum() - (ours.score - ours.blank), abs=1e-6)
    assert ours.exact
    assert ours.values.sum() == pytest.approx(
        ours.score - ours.blank, abs=attribution.ENOUGH * np.abs(ours.values).sum()
    )
    assert (ours.values[0], ours.values[-1]) == (0, 0)  # [CLS] and [SEP] are in the baseline as well
    assert np.abs(ours.values[1:-1]).min() > 0


def test_encoder_and_decoder_of_bart_both_count():
    loaded = calm(tiny.loaded(tiny.bart(("a", "b")), sentiment.RECIPE))
    ours = found(loaded, "ab")
    ids = encoded(loaded, "ab")["input_ids"]
    blank = ids.clone()
    blank[:, 1:-1] = loaded.processor.pad_token_id
    assert ours.score == pytest.approx(float(direct(loaded, ids)[1]), abs=1e-4)
    assert ours.exact
    assert len(ours.values) == ids.shape[1] == 4
    assert (ours.values[0], ours.values[-1]) == (0, 0)
    assert ours.values.sum() == pytest.approx(
        ours.score - ours.blank, abs=attribution.ENOUGH * np.abs(ours.values).sum()
    )


def test_a_decoder_with_a_head_reads_its_last_token():
    import torch
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(3)
    model = LlamaForSequenceClassification.from_pretrained(tiny.llama(), num_labels=2).eval()
    decoder = tiny.loaded(
        tiny.llama(), tiny.Recipe("x", lambda c: "AutoModel", "AutoTokenizer", lambda c: None)
    )
    model.config.pad_token_id = decoder.processor.pad_token_id
    loaded = calm(Loaded(decoder.checkpoint, model, decoder.processor, decoder.device, decoder.dtype, 0, 0.0))
    inputs = encoded(loaded, "it is")
    ours = attribution.integrated_gradients(loaded, inputs, logit(0))
    assert ours.score == pytest.approx(float(direct(loaded, inputs["input_ids"])[0]), abs=1e-4)
    assert ours.exact
    place = attribution.deciding(loaded, inputs["input_ids"][0].tolist())
    assert place == inputs["input_ids"].shape[1] - 1
    weights: Any = attribution.attention(loaded, inputs, place)
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    assert attribution.attention(loaded, inputs, 0).tolist() == [1] + [0] * place, (
        "the first sees itself only"
    )


def test_attributions_are_captums_own(monkeypatch):
    """LayerIntegratedGradients of Captum, which hooks into the layer itself."""
    import torch
    from captum.attr import LayerIntegratedGradients

    steps = 64
    monkeypatch.setattr(attribution, "FEWEST", steps)
    monkeypatch.setattr(attribution, "MOST", steps)
    loaded = classifier()
    ids = encoded(loaded)["input_ids"]
    blank = ids.clone()
    blank[:, 1:-1] = loaded.processor.pad_token_id
    method = LayerIntegratedGradients(
        lambda ids: loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits,
        loaded.model.get_input_embeddings(),
    )
    theirs, delta = method.attribute(
        ids, blank, target=1, n_steps=steps, return_convergence_delta=True, method="gausslegendre"
    )
    ours = found(loaded)
    assert ours.values == pytest.approx(theirs.sum(-1)[0].detach().numpy(), abs=1e-3)
    assert ours.delta == pytest.approx(float(delta), abs=1e-3)


# Steps, passes, turns


def widths(loaded: Loaded) -> list[tuple[int, int]]:
    """The batches that go through the model that can be read, from now on."""
    seen: list[tuple[int, int]] = []
    loaded.share(eager.twin).register_forward_pre_hook(
        lambda module, inputs, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    return seen


def test_all_steps_go_through_in_one_pass():
    loaded = planted({"love": 4.0})
    seen = widths(loaded)
    found(loaded, "love it")
    # Where the embedding is used; padding and text; all steps.
    assert seen == [(1, 4), (2, 4), (attribution.FEWEST, 4)]


def test_a_long_text_gives_way_between_its_passes(monkeypatch):
    monkeypatch.setattr(attribution, "AT_ONCE", 20)
    loaded = planted({"love": 4.0})
    seen = widths(loaded)
    turns: list[int] = []
    run = loaded.turns.run
    monkeypatch.setattr(loaded.turns, "run", lambda step: turns.append(1) or run(step))
    ours = found(loaded, "love it")
    assert seen[2:] == [(4, 4)] * 4
    assert len(turns) == 2 + 4
    assert ours.values == pytest.approx([0, 4, 0, 0], abs=1e-4)


def test_pieces_of_the_way_add_up(monkeypatch):
    loaded = calm(classifier())
    whole = found(loaded)
    monkeypatch.setattr(attribution, "AT_ONCE", 300)
    assert found(loaded).values == pytest.approx(whole.values, abs=0.05 * np.abs(whole.values).sum())


def test_steps_are_doubled_until_the_sum_is_right(monkeypatch):
    monkeypatch.setattr(attribution, "FEWEST", 1)
    loaded = calm(classifier())
    rough = attribution.integrated_gradients(
        loaded, encoded(loaded), logit(1), clock=iter(range(0, 10**6, 999)).__next__
    )
    fine = found(loaded)
    assert (rough.steps, rough.exact) == (1, False), "no time for another round"
    assert fine.exact
    assert fine.steps > 1
    assert abs(fine.delta) < abs(rough.delta)


# What stays


def test_nothing_is_left_behind():
    import torch

    loaded = classifier()
    hooks = tiny.hooks(loaded.model)
    before_output = loaded.compute(lambda: loaded.model(**encoded(loaded)).logits)
    found(loaded)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    before = tensors()
    found(loaded, "the weather is fun")
    assert tensors() == before
    twin = loaded.share(eager.twin)
    for model in (loaded.model, twin):
        assert all(weight.grad is None for weight in model.parameters())
        assert tiny.hooks(model) == hooks
    assert {id(weight) for weight in twin.parameters()} == {
        id(weight) for weight in loaded.model.parameters()
    }
    after_output = loaded.compute(lambda: loaded.model(**encoded(loaded)).logits)
    assert torch.equal(before_output, after_output)


def test_weights_are_no_inference_tensors():
    assert not any(weight.is_inference() for weight in classifier().model.parameters())


def test_hooks_go_when_the_score_fails():
    loaded = classifier()
    hooks = tiny.hooks(loaded.model)

    def fails(output: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attribution.integrated_gradients(loaded, encoded(loaded), fails)
    twin = loaded.share(eager.twin)
    assert tiny.hooks(twin) == hooks


def test_visitors_at_the_same_time_get_their_own():
    loaded = classifier()
    texts = ["I love it", "I hate this house so very much", "not so", "the weather is fun"]
    alone = [found(loaded, text) for text in texts]
    with ThreadPoolExecutor(8) as visitors:
        together = list(visitors.map(lambda text: found(loaded, text), texts * 3))
        runs = list(visitors.map(lambda _: sentiment.forward(encoded(loaded), loaded).tolist(), range(8)))
    for ours, theirs in zip(alone * 3, together, strict=True):
        assert theirs.values == pytest.approx(ours.values, abs=1e-4)
        assert theirs.score == pytest.approx(ours.score, abs=1e-4)
    assert all(run == runs[0] for run in runs)


# Attention


def test_attention_is_that_of_the_first_token_over_all_heads():
    import torch
    from transformers import AutoModelForSequenceClassification

    loaded = classifier()
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        tiny.distilbert(), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        last = model(**encoded(loaded), output_attentions=True).attentions[-1][0]
    place = attribution.deciding(loaded, encoded(loaded)["input_ids"][0].tolist())
    assert place == 0
    weights: Any = attribution.attention(loaded, encoded(loaded), place)
    assert weights == pytest.approx(last.mean(0)[0].numpy(), abs=1e-5)
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    every: Any = attribution.attention(loaded, encoded(loaded), None)
    assert every == pytest.approx(last.mean(0).mean(0).numpy(), abs=1e-5)
    assert loaded.model.config._attn_implementation != "eager", "the others' model stays as fast as it was"


def test_the_decoder_of_bart_looks_at_the_encoder():
    import torch
    from transformers import AutoModelForSequenceClassification

    loaded = tiny.loaded(tiny.bart(), sentiment.RECIPE)
    inputs = loaded.processor("abc", "de", return_tensors="pt")
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        tiny.bart(), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        last = model(**inputs, output_attentions=True).cross_attentions[-1][0]
    place = attribution.deciding(loaded, inputs["input_ids"][0].tolist())
    assert place == inputs["input_ids"].shape[1] - 1
    assert attribution.attention(loaded, inputs, place) == pytest.approx(last.mean(0)[-1].numpy(), abs=1e-5)


def test_a_model_without_attention_has_none_to_show():
    loaded = planted({"love": 4.0})
    assert attribution.attention(loaded, encoded(loaded), 0) is None


def test_a_mean_has_no_deciding_place():
    loaded = classifier()
    assert attribution.deciding(loaded, [1, 2, 3], pooled=True) is None


def test_a_model_that_reads_in_another_order_is_refused():
    import torch

    ids = torch.tensor([[1, 2, 3]])
    assert attribution._shift(ids, ids) == 0
    assert attribution._shift(ids, torch.tensor([[9, 1, 2]])) == 1
    with pytest.raises(ValueError, match="tokens"):
        attribution._shift(ids, torch.tensor([[3, 2, 1]]))


def test_carried_names_where_it_looked_from():
    loaded = classifier()
    inputs = encoded(loaded)
    (tokens,) = inside.tokens_of(inputs, loaded.processor)
    ours = attribution.carried(loaded, inputs, tokens, ["a", "b"], 1, logit(1), "the logit of b")
    assert (ours.position, ours.chosen, ours.labels) == ("“[CLS]”", 1, ("a", "b"))
    assert isinstance(ours.tokens, Tokens)
    assert len(ours.attributions.values) == len(tokens.tokens) == inputs["input_ids"].shape[1]


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "xlm-roberta", "mpnet", "electra", "deberta-v2", "modernbert"]
)
def test_other_classifiers_of_the_hub(kind):
    """Their scores are those of a plain call, and the attributions go from padding to them."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(5)
    words = classifier()
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    config = AutoConfig.for_model(kind, vocab_size=200, max_position_embeddings=64, **SIZES, **ends)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    loaded = Loaded(words.checkpoint, model, words.processor, words.device, words.dtype, 0, 0.0)
    inputs = {name: encoded(words)[name] for name in ("input_ids", "attention_mask")}
    ours = attribution.integrated_gradients(loaded, inputs, logit(1))
    blank = inputs["input_ids"].clone()
    blank[:, 1:-1] = 0
    assert ours.score == pytest.approx(float(direct(loaded, inputs["input_ids"])[1]), abs=1e-5)
    assert ours.values.sum() == pytest.approx(ours.score - ours.blank + ours.delta, abs=1e-6)
    assert ours.exact
    if kind not in ("roberta", "xlm-roberta", "mpnet"):  # whose positions leave padding out
        assert ours.blank == pytest.approx(float(direct(loaded, blank)[1]), abs=1e-5)
    place = attribution.deciding(loaded, inputs["input_ids"][0].tolist())
    assert place == 0
    weights: Any = attribution.attention(loaded, inputs, place)
    assert weights.shape == ours.values.shape
    assert weights.sum() == pytest.approx(1, abs=1e-4)
