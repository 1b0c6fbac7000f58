"""Ask a trained run about a new video: decode, encode as in training, model, moments in seconds.

The run says which encoders made its features. The very same ones (by the sha256 of their weights) are loaded here; a
run is never fed with features of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..extract.encoders import usable_device
from ..extract.extractors import VideoExtraction, extract_video
from ..extract.imports import IMPORTED
from ..extract.layout import Item, Source, StoreSpec
from ..manifests.schema import Query
from .inference import Found, ask
from .loading.dataset import Clips, Example
from .model import RDMF
from .stage_one.encoder_of import extraction_for
from .training.checkpoint import RunInfo, load_best, load_run_info


@dataclass(frozen=True)
class Answer:
    """What a run says of one sentence about one video."""

    video: Path
    sentence: str
    found: Found

    def to_json(self) -> dict[str, Any]:
        """Seconds and probabilities, rounded to what they mean."""
        return {
            "video": str(self.video),
            "query": self.sentence,
            "moments": [
                {"start_s": round(s, 3), "end_s": round(e, 3), "confidence": round(c, 4)}
                for s, e, c in self.found.windows.tolist()
            ],
            "saliency": [
                {"start_s": round(s, 3), "end_s": round(e, 3), "score": round(p, 4)}
                for (s, e), p in zip(self.found.times_s.tolist(), self.found.saliency.tolist(), strict=True)
            ],
        }


@dataclass(frozen=True)
class Asked:
    """A run, and a video with sentences as the run reads them: encoded, ready to answer or for inspection/trace.py."""

    video: Path
    info: RunInfo
    model: RDMF
    examples: list[Example]
    """One for each sentence."""

    def answers(self) -> list[Answer]:
        """Moments for each sentence, most confident first."""
        found = ask(self.model, self.examples, self.info.config.model.moment.iou_share, self.info.max_clips)
        return [Answer(self.video, e.query.text, f) for e, f in zip(self.examples, found, strict=True)]


def predict(
    video: Path,
    sentences: Sequence[str],
    run: Path,
    *,
    video_weights: str | None = None,
    text_encoder: str | None = None,
    device: str = "cpu",
) -> list[Answer]:
    """Moments of a video file for each sentence, most confident first.

    video_weights, text_encoder: where the run's encoders are now, if not where they come from.
    Raises VideoError where the video cannot be decoded, ValueError where the run or its encoders cannot be used.
    """
    return encode(
        video, sentences, run, video_weights=video_weights, text_encoder=text_encoder, device=device
    ).answers()


def encode(
    video: Path,
    sentences: Sequence[str],
    run: Path,
    *,
    video_weights: str | None = None,
    text_encoder: str | None = None,
    device: str = "cpu",
) -> Asked:
    """The first half of `predict`, with the same arguments: all but the answers."""
    if not sentences or not all(s.strip() for s in sentences):
        raise ValueError("expected at least one sentence that is not empty")
    if not video.is_file():
        raise ValueError(f"there is no video file {video}")
    info = load_run_info(run)
    _refuse_imported(info)
    model = load_best(run, info).to(usable_device(device))
    clips = _encode_video(video, info, video_weights, text_encoder, device)
    words = _encode_sentences(sentences, info.text_spec, text_encoder, device)
    nothing = torch.zeros(len(clips.values))
    examples = [
        Example(Query(str(i), video.stem or "video", s, "predict"), clips, w, torch.zeros(0, 2), nothing, False)
        for i, (s, w) in enumerate(zip(sentences, words, strict=True))
    ]
    return Asked(video, info, model, examples)


def _refuse_imported(info: RunInfo) -> None:
    """An imported store says neither which weights made it nor what they were fed, whatever it is called."""
    for spec in (*info.video_specs, info.text_spec):
        if str(spec.weights.get("source", "")).startswith(IMPORTED):
            raise ValueError(
                f"the run was trained on {spec.kind} features named {spec.encoder}, which rdmf cannot compute (they "
                "were imported); it can evaluate imported features, but predict only with encoders of its own"
            )


def _encode_video(video: Path, info: RunInfo, weights: str | None, text_encoder: str | None, device: str) -> Clips:
    parts: list[Item] = []
    for spec in info.video_specs:
        extraction = extraction_for(spec, weights, text_encoder, device)
        if not isinstance(extraction, VideoExtraction):
            raise ValueError(f"the run was trained on {spec.encoder}, captions of each clip: a video file has none")
        parts.append(extract_video(video, extraction()))
    rows = min(len(part.values) for part in parts)
    # through float16, as the store would have it: the model sees what it was trained on
    values = np.concatenate([part.values[:rows].astype(np.float16) for part in parts], axis=1)
    times_s = parts[0].times_s
    assert times_s is not None
    return Clips(torch.from_numpy(values).float(), times_s[:rows])


def _encode_sentences(
    sentences: Sequence[str], spec: StoreSpec, text_encoder: str | None, device: str
) -> list[torch.Tensor]:
    extraction = extraction_for(spec, None, text_encoder, device)
    items = extraction()([Source(str(i), sentence) for i, sentence in enumerate(sentences)])
    values = {item.id: item.values for item in items if isinstance(item, Item)}
    if len(values) != len(sentences):
        raise ValueError("expected sentences of at least one word each")
    return [torch.from_numpy(values[str(i)].astype(np.float16)).float() for i in range(len(sentences))]
