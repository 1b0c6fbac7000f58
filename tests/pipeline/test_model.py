"""The composed model: every fusion with every head, told relevance, one projection, proposals, negatives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from rdmf.fuse import Relevance
from rdmf.heads.losses import LossWeights, batch_counts
from rdmf.pipeline.config import Config, load_config, parse_config
from rdmf.pipeline.loading.dataset import Batch, MomentDataset, collate, open_features
from rdmf.pipeline.model import RDMF, borders
from rdmf.pipeline.training.objective import loss_of, targets_of

MODELS = sorted((Path(__file__).parents[2] / "configs" / "models").glob("*.yaml"))
SMALL = [
    "model.hidden=32",
    "model.fusion.ffn=64",
    "model.moment.queries=12",
    "model.dropout=0",
    "model.input_dropout=0",
]


@pytest.fixture
def batch(tiny_features: Path) -> Batch:
    dataset = MomentDataset(open_features(tiny_features), "train")
    return collate([dataset[i] for i in range(8)])


def built(config: Config, batch: Batch) -> RDMF:
    torch.manual_seed(0)
    return RDMF(config.model, batch.clips.shape[-1], batch.words.shape[-1])


def costs(model: RDMF, config: Config, batch: Batch) -> dict[str, torch.Tensor]:
    return loss_of(model, batch, LossWeights(**config.loss.model_dump()))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_each_model_that_comes_with_rdmf_learns_a_batch_with_all_its_parameters(path, batch):
    config = load_config(path, SMALL)
    model = built(config, batch)
    before = costs(model, config, batch)
    assert all(value.isfinite() for value in before.values())
    before["total"].backward()
    unheard = ("project_words.", "fusion.norm_words.") if config.model.fusion.kind == "none" else ()
    dead = [n for n, p in model.named_parameters() if p.grad is None and not n.startswith(unheard)]
    assert not dead
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        costs(model, config, batch)["total"].backward()
        optimizer.step()
    assert costs(model, config, batch)["total"] < 0.8 * before["total"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_query_is_answered_alone_as_in_a_batch(path, batch):
    config = load_config(path, SMALL)
    model = built(config, batch).eval()
    with torch.no_grad():
        whole = model(batch.clips, batch.clip_mask, batch.positions, batch.words, batch.word_mask)
        for row in range(3):
            n, m = int(batch.clip_mask[row].sum()), int(batch.word_mask[row].sum())
            one = slice(row, row + 1)
            alone = model(
                batch.clips[one, :n], batch.clip_mask[one, :n], batch.positions[one, :n],
                batch.words[one, :m], batch.word_mask[one, :m],
            )  # fmt: skip
            torch.testing.assert_close(whole.saliency_logits[one, :n], alone.saliency_logits, rtol=0, atol=2e-4)
            torch.testing.assert_close(whole.moments.spans[one], alone.moments.spans, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["qd_detr", "cg_detr"])
def test_a_part_of_a_batch_costs_its_share_of_every_term(name, batch):
    config = load_config(next(path for path in MODELS if path.stem == name), SMALL)
    model, weights = built(config, batch).eval(), LossWeights(**config.loss.model_dump())
    counts = batch_counts(targets_of(batch), 12)
    torch.manual_seed(1)
    whole = loss_of(model, batch, weights)
    torch.manual_seed(1)  # the clips that the hinge compares
    third = loss_of(model, batch, weights, 3 * counts)
    for term in {"margin", "rank", "negative", "attention", "alignment", "distillation"} & set(whole):
        torch.testing.assert_close(3 * third[term], whole[term], msg=term)


def test_negatives_are_the_next_querys_sentence(batch):
    config = load_config(None, SMALL)
    model = built(config, batch).eval()
    inputs = batch.clips, batch.clip_mask, batch.positions, batch.words, batch.word_mask
    output = model(*inputs, negatives=True)
    rolled = model(*inputs[:3], batch.words.roll(-1, 0), batch.word_mask.roll(-1, 0))
    torch.testing.assert_close(output.negative_logits, rolled.saliency_logits)
    assert model(*inputs).negative_logits is None


def test_the_clips_hear_each_other_before_the_fusion_and_with_their_relevance():
    more = ["model.relevance=2", "model.relevance_from=0", "model.context={layers: 1, ffn: 64}"]
    model = RDMF(load_config(None, [*SMALL, *more]).model, 20, 12).eval()
    clips, words = torch.randn(1, 4, 20), torch.randn(1, 3, 12)
    mask, word_mask = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    x = torch.randn(1, 4, 32)
    told = model.told(x, clips, mask, words, word_mask)
    torch.testing.assert_close(told, model.context(x + model.relevance(clips[..., :12], mask, words, word_mask), mask))
    assert RDMF(load_config(None, SMALL).model, 20, 12).context is None


def test_relevance_is_refused_for_encoders_of_other_widths():
    with pytest.raises(ValueError, match=r"one width for model\.relevance, .* got 24 and 16"):
        RDMF(load_config(None, [*SMALL, "model.relevance=2"]).model, 24, 16)


def test_clip_times_are_the_borders_of_the_clips():
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    positions = torch.tensor([[0.1, 0.3, 0.5, 0.7, 0.9], [1 / 6, 0.5, 5 / 6, 0, 0]])
    found = borders(positions, mask)
    expected = [
        [[0, 0.2], [0.2, 0.4], [0.4, 0.6], [0.6, 0.8], [0.8, 1]],
        [[0, 1 / 3], [1 / 3, 2 / 3], [2 / 3, 1], [0, 0], [0, 0]],
    ]
    torch.testing.assert_close(found, torch.tensor(expected))
    short = borders(torch.tensor([[0.2, 0.6, 0.9]]), mask[1:, :3])[0]  # clips of 2, 2 and 1 s
    assert (short >= 0).all()
    assert (short <= 1).all()
    torch.testing.assert_close(short[1:, 0], short[:-1, 1])


def test_relevance_looks_at_the_columns_of_the_sentences_space_alone():
    model = RDMF(load_config(None, [*SMALL, "model.relevance=2", "model.relevance_from=5"]).model, 21, 16).eval()
    clips, words = torch.randn(1, 4, 21), torch.randn(1, 3, 16)
    mask, word_mask = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    told = model.told(torch.zeros(1, 4, 32), clips, mask, words, word_mask)
    torch.testing.assert_close(told, model.relevance(clips[..., 5:], mask, words, word_mask))
    other = torch.cat((torch.randn(1, 4, 5), clips[..., 5:]), -1)
    assert torch.equal(told, model.told(torch.zeros(1, 4, 32), other, mask, words, word_mask))
    for first, dims, said in (
        ("6", (21, 16), "model.relevance_from of 0 to 5, so that 16 of the clips' 21 columns follow, got 6"),
        ("null", (21, 16), "got 21 and 16: set it to 0, or model.relevance_from"),
        ("0", (8, 16), "got 8 and 16: set it to 0$"),
    ):
        with pytest.raises(ValueError, match=said):
            RDMF(load_config(None, [*SMALL, "model.relevance=2", f"model.relevance_from={first}"]).model, *dims)


def test_relevance_is_the_cosine_of_clip_and_sentence_with_weighted_channels():
    relevance, clips, words = Relevance(12, 8, 3), torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    word_mask = torch.tensor([[True] * 4, [True, False, False, False]])
    found = relevance.cosines(clips, words, word_mask)
    for b, count in enumerate((4, 1)):
        s = words[b, :count].mean(0)
        for t in range(5):
            for h, weight in enumerate(relevance.weight):
                expected = sum(w * x * y for w, x, y in zip(weight, clips[b, t], s, strict=True))
                torch.testing.assert_close(found[b, t, h], expected / clips[b, t].norm() / s.norm())


def test_a_model_told_relevance_finds_the_clips_that_are_like_the_sentence_in_a_few_steps():
    torch.manual_seed(0)
    config = load_config(None, [*SMALL, "model.relevance=2", "model.fusion.kind=none", "model.diffusion.steps=0"])
    model = RDMF(config.model, 24, 24)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    mask, positions = torch.ones(32, 10, dtype=torch.bool), torch.linspace(0.05, 0.95, 10).expand(32, -1)

    def task() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sentence, inside = torch.randn(32, 1, 24), torch.rand(32, 10) < 0.3
        return torch.randn(32, 10, 24) + 0.8 * inside[..., None] * sentence, sentence, inside

    for _ in range(60):
        clips, sentence, inside = task()
        logits = model(clips, mask, positions, sentence, mask[:, :1]).saliency_logits
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits, inside.float()).backward()
        optimizer.step()
    clips, sentence, inside = task()
    found = model(clips, mask, positions, sentence, mask[:, :1]).saliency_logits > 0
    assert (found == inside).float().mean() > 0.85


def test_relevance_has_no_bit_from_padding_and_none_from_flat_sequences():
    relevance, clips, words = Relevance(6, 4, 2), torch.randn(1, 5, 6), torch.randn(1, 3, 6)
    mask = torch.tensor([[True, True, True, False, False]])
    word_mask = torch.tensor([[True, True, False]])
    clean = relevance(clips, mask, words, word_mask)
    dirty = relevance(
        clips.masked_fill(~mask[..., None], torch.nan),
        mask,
        words.masked_fill(~word_mask[..., None], torch.inf),
        word_mask,
    )
    assert torch.equal(clean, dirty)
    assert not clean[~mask].any()
    flat = clips[:, :1].expand(1, 5, 6).clone().requires_grad_()
    relevance(flat, mask, words, word_mask).sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"saliency": {"kind": "token"}}, "expected a fusion with a token"),
        ({"moment": {"queries": 4, "proposals": 5}}, "expected at most 4 proposals"),
        ({"moment": {"kind": "learned_queries", "proposals": 1}}, "expected proposals of 0"),
        ({"moment": {"drop_path": True}}, "expected drop_path false"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_config({"model": settings}, "the settings")


def test_terms_of_cg_detr_are_refused_with_another_fusion():
    with pytest.raises(ValueError, match=r"expected loss\.distillation of 0 with fusion reaction_diffusion"):
        parse_config({"loss": {"distillation": 1}}, "the settings")
