"""Make an AutoencoderDC of factor 4 that begins as the principal components of photographs.

    python training/start_autoencoder.py --train_data_dir PHOTOS --output_dir runs/start
    accelerate launch training/train_autoencoder.py --vae runs/start --train_data_dir PHOTOS --output_dir runs/vae

Its latents are the components of blocks of 4x4 pixels, so that before any training it keeps all colours, and more of
a photo than an AutoencoderKL does that was trained from scratch for thousands of steps. An AutoencoderKL cannot begin
like this: it enlarges by repeating pixels, so latents that are the same everywhere give an image that is, and what
repeats every two or four pixels is lost. An AutoencoderDC deals channels out to the pixels of a block.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_dc import ResBlock
from torch import Tensor

from diffusers_sr.data.lists import training_photos
from diffusers_sr.data.photos import read_image
from diffusers_sr.data.seeds import sample_generator
from diffusers_sr.training.script import run_script

FACTOR = 4
PHASES = 12  # channels at half size that hold the pixels of 2x2 blocks, red, green and blue
# The last layer divides by the norm of a pixel's channels, of which this constant one is nearly all.
CONSTANT = 30.0
# Added to the pixels before the last ReLU, and taken off after it, so that -1 to 1 passes.
OFFSET = 1.25


def principal_components(photos: list[Path], blocks: int = 2000) -> tuple[Tensor, Tensor]:
    """Find the principal components of blocks of pixels in [-1, 1], about mid-grey.

    Args:
        photos: the photographs.
        blocks: number of blocks of each photo that count.

    Returns:
        The variances [48], descending, and the directions [48, 48], of which column i belongs to variance i. The
        entries of a direction are those of `pixel_unshuffle`: colour, row and column.
    """
    covariance = torch.zeros(3 * FACTOR**2, 3 * FACTOR**2, dtype=torch.float64)
    for number, path in enumerate(photos):
        photo = read_image(path).float() / 127.5 - 1
        height, width = (side // FACTOR * FACTOR for side in photo.shape[-2:])
        pixels = F.pixel_unshuffle(photo[:, :height, :width], FACTOR).flatten(1).double()
        generator = sample_generator(0, number)
        chosen = pixels[:, torch.randint(pixels.shape[1], (blocks,), generator=generator)]
        covariance += chosen @ chosen.T / (blocks * len(photos))
    variances, directions = torch.linalg.eigh(covariance)
    return variances.flip(0).float(), directions.flip(1).float()


def build(variances: Tensor, directions: Tensor, latent_channels: int, channels: int) -> AutoencoderDC:
    """Build an autoencoder whose latents are the first principal components.

    A latent is a component over the fourth root of its variance: between components as they are, of which noise of one
    strength on all latents harms the strongest least, and components of equal variance, which are easiest to predict.

    Args:
        variances, directions: what `principal_components` returns.
        latent_channels: number of components to keep, up to 48; a divisor of four times `channels`.
        channels: channels at half size, at least 16; there are four times as many at quarter size.
    """
    scales, widths = ((), (), ()), (channels, channels, FACTOR * channels)
    vae = AutoencoderDC(
        latent_channels=latent_channels,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(0, 1, 1),  # nothing is computed at full size
        decoder_layers_per_block=(0, 1, 2),
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
    )
    kept = directions[:, :latent_channels]
    roots = variances[:latent_channels].pow(0.25)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, ResBlock):  # they add nothing yet
                module.norm.weight.zero_()
                module.norm.bias.zero_()
        _start_encoder(vae.encoder, (kept / roots).T)
        _start_decoder(vae.decoder, kept * roots)
    # Before training, the variance of a latent is the square root of its component's. Pipelines of Stable Diffusion
    # read the VAE's factor off `block_out_channels`, which this class has by other names.
    scaling_factor = float(variances[:latent_channels].sqrt().mean().rsqrt())
    vae.register_to_config(scaling_factor=scaling_factor, block_out_channels=widths)
    return vae


def _places() -> Tensor:
    """Find the channels that two `pixel_unshuffle` by 2 give the 48 entries of `pixel_unshuffle` by 4."""
    numbers = torch.arange(3 * FACTOR**2).view(1, 3 * FACTOR**2, 1, 1)
    pixels = F.pixel_shuffle(numbers, FACTOR)
    return F.pixel_unshuffle(F.pixel_unshuffle(pixels, 2), 2).flatten().argsort()


def _start_encoder(encoder: Any, analysis: Tensor) -> None:
    """Copy the pixels down to quarter size, and multiply there by `analysis` [latents, 48]."""
    convolution = encoder.conv_in.conv
    convolution.bias.zero_()
    convolution.weight[:3] = 0
    convolution.weight[range(3), range(3), 1, 1] = 1
    _keep_small(encoder.down_blocks[1][-1].conv)
    last = encoder.conv_out
    last.bias.zero_()
    last.weight.zero_()
    last.weight[:, _places(), 1, 1] = analysis
    # The shortcut around it adds the mean of as many channels to each latent.
    latents, group = last.out_channels, last.in_channels // last.out_channels
    last.weight[:, :, 1, 1] -= torch.eye(latents).repeat_interleave(group, 1) / group


def _start_decoder(decoder: Any, synthesis: Tensor) -> None:
    """Multiply by `synthesis` [48, latents], and deal the result out to the pixels."""
    first = decoder.conv_in
    first.bias.zero_()
    first.weight.zero_()
    first.weight[_places(), :, 1, 1] = synthesis
    # The shortcut around it repeats each latent.
    latents, repeats = first.in_channels, first.out_channels // first.in_channels
    first.weight[:, :, 1, 1] -= torch.eye(latents).repeat_interleave(repeats, 0)

    enlarge, *blocks = decoder.up_blocks[1]
    _keep_small(enlarge.conv)
    enlarge.conv.bias[-4:] = CONSTANT
    for block in blocks:
        block.conv1.weight[:, -1] = 0  # the constant is for the norm alone
    norm, last = decoder.norm_out, decoder.conv_out.conv
    norm.weight.fill_(((CONSTANT**2 + PHASES / 3) / last.in_channels) ** 0.5)
    norm.weight[-1] = 0
    norm.bias[:PHASES] = OFFSET
    _keep_small(last)
    last.weight[:, :PHASES] = 0
    last.weight[:, -1] = 0
    last.weight[range(PHASES), range(PHASES), 1, 1] = 1
    last.bias.fill_(-OFFSET)


def _keep_small(convolution: Any) -> None:
    """Leave a convolution that is not needed yet a little of how it was drawn, so that its channels learn apart."""
    convolution.weight.mul_(0.01)
    convolution.bias.zero_()


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data_dir", required=True, help="folder of photographs")
    parser.add_argument("--exclude_data", help="file that lists photos to leave out, one name per line")
    parser.add_argument("--output_dir", required=True, help="folder for the autoencoder")
    parser.add_argument("--latent_channels", type=int, default=16, help="channels of the latents (%(default)s)")
    parser.add_argument("--channels", type=int, default=16, help="channels at half size (%(default)s)")
    options = parser.parse_args(argv)
    if options.channels < PHASES + 4 or options.channels % 4:
        parser.error(f"--channels {options.channels}: it has to be a multiple of 4, and at least {PHASES + 4}")
    most = min(3 * FACTOR**2, FACTOR * options.channels)
    if not 1 <= options.latent_channels <= most or FACTOR * options.channels % options.latent_channels:
        parser.error(
            f"--latent_channels {options.latent_channels}: it has to divide {FACTOR * options.channels}, four times "
            f"--channels, and be at most {most}"
        )
    torch.manual_seed(0)
    components = principal_components(training_photos(options.train_data_dir, options.exclude_data))
    build(*components, options.latent_channels, options.channels).save_pretrained(options.output_dir)


if __name__ == "__main__":
    run_script(main)
