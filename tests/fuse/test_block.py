"""What every fusion promises: padding changes nothing, odd shapes work, dropout acts in training only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdmf.fuse import FUSERS, Fused

HIDDEN = 16


class Clips(nn.Module):
    """The clips of a fusion, which may say more."""

    def __init__(self, kind: str, **settings: str) -> None:
        super().__init__()
        self.kind, self.settings, self.inner = kind, settings, FUSERS[kind](HIDDEN, ffn=32, **settings)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return Fused.of(self.inner(*inputs)).clips

    def reached(self) -> list[nn.Parameter]:
        """Parameters that the clips depend on: not those that only losses look at, nor norms of words unheard."""
        apart = ("moment_", "sentence_", "norm_words") if self.kind in ("correlation_guided", "none") else ()
        return [p for name, p in self.inner.named_parameters() if not name.startswith(apart)]


@pytest.fixture(params=[*((kind, {}) for kind in FUSERS), ("reaction_diffusion", {"inhibitor": "words"})], ids=str)
def fuser(request: pytest.FixtureRequest) -> Clips:
    torch.manual_seed(0)
    kind, settings = request.param
    return Clips(kind, **settings).eval()


def rows(lengths: list[int], longest: int, garbage: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose valid part depends on their number alone, and their mask."""
    mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    x = torch.full((len(lengths), longest, HIDDEN), garbage)
    for row, length in enumerate(lengths):
        x[row, :length] = torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(row))
    return x, mask


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
def test_what_padding_holds_changes_no_bit_of_outputs_or_gradients(fuser: Clips, garbage: float) -> None:
    results = []
    for content in (0.0, garbage):
        clips, clip_mask = rows([6, 3, 1], 6, content)
        words, word_mask = rows([4, 2, 0], 5, content)
        fuser.zero_grad()
        out = fuser(clips.requires_grad_(), clip_mask, words.requires_grad_(), word_mask)
        out.pow(3).sum().backward()
        heard = torch.zeros_like(words) if words.grad is None else words.grad
        results.append([out, clips.grad, heard, *(p.grad for p in fuser.reached())])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
    out, clip_gradient, word_gradient, *_ = results[0]
    assert not out[~clip_mask].any()
    assert not clip_gradient[~clip_mask].any()
    assert not word_gradient[~word_mask].any()


def test_a_row_of_a_padded_batch_equals_the_row_alone(fuser: Clips) -> None:
    # To rounding, not to the bit: matrix products of other sizes may add in another order.
    lengths, counts = [9, 5, 1], [7, 1, 3]
    clips, clip_mask = rows(lengths, 20, float("nan"))
    words, word_mask = rows(counts, 11, float("nan"))
    together = fuser(clips, clip_mask, words, word_mask)
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        one = slice(row, row + 1)
        alone = fuser(clips[one, :length], clip_mask[one, :length], words[one, :count], word_mask[one, :count])
        torch.testing.assert_close(together[one, :length], alone, rtol=0, atol=2e-6)


def test_the_words_matter(fuser: Clips) -> None:
    clips, clip_mask = rows([6], 6, 0.0)
    words, word_mask = rows([4], 4, 0.0)
    change = (fuser(clips, clip_mask, words, word_mask) - fuser(clips, clip_mask, -words, word_mask)).abs().max()
    assert change == 0 if fuser.kind == "none" else change > 1e-3


def test_dropout_acts_in_training_only(fuser: Clips) -> None:
    inputs = *rows([6], 6, 0.0), *rows([4], 4, 0.0)
    assert torch.equal(fuser(*inputs), fuser(*inputs))
    fuser.train()
    assert not torch.equal(fuser(*inputs), fuser(*inputs))


def test_an_all_padding_row_gives_zeros_and_harms_no_other(fuser: Clips) -> None:
    clips, clip_mask = rows([4, 0], 5, float("nan"))
    words, word_mask = rows([3, 0], 3, float("nan"))
    out = fuser(clips, clip_mask, words, word_mask)
    assert out[0, :4].isfinite().all()
    assert not out[1].any()


def test_half_precision_training_gives_finite_gradients_close_to_single(fuser: Clips) -> None:
    inputs = *rows([6, 3], 6, 0.0), *rows([4, 2], 4, 0.0)
    single = fuser(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = fuser(*inputs)
    half.float().pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fuser.reached())
    torch.testing.assert_close(half.float(), single, rtol=0, atol=0.1)


def test_a_saved_state_restores_the_same_outputs(fuser: Clips) -> None:
    inputs = *rows([6], 6, 0.0), *rows([4], 4, 0.0)
    for parameter in fuser.parameters():
        nn.init.normal_(parameter, std=0.3)
    other = Clips(fuser.kind, **fuser.settings).eval()
    other.load_state_dict(fuser.state_dict())
    assert torch.equal(fuser(*inputs), other(*inputs))


def test_padding_before_or_between_clips_is_refused(fuser: Clips) -> None:
    clips, words = torch.randn(1, 3, HIDDEN), torch.randn(1, 2, HIDDEN)
    for mask in ([False, True, True], [True, False, True]):
        with pytest.raises(RuntimeError, match="valid clips come first in every row"):
            fuser(clips, torch.tensor([mask]), words, torch.ones(1, 2, dtype=torch.bool))
