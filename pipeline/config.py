"""Typed settings of a run. YAML in, validated objects out; an unknown key is refused, not ignored.

Defaults are the paper's (or, where its text is silent, our reconstruction's; see docs/method.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..fuse.kinetics import KINETICS

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """What every section of a config has in common: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DiffusionConfig(Settings):
    """Temporal diffusion, equations (1) to (3)."""

    steps: Annotated[int, Field(ge=0)] = 10
    """N; 0 is the ablation 'w/o TD'."""
    dt: Positive = 0.1
    d: Positive = 0.2
    """The rate at the start of training."""


class ReactionDiffusionConfig(Settings):
    """Reaction-diffusion fusion, equations (4) to (8). Rates are where training starts."""

    kind: Literal["reaction_diffusion"] = "reaction_diffusion"
    steps: Count = 5
    """M."""
    dt: Positive = 0.1
    d_video: Positive = 0.2
    d_text: Positive = 0.1
    kinetics: Literal["gray_scott", "gray_scott_substrate", "schnakenberg", "fitzhugh_nagumo"] = "gray_scott"
    """Equation (6) or another reaction; fuse/kinetics.py has their formulas."""
    feed: Positive | None = None
    """F of Gray-Scott; 0.04 where nothing is said. So are the others: each kinetics has two rates, and no others."""
    kill: Positive | None = None
    """k of Gray-Scott; 0.06."""
    a: Positive | None = None
    """Of Schnakenberg; 0.1."""
    b: Positive | None = None
    """Of Schnakenberg; 0.9."""
    epsilon: Positive | None = None
    """Of FitzHugh-Nagumo; 0.05."""
    gamma: Positive | None = None
    """Of FitzHugh-Nagumo; 1."""
    integrator: Literal["euler", "ssprk3", "imex"] = "euler"
    """The paper's; of third order; or with implicit diffusion."""
    diffusion_order: Literal["paper", "turing", "free"] = "paper"
    """'paper' keeps d_video > d_text whatever is learned, 'turing' keeps a pattern growing, 'free' neither."""
    rates_per_channel: bool = False
    """Whether each channel learns its own four rates."""
    ffn: Count = 1024

    @model_validator(mode="before")
    @classmethod
    def _fill_rates(cls, settings: Any) -> Any:
        """Write the rates of the kinetics out, so that a run tells them."""
        kinetics = KINETICS.get(settings.get("kinetics", "gray_scott")) if isinstance(settings, dict) else None
        if kinetics is None:
            return settings
        given = {name: value for name, value in settings.items() if value is not None}
        return {**dict(zip(kinetics.rates, kinetics.initial, strict=True)), **given}

    @model_validator(mode="after")
    def _rates_fit(self) -> ReactionDiffusionConfig:
        own = KINETICS[self.kinetics].rates
        strange = [n for k in KINETICS.values() for n in k.rates if n not in own and getattr(self, n) is not None]
        if strange:
            names = ", ".join(dict.fromkeys(strange))
            raise ValueError(f"expected {' and '.join(own)} as the rates of {self.kinetics}, got {names}")
        return self

    def settings(self) -> dict[str, Any]:
        """As the fuser takes them."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)


class CrossAttentionConfig(Settings):
    """The ablation 'w/o RD': cross-attention in the same block."""

    kind: Literal["cross_attention"] = "cross_attention"
    heads: Count = 8
    ffn: Count = 1024

    def settings(self) -> dict[str, Any]:
        """As the fuser takes them."""
        return self.model_dump(exclude={"kind"})


class MomentHeadConfig(Settings):
    """The decoder of equation (13)."""

    queries: Count = 100
    layers: Count = 2
    heads: Count = 8
    iou: bool = True
    """Whether to predict the IoU of a span; False is the ablation 'w/o IH'."""
    iou_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """lambda of c = (1 - lambda) p + lambda iou; without the IoU head it is 0."""

    @property
    def iou_share(self) -> float:
        """The lambda that is used."""
        return self.iou_weight if self.iou else 0.0


class ModelConfig(Settings):
    """Everything that has parameters."""

    hidden: Count = 256
    dropout: Share = 0.1
    input_dropout: Share = 0.3
    """On the cached features, before their projection."""
    diffusion: DiffusionConfig = DiffusionConfig()
    fusion: Annotated[ReactionDiffusionConfig | CrossAttentionConfig, Field(discriminator="kind")] = (
        ReactionDiffusionConfig()
    )
    moment: MomentHeadConfig = MomentHeadConfig()

    @field_validator("fusion", mode="before")
    @classmethod
    def _default_kind(cls, fusion: Any) -> Any:
        """`--set model.fusion.steps=20` alone is about the default fusion."""
        return {"kind": "reaction_diffusion", **fusion} if isinstance(fusion, dict) else fusion

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        for heads in (self.moment.heads, getattr(self.fusion, "heads", 1)):
            if self.hidden % heads:
                raise ValueError(f"expected heads that divide hidden = {self.hidden}, got {heads}")
        return self


class LossConfig(Settings):
    """Weights of equations (14) to (17)."""

    span: NotNegative = 10.0
    giou: NotNegative = 1.0
    classification: NotNegative = 4.0
    iou: NotNegative = 1.0
    saliency: NotNegative = 4.0
    no_object: Positive = 0.1


class TrainingConfig(Settings):
    """How to train."""

    batch: Count = 16
    """Queries of one batch, over all processes together."""
    accumulate: Count = 1
    """Batches whose gradients make one step; as exact as one batch of so many times the queries, with less memory."""
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
    return f"{place}: {error['msg'].removeprefix('Value error, ')}, got {error['input']!r}"
