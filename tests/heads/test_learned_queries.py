"""Moment-DETR's decoder beside one written out query by query, what it looks at, padding, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rdmf.heads.dynamic_anchors import sines
from rdmf.heads.learned_queries import LearnedQueriesHead
from rdmf.heads.moment import MomentOutput

HIDDEN, HEADS, QUERIES, LENGTHS, COUNTS = 12, 3, 4, [6, 3, 1], [2, 4, 0]


def head(iou_head: bool = False) -> LearnedQueriesHead:
    torch.manual_seed(0)
    model = LearnedQueriesHead(HIDDEN, QUERIES, 2, HEADS, iou_head=iou_head, ffn=20).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(garbage: float = 0.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask, word_mask = (torch.arange(n) < torch.tensor(x)[:, None] for n, x in ((6, LENGTHS), (4, COUNTS)))
    clips, places, words = (torch.randn(3, n, HIDDEN, generator=generator) for n in (6, 6, 4))
    positions = (torch.arange(6) + 0.5) / torch.tensor(LENGTHS)[:, None]
    clips, places = (x.masked_fill(~mask[..., None], garbage) for x in (clips, places))
    words = words.masked_fill(~word_mask[..., None], garbage)
    return {
        "clips": clips, "mask": mask, "positions": positions, "words": words, "word_mask": word_mask, "places": places,
    }  # fmt: skip


def layers_of(output: MomentOutput) -> list[MomentOutput]:
    return [*output.auxiliary, output]


def attend(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One sequence, all of it valid: [Q, D], [M, D], [M, D] -> [Q, D]."""
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    out, size = torch.zeros(len(q), HIDDEN), HIDDEN // HEADS
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        for n in range(len(q)):
            share = torch.stack([(q[n, part] @ k[m, part] / math.sqrt(size)).exp() for m in range(len(k))])
            out[n, part] = sum(share[m] / share.sum() * v[m, part] for m in range(len(k)))
    return out @ module.out_proj.weight.T + module.out_proj.bias


def test_every_layer_says_what_the_decoder_written_out_says() -> None:
    model, inputs = head(), batch()
    found = layers_of(model(**inputs))
    for b, (n, m) in enumerate(zip(LENGTHS, COUNTS, strict=True)):
        memory = torch.cat([inputs["clips"][b, :n], inputs["words"][b, :m]])
        keys = memory + torch.cat([inputs["places"][b, :n], torch.zeros(m, HIDDEN)])
        x = torch.zeros(QUERIES, HIDDEN)
        for layer, output in zip(model.layers, found, strict=True):
            x = layer.norm_talk(x + attend(layer.talk, x + model.place, x + model.place, x))
            x = layer.norm_look(x + attend(layer.look, x + model.place, keys, memory))
            x = layer.norm_feed(x + layer.feed_forward(x))
            y = model.norm(x)
            torch.testing.assert_close(output.class_logits[b], model.judge(y)[:, 0], rtol=0, atol=2e-5)
            torch.testing.assert_close(output.spans[b], model.span(y).sigmoid(), rtol=0, atol=1e-5)
            assert output.iou_logits is None


@pytest.mark.parametrize("iou_head", [False, True])
def test_padding_changes_nothing_and_every_parameter_learns(iou_head: bool) -> None:
    model, results = head(iou_head), []
    for garbage in (0.0, float("nan")):
        inputs = batch(garbage)
        model.zero_grad()
        output = model(
            **inputs | {"clips": inputs["clips"].requires_grad_(), "words": inputs["words"].requires_grad_()}
        )
        outputs = [x for o in layers_of(output) for x in (o.class_logits, o.spans, o.iou_logits) if x is not None]
        assert len(outputs) == (6 if iou_head else 4)
        sum(x.pow(3).sum() for x in outputs).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append([*outputs, inputs["clips"].grad, inputs["words"].grad, *gradients.values()])
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*results, strict=True))
    # All queries start as 0, so in the first talk all values are the same whoever listens.
    still = {name for name, gradient in gradients.items() if not gradient.any()}
    assert still <= {"layers.0.talk.in_proj_weight"}


def test_a_row_of_a_padded_batch_equals_the_row_alone_and_one_without_anything_is_finite() -> None:
    model, inputs = head(), batch()
    together = model(**inputs)
    for b in range(3):
        alone = model(**{name: x[b : b + 1] for name, x in inputs.items()})
        torch.testing.assert_close(together.spans[b : b + 1], alone.spans, rtol=0, atol=1e-5)
    nothing = {name: torch.zeros_like(inputs[name]) for name in ("mask", "word_mask")}
    assert model(**inputs | nothing).spans.isfinite().all()


def test_it_looks_at_the_words_where_there_are_any_and_else_at_the_clips_alone() -> None:
    model, inputs = head(), batch()
    output = model(**inputs)
    other = model(**inputs | {"words": -inputs["words"]})
    differs = (output.spans - other.spans).abs().amax((1, 2)) > 1e-4
    assert differs.tolist() == [True, True, False]  # the last row has no word
    alone = model(inputs["clips"], inputs["mask"], inputs["positions"], places=inputs["places"])
    torch.testing.assert_close(alone.spans[2], output.spans[2], rtol=0, atol=1e-5)


def test_without_places_of_a_fusion_the_clips_stand_at_the_sines_of_their_positions() -> None:
    model, inputs = head(), batch()
    del inputs["places"]
    given = model(**inputs, places=sines(inputs["positions"], HIDDEN))
    assert torch.equal(model(**inputs).spans, given.spans)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 2 and by 5 heads, got 12"):
        LearnedQueriesHead(12, heads=5)
    with pytest.raises(ValueError, match="at least 1 query and 1 layer, got 4 and 0"):
        LearnedQueriesHead(16, queries=4, layers=0)
