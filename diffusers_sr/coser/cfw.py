"""StableSR's controllable feature wrapping (CFW): a stock autoencoder decodes with features of the image it restores.

The autoencoder stays stock. The new weights are a component of their own, and the autoencoder's blocks are hooked only
while they encode or decode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any, Self, TypeAlias

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ..sampling.autoencoder import pixels_per_latent
from .fusion_layer import FusionLayer

Features: TypeAlias = tuple[torch.Tensor, ...]

# If these are zero, and dense blocks map zero to zero, what a fusion layer adds is zero. The last convolution alone is
# not enough: the residual block around it passes its input on.
_ZERO_AT_FIRST = (".resnet_in.conv2.", ".resnet_in.conv_shortcut.", ".resnet_out.conv2.")
_NO_TILING = "Call vae.disable_tiling(), and use `restore_in_bands` for large images, as the pipeline does."


class ControllableFeatureWrapping(ModelMixin, ConfigMixin):
    """Fusion layers that bring what the encoder sees of the low-resolution image into the decoder.

    StableSR (arXiv 2305.07015, "Fidelity-Realism Trade-off"): `h + w * F(cat[encoder features, h])` on the decoder
    features `h` of a level, after its residual blocks and before it is upsampled. `w` trades the realism of the
    generated latents (0: the stock decoder, bit for bit) for fidelity to the image (1)::

        posterior, features = cfw.encode(vae, image)
        restored = cfw.decode(vae, latents, features, weight=0.5)

    The defaults are those of StableSR's weights, which CoSeR uses too, for the autoencoder of Stable Diffusion.

    Args:
        levels: the levels of the autoencoder that are fused: level `l` has `1 / 2**l` of the image's height and width.
            It is `encoder.down_blocks[l]`, and `decoder.up_blocks[-1 - l]`. Features come in this order.
        channels: channels of each of these levels.
        num_rrdbs: residual-in-residual dense blocks in a fusion layer.
        growth_channels: channels each convolution of a dense block adds.
        norm_num_groups: groups of the group norms; divides every number of channels.

    Raises:
        ValueError: if `levels` repeats a level, or there is not one number of `channels` for each.
    """

    _no_split_modules = ["FusionLayer"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        levels: Sequence[int] = (2, 1),
        channels: Sequence[int] = (512, 256),
        num_rrdbs: int = 2,
        growth_channels: int = 32,
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        if not len(set(levels)) == len(levels) == len(channels):
            raise ValueError(
                f"levels={list(levels)} and channels={list(channels)}, expected each level once, and one number of "
                "channels for each."
            )
        self.fusion_layers = nn.ModuleDict(
            {
                str(level): FusionLayer(width, num_rrdbs, growth_channels, norm_num_groups)
                for level, width in zip(levels, channels, strict=True)
            }
        )

    @classmethod
    def from_vae(
        cls, vae: AutoencoderKL, levels: Sequence[int] = (2, 1), num_rrdbs: int = 2, growth_channels: int = 32
    ) -> Self:
        """Make new fusion layers for an autoencoder, to be trained: with them it still decodes as the stock one.

        (StableSR starts from random ones.)

        Args:
            vae: gives channels and groups of the norms.
            levels: as in the class. By default those with a quarter and a half of the image's height and width, as
                in StableSR; an autoencoder of three levels has them too.
            num_rrdbs, growth_channels: as in the class.

        Raises:
            TypeError: if `vae` is not an `AutoencoderKL`.
            ValueError: if `vae` lacks one of `levels`.
        """
        config = autoencoder_to_join(vae).config
        widths, groups = config.block_out_channels, config.norm_num_groups
        if unknown := [level for level in levels if level not in range(len(widths))]:
            raise ValueError(
                f"levels={list(levels)}, but this autoencoder has no level {unknown[0]}: choose from "
                f"{list(range(len(widths)))}."
            )
        cfw = cls(list(levels), [widths[level] for level in levels], num_rrdbs, growth_channels, groups)
        for name, parameter in cfw.named_parameters():
            if any(part in name for part in _ZERO_AT_FIRST) or (".rrdbs." in name and name.endswith(".bias")):
                nn.init.zeros_(parameter)
        return cfw

    def encode(self, vae: AutoencoderKL, image: torch.Tensor) -> tuple[DiagonalGaussianDistribution, Features]:
        """Encode as `vae.encode` does, bit for bit, and keep the features that `decode` takes.

        Args:
            vae: the stock autoencoder. It is left as it was found.
            image: `[B, 3, H, W]` in [-1, 1], where H and W are multiples of the pixels per latent. StableSR takes
                the low-resolution image, enlarged to the size of the result.

        Returns:
            The posterior, and for each of `levels` the features after the residual blocks of that level of the
            encoder, `[B, channels, H / 2**level, W / 2**level]`.

        Raises:
            TypeError: if `vae` is not an `AutoencoderKL`.
            ValueError: if `vae` is not of the shape this was made for, if H or W is not such a multiple, or if the
                image is so large that the autoencoder's own tiling would cut it.
        """
        encoder_blocks, _ = self._fused_blocks(vae)
        height, width = image.shape[-2:]
        multiple = pixels_per_latent(autoencoder_to_join(vae))
        if height % multiple or width % multiple:
            raise ValueError(
                f"`image` has {width}×{height} pixels, expected multiples of {multiple}: pad it (pad_to_multiple)."
            )
        # With the autoencoder's `use_slicing` a batch takes several passes.
        passes: list[list[torch.Tensor]] = [[] for _ in encoder_blocks]

        def keep(level: int, features: list[torch.Tensor], _: nn.Module, __: Any, output: torch.Tensor) -> None:
            if output.shape[-2:] != (height >> level, width >> level):
                raise ValueError(f"The autoencoder's own tiling cut an image of {width}×{height} pixels. {_NO_TILING}")
            features.append(output)

        hooks = (partial(keep, *where) for where in zip(self.config.levels, passes, strict=True))
        with _hooked(encoder_blocks, hooks):
            posterior = vae.encode(image).latent_dist
        return posterior, tuple(torch.cat(features) for features in passes)

    def decode(
        self, vae: AutoencoderKL, latents: torch.Tensor, features: Sequence[torch.Tensor], weight: float
    ) -> torch.Tensor:
        """Decode latents with the features of an image.

        A compiled autoencoder runs uncompiled in here, and in `encode`.

        Args:
            vae: the stock autoencoder. It is left as it was found.
            latents: `[B, C, h, w]`, as `vae.decode` takes them.
            features: from `encode` of an image as large as the decoded `latents`. Not read if `weight` is 0.
            weight: from 0 (realism) to 1 (fidelity); 0.5 in CoSeR's official code.

        Returns:
            The image `[B, 3, H, W]`, roughly in [-1, 1]. With a `weight` of 0 it is that of `vae.decode`, bit for bit.

        Raises:
            TypeError: if `vae` is not an `AutoencoderKL`.
            ValueError: if `weight` is not a number from 0 to 1, if `vae` is not of the shape this was made for, if
                `features` do not fit `latents`, if the latents are so large that the autoencoder's own tiling would
                cut them, or if the decoder would recompute its blocks, unhooked, for gradient checkpointing.
        """
        if not (isinstance(weight, Real) and 0 <= weight <= 1):
            raise ValueError(f"weight={weight!r}, expected a number from 0 (realism) to 1 (fidelity).")
        _, decoder_blocks = self._fused_blocks(vae)
        if weight == 0:
            return vae.decode(latents, return_dict=False)[0]
        if [len(feature) for feature in features] != [len(latents)] * len(decoder_blocks):
            raise ValueError(
                f"`features` has tensors of {[list(feature.shape) for feature in features]} for latents of "
                f"{list(latents.shape)}, expected one for each of the levels {list(self.config.levels)}, with as many "
                "images as there are latents: give what `encode` returns for them."
            )
        if torch.is_grad_enabled() and autoencoder_to_join(vae).decoder.gradient_checkpointing:
            raise ValueError(
                "The autoencoder checkpoints gradients, which would leave the fusion layers out of the backward pass: "
                "call vae.disable_gradient_checkpointing()."
            )
        if vae.use_slicing and len(latents) > 1:
            batch = zip(latents.split(1), *(feature.split(1) for feature in features), strict=True)
            return torch.cat([self.decode(vae, latent, parts, weight) for latent, *parts in batch])

        def fuse(level: int, feature: torch.Tensor, _: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            return self(level, feature, output, float(weight))

        hooks = (partial(fuse, *where) for where in zip(self.config.levels, features, strict=True))
        with _hooked(decoder_blocks, hooks):
            return vae.decode(latents, return_dict=False)[0]

    def forward(
        self, level: int, encoder_features: torch.Tensor, decoder_features: torch.Tensor, weight: float
    ) -> torch.Tensor:
        """Fuse the features of one level, both `[B, channels, h, w]`: `h + w * F(cat[encoder features, h])`.

        All computation with this model's weights enters here, so that the hooks that bring offloaded weights to the
        device see it. Its dtype may differ from the autoencoder's.
        """
        if encoder_features.shape != decoder_features.shape:
            raise ValueError(
                f"At level {level} the features are {list(encoder_features.shape)}, but the decoder's are "
                f"{list(decoder_features.shape)}: give those of an image, or a tile, as large as the decoded latents. "
                f"{_NO_TILING}"
            )
        layer = self.fusion_layers[str(level)]
        fused = layer(encoder_features.to(self.dtype), decoder_features.to(self.dtype))
        return decoder_features + weight * fused.to(decoder_features.dtype)

    def _fused_blocks(self, vae: AutoencoderKL) -> tuple[list[nn.Module], list[nn.Module]]:
        """List the last residual blocks of the fused levels, in encoder and decoder."""
        vae = autoencoder_to_join(vae)
        widths = dict(enumerate(vae.config.block_out_channels))
        for level, expected in zip(self.config.levels, self.config.channels, strict=True):
            if widths.get(level) != expected:
                raise ValueError(
                    f"These fusion layers expect {expected} channels at level {level} of the autoencoder, which has "
                    f"{list(widths.values())}: use them with the autoencoder they were made for, or one of its shape."
                )
        return (
            [vae.encoder.down_blocks[level].resnets[-1] for level in self.config.levels],
            [vae.decoder.up_blocks[-1 - level].resnets[-1] for level in self.config.levels],
        )


def has_layers_to_join(vae: nn.Module) -> bool:
    """Whether `vae` is an `AutoencoderKL`: fusion layers join the encoder and the decoder of no other."""
    return isinstance(unwrap_module(vae), AutoencoderKL)


def autoencoder_to_join(vae: nn.Module) -> AutoencoderKL:
    """Return the autoencoder without its wrappers. Raises TypeError if it is not an `AutoencoderKL`."""
    vae = unwrap_module(vae)
    if not isinstance(vae, AutoencoderKL):
        raise TypeError(
            f"`vae` is an {type(vae).__name__}, expected an AutoencoderKL, whose encoder and decoder the fusion "
            "layers join: without one, decode without them."
        )
    return vae


@contextmanager
def _hooked(modules: Sequence[nn.Module], hooks: Iterator[Callable[..., Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in zip(modules, hooks, strict=True)]
    try:
        # Code that was compiled before runs without hooks, and code that was compiled with them keeps them, unnoticed.
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()
