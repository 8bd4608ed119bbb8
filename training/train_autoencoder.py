"""Train a small AutoencoderKL on photographs.

    accelerate launch training/train_autoencoder.py --config training/recipes/autoencoder_small.yaml \
        --train_data_dir PHOTOS --output_dir runs/vae

The output folder is the model that train_base.py takes as --vae.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffusers_sr.training.arguments import TrainingArguments, option, parse_arguments
from diffusers_sr.training.engine import latents_std, train
from diffusers_sr.training.losses import draw_noise
from diffusers_sr.training.photos import photo_crops
from diffusers_sr.training.ranges import Count, Weight
from diffusers_sr.training.script import run_script


@dataclass(kw_only=True)
class AutoencoderArguments(TrainingArguments):
    """Options for an AutoencoderKL from scratch: L1 on pixels plus a small Kullback-Leibler term."""

    block_out_channels: list[Count] = field(
        default_factory=lambda: [32, 64, 96],
        metadata={"help": "Channels of each level; all except the last halve the size."},
    )
    layers_per_block: Count = option(1, "Residual layers in each level of the encoder; the decoder has one more.")
    latent_channels: Count = option(8, "Channels of the latents.")
    kl_weight: Weight = option(1e-6, "Weight of the Kullback-Leibler divergence, summed over a sample's latents.")


class AutoencoderLoss(nn.Module):
    """The loss of reconstructing `target` through sampled latents."""

    def __init__(self, vae: AutoencoderKL, kl_weight: float):
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["target"] * 2 - 1
        posterior = self.vae.encode(image).latent_dist
        noise = draw_noise(batch["seed"], posterior.mean.shape[1:], image.device)
        reconstruction = self.vae.decode(posterior.mean + posterior.std * noise).sample
        return {
            "l1": (reconstruction.float() - image).abs().mean(),
            "kl": self.kl_weight * posterior.kl().float().mean(),
        }


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(AutoencoderArguments, argv)
    torch.manual_seed(arguments.seed)
    channels = tuple(arguments.block_out_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=arguments.layers_per_block,
        latent_channels=arguments.latent_channels,
        norm_num_groups=8,
        sample_size=arguments.resolution,
        # Attention over all pixels of a level would not scale to photographs.
        mid_block_add_attention=False,
    )
    dataset = photo_crops(arguments)

    def save(output_dir: Path) -> None:
        vae.eval().to("cpu")
        std = latents_std(lambda image: vae.encode(image).latent_dist.mean, dataset)
        vae.register_to_config(scaling_factor=1 / std)
        vae.save_pretrained(output_dir)

    train(AutoencoderLoss(vae, arguments.kl_weight), dataset, arguments, save)


if __name__ == "__main__":
    run_script(main)
