"""AddSR written out step by step, from the models alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.seesr.tagger import IMAGE_MEAN, IMAGE_STD

TIMESTEPS = [999, 749, 499, 249]


@torch.no_grad()
def restore_by_hand(
    pipeline: SeeSRPipeline,
    image: torch.Tensor,
    generator: torch.Generator,
    weight: float = 0.4,
    guidance_scale: float = 1.0,
    steps: int = 4,
) -> torch.Tensor:
    """Give the image's latents, scaled.

    Args:
        image: one at its final size, a multiple of 8, `[1, 3, H, W]` in [0, 1].
    """
    vae, tagger, scale = pipeline.vae, pipeline.tagger, pipeline.vae.config.scaling_factor
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signals = (1 - betas).cumprod(0)
    seen = tagger(normalised(F.interpolate(image, size=(32, 32), mode="bilinear", antialias=True)))
    (tags,) = tagger.tags(seen.logits)
    prompt = embedded(pipeline, f"{', '.join(tags)}, ,clean, high-resolution, 8k")
    negative = embedded(pipeline, "dotted, noise, blur, lowres, smooth")

    noise = torch.randn(1, 4, image.shape[-2] // 8, image.shape[-1] // 8, generator=generator)
    photo = scale * vae.encode(image * 2 - 1).latent_dist.sample(generator)
    latents = signals[999] ** 0.5 * photo + (1 - signals[999]) ** 0.5 * noise
    original, condition, representation = latents, image, seen.representation
    for step, timestep in enumerate(TIMESTEPS[:steps]):
        if step > 0:
            latents = signals[timestep] ** 0.5 * original + (1 - signals[timestep]) ** 0.5 * torch.randn(
                latents.shape, generator=generator
            )
            if weight > 0:
                decoded = vae.decode(original / scale).sample.clamp(-1, 1) / 2 + 0.5
                condition = weight * decoded + (1 - weight) * image
                representation = tagger(
                    normalised(F.interpolate(condition, size=(32, 32), mode="bicubic"))
                ).representation
        epsilon = predicted_noise(pipeline, latents, timestep, prompt, condition, representation)
        if guidance_scale > 1:
            without = predicted_noise(pipeline, latents, timestep, negative, condition, representation)
            epsilon = without + guidance_scale * (epsilon - without)
        original = (latents - (1 - signals[timestep]) ** 0.5 * epsilon) / signals[timestep] ** 0.5
    return original


def normalised(image: torch.Tensor) -> torch.Tensor:
    return (image - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_STD).view(3, 1, 1)


def embedded(pipeline: SeeSRPipeline, text: str) -> torch.Tensor:
    tokens = pipeline.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    embeds: torch.Tensor = pipeline.text_encoder(tokens.input_ids)[0]
    return embeds


def predicted_noise(
    pipeline: SeeSRPipeline,
    latents: torch.Tensor,
    timestep: int,
    text: torch.Tensor,
    condition: torch.Tensor,
    representation: torch.Tensor,
) -> torch.Tensor:
    """Run ControlNet and UNet of diffusers as they are, with the adapter on both."""
    unet, controlnet, adapter = pipeline.unet, pipeline.controlnet, pipeline.adapter
    adapter.attach(unet).attach(controlnet)
    with adapter.conditioning(representation=representation):
        control: Any = controlnet(latents, timestep, text, condition)
        noise: torch.Tensor = unet(
            latents,
            timestep,
            text,
            down_block_additional_residuals=control.down_block_res_samples,
            mid_block_additional_residual=control.mid_block_res_sample,
        ).sample
    return noise
