"""The settings of each fusion. Every class is an entry of FUSERS: its `kind`, and the arguments that it takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, model_validator

from ..fuse.kinetics import KINETICS

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """What every section of a config has in common: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FuserSettings(Settings):
    """What all fusions have."""

    ffn: Count = 1024
    """Width of the feed-forward networks."""

    def settings(self) -> dict[str, Any]:
        """As the fuser takes them."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)


class ReactionDiffusionConfig(FuserSettings):
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
    inhibitor: Literal["sentence", "words"] = "sentence"
    """What V starts from: the mean of the words, the paper's; or what each clip hears of them by attention ..."""
    heads: Count = 8
    """... of so many heads."""

    @model_validator(mode="before")
    @classmethod
    def _fill_rates(cls, settings: Any) -> Any:
        """Write the rates of the kinetics out, so that a run tells them."""
        kinetics = KINETICS.get(str(settings.get("kinetics", "gray_scott"))) if isinstance(settings, dict) else None
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


class CrossAttentionConfig(FuserSettings):
    """The ablation 'w/o RD': cross-attention in the same block."""

    kind: Literal["cross_attention"] = "cross_attention"
    heads: Count = 8


class NoFusionConfig(FuserSettings):
    """The floor: the same block, and no sentence."""

    kind: Literal["none"] = "none"


class EncoderDecoderConfig(FuserSettings):
    """A plain transformer: an encoder over the words, a decoder over the clips."""

    kind: Literal["transformer"] = "transformer"
    layers: Count = 2
    """Of each of the two."""
    heads: Count = 8


class JointEncoderConfig(FuserSettings):
    """Moment-DETR's encoder over clips and words together."""

    kind: Literal["joint_encoder"] = "joint_encoder"
    layers: Count = 2
    heads: Count = 8


class QueryDependentConfig(FuserSettings):
    """QD-DETR's cross-attention from clips to words and its encoder with the saliency token."""

    kind: Literal["query_dependent"] = "query_dependent"
    cross_layers: Count = 2
    layers: Count = 2
    heads: Count = 8


class CorrelationGuidedConfig(FuserSettings):
    """CG-DETR's adaptive cross-attention with dummy tokens."""

    kind: Literal["correlation_guided"] = "correlation_guided"
    cross_layers: Count = 2
    layers: Count = 3
    dummies: Count = 45
    """Tokens that take the attention that no word deserves."""
    dummy_layers: Count = 2
    """In which they read the sentence."""
    prompts: Count = 10
    """The pool that the saliency token is made of ..."""
    chosen_prompts: Count = 1
    """... and how many of them."""
    moment_layers: Count = 1
    """Of the encoders of the moment and of the sentence, for the losses."""
    sentence_layers: Count = 1
    heads: Count = 8


FusionConfig = Annotated[
    ReactionDiffusionConfig
    | CrossAttentionConfig
    | NoFusionConfig
    | EncoderDecoderConfig
    | JointEncoderConfig
    | QueryDependentConfig
    | CorrelationGuidedConfig,
    Discriminator("kind"),
]
