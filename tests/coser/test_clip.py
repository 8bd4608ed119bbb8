"""CoSeR's CLIP, from a folder or the Hub."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from diffusers_sr.coser.clip import load_clip
from tests.coser.cognitive_encoders import VISION


def test_clip_of_a_folder_of_its_own(original, tmp_path):
    clip = original["cognitive_encoder"].clip
    CLIPVisionModelWithProjection.save_pretrained(clip.half(), tmp_path)
    loaded = load_clip(tmp_path)
    clip.float()
    assert loaded.dtype == torch.float16
    assert loaded.config.projection_dim == 12
    assert torch.equal(loaded.visual_projection.weight, clip.visual_projection.weight.half())


def test_clip_that_is_none(official, tmp_path):
    for clip in ("no/clip", str(tmp_path), str(official / "base" / "unet"), str(official / "base")):
        with pytest.raises(
            OSError, match=f"could not be loaded from '{clip}': give a Hub id, such as 'laion/CLIP-ViT"
        ):
            load_clip(clip)
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks weights of CLIP's .*: visual_projection.weight"):
        load_clip(tmp_path)
