"""CasSR's image activation by SCEdit (paper, stage 1): CSC-Tuners on the skip connections of a stock UNet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401 (a pipeline looks its loader, ModelMixin, up here)
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from ..attention.adapter import AdapterHook, AttentionAdapter
from ..attention.processors import repeat_to_batch
from ..attention.sites import check_site_channels


class SkipTuner(nn.Module):
    """The edit of one skip connection by its dense hint (SCEdit, https://arxiv.org/abs/2312.11392, CSC-Tuner).

    Args:
        channels: channels of the skip connection.
        hidden_channels: channels between the two linear layers.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, hidden_channels)
        self.linear_2 = nn.Linear(hidden_channels, channels)
        _zero(self.linear_2)

    def forward(self, skip: torch.Tensor, hint: torch.Tensor, scale: float) -> torch.Tensor:
        """Compute `skip + scale * (hint + MLP(skip + hint))`, all `[B, channels, h, w]`.

        The MLP acts on each pixel alone.
        """
        pixels = (skip + hint).permute(0, 2, 3, 1)
        change = self.linear_2(F.gelu(self.linear_1(pixels))).permute(0, 3, 1, 2)
        return skip + scale * (hint + change)


class SkipHook(AdapterHook):
    """A hook that edits the skip connections passed to a block of the decoder."""

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the skip connections by edited ones while the adapter is conditioned."""
        if not self.adapter.is_conditioned:
            return args, kwargs
        if len(args) > 1:
            return (args[0], self.adapter("edit_skips", self.site, args[1]), *args[2:]), kwargs
        skips = self.adapter("edit_skips", self.site, kwargs["res_hidden_states_tuple"])
        return args, {**kwargs, "res_hidden_states_tuple": skips}


class SCEditAdapter(AttentionAdapter):
    """SCEdit's controllable skip connection editing: an image steers the decoder of a frozen UNet.

    Convolutions embed the image and reduce it to the size of the latents. A chain of convolutions, one for each skip
    connection, makes the dense hints from it, each from the one before. A skip connection `s` of the encoder, with
    whatever a ControlNet has added, becomes `s + scale * (hint + MLP(s + hint))` before it reaches the decoder. The
    hints depend on neither noise nor text, so they are computed once for an image::

        adapter = SCEditAdapter.from_pretrained("path/to/adapter").attach(unet)
        with adapter.conditioning(hints=adapter.embed(image)):
            ...  # the sampling loop

    A new adapter leaves the UNet's output unchanged, as in the official code (scepter): the convolutions of the hints
    and the last layers of the MLPs start from zero. Since the hints form a chain, each starts to learn only after the
    one before it has.

    Args:
        skip_channels: channels of the UNet's skip connections, in the order of the encoder.
        downsamples: numbers of those that come from a downsampling; from there on the hints are half as large.
        hint_channels: channels of the embedding of the image. It begins with the first; each further one follows a
            stride of two, so there are as many as the VAE has levels, `len(vae.config.block_out_channels)`.
        dense_hint_kernel: kernel size of the convolutions between hints: 3, or 1 for a ninth of their weights.
        down_ratio: channels between the two layers of an MLP, as a multiple of those of the skip connection. The
            official code always uses 1: where its configurations set another value, it does not read it.
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
        """Make a new adapter for this UNet, to be trained; `options` are the other arguments of the class."""
        skip_channels = [channels for block in reversed(unet.up_blocks) for channels in _skip_channels(block)]
        downsamples, number = [], 1  # the first is the input convolution's
        for block in unet.down_blocks:
            number += len(block.resnets)
            if block.downsamplers is not None:
                downsamples.append(number)
                number += 1
        # By name: diffusers treats arguments given by position as defaults, and leaves them out in `from_config`.
        return cls(skip_channels=skip_channels, downsamples=downsamples, **options)

    def sites(self, role: str) -> dict[str, dict[str, Any]]:
        """List the blocks of the decoder, with the `skips` each is given, as numbers in the order of the encoder."""
        if role != "unet":
            return {}
        bounds = [0, *self.config.downsamples, len(self.config.skip_channels)]
        levels = [list(range(*bound)) for bound in pairwise(bounds)]
        return {f"up_blocks.{number}": {"skips": skips} for number, skips in enumerate(reversed(levels))}

    def embed(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Compute the dense hints of an image, one for each skip connection in the order of the encoder.

        Args:
            image: `[B, 3, H, W]` in [0, 1], at the size that the VAE decodes the latents to: for CasSR the degraded
                image, enlarged to the size of the result.

        Returns:
            Hints `[B, channels, h, w]`; the first has the size of the latents.

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
        """Compute what `embed` returns."""
        hint = self.recomputed(self.hint_embedding, image)
        hints = []
        for conv in self.dense_hints:
            hint = conv(F.silu(hint))
            hints.append(hint)
        return hints

    def prepare_conditioning(
        self, hints: Sequence[torch.Tensor], scale: float = 1.0
    ) -> tuple[list[torch.Tensor], float]:
        """Check the hints and give what `conditioned` takes; `prepare` and `conditioning` have the same arguments.

        Args:
            hints: those of the image, from `embed`. A host may be called with any multiple of their batch: the halves
                of the guidance are repetitions of it, with the image as the fastest index.
            scale: how much of the change reaches the decoder; with 0 the host computes what the stock one does. (The
                official code multiplies two scales: one from the configuration, which is 1 in every published one, and
                one from the call.)

        Raises:
            ValueError: if there is not one hint for every skip connection.
        """
        expected = list(self.config.skip_channels)
        if [hint.shape[1] for hint in hints] != expected:
            raise ValueError(
                f"`hints` have shapes {[list(hint.shape) for hint in hints]}, expected {expected} channels: give all "
                "that this adapter's `embed` returns."
            )
        return list(hints), scale

    def edit_skips(self, site: str, skips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Edit the skip connections `[k * B, channels, h, w]` that a block is given.

        Raises:
            ValueError: if the hints belong to an image of another size, or the batch is not a multiple of their `B`.
        """
        hints, scale = self._conditioning
        edited = []
        for index, skip in zip(self.sites("unet")[site]["skips"], skips, strict=True):
            hint = hints[index]
            if hint.shape[-2:] != skip.shape[-2:]:
                raise ValueError(
                    f"The hint of skip connection {index} has the size {list(hint.shape[-2:])}, but the model is "
                    f"called with latents that make it {list(skip.shape[-2:])}: embed the image at the size that the "
                    "VAE decodes these latents to, each tile separately."
                )
            edited.append(self.recomputed(self.tuners[index], skip, repeat_to_batch(hint, len(skip)), scale))
        return tuple(edited)

    def site_hook(self, role: str, site: str, module: nn.Module) -> SkipHook:
        """Make the hook that edits the skip connections of a block."""
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
    """Build a ControlNet's embedding of the condition image, without its last convolution.

    It takes `[B, 3, H, W]`, and halves height and width for every entry of `channels` after the first.
    """
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
    """List the channels of the skip connections that a block of the decoder is given, in the order of the encoder.

    The block takes the last of them first. That one comes from its own level, whose channels are the block's.
    """
    resnets = list(up_block.resnets)
    channels = [resnets[0].out_channels]
    channels += [resnet.in_channels - previous.out_channels for previous, resnet in pairwise(resnets)]
    return channels[::-1]


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
