"""CasSR's image activation by SCEdit (paper, stage 1): CSC-Tuners on the skip connections of a stock UNet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401 (a pipeline looks its loader, ModelMixin, up here)
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

from ..attention.adapter import AdapterHook, AttentionAdapter
from ..attention.processors import repeat_to_batch
from ..attention.sites import check_site_channels


class SkipTuner(nn.Module):
    """Edits one skip connection by its dense hint (SCEdit, https://arxiv.org/abs/2312.11392, CSC-Tuner).

    Args:
        channels: of the skip connection.
        hidden_channels: of the layer between the two linear ones.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, hidden_channels)
        self.linear_2 = nn.Linear(hidden_channels, channels)
        _zero(self.linear_2)

    def forward(self, skip: torch.Tensor, hint: torch.Tensor, scale: float) -> torch.Tensor:
        """`skip + scale * (hint + MLP(skip + hint))`, all `[B, channels, h, w]`; the MLP sees every pixel alone."""
        pixels = (skip + hint).permute(0, 2, 3, 1)
        change = self.linear_2(F.gelu(self.linear_1(pixels))).permute(0, 3, 1, 2)
        return skip + scale * (hint + change)


class SkipHook(AdapterHook):
    """Edits the skip connections a block of the decoder is given."""

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self.adapter.is_conditioned:
            return args, kwargs
        if len(args) > 1:
            return (args[0], self.adapter("edit_skips", self.site, args[1]), *args[2:]), kwargs
        skips = self.adapter("edit_skips", self.site, kwargs["res_hidden_states_tuple"])
        return args, {**kwargs, "res_hidden_states_tuple": skips}


class SCEditAdapter(AttentionAdapter):
    """SCEdit's controllable skip connection editing: an image steers the decoder of a frozen UNet.

    The image is embedded by convolutions down to the size of the latents. A chain of one convolution a skip connection
    makes the dense hints of it, each from the one before. A skip connection `s` of the encoder, with what a ControlNet
    may have added, becomes `s + scale * (hint + MLP(s + hint))` before the decoder has it. The hints depend on neither
    noise nor text: they are computed once for an image::

        adapter = SCEditAdapter.from_pretrained("path/to/adapter").attach(unet)
        with adapter.conditioning(hints=adapter.embed(image)):
            ...  # the sampling loop

    A new one leaves the UNet as it is, as in the official code (scepter): the convolutions of the hints and the last
    layers of the MLPs start from zero. Since the hints are a chain, each starts to learn after the one before has.

    Args:
        skip_channels: of the UNet's skip connections, in the order of the encoder.
        downsamples: which of them come from a downsampling. From there on the hints are half as large.
        hint_channels: of the embedding of the image. It begins with the first; each further one is reached by a stride
            of two, so that there are as many of them as levels of the VAE, `len(vae.config.block_out_channels)`.
        dense_hint_kernel: of the convolutions between hints: 3, or 1 for a ninth of their weights.
        down_ratio: channels between the two layers of an MLP, in those of the skip connection. The official code has
            1 throughout: where its configurations set another, it does not read it.
    """

    _no_split_modules = ["SkipTuner"]  # noqa: RUF012
    _repeated_blocks = ["SkipTuner"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        skip_channels: Sequence[int],
        downsamples: Sequence[int],
        hint_channels: Sequence[int] = (16, 32, 96, 256),
        dense_hint_kernel: int = 3,
        down_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        self.hint_embedding = _hint_embedding(hint_channels)
        self.dense_hints = nn.ModuleList(
            nn.Conv2d(
                previous,
                channels,
                dense_hint_kernel,
                stride=2 if index in downsamples else 1,
                padding=dense_hint_kernel // 2,
            )
            for index, (previous, channels) in enumerate(pairwise((hint_channels[-1], *skip_channels)))
        )
        for conv in self.dense_hints:
            _zero(conv)
        self.tuners = nn.ModuleList(SkipTuner(channels, int(channels * down_ratio)) for channels in skip_channels)

    @classmethod
    def from_host(cls, unet: UNet2DConditionModel, **options: Any) -> Self:
        """A new adapter for this UNet, to be trained; `options` are the other arguments of the class."""
        skip_channels = [channels for block in reversed(unet.up_blocks) for channels in _skip_channels(block)]
        downsamples, number = [], 1  # the first is the input convolution's
        for block in unet.down_blocks:
            number += len(block.resnets)
            if block.downsamplers is not None:
                downsamples.append(number)
                number += 1
        # By name: diffusers takes what is given by position for defaults, and leaves it out in `from_config`.
        return cls(skip_channels=skip_channels, downsamples=downsamples, **options)

    def sites(self, role: str) -> dict[str, dict[str, Any]]:
        """The blocks of the decoder, with the `skips` each is given, as numbers in the order of the encoder."""
        if role != "unet":
            return {}
        bounds = [0, *self.config.downsamples, len(self.config.skip_channels)]
        levels = [list(range(*bound)) for bound in pairwise(bounds)]
        return {f"up_blocks.{number}": {"skips": skips} for number, skips in enumerate(reversed(levels))}

    def embed(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The dense hints of an image, one for each skip connection in the order of the encoder.

        Args:
            image: `[B, 3, H, W]` in [0, 1], as many pixels as the VAE makes of the latents: for CasSR the degraded
                image, enlarged to the size of the result.

        Returns:
            `[B, channels, h, w]` each, the first of the size of the latents.

        Raises:
            ValueError: if `image` has another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(
                f"`image` has shape {list(image.shape)}, expected [batch, 3, height, width]: give RGB in [0, 1]."
            )
        hints: list[torch.Tensor] = self("dense_hints_of", image.to(self.dtype))
        return hints

    def dense_hints_of(self, image: torch.Tensor) -> list[torch.Tensor]:
        """What `embed` computes."""
        hint = self.recomputed(self.hint_embedding, image)
        hints = []
        for conv in self.dense_hints:
            hint = conv(F.silu(hint))
            hints.append(hint)
        return hints

    def prepare_conditioning(
        self, hints: Sequence[torch.Tensor], scale: float = 1.0
    ) -> tuple[list[torch.Tensor], float]:
        """What `set_conditioning` and `conditioning` take.

        Args:
            hints: of the image, from `embed`. A host may be called with any multiple of their batch: guidance halves
                come as repetitions of it, with the image as the fastest index.
            scale: how much of the change reaches the decoder; with 0 the host is the stock one. (The official code
                multiplies two: one of the configuration, which is 1 wherever it is published, and one of the call.)

        Raises:
            ValueError: if there are not the hints of every skip connection.
        """
        expected = list(self.config.skip_channels)
        if [hint.shape[1] for hint in hints] != expected:
            raise ValueError(
                f"`hints` have shapes {[list(hint.shape) for hint in hints]}, expected {expected} channels: give all "
                "that this adapter's `embed` returns."
            )
        return list(hints), scale

    def edit_skips(self, site: str, skips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The skip connections `[k * B, channels, h, w]` of a block, which take the place of those it is given.

        Raises:
            ValueError: if the hints are those of an image of another size, or `B` images do not divide the batch.
        """
        hints, scale = self._conditioning
        edited = []
        for index, skip in zip(self.sites("unet")[site]["skips"], skips, strict=True):
            hint = hints[index]
            if hint.shape[-2:] != skip.shape[-2:]:
                raise ValueError(
                    f"The hint of skip connection {index} has the size {list(hint.shape[-2:])}, but the model is "
                    f"called with latents that make it {list(skip.shape[-2:])}: embed the image in the size that the "
                    "VAE makes of these latents, every tile by itself."
                )
            edited.append(self.recomputed(self.tuners[index], skip, repeat_to_batch(hint, len(skip)), scale))
        return tuple(edited)

    def site_hook(self, role: str, site: str, module: nn.Module) -> SkipHook:
        channels, skips = _skip_channels(module), self.sites(role)[site]["skips"]
        if len(channels) != len(skips):
            raise ValueError(
                f"{site!r} of the {role} takes {len(channels)} skip connections, but the adapter expects "
                f"{len(skips)}: use the adapter with the base model it was made for, or one of the same shape."
            )
        for found, index in zip(channels, skips, strict=True):
            check_site_channels(role, site, found, self.config.skip_channels[index])
        return SkipHook(self, role, site)


def _hint_embedding(channels: Sequence[int]) -> nn.Sequential:
    """Of `[B, 3, H, W]`, halved for every channel after the first: a ControlNet's embedding of the condition image
    without its last convolution."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, padding=1)]
    for previous, width in pairwise(channels):
        layers += [
            nn.SiLU(),
            nn.Conv2d(previous, previous, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(previous, width, 3, stride=2, padding=1),
        ]
    return nn.Sequential(*layers)


def _skip_channels(up_block: Any) -> list[int]:
    """Channels of the skip connections a block of the decoder is given, in the order of the encoder.

    It takes the last of them first. That one is its own level's, of which the channels are the block's.
    """
    resnets = list(up_block.resnets)
    channels = [resnets[0].out_channels]
    channels += [resnet.in_channels - previous.out_channels for previous, resnet in pairwise(resnets)]
    return channels[::-1]


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
