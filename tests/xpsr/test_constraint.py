"""XPSR's degradation-free constraint: what its heads read, their losses, and that inference has none of it."""

from __future__ import annotations

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.nn import functional as F

from diffusers_sr import XPSRPipeline
from diffusers_sr.attention.control_features import control_features
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.constraint import DegradationFreeConstraint, constraint_loss, embed_with_features
from tests.components import TEXT_DIM, components, inputs, randomise, tiny_controlnet


@pytest.fixture
def controlnet() -> ControlNetModel:
    torch.manual_seed(0)
    return tiny_controlnet().eval()


@torch.no_grad()
def residuals(controlnet: ControlNetModel, condition: torch.Tensor) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sample, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, TEXT_DIM, generator=generator)
    return control_features(controlnet, sample, torch.tensor(500), text, condition)


def test_heads_of_stable_diffusion_1() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768
        )
        controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        heads = {
            terms: DegradationFreeConstraint.from_controlnet(controlnet, terms) for terms in ("paper", "code", "none")
        }
    assert [head.in_channels for head in heads["code"].to_rgbs] == [32, 96, 256]
    # The last of the blocks with semantic fusion, at 1, 1/2 and 1/4 of the latents' size.
    assert {number: head[0].in_channels for number, head in heads["paper"].conv_degradation.items()} == {
        "2": 320,
        "5": 640,
        "8": 1280,
    }
    assert heads["paper"].conv_degradation_mid is None
    assert len(heads["code"].conv_degradation) == 12
    counts = {terms: sum(weight.numel() for weight in head.parameters()) for terms, head in heads.items()}
    assert counts["none"] == 10_377
    assert counts["code"] - counts["none"] == 391_732


def test_the_first_convolutions_have_no_image_of_their_own() -> None:
    """A VAE of factor 4 has two strides, and as many images."""
    constraint = DegradationFreeConstraint.from_controlnet(
        tiny_controlnet(conditioning_embedding_out_channels=(4, 8, 12))
    )
    assert [head.in_channels for head in constraint.to_rgbs] == [8, 12]


def test_embedding_and_its_features(controlnet: ControlNetModel) -> None:
    image, embedding = torch.rand(2, 3, 64, 96), controlnet.controlnet_cond_embedding
    seen = []
    for number in (1, 3, 5):
        embedding.blocks[number].register_forward_hook(lambda module, args, output: seen.append(F.silu(output)))
    expected = embedding(image)
    del seen[3:]
    embedded, features = embed_with_features(embedding, image)
    assert torch.equal(embedded, expected)
    assert [feature.shape[-2:] for feature in features] == [(32, 48), (16, 24), (8, 12)]
    assert all(torch.equal(*pair) for pair in zip(features, seen[:3], strict=True))


def test_the_controlnet_takes_the_embedding(controlnet: ControlNetModel) -> None:
    image = torch.rand(2, 3, 64, 64)
    expected = residuals(controlnet, image)
    adapter = XPSRAdapter.from_hosts(UNet2DConditionModel.from_config(components("xpsr")["unet"].config), controlnet)
    adapter.attach(controlnet)
    embedded, _ = embed_with_features(controlnet.controlnet_cond_embedding, image)
    assert all(torch.equal(*pair) for pair in zip(residuals(controlnet, embedded), expected, strict=True))


@pytest.mark.parametrize(("terms", "numbers"), [("paper", [1]), ("code", [0, 1, 2, 3, -1]), ("none", [])])
def test_heads_read_their_residuals(controlnet: ControlNetModel, terms: str, numbers: list[int]) -> None:
    constraint = DegradationFreeConstraint.from_controlnet(controlnet, terms)
    image = torch.rand(2, 3, 64, 64)
    _, features = embed_with_features(controlnet.controlnet_cond_embedding, image)
    read = residuals(controlnet, image)
    images, latents = constraint(features, read)
    for shown, head, feature in zip(images, constraint.to_rgbs, features, strict=True):
        assert torch.equal(shown, F.conv2d(feature, head.weight, head.bias, padding=1))
        assert shown.shape[1] == 3
    heads = [*constraint.conv_degradation.values(), *filter(None, [constraint.conv_degradation_mid])]
    for shown, (head,), number in zip(latents, heads, numbers, strict=True):
        assert torch.equal(shown, F.conv2d(read[number], head.weight, head.bias, padding=1))
        assert shown.shape[1] == 4


def test_loss_is_the_sum_of_mean_absolute_errors() -> None:
    target, target_latents = torch.rand(2, 3, 16, 16), torch.randn(2, 4, 4, 4)
    images, latents = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)], [torch.randn(2, 4, 4, 4)]
    half = (2 * target - 1).unflatten(2, (8, 2)).unflatten(4, (8, 2)).mean((3, 5))
    # A quarter of the size, without a low-pass filter: the two middle pixels of four.
    middle = (2 * target - 1).unflatten(2, (4, 4)).unflatten(4, (4, 4))[:, :, :, 1:3, :, 1:3].mean((3, 5))
    expected = sum((one - other).abs().mean() for one, other in ((images[0], half), (images[1], middle)))
    torch.testing.assert_close(constraint_loss(images, [], target, target_latents), expected)
    expected = expected + (latents[0] - target_latents).abs().mean()
    torch.testing.assert_close(constraint_loss(images, latents, target, target_latents), expected)
    perfect = constraint_loss([half, middle], [target_latents], target, target_latents)
    assert perfect < 1e-6


@pytest.mark.parametrize("terms", ["paper", "code"])
def test_gradients_reach_every_head_and_the_controlnet(controlnet: ControlNetModel, terms: str) -> None:
    constraint = DegradationFreeConstraint.from_controlnet(controlnet, terms)
    image = torch.rand(2, 3, 64, 64)
    _, features = embed_with_features(controlnet.controlnet_cond_embedding, image)
    read = control_features(controlnet, torch.randn(2, 4, 8, 8), torch.tensor(500), torch.randn(2, 7, TEXT_DIM), image)
    images, latents = constraint(features, read)
    constraint_loss(images, latents, image, torch.randn(2, 4, 8, 8)).backward()
    assert all(parameter.grad.any() for parameter in constraint.parameters())
    assert controlnet.controlnet_cond_embedding.conv_in.weight.grad.any()
    assert controlnet.down_blocks[0].attentions[0].proj_out.weight.grad.any()


def test_paper_takes_its_heads_of_a_trained_constraint(controlnet: ControlNetModel, tmp_path: object) -> None:
    trained = randomise(DegradationFreeConstraint.from_controlnet(controlnet, "code"))
    trained.save_pretrained(tmp_path)
    loaded = DegradationFreeConstraint.from_pretrained(tmp_path)
    state_dict = trained.state_dict()
    assert loaded.state_dict().keys() == state_dict.keys()
    assert all(torch.equal(tensor, state_dict[key]) for key, tensor in loaded.state_dict().items())
    fewer = DegradationFreeConstraint.from_pretrained(tmp_path, latent_terms="paper")
    assert [key for key in fewer.state_dict() if key.startswith("conv_")] == [
        "conv_degradation.1.0.weight",
        "conv_degradation.1.0.bias",
    ]
    assert all(torch.equal(tensor, state_dict[key]) for key, tensor in fewer.state_dict().items())


def test_unknown_terms_are_refused(controlnet: ControlNetModel) -> None:
    with pytest.raises(ValueError, match="latent_terms='all', expected one of 'paper', 'code', 'none'"):
        DegradationFreeConstraint.from_controlnet(controlnet, "all")


def test_features_of_another_controlnet_are_refused(controlnet: ControlNetModel) -> None:
    constraint = DegradationFreeConstraint.from_controlnet(controlnet)
    _, features = embed_with_features(controlnet.controlnet_cond_embedding, torch.rand(2, 3, 64, 64))
    read = residuals(controlnet, torch.rand(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"`pixel_features` have shapes .*but the heads read \[8, 8, 8\] channels"):
        constraint(features[1:], read)
    with pytest.raises(ValueError, match=r"`residuals` have shapes .*all of them"):
        constraint(features, read[:-1])


def test_inference_has_no_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a pipeline made or ran the heads of the constraint")

    for name in ("__init__", "forward"):
        monkeypatch.setattr(DegradationFreeConstraint, name, refuse)
    pipeline = XPSRPipeline(**components("xpsr"))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(**inputs("xpsr")).images.shape == (1, 64, 64, 3)
    assert not any(isinstance(part, DegradationFreeConstraint) for part in pipeline.components.values())
    names = [name for part in ("controlnet", "adapter") for name in pipeline.components[part].state_dict()]
    assert not [name for name in names if "to_rgbs" in name or "conv_degradation" in name]


def test_the_latent_constraint_alone(controlnet: ControlNetModel) -> None:
    both = randomise(DegradationFreeConstraint.from_controlnet(controlnet, "paper"))
    latent = DegradationFreeConstraint.from_controlnet(controlnet, "paper", pixel_terms=False)
    weights = both.state_dict()
    assert {key for key in weights if key not in latent.state_dict()} == {key for key in weights if "to_rgbs" in key}
    latent.load_state_dict({key: weights[key] for key in latent.state_dict()})
    image = torch.rand(2, 3, 64, 64)
    _, features = embed_with_features(controlnet.controlnet_cond_embedding, image)
    with torch.no_grad():
        images, latents = latent(features, residuals(controlnet, image))
        _, expected = both(features, residuals(controlnet, image))
    assert images == []
    assert all(torch.equal(*pair) for pair in zip(latents, expected, strict=True))
