"""One-step fine-tuning: the loss is on the picture the pipeline makes, and both sides train on their own part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline

from diffusers_sr.training.adversarial import AdversarialLoss
from diffusers_sr.training.judgement import Overshoot, WaveletSimilarity
from diffusers_sr.training.losses import predicted_latents
from diffusers_sr.training.seesr import TrainableSeeSR
from tests.components import components
from tests.training.stages import noise_batch

KINDS = ["epsilon", "v_prediction"]


def scheduler(kind: str) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind)


@pytest.fixture(scope="module")
def module() -> AdversarialLoss:
    parts = components("seesr")
    base = StableDiffusionPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    denoiser = TrainableSeeSR(base, parts["controlnet"], parts["adapter"], parts["tagger"])
    torch.manual_seed(0)
    return AdversarialLoss(denoiser, scheduler("v_prediction"), 0.1, 0.1, 0.01).train()


@pytest.fixture
def batch() -> dict[str, Any]:
    return noise_batch(["cat", "tree"], torch.tensor([1, 2]))


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_latents_undo_the_noise(kind: str) -> None:
    torch.manual_seed(0)
    latents, noise, timesteps = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([300, 700])
    noisy = scheduler(kind).add_noise(latents, noise, timesteps)
    truth = noise if kind == "epsilon" else scheduler(kind).get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(predicted_latents(scheduler(kind), truth, noisy, timesteps), latents, atol=1e-5, rtol=0)
    assert not torch.allclose(predicted_latents(scheduler(kind), truth + 1, noisy, timesteps), latents, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_latents_are_what_one_step_of_ddim_gives(kind: str) -> None:
    torch.manual_seed(0)
    sampler = DDIMScheduler.from_config(scheduler(kind).config, timestep_spacing="trailing", clip_sample=False)
    sampler.set_timesteps(1)
    (timestep,) = sampler.timesteps
    noisy, prediction = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    expected = sampler.step(prediction, timestep, noisy).prev_sample
    found = predicted_latents(scheduler(kind), prediction, noisy, timestep.repeat(2))
    torch.testing.assert_close(found, expected)


def test_each_side_trains_on_its_own_part(module: AdversarialLoss, batch: dict[str, Any]) -> None:
    assert module.judgement is not None
    sides = {
        "denoiser": [p for p in module.denoiser.parameters() if p.requires_grad],
        "discriminator": list(module.judgement.discriminator.parameters()),
    }
    losses = module(batch)
    assert losses.keys() == {"pixel", "latent", "feature", "adversarial", "discriminator"}
    for name, loss in losses.items():
        own, other = ("discriminator", "denoiser") if name == "discriminator" else ("denoiser", "discriminator")
        gradients = torch.autograd.grad(loss, sides[own], retain_graph=True, allow_unused=True)
        assert sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None) > 0, name
        assert all(
            gradient is None
            for gradient in torch.autograd.grad(loss, sides[other], retain_graph=True, allow_unused=True)
        ), name


def test_the_loss_repeats_and_follows_image_and_target(module: AdversarialLoss, batch: dict[str, Any]) -> None:
    first = module(batch)
    assert all(torch.equal(value, first[name]) for name, value in module(batch).items())
    for changed in ("degraded", "target"):
        other = module({**batch, changed: 1 - batch[changed]})
        assert all(not torch.equal(other[name], first[name]) for name in ("pixel", "latent", "feature")), changed


def test_without_weights_there_is_no_discriminator_and_comparisons_are_added(
    module: AdversarialLoss, batch: dict[str, Any]
) -> None:
    comparisons = [Overshoot(2.0), WaveletSimilarity(0.5)]
    loss = AdversarialLoss(module.denoiser, module.scheduler, 0.1, 0, 0, comparisons)
    assert loss.judgement is None
    assert loss(batch).keys() == {"pixel", "latent", "overshoot", "haarpsi"}
