"""The very encoder that made the features of a store, found again from what the store says of itself."""

from __future__ import annotations

from ...extract.captions import RECORDED_PREFIX, CaptionExtraction
from ...extract.encoders import HUB, encoder_name
from ...extract.extractors import TextExtraction, VideoExtraction
from ...extract.imports import IMPORTED
from ...extract.layout import StoreSpec

SHIPPED = "shipped with rdmf"
Extraction = VideoExtraction | TextExtraction | CaptionExtraction


class NotComputable(ValueError):
    """Features of another tool: rdmf cannot compute them, whatever weights it is given."""


def extraction_for(
    spec: StoreSpec, video_weights: str | None = None, text_encoder: str | None = None, device: str = "cpu"
) -> Extraction:
    """What extracts the features of a store once more, equal weights and equal input made sure of.

    video_weights, text_encoder: where the encoder is now, if not where it came from.
    Raises NotComputable for imported features, ValueError where the encoder cannot be had or is another one.
    """
    source = str(spec.weights.get("source", ""))
    if source.startswith(IMPORTED):
        raise NotComputable(f"the features of {spec.encoder} were {source}, rdmf cannot compute them")
    captions = spec.kind == "video" and spec.encoder.startswith(RECORDED_PREFIX)
    reads_text = captions or spec.kind == "text"
    given, option = (text_encoder, "--text-encoder FOLDER") if reads_text else (video_weights, "--video-weights FILE")
    if given is None and source.startswith("local "):
        raise ValueError(f"the features of {spec.encoder} were made with weights of a {source}; give it with {option}")
    bert = given or (spec.encoder.removeprefix(RECORDED_PREFIX) if source == SHIPPED else source.removeprefix(HUB))
    extraction: Extraction
    if spec.clip_seconds is None:
        extraction = TextExtraction(bert, device)
    elif captions:
        extraction = CaptionExtraction(bert, spec.clip_seconds, device)
    else:
        weights = "random" if spec.weights.get("random") else video_weights
        precision = str(spec.weights.get("precision", "fp32"))
        extraction = VideoExtraction(encoder_name(spec), weights, spec.clip_seconds, device, precision)
    here = extraction.spec()
    if _identity(here) != _identity(spec):
        raise ValueError(
            f"the features were made by {spec.encoder} with weights sha256 {str(spec.weights.get('sha256'))[:12]}..., "
            f"but {here.encoder} here has {str(here.weights.get('sha256'))[:12]}... or is fed differently; give the "
            f"weights that made them with {option}"
        )
    return extraction


def _identity(spec: StoreSpec) -> tuple[object, ...]:
    return spec.weights.get("sha256"), spec.preprocessing, spec.dim
