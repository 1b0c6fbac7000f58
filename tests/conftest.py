"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data made by others: annotations, predictions, videos. Skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RDMF_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"the shared data folder {folder} is absent; set RDMF_SHARED_DATA to where it is")
    return folder
