"""The official weights of the cognitive encoder."""

from __future__ import annotations

import accelerate
import pytest
import torch
from transformers import CLIPVisionModelWithProjection

from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.convert_cognition import cognitive_encoder_from_official, official_key
from tests.coser.cognitive_encoders import Q_FORMER, VISION, assert_same


@pytest.fixture
def clip(encoder) -> CLIPVisionModelWithProjection:
    clip = CLIPVisionModelWithProjection(encoder.clip.config)
    clip.load_state_dict(encoder.clip.state_dict())
    return clip


@pytest.fixture
def official(encoder) -> dict[str, torch.Tensor]:
    """As the official files hold it: with BERT's text half, and with the rest of the model."""
    qformer = "global_adapter.Qformer"
    weights = {
        official_key(name): tensor.clone() for name, tensor in encoder.state_dict().items() if "clip." not in name
    }
    for layer in range(3):
        for name in ("intermediate.dense", "output.dense", "output.LayerNorm"):
            weights[f"{qformer}.encoder.layer.{layer}.{name}.weight"] = torch.randn(3)
    weights |= {f"{qformer}.embeddings.{kind}_embeddings.weight": torch.randn(9, 32) for kind in ("word", "position")}
    weights[f"{qformer}.embeddings.position_ids"] = torch.arange(9)[None]
    weights["cond_stage_model.model.visual.proj"] = torch.randn(16, 12)
    return weights


def test_official_names():
    names = {
        "srresnet.body.3.conv2.bias": "pre_sr_model.body.3.conv2.bias",
        "query_tokens": "global_adapter.query_tokens",
        "qformer.layernorm.weight": "global_adapter.Qformer.embeddings.LayerNorm.weight",
        "qformer.encoder.layer.0.attention.attention.key.bias": (
            "global_adapter.Qformer.encoder.layer.0.attention.self.key.bias"
        ),
        "qformer.encoder.layer.2.crossattention.attention.value.weight": (
            "global_adapter.Qformer.encoder.layer.2.crossattention.self.value.weight"
        ),
        "qformer.encoder.layer.2.crossattention.output.dense.weight": (
            "global_adapter.Qformer.encoder.layer.2.crossattention.output.dense.weight"
        ),
        "qformer.encoder.layer.1.output_query.LayerNorm.bias": (
            "global_adapter.Qformer.encoder.layer.1.output_query.LayerNorm.bias"
        ),
    }
    for own, expected in names.items():
        assert official_key(own) == expected


def test_from_official_weights(encoder, official, clip, image):
    converted = cognitive_encoder_from_official(official, clip.half().float())
    assert not converted.training
    assert dict(converted.config.vision_config) == VISION
    assert dict(converted.config.qformer_config) == Q_FORMER
    encoder.clip.load_state_dict(clip.state_dict())
    assert_same(converted, encoder, image)
    official["global_adapter.query_tokens"].zero_()
    assert converted.query_tokens.any()


def test_converted_weights_have_one_dtype(official, clip):
    converted = cognitive_encoder_from_official(official, clip.half())
    assert {parameter.dtype for parameter in converted.parameters()} == {torch.float32}


def test_all_wrong_keys_are_listed_by_their_official_names(official, clip):
    del official["pre_sr_model.body.1.conv2.bias"]
    del official["global_adapter.Qformer.encoder.layer.0.attention.self.query.weight"]
    official["global_adapter.Qformer.pooler.dense.bias"] = torch.zeros(2)
    official["pre_sr_model.conv_last.weight"] = torch.zeros(3, 4, 1, 1)
    with pytest.raises(ValueError) as error:
        cognitive_encoder_from_official(official, clip)
    for line in (
        "2 missing",
        "pre_sr_model.body.1.conv2.bias [4]",
        "global_adapter.Qformer.encoder.layer.0.attention.self.query.weight [32, 32]",
        "1 unexpected",
        "global_adapter.Qformer.pooler.dense.bias [2]",
        "1 mis-shaped",
        "pre_sr_model.conv_last.weight is [3, 4, 1, 1], expected [3, 4, 3, 3]",
    ):
        assert line in str(error.value)


def test_missing_last_blocks_of_the_published_sizes_are_noticed(clip):
    with accelerate.init_empty_weights():
        short = CognitiveEncoder(
            srresnet_blocks=15,
            vision_config=VISION,
            qformer_config={**Q_FORMER, "hidden_size": 1024, "num_hidden_layers": 11},
        )
    weights = {official_key(name): tensor for name, tensor in short.state_dict().items() if "clip." not in name}
    with pytest.raises(ValueError) as error:
        cognitive_encoder_from_official(weights, clip)
    for line in (
        "pre_sr_model.body.15.conv1.weight [64, 64, 3, 3]",
        "global_adapter.Qformer.encoder.layer.11.output_query.dense.weight [1024, 40]",
    ):
        assert line in str(error.value)


def test_other_weights_are_refused(clip):
    with pytest.raises(ValueError, match=r"missing:\n  pre_sr_model.conv_first.weight\n"):
        cognitive_encoder_from_official({"model.diffusion_model.out.0.weight": torch.zeros(1)}, clip)


def test_q_former_and_clip_belong_together(official, encoder):
    encoder.clip.config.projection_dim = 8
    with pytest.raises(ValueError, match=r"tokens of 12 channels, but this CLIP's have 8"):
        cognitive_encoder_from_official(official, CLIPVisionModelWithProjection(encoder.clip.config))
