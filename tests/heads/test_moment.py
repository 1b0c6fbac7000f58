"""The moment head: anchors, padding, gradients, ablations, and that it learns a simple task fast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rdmf.heads.losses import LossWeights, Targets, total_loss
from rdmf.heads.moment import MomentHead, MomentOutput, anchor_spans, moments, sine_embedding
from rdmf.heads.saliency import SaliencyHead
from rdmf.heads.spans import pairwise_iou, to_centre_width, to_start_end


def batch(lengths: list[int], hidden: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """clips [B, T, D], mask and positions [B, T] of sequences of these lengths; padding holds rubbish."""
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randn(len(lengths), max(lengths), hidden, generator=generator)
    n = torch.tensor(lengths)[:, None]
    index = torch.arange(max(lengths))
    return clips, index < n, (index + 0.5) / n


def padded(spans: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Spans [n, 2] of every sequence -> [B, N, 2] padded with 0 and bool [B, N]."""
    there = [torch.ones(len(own), dtype=torch.bool) for own in spans]
    return nn.utils.rnn.pad_sequence(spans, batch_first=True), nn.utils.rnn.pad_sequence(there, batch_first=True)


def test_anchors_lie_inside_and_come_near_every_window() -> None:
    anchors = to_start_end(anchor_spans(100))
    assert ((anchors >= -1e-6) & (anchors <= 1 + 1e-6)).all()
    assert len({tuple(a) for a in anchors.tolist()}) == 100
    width = torch.linspace(0.1, 1, 19)
    windows = torch.stack(
        [torch.stack((s * (1 - w), s * (1 - w) + w)) for w in width for s in torch.linspace(0, 1, 21)]
    )
    assert pairwise_iou(windows, anchors).amax(1).min() > 0.5


def test_sine_embedding_tells_times_apart_that_are_one_clip_of_five_minutes_apart() -> None:
    embedded = sine_embedding(torch.linspace(0, 1, 150), 64)
    assert embedded.shape == (150, 64)
    distance = torch.cdist(embedded, embedded) + 100 * torch.eye(150)
    assert distance.min() > 1


def test_shapes_and_ranges() -> None:
    head = MomentHead(hidden=16, queries=7, layers=3, heads=4).eval()
    output = head(*batch([5, 3], 16))
    assert len(output.auxiliary) == 2
    for layer in (output, *output.auxiliary):
        assert layer.class_logits.shape == layer.iou_logits.shape == (2, 7)
        assert layer.spans.shape == (2, 7, 2)
        assert ((layer.spans > 0) & (layer.spans < 1)).all()


def test_the_first_spans_are_about_the_anchors() -> None:
    torch.manual_seed(0)
    head = MomentHead(hidden=32, queries=20).eval()
    assert (head(*batch([9], 32)).spans - anchor_spans(20)).abs().max() < 0.02


def test_padding_changes_nothing_whatever_it_holds() -> None:
    torch.manual_seed(0)
    head = MomentHead(hidden=32, queries=10).eval()
    clips, mask, positions = batch([9, 40], 32)
    alone = head(clips[:1, :9], mask[:1, :9], positions[:1, :9])
    for rubbish in (0.0, 1e6, float("nan")):
        filled = clips.masked_fill(~mask[..., None], rubbish)
        together = head(filled, mask, positions)
        assert torch.allclose(together.class_logits[:1], alone.class_logits, atol=1e-5)
        assert torch.allclose(together.spans[:1], alone.spans, atol=1e-6)
        assert torch.allclose(together.iou_logits[:1], alone.iou_logits, atol=1e-5)


def test_the_order_of_clips_does_not_matter_only_their_times() -> None:
    torch.manual_seed(0)
    head = MomentHead(hidden=16, queries=5, heads=4).eval()
    clips, mask, positions = batch([8], 16)
    order = torch.randperm(8)
    shuffled = head(clips[:, order], mask, positions[:, order])
    assert torch.allclose(shuffled.spans, head(clips, mask, positions).spans, atol=1e-6)
    assert not torch.allclose(shuffled.class_logits, head(clips[:, order], mask, positions).class_logits, atol=1e-4)


def test_a_single_clip_and_windows_between_clips_are_fine() -> None:
    output = MomentHead(hidden=16, queries=50, heads=4).eval()(*batch([1], 16))
    assert torch.isfinite(output.class_logits).all()
    assert torch.isfinite(output.spans).all()


@pytest.mark.parametrize("iou_head", [True, False])
def test_the_loss_reaches_every_parameter(iou_head: bool) -> None:
    torch.manual_seed(0)
    head, saliency = MomentHead(hidden=32, queries=8, iou_head=iou_head), SaliencyHead(32)
    clips, mask, positions = batch([12, 7], 32)
    spans = torch.tensor([[[0.3, 0.2], [0.7, 0.3]], [[0.5, 0.5], [0.0, 0.0]]])
    truth = Targets(spans, torch.tensor([[True, True], [True, False]]), torch.zeros(mask.shape), mask)
    losses = total_loss(head(clips, mask, positions), saliency(clips, mask), truth, LossWeights())
    losses["total"].backward()
    for name, parameter in [*head.named_parameters(), *saliency.named_parameters()]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-7, name
    assert (head.anchors.grad.abs().sum(0) > 0).all()


def test_without_the_iou_head_nothing_of_it_is_left() -> None:
    head, without = MomentHead(hidden=16, heads=4), MomentHead(hidden=16, heads=4, iou_head=False)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (head, without)]
    assert sizes[0] - sizes[1] == 2 * (16 + 1)  # one output of the judge in each of two layers
    output = without(*batch([5], 16))
    assert output.iou_logits is None
    assert torch.equal(moments(output, 0.0)[1], output.class_logits.sigmoid().sort(descending=True).values)
    with pytest.raises(ValueError, match="without the IoU head"):
        moments(output, 0.5)


def test_moments_are_windows_inside_the_video_sorted_by_the_mixed_confidence() -> None:
    p, u = torch.tensor([[0.9, 0.2, 0.6]]), torch.tensor([[0.1, 0.3, 0.8]])
    spans = torch.tensor([[[0.1, 0.4], [0.5, 0.2], [0.9, 0.4]]])
    output = MomentOutput(torch.logit(p), spans, torch.logit(u))
    windows, confidence = moments(output, 0.5)
    assert torch.allclose(confidence, torch.tensor([[0.7, 0.5, 0.25]]))
    assert torch.allclose(windows, torch.tensor([[[0.7, 1.0], [0.0, 0.3], [0.4, 0.6]]]))
    assert torch.allclose(moments(output, 0.0)[1], torch.tensor([[0.9, 0.6, 0.2]]))
    assert torch.allclose(moments(output, 1.0)[1], torch.tensor([[0.8, 0.3, 0.1]]))
    with pytest.raises(ValueError, match="from 0 to 1"):
        moments(output, 1.5)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4 and by 8 heads, got 20"):
        MomentHead(hidden=20)
    with pytest.raises(ValueError, match="at least 1 query"):
        MomentHead(queries=0)


def hidden_windows(samples: int, hidden: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Sequences of 30 to 60 clips of noise, shifted in one direction inside one or two windows to find."""
    generator = torch.Generator().manual_seed(7)

    def uniform() -> float:
        return float(torch.rand(1, generator=generator))

    lengths = torch.randint(30, 61, (samples,), generator=generator).tolist()
    clips, mask, positions = batch(lengths, hidden, seed=7)
    truth = []
    for i in range(samples):
        parts = 1 if uniform() < 0.7 else 2
        windows = []
        for part in range(parts):
            width = (0.15 + 0.5 * uniform()) / parts
            start = (part + uniform() * (0.95 - width * parts)) / parts
            windows.append([start, start + width])
            clips[i, (positions[i] >= start) & (positions[i] <= start + width), :4] += 2
        truth.append(to_centre_width(torch.tensor(windows)))
    return clips, mask, positions, truth


@pytest.mark.slow
def test_hidden_windows_are_found_after_a_few_passes_over_512_samples() -> None:
    torch.manual_seed(0)
    hidden, train = 32, 512
    clips, mask, positions, truth = hidden_windows(train + 200, hidden)
    inside = torch.stack(
        [
            ((p[:, None] >= w[:, 0]) & (p[:, None] <= w[:, 1])).any(1)
            for p, w in zip(positions, (to_start_end(t) for t in truth), strict=True)
        ]
    )
    project, head, saliency = nn.Linear(hidden, hidden), MomentHead(hidden, queries=50), SaliencyHead(hidden)
    parameters = [*project.parameters(), *head.parameters(), *saliency.parameters()]
    epochs, size = 6, 16
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * train // size)
    for _ in range(epochs):
        for rows in torch.randperm(train).split(size):
            x, own = project(clips[rows]), [truth[i] for i in rows.tolist()]
            target = Targets(*padded(own), inside[rows].float(), mask[rows])
            output = head(x, mask[rows], positions[rows])
            loss = total_loss(output, saliency(x, mask[rows]), target, LossWeights())["total"]
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 0.1)
            optimiser.step()
            schedule.step()
    head.eval()
    with torch.no_grad():
        windows, _ = moments(head(project(clips[train:]), mask[train:], positions[train:]), 0.5)
    first = pairwise_iou(windows[:, :1], to_start_end(padded(truth[train:])[0])).amax((1, 2))
    recall = (first >= 0.7).float().mean().item()
    assert recall > 0.9, f"R1@0.7 is {recall:.3f}, mean IoU {first.mean().item():.3f}"
