"""CG-DETR's losses at hand-made values, against loops, and where they must not look."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rdmf.heads.alignment import (
    alignment_loss,
    alignment_terms,
    attention_loss,
    distillation_loss,
    orthogonality_loss,
)
from rdmf.heads.contrast import MARGIN, Pairs

LN2 = math.log(2)


class Guidance(NamedTuple):
    attention: Tensor
    heard: Tensor
    dummies: Tensor
    prompts: Tensor
    clip_mask: Tensor
    word_mask: Tensor


class Alignment(NamedTuple):
    moment: Tensor
    elsewhere: Tensor
    sentence: Tensor
    dummy_sentence: Tensor
    clips: Tensor
    similarity: Tensor


def mask_of(*lengths: int, longest: int) -> Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def case(seed: int = 0, garbage: float = 0.0) -> dict[str, Any]:
    """Arguments of alignment_terms for three ragged sequences; what stands at padding is garbage."""
    g = torch.Generator().manual_seed(seed)
    b, t, n, words, d = 3, 5, 2, 4, 6
    clip_mask, word_mask = mask_of(5, 3, 4, longest=t), mask_of(2, 4, 3, longest=words)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    def guidance() -> Guidance:
        scores = randn(b, t, n + words).masked_fill(
            ~torch.cat([clip_mask[:, :1].expand(b, n), word_mask], 1)[:, None], -1e9
        )
        attention = scores.softmax(-1)
        dummies = randn(b, n, d)
        heard = attention[..., n:].sum(-1)
        padding = ~clip_mask
        return Guidance(
            attention.masked_fill(padding[..., None], garbage).requires_grad_(),
            heard.masked_fill(padding, garbage).requires_grad_(), dummies, randn(3, d), clip_mask, word_mask,
        )  # fmt: skip

    tokens = [randn(b, d) for _ in range(4)]
    similarity = randn(b, t, n + words)
    similarity[~clip_mask] = garbage
    similarity[:, :, n:].transpose(1, 2)[~word_mask] = garbage
    alignment = Alignment(*tokens, randn(b, t, d).masked_fill(~clip_mask[..., None], garbage), similarity)
    target = (torch.randint(0, 13, (b, t), generator=g) / 12 * (torch.rand(b, t, generator=g) < 0.6)).clone()
    target[:, 0] = 1.0
    return {
        "guidance": guidance(), "negative": guidance(), "alignment": alignment, "target": target,
        "mask": clip_mask, "other_video": torch.tensor([True, True, False]),
        "pairs": Pairs(torch.tensor([[0, 1], [0, 2], [3, 0]]), torch.tensor([[2, 4], [1, 1], [2, 1]])),
    }  # fmt: skip


def slow_attention_loss(
    heard: Tensor, target: Tensor, lengths: list[int], negative: Tensor, other: list[bool], pairs: Pairs
) -> float:
    """Clip by clip, grade by grade."""
    hinge, entropy, clips = 0.0, 0.0, 0
    ranks: dict[bool, list[float]] = {True: [], False: []}
    negatives = []
    for row, length in enumerate(lengths):
        s = [heard[row, t].item() for t in range(length)]
        grade = [round(12 * target[row, t].item()) for t in range(length)]
        for high, low in zip(pairs.higher[row].tolist(), pairs.lower[row].tolist(), strict=True):
            hinge += max(0.0, MARGIN + s[low] - s[high])
        for score, g in zip(s, grade, strict=True):
            entropy -= math.log(score) if g else math.log(1 - score)
        clips += length
        no = [negative[row, t].item() for t in range(length)] if other[row] else []
        whole = math.log(sum(math.exp(score / 0.5) for score in s + no))
        rank = 0.0
        for r in range(1, 12):
            good = [score for score, g in zip(s, grade, strict=True) if g >= r]
            if good:
                rank -= sum(score / 0.5 - whole for score in good) / len(good)
        ranks[other[row]].append(rank / 12)
        if other[row]:
            negatives.append(-sum(math.log(1 - score) for score in no))
    loss = 2 * hinge / pairs.higher.numel() + entropy / clips
    for values in (*ranks.values(), negatives):
        loss += sum(values) / max(len(values), 1)
    return loss


@pytest.mark.parametrize("other", [[True, True, False], [True, True, True], [True, False, False], [False] * 3])
def test_attention_loss_equals_loops_over_clips_and_grades(other: list[bool]) -> None:
    given = case()
    heard, negative, target = given["guidance"].heard, given["negative"].heard, given["target"]
    loss = attention_loss(heard, target, given["mask"], negative, torch.tensor(other), given["mask"], given["pairs"])
    expected = slow_attention_loss(heard, target, [5, 3, 4], negative, other, given["pairs"])
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_without_a_second_sentence_attention_is_compared_with_itself_alone() -> None:
    given = case()
    heard, target, mask, pairs = given["guidance"].heard, given["target"], given["mask"], given["pairs"]
    expected = slow_attention_loss(heard, target, [5, 3, 4], heard, [False] * 3, pairs)
    assert attention_loss(heard, target, mask, pairs=pairs).item() == pytest.approx(expected, rel=1e-5)


def test_attention_loss_at_one_half_has_a_closed_form() -> None:
    half, mask = torch.full((1, 4), 0.5), torch.ones(1, 4, dtype=torch.bool)
    target = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    loss = attention_loss(half, target, mask, half, torch.tensor([True]))
    assert loss.item() == pytest.approx(2 * MARGIN + LN2 + 11 / 12 * math.log(8) + 4 * LN2, rel=1e-6)


def test_attention_at_its_ends_has_a_finite_loss_and_gradient() -> None:
    heard = torch.tensor([[0.0, 1.0, 0.5]], requires_grad=True)
    negative = torch.tensor([[1.0, 0.0, 0.5]], requires_grad=True)
    loss = attention_loss(heard, torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool), negative)
    loss.backward()
    assert loss.isfinite()
    for x in (heard, negative):
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_alignment_loss_equals_loops_over_pairs_of_tokens_and_clips() -> None:
    given = case()
    a, mask, target = given["alignment"], given["mask"], given["target"]
    relevant = mask & (target > 0)

    def cosine(x: Tensor, y: Tensor) -> float:
        return (x @ y / (x.norm() * y.norm())).item()

    expected = 0.0
    for of, right in ((a.sentence, [0, 1, 2]), (a.dummy_sentence, [1, 0, 0])):
        for row in range(3):
            likeness = [cosine(a.moment[row], of[c]) for c in range(3)]
            likeness += [cosine(a.elsewhere[row], of[c]) for c in range(3)]
            expected -= (likeness[right[row]] - math.log(sum(math.exp(x) for x in likeness))) / 3
    terms = []
    for row, length in enumerate([5, 3, 4]):
        for t in range(length):
            p = 1 / (1 + math.exp(-(a.moment[row] @ a.clips[row, t]).item()))
            terms.append(-math.log(p if relevant[row, t] else 1 - p))
    expected += sum(terms) / len(terms)
    assert alignment_loss(*a[:5], relevant, mask).item() == pytest.approx(expected, rel=1e-5)


def test_alignment_loss_of_equal_tokens_is_the_number_of_choices() -> None:
    token, clips = torch.ones(4, 3), torch.zeros(4, 2, 3)
    mask = torch.ones(4, 2, dtype=torch.bool)
    assert alignment_loss(token, token, token, token, clips, mask, mask).item() == pytest.approx(2 * math.log(8) + LN2)


def test_a_moment_token_of_no_moment_is_not_aligned() -> None:
    given = case()
    a, mask = given["alignment"], given["mask"]
    relevant = mask & (given["target"] > 0)
    relevant[1] = False
    a.moment.requires_grad_()
    no_clips = Alignment(*a[:4], torch.zeros_like(a.clips), a.similarity)
    alignment_loss(*no_clips[:5], relevant, mask).backward()
    assert a.moment.grad is not None
    assert not a.moment.grad[1].any()
    assert a.moment.grad[0].any()


def test_a_clip_that_is_surely_wrong_has_a_gradient_still() -> None:
    moment = torch.full((1, 4), 10.0, requires_grad=True)
    clips = torch.full((1, 2, 4), 10.0)
    relevant = torch.tensor([[True, False]])
    tokens = torch.zeros(3, 1, 4)
    loss = alignment_loss(moment, *tokens, clips, relevant, torch.ones(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(2 * LN2 + 400 / 2)
    torch.testing.assert_close(moment.grad, torch.full((1, 4), 5.0))


def test_distillation_equals_loops_over_tokens() -> None:
    given = case()
    attention, similarity = given["guidance"].attention, given["alignment"].similarity
    relevant = given["mask"] & (given["target"] > 0)
    token_mask = torch.cat([torch.ones(3, 2, dtype=torch.bool), given["guidance"].word_mask], 1)
    values = []
    for row, t in relevant.nonzero().tolist():
        tokens = token_mask[row].nonzero().flatten().tolist()
        whole = sum(math.exp(similarity[row, t, s].item()) for s in tokens)
        value = 0.0
        for s in tokens:
            goal = math.exp(similarity[row, t, s].item()) / whole
            value += goal * (math.log(goal) - math.log(attention[row, t, s].item() + 1e-6))
        values.append(value / len(tokens))
    loss = distillation_loss(attention, similarity, token_mask, relevant)
    assert loss.item() == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_distillation_is_0_where_attention_is_what_it_shall_be_and_teaches_attention_alone() -> None:
    similarity = torch.randn(1, 3, 5, requires_grad=True)
    attention = similarity.detach().softmax(-1).requires_grad_()
    everything = torch.ones(1, 5, dtype=torch.bool)
    loss = distillation_loss(attention, similarity, everything, everything[:, :3])
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert similarity.grad is None
    assert attention.grad is not None
    assert attention.grad.any()


def test_orthogonality_of_hand_made_vectors() -> None:
    e, f = torch.eye(3)[:2]
    same, apart = torch.stack([e, 2 * e])[None], torch.stack([e, -3 * f])[None]
    between = torch.stack([e, -(e + f)])
    assert orthogonality_loss(apart, apart[0]).item() == 0
    assert orthogonality_loss(same, apart[0]).item() == pytest.approx(1 / 2)  # 2 of 4 pairs
    assert orthogonality_loss(apart, between).item() == pytest.approx(0.5**0.5 / 2)


def test_orthogonality_has_half_the_gradient_of_the_mean_cosine() -> None:
    torch.manual_seed(0)
    dummies, prompts = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    orthogonality_loss(dummies, prompts).backward()
    whole = 0
    for vectors in (*dummies, prompts):
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        mean = sum((unit[i] @ unit[j]).abs() for i in range(len(unit)) for j in range(i)) * 2 / len(unit) ** 2
        whole = whole + mean / (1 if vectors is prompts else 2)
    assert orthogonality_loss(dummies, prompts).item() == pytest.approx(whole.item(), rel=1e-5)
    for mine, both in zip((dummies.grad, prompts.grad), torch.autograd.grad(whole, (dummies, prompts)), strict=True):
        torch.testing.assert_close(mine, both / 2)


def gradients(given: dict[str, Any]) -> tuple[dict[str, float], list[Tensor]]:
    terms = alignment_terms(**given)
    inputs = [x for name in ("guidance", "negative") for x in (given[name].attention, given[name].heard)]
    found = torch.autograd.grad(sum(terms.values()), inputs, allow_unused=True)
    return {name: value.item() for name, value in terms.items()}, [x for x in found if x is not None]


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
def test_what_padding_holds_changes_nothing(garbage: float) -> None:
    clean, clean_gradients = gradients(case())
    dirty, dirty_gradients = gradients(case(garbage=garbage))
    assert list(clean) == ["attention", "alignment", "distillation", "orthogonality"]
    assert clean == dirty
    for one, other in zip(clean_gradients, dirty_gradients, strict=True):
        assert torch.equal(one, other)


def test_how_much_padding_there_is_changes_nothing() -> None:
    given = case()

    def wider(x: Tensor, *more: int) -> Tensor:
        return torch.nn.functional.pad(x, [n for amount in reversed(more) for n in (0, amount)])

    def longer(g: Guidance) -> Guidance:
        return Guidance(
            wider(g.attention, 0, 2, 3), wider(g.heard, 0, 2), g.dummies, g.prompts, wider(g.clip_mask, 0, 2),
            wider(g.word_mask, 0, 3),
        )  # fmt: skip

    a = given["alignment"]
    padded = given | {
        "guidance": longer(given["guidance"]), "negative": longer(given["negative"]),
        "alignment": Alignment(*a[:4], wider(a.clips, 0, 2, 0), wider(a.similarity, 0, 2, 3)),
        "target": wider(given["target"], 0, 2), "mask": wider(given["mask"], 0, 2),
    }  # fmt: skip
    for one, other in zip(alignment_terms(**given).values(), alignment_terms(**padded).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_any_target_has_finite_terms_and_gradients() -> None:
    given = case()
    given["mask"] = torch.zeros_like(given["mask"])
    terms, found = gradients(given)
    assert all(math.isfinite(value) for value in terms.values())
    assert terms["distillation"] == terms["alignment"] == 0
    assert all(x.isfinite().all() for x in found)


class NoWaiting(TorchDispatchMode):
    """Fails on what would make the host wait for a device: a number, or a shape that depends on numbers."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        assert name not in self.WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("pairs", [True, False])
def test_nothing_waits_for_the_device(pairs: bool) -> None:
    given = case()
    if not pairs:
        given["pairs"] = None
    with NoWaiting():
        total = sum(alignment_terms(**given).values())
        total.backward()
    assert total.isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_single(dtype: torch.dtype) -> None:
    given = case()
    single = alignment_terms(**given)
    with torch.autocast("cpu", dtype=dtype):
        half = alignment_terms(**given)
    for name, value in half.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(single[name].item(), rel=0.02)
