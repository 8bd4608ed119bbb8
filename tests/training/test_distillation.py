"""Score distillation, in numbers worked out by hand and against its formulas written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from diffusers_sr.one_step.stored_prompt import StoredPrompt
from diffusers_sr.training.distillation import (
    ClassifierScoreDistillation,
    GuidedTeacher,
    VariationalScoreDistillation,
    distillation_gradient,
    distillation_loss,
)
from diffusers_sr.training.lora import lora_layers
from diffusers_sr.training.losses import draw_noise, draw_timesteps
from diffusers_sr.training.osediff import regulariser_of
from tests.components import STABLE_DIFFUSION_2, TEXT_DIM, scheduler, tiny_text_encoder, tiny_tokenizer, tiny_unet

ANYWHERE = torch.device("cpu")


def test_gradient_and_loss_in_numbers() -> None:
    """Of two samples of two values each.

    |z - real| is 1 and 3 in the first, on average 2, and 0.5 and 0.5 in the second.
    """
    latents = torch.tensor([[2.0, 4.0], [0.5, -0.5]]).view(2, 1, 1, 2).requires_grad_()
    real = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    fake = torch.tensor([[3.0, 2.0], [-1.0, 0.5]]).view(2, 1, 1, 2)
    gradient = distillation_gradient(latents, fake, real)
    assert gradient.flatten().tolist() == [1.0, 0.5, -2.0, 1.0]
    loss = distillation_loss(latents, gradient)
    assert loss.item() == (1 + 0.25 + 4 + 1) / 4
    loss.backward()
    # 2 / 4 of it, as it is one mean of four squares; nothing comes through the gradient itself.
    assert latents.grad is not None
    assert latents.grad.flatten().tolist() == [0.5, 0.25, -1.0, 0.5]


class Answers(torch.nn.Module):
    """A teacher that says 1 without and 0 with guidance, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = DDPMScheduler(beta_schedule="scaled_linear")

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> Any:
        self.noisy, self.timesteps = noisy, timesteps
        return torch.ones_like(noisy), torch.zeros_like(noisy)


def test_the_loss_of_a_teacher_that_is_known() -> None:
    """Latents of 2 everywhere: the gradient is 1 / 2 everywhere, and the loss a quarter of the weight."""
    teacher = Answers()
    csd = ClassifierScoreDistillation(teacher, weight=3.0)  # type: ignore[arg-type]
    latents = torch.full((2, 4, 2, 2), 2.0, requires_grad=True)
    seeds = torch.tensor([5, 6])
    losses = csd(latents, torch.zeros(2, 3, TEXT_DIM), seeds)
    assert {name: value.item() for name, value in losses.items()} == {"csd": 0.75}
    losses["csd"].backward()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, torch.full_like(latents, 3 * 2 * 0.5 / 32))
    assert not teacher.noisy.requires_grad
    again = draw_timesteps(seeds, 500, ANYWHERE, 20, "distillation timestep")
    assert teacher.timesteps.equal(again) and again[0] != again[1]
    alphas = teacher.scheduler.alphas_cumprod[again].view(2, 1, 1, 1)
    noise = (teacher.noisy - 2 * alphas.sqrt()) / (1 - alphas).sqrt()
    torch.testing.assert_close(noise, draw_noise(seeds, (4, 2, 2), ANYWHERE, "distillation noise"))
    assert not torch.allclose(noise, draw_noise(seeds, (4, 2, 2), ANYWHERE))


def test_timesteps_are_the_published_ones() -> None:
    timesteps = draw_timesteps(torch.arange(8000), 500, ANYWHERE, 20)
    assert [timesteps.min().item(), timesteps.max().item()] == [20, 499]
    assert abs(timesteps.float().mean() - 259.5) < 6


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_teacher_guides_away_from_the_negative_prompt(kind: str) -> None:
    """Each prompt in a call of its own, and the clean latents of the sum of both predictions."""
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    tokenizer = tiny_tokenizer()
    negative = StoredPrompt.from_text(tokenizer, tiny_text_encoder(tokenizer).eval(), "dirty")
    schedule = DDPMScheduler.from_config(scheduler().config, prediction_type=kind)
    teacher = GuidedTeacher(unet, negative, schedule, 7.5).train()
    assert not unet.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    noisy, text = torch.randn(2, 4, 8, 8), torch.randn(2, 77, TEXT_DIM)
    timesteps = torch.tensor([20, 499])
    unguided, guided = teacher(noisy, timesteps, text)

    with torch.no_grad():
        away = unet(noisy, timesteps, negative.embedding.repeat(2, 1, 1)).sample
        towards = unet(noisy, timesteps, text).sample
    alpha = schedule.alphas_cumprod[timesteps].view(2, 1, 1, 1)
    for output, found in ((away, unguided), (-6.5 * away + 7.5 * towards, guided)):
        clean = (noisy - (1 - alpha).sqrt() * output) / alpha.sqrt()
        if kind == "v_prediction":
            clean = alpha.sqrt() * noisy - (1 - alpha).sqrt() * output
        torch.testing.assert_close(found, clean, atol=1e-5, rtol=1e-5)


def constant_unet(value: float) -> UNet2DConditionModel:
    """A UNet that predicts the same number everywhere, whatever it is given."""
    unet = tiny_unet().eval()
    with torch.no_grad():
        unet.conv_out.weight.zero_()
        unet.conv_out.bias.fill_(value)
    return unet


def test_variational_distillation_in_numbers() -> None:
    """The regulariser predicts noise of 0.5, so that its x0 is 0.5 · √(1 - ᾱ) / √ᾱ below the noisy latents / √ᾱ.

    The teacher says 0. With latents of 2 the gradient is half of that x0.
    """
    torch.manual_seed(0)
    teacher = Answers()
    vsd = VariationalScoreDistillation(teacher, constant_unet(0.5), 3.0, 5.0)  # type: ignore[arg-type]
    latents = torch.full((2, 4, 4, 4), 2.0, requires_grad=True)
    seeds = torch.tensor([5, 6])
    losses = vsd(latents, torch.zeros(2, 7, TEXT_DIM), seeds)

    assert teacher.timesteps.equal(draw_timesteps(seeds, 980, ANYWHERE, 20, "distillation timestep"))
    alphas = teacher.scheduler.alphas_cumprod[teacher.timesteps].view(2, 1, 1, 1)
    fake = (teacher.noisy - 0.5 * (1 - alphas).sqrt()) / alphas.sqrt()
    torch.testing.assert_close(losses["vsd"], 3 * (fake / 2).square().mean())
    noise = draw_noise(seeds, (4, 4, 4), ANYWHERE)
    torch.testing.assert_close(losses["regulariser"], 5 * (0.5 - noise).square().mean())

    (own,) = torch.autograd.grad(losses["vsd"], latents, retain_graph=True)
    torch.testing.assert_close(own, 3 * 2 * (fake / 2) / latents.numel())
    parameters = [*vsd.regulariser.parameters()]
    assert grad_of(losses["regulariser"], [latents]) == [None]
    assert any(gradient is not None and gradient.any() for gradient in grad_of(losses["regulariser"], parameters))
    assert set(grad_of(losses["vsd"], parameters)) == {None}


def grad_of(loss: torch.Tensor, parameters: list[Any]) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True))


def test_the_regulariser_has_a_lora_in_the_mid_block_alone() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**STABLE_DIFFUSION_2)
    assert len(lora_layers(unet, "mid_block.")) == 16
    small = tiny_unet()
    regulariser = regulariser_of(small, 3)
    trained = {name for name, parameter in regulariser.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * len(lora_layers(small, "mid_block."))
    assert all(name.startswith("mid_block.") and ".lora_" in name for name in trained)
    assert not any("lora" in name for name in small.state_dict())
