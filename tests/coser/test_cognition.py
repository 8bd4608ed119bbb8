from __future__ import annotations

import re

import accelerate
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from diffusers.hooks import apply_group_offloading
from transformers import CLIPVisionModelWithProjection

from diffusers_sr.coser import srresnet
from diffusers_sr.coser.cognition import (
    IMAGE_MEAN,
    IMAGE_STD,
    CognitiveEncoder,
    CognitiveEncoderOutput,
    cognitive_loss,
    cognitive_target,
    freeze_clip,
)
from diffusers_sr.coser.convert_cognition import cognitive_encoder_from_official, official_key
from diffusers_sr.coser.srresnet import SRResNet

VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
Q_FORMER = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "cross_attention_frequency": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


@pytest.fixture
def encoder() -> CognitiveEncoder:
    """Every parameter random, and large enough for every layer to matter."""
    torch.manual_seed(0)
    encoder = CognitiveEncoder(
        num_queries=5, srresnet_channels=4, srresnet_blocks=2, vision_config=VISION, qformer_config=Q_FORMER
    )
    for name, parameter in encoder.named_parameters():
        torch.nn.init.normal_(parameter, std=0.15 if name.startswith("srresnet") else 0.3)
    return encoder.eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 10, 13, generator=torch.Generator().manual_seed(1))


def embedding(encoder: CognitiveEncoder, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder(image).embedding


def assert_same(loaded: CognitiveEncoder, encoder: CognitiveEncoder, image: torch.Tensor) -> None:
    """Equal weights and buffers, and an embedding up to what the kernels make of another memory alignment."""
    assert loaded.config.keys() >= {"vision_config", "qformer_config"}
    for (name, tensor), other in zip(encoder.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(tensor, other), name
    for (name, tensor), other in zip(encoder.named_buffers(), loaded.buffers(), strict=True):
        assert torch.equal(tensor, other), name
    tolerance = 1e-4 if loaded.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(embedding(loaded, image), embedding(encoder, image), atol=tolerance, rtol=tolerance)


# What it computes


def test_every_image_has_its_own_embedding(encoder, image):
    output = encoder(image)
    assert output.embedding.shape == (2, 5, 32)
    assert output.image_tokens.shape == (2, 1 + 4, 12)
    assert not torch.allclose(output.embedding[0], output.embedding[1], atol=1e-2)
    alone = encoder(image[1:])
    torch.testing.assert_close(alone.embedding, output.embedding[1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.image_tokens, output.image_tokens[1:], atol=1e-4, rtol=1e-4)


def test_every_weight_matters(encoder, image):
    encoder(image).embedding.square().sum().backward()
    # A key's bias shifts all scores of a query alike, which the softmax does not see; the tokens are those before
    # CLIP's last norm.
    idle = (".k_proj.bias", ".key.bias", ".post_layernorm.weight", ".post_layernorm.bias")
    for name, parameter in encoder.named_parameters():
        if name.endswith(idle[2:]):
            assert parameter.grad is None, name
        elif not name.endswith(idle):
            assert parameter.grad.abs().max() > 0, name


def test_image_tokens_are_the_projection_of_the_last_block(encoder, image):
    given = {}
    handle = encoder.clip.register_forward_pre_hook(lambda _, arguments: given.update(pixel_values=arguments[0]))
    with torch.no_grad():
        tokens = encoder(image).image_tokens
        handle.remove()
        clip = CLIPVisionModelWithProjection(encoder.clip.config).eval()
        clip.load_state_dict(encoder.clip.state_dict())
        last = clip(given["pixel_values"], output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(tokens, last @ clip.visual_projection.weight.T)
        assert not torch.allclose(tokens, clip.visual_projection(clip.vision_model.post_layernorm(last)), atol=0.1)


def bicubic_matrix(length: int, size: int) -> torch.Tensor:
    """Cubic convolution with a = -0.75 at pixel centres, the border repeated: one row of weights for each result."""
    matrix = torch.zeros(size, length, dtype=torch.float64)
    for row in range(size):
        centre = (row + 0.5) * length / size - 0.5
        for position in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - position)
            weight = 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(position, 0), length - 1)] += weight
    return matrix


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (10, 13), (40, 11)])
def test_clip_sees_the_enlarged_image_squashed_without_antialiasing_or_clipping(encoder, size):
    """Smaller and larger than CLIP's square of 28 pixels."""
    seen = {}
    encoder.srresnet.register_forward_hook(lambda _, arguments, output: seen.update(enlarged=output))
    encoder.clip.register_forward_pre_hook(lambda _, arguments: seen.update(pixel_values=arguments[0]))
    with torch.no_grad():
        for parameter in encoder.double().srresnet.parameters():
            parameter.mul_(3)
        encoder(torch.rand(1, 3, *size))
    enlarged = seen["enlarged"]
    assert enlarged.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert enlarged.min() < 0 or enlarged.max() > 1
    rows, columns = (bicubic_matrix(length, 28) for length in enlarged.shape[-2:])
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    expected = (rows @ enlarged @ columns.T - mean) / std
    torch.testing.assert_close(seen["pixel_values"], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8), (2, 8, 8, 3)])
def test_an_image_is_an_rgb_batch(encoder, shape):
    with pytest.raises(ValueError, match=re.escape(f"{list(shape)}, but has to be [B, 3, H, W]")):
        encoder(torch.zeros(shape))


def test_dropout_is_for_training_alone(encoder, image):
    assert torch.equal(embedding(encoder, image), embedding(encoder, image))
    encoder.train()
    assert not torch.equal(embedding(encoder, image), embedding(encoder, image))


# SRResNet


def test_new_srresnet_is_nearly_the_bilinear_enlargement():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 6, 9)
    bilinear = F.interpolate(image, scale_factor=4, mode="bilinear")
    with torch.no_grad():
        enlarged = SRResNet(8, 2)(image)
    assert 0 < (enlarged - bilinear).abs().max() < 1e-2


@pytest.mark.parametrize("size", [(20, 20), (41, 7), (23, 39)])
def test_tiles_of_the_enlarged_image_are_those_of_the_whole(encoder, size, monkeypatch):
    """Pixels of a tile depend on others up to the whole margin away."""
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    network = encoder.srresnet.double()
    with torch.no_grad():
        whole = network(image)
        sizes = []
        network.conv_first.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[-2:]))
        monkeypatch.setattr(srresnet, "TILE", 8)
        torch.testing.assert_close(network(image), whole, atol=1e-12, rtol=0)
    assert len(sizes) == -(-size[0] // 8) * -(-size[1] // 8)
    assert max(max(tile) for tile in sizes) <= 8 + 2 * 7


# Training


def test_frozen_clip_lets_gradients_through(encoder, image):
    assert freeze_clip(encoder) is encoder
    encoder(image).embedding.square().sum().backward()
    assert all(parameter.grad is None for parameter in encoder.clip.parameters())
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"srresnet", "qformer", "query_tokens"}
    assert all(parameter.grad.abs().max() > 0 for parameter in encoder.srresnet.parameters())
    assert encoder.query_tokens.grad.abs().max() > 0


def test_gradient_checkpointing_gives_equal_gradients(encoder, image):
    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)  # dropout is the same in both runs
        encoder.zero_grad()
        encoder(image).embedding.square().mean().backward()
        trained = (item for item in encoder.named_parameters() if item[1].requires_grad)
        return {name: parameter.grad.clone() for name, parameter in trained}

    freeze_clip(encoder).train()
    plain = gradients()
    encoder.enable_gradient_checkpointing()
    assert encoder.is_gradient_checkpointing
    calls = []
    for block in (encoder.srresnet.body[0], encoder.qformer.encoder.layer[0].attention):
        block.register_forward_pre_hook(lambda module, _: calls.append(module))
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=lambda text, name=name: f"{name}: {text}")
    assert len(calls) == 4  # each block once forward, once again for its gradients


# The end-of-text token has the largest id, and is followed by padding of the same or of a smaller one.
@pytest.mark.parametrize(
    ("token_ids", "positions"),
    [
        ([90, 5, 99, 0, 0, 0, 0, 0], [0, 1, 2, 2, 2]),
        ([90, 5, 99, 99, 99, 99, 99, 99], [0, 1, 2, 2, 2]),
        ([90, 5, 6, 7, 99, 0, 0, 0], [0, 1, 2, 3, 4]),
        ([90, 5, 6, 7, 8, 99, 0, 0], [1, 2, 3, 4, 5]),
        ([90, 5, 6, 7, 8, 9, 10, 99], [3, 4, 5, 6, 7]),
        ([99, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
    ],
)
def test_target_is_the_last_tokens_up_to_the_end_of_text(token_ids, positions):
    states = torch.randn(2, 8, 3)
    other = [90, 5, 6, 99, 0, 0, 0, 0]
    target = cognitive_target(states, torch.tensor([token_ids, other]), 5)
    assert torch.equal(target, torch.stack([states[0, positions], states[1, [0, 1, 2, 3, 3]]]))


def test_target_of_more_queries_than_tokens():
    states = torch.randn(1, 3, 2)
    target = cognitive_target(states, torch.tensor([[90, 4, 99]]), 6)
    assert torch.equal(target, states[:, [0, 1, 2, 2, 2, 2]])


def test_loss_is_the_mean_squared_error_in_single_precision():
    states = torch.randn(1, 8, 3)
    token_ids = torch.tensor([[90, 5, 6, 99, 0, 0, 0, 0]])
    given = torch.randn(1, 4, 3, requires_grad=True)
    loss = cognitive_loss(given, states, token_ids)
    torch.testing.assert_close(loss, (given - states[:, :4]).square().mean())
    loss.backward()
    torch.testing.assert_close(given.grad, (given.detach() - states[:, :4]) * 2 / 12)
    assert cognitive_loss(given.half(), states.half(), token_ids).dtype == torch.float32


def test_every_token_has_its_state():
    with pytest.raises(ValueError, match=re.escape("[1, 7], but `text_hidden_states` has [1, 8, 3]")):
        cognitive_target(torch.zeros(1, 8, 3), torch.zeros(1, 7, dtype=torch.long), 5)


# As a component


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


# Official weights


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
