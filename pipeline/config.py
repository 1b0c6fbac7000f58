"""Typed settings of a run. YAML in, validated objects out; an unknown key is refused, not ignored.

Defaults are the paper's (or, where its text is silent, our reconstruction's; see docs/method.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from .fusion_config import Count, FusionConfig, NotNegative, Positive, ReactionDiffusionConfig, Settings, Share


class DiffusionConfig(Settings):
    """Temporal diffusion, equations (1) to (3)."""

    steps: Annotated[int, Field(ge=0)] = 10
    """N; 0 is the ablation 'w/o TD'."""
    dt: Positive = 0.1
    d: Positive = 0.2
    """The rate at the start of training."""


class ContextConfig(Settings):
    """Self-attention among clips before the fusion (fuse/context.py); of use where clips are told relevance."""

    layers: Annotated[int, Field(ge=0)] = 0
    heads: Count = 8
    ffn: Count = 1024


class SaliencyConfig(Settings):
    """The head of equation (12)."""

    kind: Literal["linear", "token"] = "linear"
    """The paper's linear layer; or clips beside the token of video and sentence, where a fusion has one."""


class MomentHeadConfig(Settings):
    """The decoder of equation (13)."""

    kind: Literal["reference_spans", "learned_queries", "dynamic_anchors"] = "reference_spans"
    """Ours; Moment-DETR's; that of QD-DETR and CG-DETR."""
    queries: Count = 100
    proposals: Annotated[int, Field(ge=0)] = 0
    """How many of the queries start where saliency is high; of reference_spans alone."""
    layers: Count = 2
    heads: Count = 8
    drop_path: bool = False
    """Whether dropout in dynamic_anchors drops a residual branch of a query as a whole, as CG-DETR has it."""
    iou: bool = True
    """Whether to predict the IoU of a span; False is the ablation 'w/o IH'."""
    iou_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """lambda of c = (1 - lambda) p + lambda iou; without the IoU head it is 0."""

    @model_validator(mode="after")
    def _kind_has_it(self) -> MomentHeadConfig:
        if self.drop_path and self.kind != "dynamic_anchors":
            raise ValueError(f"expected drop_path false with a moment head of kind {self.kind}, got true")
        if self.proposals and self.kind != "reference_spans":
            raise ValueError(f"expected proposals of 0 with a moment head of kind {self.kind}, got {self.proposals}")
        if self.proposals > self.queries:
            raise ValueError(f"expected at most {self.queries} proposals, as many as queries, got {self.proposals}")
        return self

    @property
    def iou_share(self) -> float:
        """The lambda that is used."""
        return self.iou_weight if self.iou else 0.0


GUIDED_TERMS = ("attention", "alignment", "distillation", "orthogonality")
"""Loss terms of CG-DETR's fusion alone."""
TOKEN_FUSIONS = ("query_dependent", "correlation_guided")
"""Those that have a token for video and sentence together."""


class ModelConfig(Settings):
    """Everything that has parameters."""

    hidden: Count = 256
    dropout: Share = 0.1
    input_dropout: Share = 0.3
    """On the cached features, before their projection."""
    clip_times: bool = False
    """Whether each clip's start and end, as shares of the duration, are features of it ('tef' of the DETR family)."""
    relevance: Annotated[int, Field(ge=0)] = 0
    """Heads of the cosine of clip and sentence that the fusion is told (fuse/relevance.py); for encoders of one space.
    0: it is told none."""
    relevance_from: Annotated[int, Field(ge=0)] | None = None
    """The first column of the clips' features that is in the sentence's space, where several stores are concatenated:
    2304 with SlowFast before CLIP. None: all are."""
    diffusion: DiffusionConfig = DiffusionConfig()
    context: ContextConfig = ContextConfig()
    fusion: FusionConfig = ReactionDiffusionConfig()
    saliency: SaliencyConfig = SaliencyConfig()
    moment: MomentHeadConfig = MomentHeadConfig()

    @field_validator("fusion", mode="before")
    @classmethod
    def _default_kind(cls, fusion: Any) -> Any:
        """`--set model.fusion.steps=20` alone is about the default fusion."""
        return {"kind": "reaction_diffusion", **fusion} if isinstance(fusion, dict) else fusion

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        own = self.context.heads if self.context.layers else 1
        for heads in (self.moment.heads, own, getattr(self.fusion, "heads", 1)):
            if self.hidden % heads:
                raise ValueError(f"expected heads that divide hidden = {self.hidden}, got {heads}")
        return self

    @model_validator(mode="after")
    def _token_is_there(self) -> ModelConfig:
        if self.saliency.kind == "token" and self.fusion.kind not in TOKEN_FUSIONS:
            raise ValueError(
                f"expected a fusion with a token ({' or '.join(TOKEN_FUSIONS)}) for saliency of kind 'token', "
                f"got {self.fusion.kind}; take saliency of kind 'linear'"
            )
        return self


class LossConfig(Settings):
    """Weights of equations (14) to (17)."""

    span: NotNegative = 10.0
    giou: NotNegative = 1.0
    classification: NotNegative = 4.0
    iou: NotNegative = 1.0
    saliency: NotNegative = 4.0
    no_object: Positive = 0.1
    span_form: Literal["smooth_l1", "l1"] = "smooth_l1"
    class_mean: Literal["weighted", "plain"] = "weighted"
    """Over queries: by their weights, as a softmax over two classes has it, or plainly, as the DETR family does."""
    margin: NotNegative = 0.0
    """Of the DETR family's saliency: a hinge between sampled clips, its rank-aware contrast ..."""
    rank: NotNegative = 0.0
    negative: NotNegative = 0.0
    """... and that of another video's sentence, which no clip answers."""
    attention: NotNegative = 0.0
    """CG-DETR's: the cross-attention as saliency, alignment of moments and sentences, distillation, orthogonality."""
    alignment: NotNegative = 0.0
    distillation: NotNegative = 0.0
    orthogonality: NotNegative = 0.0


class TrainingConfig(Settings):
    """How to train."""

    batch: Count = 16
    """Queries of one batch, over all processes together."""
    accumulate: Count = 1
    """Batches whose gradients make one step; as exact as one batch of so many times the queries, with less memory.
    Terms that compare queries (loss.rank, negative, alignment) compare those of a batch."""
    bucket: bool = False
    """Whether queries of videos of like length share batches: less padding, and less random batches."""
    epochs: Count = 50
    lr: Positive = 1e-4
    weight_decay: NotNegative = 1e-4
    gradient_clip: Positive = 0.1
    """Largest norm of the gradient."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """'cosine' falls to 0 over the epochs, 'step' by `step_factor` after every `step_epochs` epochs."""
    step_epochs: Count = 20
    """Epochs between two falls of the schedule 'step'."""
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What the learning rate is multiplied by at each of them."""
    ema: Share = 0.0
    """Decay of the running mean of the weights, which is what is validated and saved; 0: the weights themselves."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of matrix products in training; weights, losses and validation are fp32. fp16 scales its loss."""
    compile: Literal["auto"] | bool = "auto"
    """Whether torch.compile makes one program of forward pass and losses; 'auto': on CUDA, where that pays."""
    residence: Literal["auto", "device", "host", "mapped"] = "auto"
    """Where features are held: in the device's memory, in the machine's, or mapped from the disk; 'auto': what fits."""
    patience: Count = 10
    """Epochs without a better validation score before training stops."""
    select_by: Literal["R1@0.5", "R1@0.7", "mIoU", "mAP"] = "mAP"
    """The validation score that decides which epoch is kept; HL-mAP where a dataset has highlights and no moments."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints inside an epoch; 0: only at its end."""
    log_every: Count = 10
    """Steps between two looks at the losses: a line in steps.jsonl, and the test that all is finite."""
    seed: Annotated[int, Field(ge=0)] = 0
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training videos set aside where the dataset has no validation split."""


class Config(Settings):
    """A whole run."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _terms_fit(self) -> Config:
        asked = [name for name in GUIDED_TERMS if getattr(self.loss, name) > 0]
        if asked and self.model.fusion.kind != "correlation_guided":
            raise ValueError(
                f"expected loss.{asked[0]} of 0 with fusion {self.model.fusion.kind}: "
                "it is a term of correlation_guided"
            )
        return self


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply `a.b=value` overrides. Raises ValueError naming the key that does not fit."""
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(path.read_text("utf-8")) or {}
        except FileNotFoundError:
            raise ValueError(f"there is no config file {path}; configs/ holds the ones that come with rdmf") from None
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise ValueError(f"{path} is no YAML that can be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"expected sections (model, loss, training) in {path}, got {type(tree).__name__}")
    for override in overrides:
        _override(tree, override)
    return parse_config(tree, str(path or "the settings"))


def parse_config(tree: dict[str, Any], source: str) -> Config:
    """Validate a nested dict. Raises ValueError with one sentence per key that does not fit."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{source}: " + "; ".join(_complaint(e) for e in error.errors())) from None


def dump_config(config: Config) -> str:
    """The config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'model.hidden': 256, ...} of nested settings."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last or not all(parents):
        raise ValueError(f"expected --set section.key=value, got {override!r}")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ValueError(f"--set {override}: {parent!r} is a value, not a section")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--set {override}: {value!r} is no YAML value") from None


def _complaint(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        return f"{place} is no setting; look for a misspelling"
    if error["type"] == "value_error":  # ours, which say what they got; the input here is a whole section
        return f"{place}: {error['msg'].removeprefix('Value error, ')}"
    return f"{place}: {error['msg']}, got {error['input']!r}"
