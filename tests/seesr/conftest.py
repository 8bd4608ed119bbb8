"""Fixtures of SeeSR's tests: a pipeline with the official files it is made of, and a tagger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_sr.seesr.tagger import Tagger
from tests.components import components
from tests.seesr.official_files import TAGS, official_dape, official_ram, write_official_model
from tests.seesr.taggers import new_tagger


@pytest.fixture(scope="module")
def original() -> dict[str, Any]:
    return components("seesr")


@pytest.fixture
def official(original, tmp_path) -> Path:
    """Folder with everything official: unet/, controlnet/, ram.pth, DAPE.pth, tags/, and a base/ of the same UNet."""
    folder = tmp_path / "official"
    write_official_model(folder / "unet", original["unet"], original["adapter"].unet)
    write_official_model(folder / "controlnet", original["controlnet"], original["adapter"].controlnet)
    ram = official_ram()
    captioning = {"tag_encoder.encoder.layer.0.attention.self.query.weight": torch.ones(12, 12)}
    buffers = {"visual_encoder.layers.0.blocks.1.attn_mask": torch.zeros(4, 4, 4)}
    torch.save({"model": {**ram, **captioning, **buffers}}, folder / "ram.pth")
    torch.save(official_dape(ram), folder / "DAPE.pth")
    (folder / "tags").mkdir()
    (folder / "tags" / "ram_tag_list.txt").write_text("\n".join(TAGS))
    (folder / "tags" / "ram_tag_list_threshold.txt").write_text("0.65\n0.8\n0.5\n")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        original[name].save_pretrained(folder / "base" / name)
    return folder


@pytest.fixture
def tagger() -> Tagger:
    return new_tagger()


@pytest.fixture
def pixel_values(tagger: Tagger) -> torch.Tensor:
    return tagger.preprocess(torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(1)))
