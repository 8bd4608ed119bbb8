"""The cognitive encoder as a component: saved and loaded, in half precision, offloaded."""

from __future__ import annotations

import accelerate
import pytest
import torch
from accelerate.utils import send_to_device
from diffusers.hooks import apply_group_offloading

from diffusers_sr.coser.cognition import CognitiveEncoder, CognitiveEncoderOutput
from tests.coser.cognitive_encoders import Q_FORMER, VISION, assert_same, embedding


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_save_and_load(encoder, image, tmp_path, low_cpu_mem_usage):
    encoder.save_pretrained(tmp_path)
    loaded = CognitiveEncoder.from_pretrained(tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert_same(loaded, encoder, image)
    assert loaded.config.vision_config == VISION
    assert loaded.config.qformer_config == Q_FORMER


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(encoder, image, tmp_path, dtype):
    expected = embedding(encoder, image)
    encoder.to(dtype).save_pretrained(tmp_path, variant="half")
    loaded = CognitiveEncoder.from_pretrained(tmp_path, variant="half", torch_dtype=dtype)
    assert loaded.dtype == dtype
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert_same(loaded, encoder, image)
    output = loaded(image)  # in single precision
    assert output.embedding.dtype == output.image_tokens.dtype == dtype
    assert (output.embedding - expected).norm() < 0.05 * expected.norm()


def test_default_is_the_official_size():
    with accelerate.init_empty_weights():
        encoder = CognitiveEncoder()
    shapes = {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()}
    assert shapes["query_tokens"] == (1, 50, 1024)
    assert shapes["srresnet.upconv2.weight"] == (256, 64, 3, 3)
    assert shapes["clip.vision_model.embeddings.position_embedding.weight"] == (257, 1280)
    assert shapes["clip.visual_projection.weight"] == (1024, 1280)
    assert shapes["qformer.encoder.layer.11.intermediate_query.dense.weight"] == (3072, 1024)
    assert sum("crossattention.attention.key.weight" in name for name in shapes) == 6
    # The published counts of the vision tower and of MSRResNet.
    assert sum(parameter.numel() for parameter in encoder.clip.parameters()) == 632_076_800
    assert sum(parameter.numel() for parameter in encoder.srresnet.parameters()) == 1_517_571
    assert encoder.clip.config.hidden_act == encoder.qformer.config.hidden_act == "gelu"
    assert encoder.qformer.config.layer_norm_eps == 1e-12


def test_offloaded_weights_are_brought_in(encoder, image):
    expected = embedding(encoder, image)
    accelerate.cpu_offload(encoder, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in encoder.parameters())
    assert torch.equal(embedding(encoder, image), expected)


@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_group_offloading(encoder, image, offload_type):
    expected = embedding(encoder, image)
    apply_group_offloading(
        encoder, onload_device="cpu", offload_device="cpu", offload_type=offload_type, num_blocks_per_group=1
    )
    blocks = [encoder.srresnet.body[0], encoder.clip.vision_model.encoder.layers[1], encoder.qformer.encoder.layer[2]]
    layers = [encoder.srresnet.conv_last, encoder.clip.visual_projection, encoder.qformer.layernorm]
    for module in blocks if offload_type == "block_level" else layers[:2]:
        assert module._diffusers_hook.get_hook("group_offloading") is not None
    assert torch.equal(embedding(encoder, image), expected)


def test_layerwise_casting(encoder, image):
    expected = embedding(encoder, image)
    encoder.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert encoder.clip.vision_model.encoder.layers[0].mlp.fc1.weight.dtype == torch.float8_e4m3fn
    assert encoder.dtype == torch.float32
    assert 0 < (embedding(encoder, image) - expected).norm() < 0.3 * expected.norm()


def test_blocks_are_called_by_the_names_of_their_classes(encoder):
    names = {type(module).__name__ for module in encoder.modules()}
    assert names >= {*encoder._repeated_blocks, *encoder._no_split_modules}


def test_output_can_be_moved_between_devices_by_accelerate():
    output = CognitiveEncoderOutput(embedding=torch.ones(1, 2, 3), image_tokens=torch.zeros(1, 3, 4))
    moved = send_to_device(output, "meta")
    assert isinstance(moved, CognitiveEncoderOutput)
    assert moved.embedding.is_meta and moved.image_tokens.is_meta
    assert moved.image_tokens.shape == (1, 3, 4)
