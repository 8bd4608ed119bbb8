"""AddSR's pipeline of tiny components, its calls, and what its models are given."""

from __future__ import annotations

from typing import Any

import torch

from diffusers_sr.image.pixels import read_images
from diffusers_sr.seesr.four_steps import FourStepScheduler
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from tests.components import components, tiny_image

IMAGE = read_images(tiny_image(48, 64))
UNSCALED: dict[str, Any] = {"upscale": 1, "process_size": 0}


def build(**overrides: Any) -> SeeSRPipeline:
    pipeline = SeeSRPipeline(**{**components("seesr"), "scheduler": FourStepScheduler(), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    embedding = pipeline.controlnet.controlnet_cond_embedding
    for layer in (embedding.conv_in, *embedding.blocks, embedding.conv_out):
        layer.weight.data.mul_(3)  # so that the condition matters as much as the representation
    return pipeline


def run(pipeline: SeeSRPipeline, image: Any = IMAGE, seed: int = 0, **options: Any) -> torch.Tensor:
    """The latents, if nothing else is asked for."""
    arguments = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "latent"}
    generator = torch.Generator().manual_seed(seed)
    result = pipeline(image, **{**arguments, "generator": generator, **options})
    return torch.as_tensor(result.images)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


class Counts:
    """The batches that models are given, by name."""

    def __init__(self, pipeline: SeeSRPipeline) -> None:
        self.batches: dict[str, list[int]] = {}
        self.pixels: list[torch.Tensor] = []
        modules = {
            "tagger": pipeline.tagger,
            "text_encoder": pipeline.text_encoder,
            "encoder": pipeline.vae.encoder,
            "decoder": pipeline.vae.decoder,
            "condition": pipeline.controlnet.controlnet_cond_embedding.conv_in,
            "unet": pipeline.unet.conv_in,
        }
        for name, module in modules.items():
            module.register_forward_pre_hook(self.counted(name), with_kwargs=True)

    def counted(self, name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            first = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            self.batches.setdefault(name, []).append(len(first))
            if name == "tagger":
                self.pixels.append(first)

        return hook
