"""QD-DETR's decoder beside one written out query by query, its anchors, padding, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rdmf.heads.dynamic_anchors import DropPath, DynamicAnchorsHead, inverse_sigmoid, sines
from rdmf.heads.moment import MomentOutput

HIDDEN, HEADS, QUERIES, LENGTHS = 12, 3, 4, [6, 3, 1]


def head(layers: int = 3, iou_head: bool = False, **options: float) -> DynamicAnchorsHead:
    torch.manual_seed(0)
    model = DynamicAnchorsHead(HIDDEN, QUERIES, layers, HEADS, iou_head=iou_head, ffn=20, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(garbage: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clips, mask, positions, places."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
    clips, places = (torch.randn(3, 6, HIDDEN, generator=generator) for _ in range(2))
    positions = (torch.arange(6) + 0.5) / torch.tensor(LENGTHS)[:, None]
    return clips.masked_fill(~mask[..., None], garbage), mask, positions, places


def layers_of(output: MomentOutput) -> list[MomentOutput]:
    return [*output.auxiliary, output]


def sine(x: Tensor, width: int) -> list[Tensor]:
    angles = [2 * math.pi * x / 10000 ** (2 * pair / width) for pair in range(width // 2)]
    return [f(angle) for angle in angles for f in (torch.sin, torch.cos)]


def attend(queries: list[list[Tensor]], keys: list[list[Tensor]], values: list[list[Tensor]]) -> Tensor:
    """[query][head] vectors against [key][head] ones -> [queries, D]."""
    out = []
    for query in queries:
        heard = []
        for h, q in enumerate(query):
            share = torch.stack([(q @ key[h] / math.sqrt(len(q))).exp() for key in keys])
            heard.append(sum(s / share.sum() * value[h] for s, value in zip(share, values, strict=True)))
        out.append(torch.cat(heard))
    return torch.stack(out)


def parts(x: Tensor) -> list[list[Tensor]]:
    return [list(row.chunk(HEADS)) for row in x]


def joined(a: Tensor, b: Tensor) -> list[list[Tensor]]:
    """Each head has its part of both."""
    return [[torch.cat(pair) for pair in zip(x, y, strict=True)] for x, y in zip(parts(a), parts(b), strict=True)]


def literal(model: DynamicAnchorsHead, clips: Tensor, places: Tensor) -> list[tuple[Tensor, Tensor]]:
    """One sequence, all of it valid -> class logits [Q] and spans [Q, 2] of every layer."""
    anchor = model.anchors.sigmoid()
    before, x, said = anchor, torch.zeros(QUERIES, HIDDEN), []
    for number, layer in enumerate(model.layers):
        talk, look = layer.talk, layer.look
        sines_of = torch.stack([torch.stack(sine(c, HIDDEN // 2) + sine(w, HIDDEN // 2)) for c, w in anchor])
        place = model.place(sines_of)
        scales = [model.scale(x[q]) if number else 1.0 for q in range(QUERIES)]
        widths = [model.width(x[q]).sigmoid() / anchor[q, 1] for q in range(QUERIES)]
        aim = torch.stack([s * scale * width for s, scale, width in zip(sines_of, scales, widths, strict=True)])
        heard = attend(
            parts(talk["query"](x) + talk["query_place"](place)),
            parts(talk["key"](x) + talk["key_place"](place)),
            parts(talk["value"](x)),
        )
        x = layer.norm_talk(x + talk["out"](heard))
        query, key, key_place = look["query"](x), look["key"](clips), look["key_place"](places)
        if number == 0:
            query, key = query + look["query_place"](place), key + key_place
        seen = attend(joined(query, look["aim"](aim)), joined(key, key_place), parts(look["value"](clips)))
        x = layer.norm_look(x + look["out"](seen))
        x = layer.norm_feed(x + layer.feed_forward(x))
        y = model.norm(x)
        said.append((model.judge(y)[:, 0], (model.refine(y) + torch.logit(before, eps=1e-3)).sigmoid()))
        if number + 1 < len(model.layers):
            before = (model.move(x) + torch.logit(anchor, eps=1e-3)).sigmoid()
            anchor = before.detach()
    return said


def test_every_layer_says_what_the_decoder_written_out_says_and_learns_the_same() -> None:
    model, (clips, mask, positions, places) = head(), batch()
    output = model(clips, mask, positions, places=places)
    assert output.iou_logits is None
    expected = [literal(model, clips[b, :n], places[b, :n]) for b, n in enumerate(LENGTHS)]
    for number, layer in enumerate(layers_of(output)):
        for b in range(3):
            logits, spans = expected[b][number]
            torch.testing.assert_close(layer.class_logits[b], logits, rtol=0, atol=2e-5)
            torch.testing.assert_close(layer.spans[b], spans, rtol=0, atol=1e-5)
    found = sum(x.class_logits.square().sum() + x.spans.square().sum() for x in layers_of(output))
    wanted = sum(logits.square().sum() + spans.square().sum() for row in expected for logits, spans in row)
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("iou_head", [False, True])
def test_padding_changes_nothing_and_every_parameter_learns(iou_head: bool) -> None:
    model, results = head(iou_head=iou_head), []
    for garbage in (0.0, float("nan")):
        clips, mask, positions, places = batch(garbage)
        model.zero_grad()
        output = model(clips.requires_grad_(), mask, positions, places=places.masked_fill(~mask[..., None], garbage))
        outputs = [x for o in layers_of(output) for x in (o.class_logits, o.spans, o.iou_logits) if x is not None]
        assert len(outputs) == (9 if iou_head else 6)
        sum(x.pow(3).sum() for x in outputs).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append([*outputs, clips.grad, *gradients.values()])
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*results, strict=True))
    # All queries start as 0: in the first talk all values are the same, whoever listens. Keys' biases cancel.
    still = {name for name, gradient in gradients.items() if not gradient.any()}
    assert not {n for n in still if not n.startswith("layers.0.talk.") and not n.endswith(("key.bias", "place.bias"))}
    assert not {n for n in still if "out" in n or "value.bias" in n}


def test_a_row_of_a_padded_batch_equals_the_row_alone_and_one_without_clips_is_finite() -> None:
    model, (clips, mask, positions, places) = head(), batch()
    together = model(clips, mask, positions, places=places)
    for b, n in enumerate(LENGTHS):
        row = slice(b, b + 1)
        alone = model(clips[row, :n], mask[row, :n], positions[row, :n], places=places[row, :n])
        torch.testing.assert_close(together.spans[row], alone.spans, rtol=0, atol=1e-5)
    assert model(clips, torch.zeros_like(mask), positions).spans.isfinite().all()


def test_a_layer_looks_from_where_the_last_one_moved_to_without_a_gradient_through_the_look() -> None:
    model, (clips, mask, positions, places) = head(layers=2), batch()
    with torch.no_grad():
        for linear in (model.refine[-1], model.judge):
            linear.weight.zero_()
            linear.bias.zero_()
    output = model(clips, mask, positions, places=places)
    first, second = layers_of(output)
    torch.testing.assert_close(first.spans, model.anchors.sigmoid().clamp(1e-3, 1 - 1e-3).expand(3, -1, -1))
    assert (second.spans - first.spans).abs().max() > 0.01
    # Here the second layer's spans are the move alone: what the second layer did has no part in them.
    gradients = torch.autograd.grad(second.spans.sum(), list(model.layers[1].parameters()), allow_unused=True)
    assert not any(gradient is not None and gradient.any() for gradient in gradients)
    assert torch.autograd.grad(model(clips, mask, positions).spans.sum(), model.move[0].weight)[0].any()


def test_without_places_of_a_fusion_the_clips_stand_at_the_sines_of_their_positions() -> None:
    model, (clips, mask, positions, _) = head(), batch()
    given = model(clips, mask, positions, places=sines(positions, HIDDEN))
    assert torch.equal(model(clips, mask, positions).spans, given.spans)
    moved = model(clips, mask, positions.flip(1))
    assert (moved.spans - given.spans).abs().max() > 1e-3


def test_the_start_is_xaviers_with_the_moves_bias_at_zero() -> None:
    torch.manual_seed(0)
    model = DynamicAnchorsHead(64, 50, heads=4, ffn=128)
    assert not model.move[-1].bias.any()
    for layer in model.layers:
        assert not layer.talk["out"].bias.any()
        assert not layer.look["out"].bias.any()
    drawn = [m for x in (model.layers, model.place, model.width, model.scale, model.move) for m in x.modules()]
    for linear in (m for m in drawn if isinstance(m, nn.Linear)):
        bound = math.sqrt(6 / sum(linear.weight.shape))
        assert 0.9 * bound < linear.weight.abs().max() <= bound
    assert model.refine[0].weight.abs().max() <= 1 / math.sqrt(64)  # torch's own: it is outside the transformer
    difference = torch.stack([DynamicAnchorsHead(64, heads=4, ffn=8).judge.weight for _ in range(40)])
    assert difference.std().item() == pytest.approx(math.sqrt(2 / 3 / 64), rel=0.1)  # of two classes' uniform rows
    assert model.anchors.std().item() == pytest.approx(1, abs=0.25)


def test_inverse_sigmoid_is_a_logit_that_stays_finite_and_keeps_a_gradient_at_the_ends() -> None:
    x = torch.tensor([0.0, 1e-5, 0.3, 0.999, 1.0], requires_grad=True)
    y = inverse_sigmoid(x)
    torch.testing.assert_close(y.detach(), torch.logit(x.detach(), eps=1e-3), rtol=0, atol=1.1e-3)
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad[:4] > 0).all()


def test_drop_path_drops_whole_sequences_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.rand(4000, 3, 2) + 1
    ratio = drop(x) / x
    assert torch.equal(ratio.amax((1, 2)), ratio.amin((1, 2)).where(ratio.amin((1, 2)) == 0, ratio.amax((1, 2))))
    kept = ratio[:, 0, 0] > 0
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 4 / 3))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(drop.eval()(x), x)
    assert all(isinstance(layer.dropout, DropPath) for layer in head(drop_path=True).layers)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4 and by 5 heads, got 12"):
        DynamicAnchorsHead(12, heads=5)
    with pytest.raises(ValueError, match="divisible by 4 and by 3 heads, got 6"):
        DynamicAnchorsHead(6, heads=3)
    with pytest.raises(ValueError, match="at least 1 query and 1 layer, got 0 and 2"):
        DynamicAnchorsHead(16, queries=0)
