"""Captions in place of pixels: one sentence per clip, encoded by a BERT, is one feature per clip.

`--video-encoder captions:BERT` reads `--videos` as caption files (see caption_files.py). The feature of a clip is
the mean of the last hidden states of all its caption's tokens, [CLS] and [SEP] too: what sentence-transformers
models such as MiniLM call the sentence embedding, before its length is made 1. The store is named after captions
and says so in its spec: they are never mistaken for features of the pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..manifests.schema import Finding, Manifest
from .caption_files import read_captions
from .clips import clip_bounds
from .extractors import one_thread_on_cpu
from .layout import Extractor, Failure, Item, Source, StoreSpec, text_sha256
from .video_files import VideoSources

if TYPE_CHECKING:
    from .encoders import TextEncoder

PREFIX = "captions:"
"""The name of a video encoder that reads captions: this, and the name of the BERT."""
RECORDED_PREFIX = "captions-"
"""What the encoder's name in a store begins with."""
CLIPS_OFF = 1
"""Captioners differ in what they do with the rest of a video that is shorter than a clip."""


@dataclass(frozen=True)
class CaptionExtraction:
    """One feature per clip from its caption, by the BERT of that name, folder or hub id."""

    bert: str
    clip_seconds: float
    device: str = "cpu"

    def spec(self) -> StoreSpec:
        """The spec of the store. Raises ValueError for a model that cannot be had."""
        from .encoders import describe_text_encoder

        spec, dim, _ = describe_text_encoder(self.bert)
        preprocessing = {
            **spec["preprocessing"],
            "input": "one caption per clip",
            "special_tokens": "read, in the mean",
            "pooling": "mean of the tokens",
        }
        name = f"{RECORDED_PREFIX}{spec['encoder']}"
        return StoreSpec("video", name, spec["weights"], preprocessing, self.clip_seconds, dim)

    def __call__(self) -> Extractor:
        from .encoders import load_text_encoder

        one_thread_on_cpu(self.device)
        encoder = load_text_encoder(self.bert, self.device)
        return lambda sources: extract_captions(sources, encoder, self.clip_seconds)


def caption_sources(place: Path, manifest: Manifest) -> VideoSources:
    """The captions in `place`, a folder or a zip file, of the videos that the manifest's queries are about.

    A video's duration is the manifest's, or as many clips as it has captions. With one caption more than clips, the
    last one is left out; with one less, the last clip has no feature. More of a difference is a failure of the video.
    Raises ValueError where `place` cannot be read, or holds captions of none of the videos.
    """
    vids = list(dict.fromkeys(query.vid for query in manifest.queries))
    captions, unusable, missing = read_captions(place, vids)
    if len(missing) == len(vids):
        raise ValueError(
            f"{place} holds captions of none of the {len(vids)} videos that the annotations name; expected a folder "
            f"or a zip file of files such as {vids[0]}.jsonl"
        )
    failures = [Failure(vid, "missing", f"no caption file of this name in {place}") for vid in missing]
    failures += [Failure(vid, "captions", reason) for vid, reason in unusable.items()]
    found = VideoSources(str(place), [], failures, [])
    for vid, texts in captions.items():
        duration_s = manifest.videos[vid].duration_s or len(texts) * manifest.clip_seconds
        clips = len(clip_bounds(duration_s, manifest.clip_seconds)) if texts else 0
        got = f"{len(texts)} captions for the {clips} clips of {manifest.clip_seconds:g} s in {duration_s:g} s"
        if not texts:
            found.failures.append(Failure(vid, "captions", "expected one caption per clip, got none"))
            continue
        if abs(len(texts) - clips) > CLIPS_OFF:
            reason = f"expected one caption per clip, got {got}; --clip-seconds says how long a clip is"
            found.failures.append(Failure(vid, "captions", reason))
            continue
        if len(texts) != clips:
            consequence = "the last one is left out" if len(texts) > clips else "the last clip has no feature"
            detail = f"video {vid} has {got}: {consequence}"
            found.findings.append(Finding(place.name, "", "fitted captions", detail))
        content = json.dumps({"duration_s": duration_s, "captions": texts[:clips]})
        found.sources.append(Source(vid, content, stamp=text_sha256(content)))
    return found


def extract_captions(sources: Sequence[Source], encoder: TextEncoder, clip_seconds: float) -> Iterator[Item]:
    """The features of the sources that `caption_sources` made; the captions of all are encoded together."""
    videos = [json.loads(source.content) for source in sources]
    vectors = sentence_vectors([caption for video in videos for caption in video["captions"]], encoder)
    for source, video in zip(sources, videos, strict=True):
        values = np.stack([vectors[caption] for caption in video["captions"]])
        times_s = clip_bounds(video["duration_s"], clip_seconds)[: len(values)]
        yield Item(source.id, values, times_s, video["duration_s"], text_sha256(source.content))


def sentence_vectors(sentences: Iterable[str], encoder: TextEncoder) -> dict[str, np.ndarray]:
    """The mean of each sentence's tokens, the model's own too, float32 [dim]; an empty sentence has only these."""
    from .bert import BATCH

    distinct = list(dict.fromkeys(sentences))
    tokens = encoder.tokenizer(distinct, truncation=True, max_length=encoder.max_tokens)["input_ids"]
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(tokens):
        by_length.setdefault(len(ids), []).append(i)
    vectors: dict[str, np.ndarray] = {}
    for same_length in by_length.values():
        for start in range(0, len(same_length), BATCH):
            group = same_length[start : start + BATCH]
            hidden = encoder.last_hidden([tokens[i] for i in group])
            vectors.update((distinct[i], states.mean(axis=0)) for i, states in zip(group, hidden, strict=True))
    return vectors
