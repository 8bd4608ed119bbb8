"""CFW: a stock autoencoder decodes with features of the image, and never knows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.hooks import apply_group_offloading
from torch import nn

from diffusers_sr.coser.cfw import ControllableFeatureWrapping, Features, cfw_state_dict, crop_features
from diffusers_sr.image.tiling import Window, crop_tiles, tile_windows
from tests.components import randomise


class Models:
    """An autoencoder, fusion layers that make a difference, and what goes into them."""

    def __init__(self, channels: tuple[int, ...] = (8, 16, 24, 32)) -> None:
        torch.manual_seed(0)
        self.vae = new_vae(channels)
        self.cfw = randomise(ControllableFeatureWrapping.from_vae(self.vae, num_rrdbs=1, growth_channels=4)).eval()
        self.factor = 2 ** (len(channels) - 1)
        self.image = 2 * torch.rand(2, 3, 3 * self.factor, 5 * self.factor) - 1
        self.latents = torch.randn(2, 4, 3, 5)

    @torch.no_grad()
    def features(self, image: torch.Tensor | None = None) -> Features:
        return self.cfw.encode(self.vae, self.image if image is None else image)[1]

    @torch.no_grad()
    def decode(self, weight: float = 0.5) -> torch.Tensor:
        return self.cfw.decode(self.vae, self.latents, self.features(), weight)

    @torch.no_grad()
    def stock(self) -> torch.Tensor:
        return self.vae.decode(self.latents).sample


def new_vae(channels: tuple[int, ...]) -> AutoencoderKL:
    """One with other channels at every level, so that none can be taken for another."""
    return randomise(
        AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=64,
        )
    ).eval()


def difference(output: torch.Tensor, expected: torch.Tensor) -> float:
    return ((output.float() - expected).norm() / expected.norm()).item()


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.mark.parametrize("channels", [(8, 16, 24, 32), (8, 16, 24)], ids=["4 levels", "3 levels"])
def test_fuses_behind_the_residual_blocks_of_two_levels(channels: tuple[int, ...]) -> None:
    """The autoencoder's own modules, one after another, with the fusion between them."""
    models = Models(channels)
    vae, cfw = models.vae, models.cfw
    with torch.no_grad():
        hidden_states, features = vae.encoder.conv_in(models.image), {}
        for level, block in enumerate(vae.encoder.down_blocks):
            for resnet in block.resnets:
                hidden_states = resnet(hidden_states, None)
            features[level] = hidden_states
            for downsampler in block.downsamplers or []:
                hidden_states = downsampler(hidden_states)
        hidden_states = vae.decoder.mid_block(vae.decoder.conv_in(vae.post_quant_conv(models.latents)))
        for level, block in zip(reversed(range(len(channels))), vae.decoder.up_blocks, strict=True):
            for resnet in block.resnets:
                hidden_states = resnet(hidden_states, None)
            if level in (1, 2):
                layer = cfw.fusion_layers[str(level)]
                hidden_states = hidden_states + 0.3 * layer(features[level], hidden_states)
            for upsampler in block.upsamplers or []:
                hidden_states = upsampler(hidden_states)
        expected = vae.decoder.conv_out(vae.decoder.conv_act(vae.decoder.conv_norm_out(hidden_states)))
        assert [feature.shape[1] for feature in models.features()] == [24, 16]
        assert all(torch.equal(*pair) for pair in zip(models.features(), (features[2], features[1]), strict=True))
        assert torch.equal(models.decode(0.3), expected)


def test_the_posterior_is_the_stock_one(models: Models) -> None:
    with torch.no_grad():
        posterior, _ = models.cfw.encode(models.vae, models.image)
        assert torch.equal(posterior.parameters, models.vae.encode(models.image).latent_dist.parameters)


def test_weight_and_features_matter(models: Models) -> None:
    stock, half, full = models.stock(), models.decode(0.5), models.decode(1)
    assert 0.01 < difference(half, stock) < difference(full, stock)
    for index in range(2):
        features = list(models.features())
        features[index] = models.features(-models.image)[index]
        with torch.no_grad():
            assert difference(models.cfw.decode(models.vae, models.latents, features, 0.5), half) > 1e-3, index


@pytest.mark.parametrize("weight", [0, 0.0, np.float32(0)])
def test_weight_zero_is_the_stock_decoder(models: Models, weight: float) -> None:
    assert torch.equal(models.decode(weight), models.stock())


def test_new_fusion_layers_decode_as_the_stock_decoder_and_learn(models: Models) -> None:
    models.cfw = ControllableFeatureWrapping.from_vae(models.vae, num_rrdbs=1, growth_channels=4)
    assert torch.equal(models.decode(1), models.stock())
    features, target = models.features(), models.image
    optimizer = torch.optim.Adam(models.cfw.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = (models.cfw.decode(models.vae, models.latents, features, 1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in models.cfw.parameters())


def test_gradients_reach_every_fusion_weight_and_the_latents(models: Models) -> None:
    models.vae.requires_grad_(False)
    latents = models.latents.requires_grad_()
    models.cfw.decode(models.vae, latents, models.features(), 0.5).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in models.cfw.parameters())
    assert latents.grad is not None and latents.grad.any()
    assert all(parameter.grad is None for parameter in models.vae.parameters())


def test_save_and_load(models: Models, tmp_path: Path) -> None:
    expected = models.decode()
    models.cfw.save_pretrained(tmp_path)
    models.cfw = ControllableFeatureWrapping.from_pretrained(tmp_path)
    assert torch.equal(models.decode(), expected)


def traces(vae: AutoencoderKL) -> list[Any]:
    """Everything a hook could have left."""
    attributes = [
        (name, key, copy.copy(value) if isinstance(value, dict) else value)  # such as the dictionaries of hooks
        for name, module in vae.named_modules()
        for key, value in module.__dict__.items()
    ]
    return [repr(vae), list(vae.state_dict()), attributes]


def test_the_autoencoder_is_left_as_it_was(models: Models) -> None:
    before, weights, stock = traces(models.vae), copy.deepcopy(models.vae.state_dict()), models.stock()
    models.decode()
    assert traces(models.vae) == before
    assert all(torch.equal(weights[key], tensor) for key, tensor in models.vae.state_dict().items())
    assert torch.equal(models.stock(), stock)


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_the_autoencoder_is_left_as_it_was_after_an_error(models: Models, way: str) -> None:
    before, stock, features = traces(models.vae), models.stock(), models.features()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = getattr(models.vae, f"{way}r").conv_norm_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        if way == "encode":
            models.cfw.encode(models.vae, models.image)
        else:
            models.cfw.decode(models.vae, models.latents, features, 0.5)
    handle.remove()
    assert traces(models.vae) == before
    assert torch.equal(models.stock(), stock)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(models: Models, dtype: torch.dtype) -> None:
    expected = models.decode()
    models.cfw.to(dtype)
    output = models.decode()  # the autoencoder alone in float32, as with Stable Diffusion XL's
    assert output.dtype == torch.float32
    assert 0 < difference(output, expected) < 0.05
    models.vae.to(dtype)
    models.image, models.latents = models.image.to(dtype), models.latents.to(dtype)
    output = models.decode()
    assert output.dtype == dtype
    assert difference(output, expected) < 0.1


def test_tiles(models: Models) -> None:
    """Tiles of the latents are decoded with their part of the features, alone or as a batch."""
    windows, features, latents = tile_windows(3, 5, 3, 1), models.features(), models.latents
    assert len(windows) == 2
    for window in windows:
        for feature, cropped, scale in zip(features, crop_features(features, latents, [window]), (2, 4), strict=True):
            assert torch.equal(cropped, window.crop(feature, scale))
            assert cropped.shape[-2:] == (3 * scale, 3 * scale)

    def decode(group: list[Window]) -> torch.Tensor:
        cropped = crop_features(features, latents, group)
        return models.cfw.decode(models.vae, crop_tiles(latents, group), cropped, 0.5)

    with torch.no_grad():
        alone = [decode([window]) for window in windows]
        torch.testing.assert_close(decode(windows), torch.cat(alone))
        assert difference(*alone) > 0.1


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 56), (40, 24)])
def test_every_size_that_is_a_multiple_of_8(models: Models, height: int, width: int) -> None:
    models.image, models.latents = torch.rand(1, 3, height, width), torch.randn(1, 4, height // 8, width // 8)
    assert models.decode().shape == models.image.shape
    assert difference(models.decode(), models.stock()) > 0.01


def test_slicing(models: Models) -> None:
    expected = models.decode()
    models.vae.enable_slicing()
    torch.testing.assert_close(models.decode(), expected)


@pytest.mark.filterwarnings("ignore:.*Dynamo.*")
@pytest.mark.parametrize("compiled_with_hooks", [False, True])
def test_compiled_autoencoder(models: Models, compiled_with_hooks: bool) -> None:
    """A compiled function looks for new hooks no more: neither must CFW be left out, nor stay in."""
    stock, expected = models.stock(), models.decode()
    for part in ("encoder", "decoder"):
        setattr(models.vae, part, torch.compile(getattr(models.vae, part), backend="eager"))
    if not compiled_with_hooks:
        torch.testing.assert_close(models.stock(), stock)
        models.vae.encode(models.image)
    torch.testing.assert_close(models.decode(), expected)
    torch.testing.assert_close(models.stock(), stock)


def group_offload(offload_type: str) -> Callable[[nn.Module], None]:
    def offload(model: nn.Module) -> None:
        options = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
        apply_group_offloading(model, onload_device="cpu", offload_device="cpu", offload_type=offload_type, **options)

    return offload


@pytest.mark.parametrize(
    "offload",
    [
        pytest.param(lambda model: accelerate.cpu_offload(model, torch.device("cpu")), id="sequential"),
        pytest.param(lambda model: accelerate.cpu_offload_with_hook(model, torch.device("cpu")), id="model"),
        pytest.param(group_offload("leaf_level"), id="group, leaf level"),
        pytest.param(group_offload("block_level"), id="group, block level"),
    ],
)
def test_offloading(models: Models, offload: Callable[[nn.Module], Any]) -> None:
    expected = models.decode()
    for model in (models.vae, models.cfw):
        offload(model)
    assert torch.equal(models.decode(), expected)
    assert torch.equal(models.decode(), expected)


def test_layerwise_casting(models: Models) -> None:
    expected = models.decode()
    for model in (models.vae, models.cfw):
        model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert 0 < difference(models.decode(), expected) < 0.1
    resnet = models.cfw.fusion_layers["1"].resnet_in
    assert (resnet.conv1.weight.dtype, resnet.norm1.weight.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("weight", [-0.1, 1.01, float("nan"), "0.5", None])
def test_weights_that_are_not_allowed(models: Models, weight: Any) -> None:
    with pytest.raises(ValueError, match=r"weight=.*, expected a number from 0"):
        models.cfw.decode(models.vae, models.latents, models.features(), weight)


@pytest.mark.parametrize("levels", [(4,), (1, -1)])
def test_levels_the_autoencoder_lacks(models: Models, levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"has no level (4|-1): choose from \[0, 1, 2, 3\]"):
        ControllableFeatureWrapping.from_vae(models.vae, levels)


@pytest.mark.parametrize("levels", [(2, 2), (2,), (2, 1, 0)])
def test_levels_that_do_not_match_channels(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected each level once, and one number of channels for each"):
        ControllableFeatureWrapping(levels, (32, 32))


def test_any_levels_can_be_fused(models: Models) -> None:
    models.cfw = randomise(ControllableFeatureWrapping.from_vae(models.vae, (0, 3), 1, 4))
    assert [list(feature.shape[1:]) for feature in models.features()] == [[8, 24, 40], [32, 3, 5]]
    assert difference(models.decode(), models.stock()) > 0.01


@pytest.mark.parametrize("channels", [(8, 16, 32, 32), (8, 16)])
def test_another_autoencoder_than_it_was_made_for(models: Models, channels: tuple[int, ...]) -> None:
    models.vae = new_vae(channels)
    for call in (models.features, lambda: models.cfw.decode(models.vae, models.latents, (), 0)):
        with pytest.raises(ValueError, match="expect 24 channels at level 2 of the autoencoder, which has"):
            call()


def test_another_kind_of_autoencoder(models: Models) -> None:
    models.vae = AutoencoderTiny()
    with pytest.raises(TypeError, match="`vae` is an AutoencoderTiny, expected an AutoencoderKL"):
        models.features()
    with pytest.raises(TypeError, match="`vae` is an AutoencoderTiny, expected an AutoencoderKL"):
        ControllableFeatureWrapping.from_vae(models.vae)


def test_images_that_cannot_be_decoded_to(models: Models) -> None:
    with pytest.raises(ValueError, match="20×24 pixels, expected multiples of 8"):
        models.features(torch.zeros(1, 3, 24, 20))


def test_features_that_do_not_fit(models: Models) -> None:
    features = models.features()
    for wrong, message in (
        (features[:1], r"expected one for each of the levels \[2, 1\]"),
        ([feature[:1] for feature in features], "with as many images as there are latents"),
        (models.features(models.image[..., :-8]), r"the features are \[2, 24, 6, 8\], but the decoder's are"),
        (features[::-1], "give those of an image, or a tile, that the latents have the size of"),
    ):
        with pytest.raises(ValueError, match=message):
            models.cfw.decode(models.vae, models.latents, wrong, 0.5)


def test_the_autoencoders_own_tiling(models: Models) -> None:
    models.vae.enable_tiling()
    torch.testing.assert_close(models.decode(), Models().decode())  # small enough to be one tile
    models.image, models.latents = torch.zeros(1, 3, 72, 64), torch.zeros(1, 4, 9, 8)
    with pytest.raises(ValueError, match=r"own tiling cut an image of 64×72 pixels. Call vae.disable_tiling()"):
        models.features()
    models.vae.disable_tiling()
    features = models.features()
    models.vae.enable_tiling()
    with pytest.raises(ValueError, match=r"Call vae.disable_tiling\(\)"):
        models.cfw.decode(models.vae, models.latents, features, 0.5)


def test_an_autoencoder_that_checkpoints_gradients(models: Models) -> None:
    expected = models.decode()
    models.vae.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match=r"call vae.disable_gradient_checkpointing\(\)"):
        models.cfw.decode(models.vae, models.latents, models.features(), 0.5)
    assert torch.equal(models.decode(), expected)  # without gradients there is nothing to compute again


def official_shapes(level: int, channels: int, num_rrdbs: int = 2, growth: int = 32) -> dict[str, tuple[int, ...]]:
    """StableSR's keys of a fusion layer, with the shapes of their weights."""
    weights = {
        "encode_enc_1.norm1": (2 * channels,),
        "encode_enc_1.conv1": (channels, 2 * channels, 3, 3),
        "encode_enc_1.norm2": (channels,),
        "encode_enc_1.conv2": (channels, channels, 3, 3),
        "encode_enc_1.conv_out": (channels, 2 * channels, 1, 1),
        "encode_enc_3.norm1": (channels,),
        "encode_enc_3.conv1": (channels, channels, 3, 3),
        "encode_enc_3.norm2": (channels,),
        "encode_enc_3.conv2": (channels, channels, 3, 3),
    }
    for index in range(num_rrdbs):
        for block in ("rdb1", "rdb2", "rdb3"):
            for conv in range(5):
                shape = (growth if conv < 4 else channels, channels + conv * growth, 3, 3)
                weights[f"encode_enc_2.{index}.{block}.conv{conv + 1}"] = shape
    return {
        f"decoder.fusion_layer_{level}.{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in weights.items()
        for kind in ("weight", "bias")
    }


def official(prefix: str = "") -> dict[str, torch.Tensor]:
    """StableSR's autoencoder, without memory for its weights."""
    shapes = official_shapes(1, 256) | official_shapes(2, 512) | {"decoder.conv_in.weight": (512, 4, 3, 3)}
    return {prefix + key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_official_weights(prefix: str) -> None:
    with torch.device("meta"):
        cfw = ControllableFeatureWrapping()
    cfw.load_state_dict(cfw_state_dict(official(prefix)))
    assert sum(parameter.numel() for parameter in cfw.parameters()) > 10e6


def test_official_weights_go_to_their_own_level(models: Models) -> None:
    shapes = official_shapes(1, 16, 1, 4) | official_shapes(2, 24, 1, 4)
    weights = {key: torch.randn(shape) for key, shape in shapes.items()}
    state_dict = cfw_state_dict(weights, models.cfw)
    models.cfw.load_state_dict(state_dict)
    for level in (1, 2):
        key = f"decoder.fusion_layer_{level}.encode_enc_2.0.rdb2.conv3.weight"
        assert torch.equal(models.cfw.fusion_layers[str(level)].rrdbs[0].rdb2.conv3.weight, weights[key])
    assert len({id(tensor) for tensor in state_dict.values()}) == len(weights)


def test_official_weights_with_wrong_keys() -> None:
    weights = official()
    del weights["decoder.fusion_layer_1.encode_enc_1.norm1.weight"]
    del weights["decoder.fusion_layer_2.encode_enc_2.1.rdb3.conv5.bias"]
    weights["decoder.fusion_layer_3.encode_enc_1.norm1.weight"] = torch.zeros(8)
    weights["decoder.fusion_layer_2.encode_enc_3.conv1.weight"] = torch.zeros(8, 8, 3, 3)
    with pytest.raises(ValueError, match="The keys of the fusion layers are not") as error:
        cfw_state_dict(weights)
    for line in (
        "2 missing:\n  decoder.fusion_layer_",
        "  decoder.fusion_layer_1.encode_enc_1.norm1.weight [512]",
        "  decoder.fusion_layer_2.encode_enc_2.1.rdb3.conv5.bias [512]",
        "1 unexpected:\n  decoder.fusion_layer_3.encode_enc_1.norm1.weight [8]",
        "1 mis-shaped:\n  decoder.fusion_layer_2.encode_enc_3.conv1.weight is [8, 8, 3, 3], expected [512, 512, 3, 3]",
    ):
        assert line in str(error.value)


def test_a_file_without_fusion_layers() -> None:
    with pytest.raises(ValueError, match="156 missing"):
        cfw_state_dict({"decoder.conv_in.weight": torch.zeros(1)})
