"""A small base that learns to restore photographs by itself."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler

from diffusers_sr.training.adversarial import AdversarialLoss
from diffusers_sr.training.restoration import BaseLoss, TrainableBase
from diffusers_sr.training.schedules import first_timesteps
from tests.components import components
from tests.training.stages import base_of


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "target": torch.rand(2, 3, 32, 32, generator=generator),
        "degraded": torch.rand(2, 3, 8, 8, generator=generator),
        "tags": ["cat", "tree"],
        "seed": torch.tensor([1, 2]),
    }


def test_a_share_of_the_batches_is_restored_from_the_last_of_the_first_timesteps() -> None:
    torch.manual_seed(0)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    denoiser = TrainableBase(base_of(components("seesr")), null_text_ratio=0.0)
    restoration = AdversarialLoss(denoiser, first_timesteps(scheduler, 10), 0.1, 0, 0)
    timesteps: list[list[int]] = []
    denoiser.unet.register_forward_pre_hook(lambda module, inputs: timesteps.append(inputs[1].tolist()))
    assert BaseLoss(denoiser, scheduler, restoration, restoration_ratio=1.0)(batch()).keys() == {"pixel", "latent"}
    assert BaseLoss(denoiser, scheduler, restoration, restoration_ratio=0.0)(batch()).keys() == {"mse"}
    assert BaseLoss(denoiser, scheduler)(batch()).keys() == {"mse"}
    assert timesteps[0] == [9, 9]
    assert min(timesteps[1]) > 9
    assert timesteps[2] == timesteps[1]


def test_unet_and_text_encoder_learn_and_the_autoencoder_does_not() -> None:
    torch.manual_seed(0)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    denoiser = TrainableBase(base_of(components("seesr")), null_text_ratio=0.0).train()
    sum(AdversarialLoss(denoiser, first_timesteps(scheduler, 10), 0.1, 0, 0)(batch()).values()).backward()
    has_gradient = {
        name: {parameter.grad is not None for parameter in getattr(denoiser, name).parameters()}
        for name in ("vae", "unet", "text_encoder")
    }
    assert has_gradient == {"vae": {False}, "unet": {True}, "text_encoder": {True}}
    assert denoiser.text_encoder.training and not denoiser.vae.training
