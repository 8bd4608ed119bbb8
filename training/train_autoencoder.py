"""Train a small autoencoder on photographs.

    accelerate launch training/train_autoencoder.py --config training/recipes/autoencoder_small.yaml \
        --train_data_dir PHOTOS --output_dir runs/vae

It is a new AutoencoderKL, or the AutoencoderKL or AutoencoderDC of a folder (--vae), which is trained further. The
output folder is the model that train_base.py takes as --vae.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffusers_sr.training.arguments import TrainingArguments, option, parse_arguments
from diffusers_sr.training.autoencoders import Autoencoder, load_autoencoder, posterior
from diffusers_sr.training.engine import latents_std, train
from diffusers_sr.training.last_line import next_stage
from diffusers_sr.training.losses import draw_noise
from diffusers_sr.training.photos import photo_crops
from diffusers_sr.training.ranges import Count, Share, Weight
from diffusers_sr.training.script import run_script


@dataclass(kw_only=True)
class AutoencoderArguments(TrainingArguments):
    """Options for an autoencoder: L1 on pixels, plus a small term that keeps the latents near unit scale."""

    vae: str | None = option(
        None, "Folder of an AutoencoderKL or AutoencoderDC to train further, instead of a new AutoencoderKL."
    )
    block_out_channels: list[Count] = field(
        default_factory=lambda: [32, 64, 96],
        metadata={"help": "Channels of each level; all except the last halve the size."},
    )
    layers_per_block: Count = option(1, "Residual layers in each level of the encoder; the decoder has one more.")
    latent_channels: Count = option(8, "Channels of the latents.")
    kl_weight: Weight = option(1e-6, "Weight of the Kullback-Leibler divergence, summed over a sample's latents.")
    latent_noise: Weight = option(
        0.1, "Deviation of the noise on the latents of an AutoencoderDC, which has no posterior to draw from."
    )
    color_jitter: Share = option(
        0.0, "Share of the crops with other colours: hue turned, saturation up to 3 times, channels shifted."
    )


class AutoencoderLoss(nn.Module):
    """The loss of reconstructing `target` through noisy latents: from the posterior, or with `latent_noise` added."""

    def __init__(self, vae: Autoencoder, kl_weight: float, latent_noise: float = 0.0):
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight
        self.latent_noise = latent_noise

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["target"] * 2 - 1
        distribution = posterior(self.vae, image, self.latent_noise)
        noise = draw_noise(batch["seed"], distribution.mean.shape[1:], image.device)
        reconstruction = self.vae.decode(distribution.mean + distribution.std * noise).sample
        return {
            "l1": (reconstruction.float() - image).abs().mean(),
            "kl": self.kl_weight * distribution.kl().float().mean(),
        }


def build_vae(arguments: AutoencoderArguments) -> Autoencoder:
    """Load the autoencoder to train further, or make a new one."""
    if arguments.vae is not None:
        return load_autoencoder(arguments.vae)
    channels = tuple(arguments.block_out_channels)
    return AutoencoderKL(
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


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(AutoencoderArguments, argv)
    torch.manual_seed(arguments.seed)
    vae = build_vae(arguments)
    module = AutoencoderLoss(vae, arguments.kl_weight, arguments.latent_noise)
    dataset = photo_crops(arguments, color_jitter=arguments.color_jitter)

    def save(output_dir: Path) -> None:
        vae.eval().to("cpu")
        std = latents_std(lambda image: posterior(vae, image).mean, dataset)
        vae.register_to_config(scaling_factor=1 / std)
        vae.save_pretrained(output_dir)

    last_line = next_stage(arguments.output_dir, "train_base", "--vae")
    train(module, dataset, arguments, save, last_line=last_line)


if __name__ == "__main__":
    run_script(main)
