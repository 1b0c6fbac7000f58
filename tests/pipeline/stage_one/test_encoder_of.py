"""The encoder that made features is found again, and no other is taken for it."""

from __future__ import annotations

import pytest

from rdmf.extract.extractors import TextExtraction, VideoExtraction
from rdmf.extract.imports import IMPORTED
from rdmf.extract.layout import StoreSpec
from rdmf.pipeline.stage_one.encoder_of import NotComputable, extraction_for


def test_the_encoder_must_be_the_very_one_that_made_the_features() -> None:
    video = VideoExtraction("swin_nano", None, 2.0).spec()
    text = TextExtraction("bert_nano").spec()
    assert extraction_for(video).spec() == video
    assert extraction_for(text).spec() == text
    other = {**video.weights, "sha256": "f" * 64}
    fed_differently = {**video.preprocessing, "frames": 4}
    for spec in (
        StoreSpec("video", "swin_nano", other, video.preprocessing, 2.0, video.dim),
        StoreSpec("video", "swin_nano", video.weights, fed_differently, 2.0, video.dim),
    ):
        with pytest.raises(ValueError, match=r"swin_nano here has .* or is fed differently; .* --video-weights FILE"):
            extraction_for(spec)
    local = StoreSpec("video", "swin_t", {"source": "local file my.pth", "sha256": "a"}, {}, 2.0, 768)
    with pytest.raises(ValueError, match=r"of a local file my\.pth; give it with --video-weights FILE"):
        extraction_for(local)
    imported = StoreSpec("video", "swin_t", {"source": f"{IMPORTED} slowfast", "sha256": "a"}, {}, 2.0, 768)
    with pytest.raises(NotComputable, match="were imported from slowfast, rdmf cannot compute them"):
        extraction_for(imported)
