"""The search for references: what CLIP has seen is kept, and an interrupted search continues."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusers_sr.data.lists import list_images
from tests.training.runs import script, write_noise_photos


def test_an_interrupted_search_sees_no_photo_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_noise_photos(tmp_path / "photos", 5, 16)
    paths = list_images(tmp_path / "photos")
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        image_size=16, patch_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=4,
    )  # fmt: skip
    clip = CLIPVisionModelWithProjection(config).eval()
    search = script("find_references")
    expected = search.embeddings(paths, clip)
    assert expected.shape == (5, 4)

    monkeypatch.setattr(search, "PHOTOS_PER_PART", 2)
    kept = tmp_path / "kept"
    whole = paths[3].read_bytes()
    paths[3].write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"3\.png cannot be read"):
        search.kept_embeddings(paths, clip, kept)
    assert [path.name for path in kept.iterdir()] == ["00000000.safetensors"]
    for path in paths[:2]:
        path.unlink()
    paths[3].write_bytes(whole)
    assert torch.equal(search.kept_embeddings(paths, clip, kept), expected)
    for path in paths[2:]:
        path.unlink()
    assert torch.equal(search.kept_embeddings(paths, clip, kept), expected)
