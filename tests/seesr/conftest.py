"""Fixtures of SeeSR's tests: a pipeline with the official files it is made of, and a tagger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_sr.seesr.tagger import Tagger
from tests.components import components
from tests.seesr.official_files import write_official
from tests.seesr.taggers import new_tagger


@pytest.fixture(scope="module")
def original() -> dict[str, Any]:
    return components("seesr")


@pytest.fixture
def official(original, tmp_path) -> Path:
    """Folder with everything official, as `write_official` writes it."""
    folder = tmp_path / "official"
    write_official(folder, original)
    return folder


@pytest.fixture
def tagger() -> Tagger:
    return new_tagger()


@pytest.fixture
def pixel_values(tagger: Tagger) -> torch.Tensor:
    return tagger.preprocess(torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(1)))
