"""CoSeR's all-in-attention (paper, section 3.4): reference and LR attention before the decoder's self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, TypeAlias, get_args

import torch
from diffusers import ModelMixin  # noqa: F401 (a pipeline looks its loader up in the component's module)
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn

from ..attention.adapter import AttentionAdapter, HiddenStatesHook
from ..attention.control_features import control_sites, feature_of_site, feature_tokens
from ..attention.float32 import Float32Conv2d, Float32GroupNorm
from ..attention.processors import PreparedAttnProcessor, keep_processor, keys_and_values, repeat_to_batch
from ..attention.sites import Host, check_site, check_site_channels, site_key
from ..image.pixels import BICUBIC, Bicubic
from .one_hot import Similarity
from .processor import OneHotReferenceAttnProcessor, SoftmaxReferenceAttnProcessor

ReferenceAttention = Literal["one-hot", "softmax", "none"]
Prepared: TypeAlias = tuple[torch.Tensor | None, torch.Tensor]


class AllInAttention(nn.Module):
    """The attention before one transformer block, to control features of the image and of its references.

    Args:
        channels: those of the transformer block.
        control_channels: those of the control features; if they differ, a convolution brings them to `channels`.
        num_attention_heads: heads of both attentions.
        norm_num_groups: groups of the control features' normalisation.
        has_reference: whether there is attention to references.
    """

    def __init__(
        self,
        channels: int,
        control_channels: int,
        num_attention_heads: int,
        norm_num_groups: int,
        has_reference: bool = True,
    ) -> None:
        super().__init__()
        fits = control_channels == channels

        def new_attention() -> Attention:
            return Attention(channels, heads=num_attention_heads, dim_head=channels // num_attention_heads)

        def new_conv() -> nn.Module:
            return nn.Identity() if fits else Float32Conv2d(control_channels, channels, kernel_size=3, padding=1)

        # The control features have no scale of their own, and here they have not been normalised yet.
        self.conv_lr = new_conv()
        self.norm_lr = Float32GroupNorm(norm_num_groups, channels, eps=1e-6)
        self.proj_lr = nn.Linear(channels, channels)
        if has_reference:
            self.conv_reference = new_conv()
            # The official code has a projection of the reference too, but never uses it.
            self.norm_reference = Float32GroupNorm(norm_num_groups, channels, eps=1e-6)
            self.attn_reference = new_attention()
            self.out_reference = nn.Linear(channels, channels)
        self.norm_hidden = nn.LayerNorm(channels)
        self.attn_lr = new_attention()
        self.out_lr = nn.Linear(channels, channels)

    def prepare(self, lr: torch.Tensor, reference: torch.Tensor | None, dtype: torch.dtype) -> Prepared:
        """Compute what does not depend on the hidden states, and so is the same in both halves of the guidance.

        Args:
            lr: control features of the image, `[B, control_channels, h, w]`.
            reference: those of its references side by side, `[B, control_channels, h, w * references]`; None if it
                has none.
            dtype: type that they are cast to once they are normalised.

        Returns:
            The residual of the reference attention, `[B, h * w, channels]`, or None, and keys and values of the LR
            attention, `[B, h * w, 2 * channels]`.
        """
        lr = self.proj_lr(feature_tokens(self.norm_lr(self.conv_lr(lr))).to(dtype))
        if reference is None:
            return None, keys_and_values(self.attn_lr, lr)
        reference = feature_tokens(self.norm_reference(self.conv_reference(reference))).to(dtype)
        residual = self.out_reference(self.attn_reference(lr, encoder_hidden_states=reference))
        return residual, keys_and_values(self.attn_lr, lr)

    def forward(self, hidden_states: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        """Add both residuals to the hidden states `[k * B, N, channels]`, in the official code's order."""
        residual, keys_and_values = prepared
        if residual is not None:
            hidden_states = hidden_states + repeat_to_batch(residual, len(hidden_states))
        attended = self.attn_lr(self.norm_hidden(hidden_states), encoder_hidden_states=keys_and_values)
        return hidden_states + self.out_lr(attended)


class CoSeRAdapter(AttentionAdapter):
    """One-hot reference attention and LR attention before every transformer block of the UNet's middle and decoder.

    They read the features of one ControlNet (its residuals, which are not added to anything), run on the image's
    latents and on the references'. The queries of the reference attention are the image's features, not the hidden
    states.

    Args:
        unet_sites: the name of every such transformer block, "up_blocks.1.attentions.0.transformer_blocks.0", with
            `channels`, `control_channels`, `num_attention_heads` and `norm_num_groups` of its `AllInAttention`, and
            `control_index`: which of the ControlNet's down residuals it reads; -1 is the middle one. `from_hosts`
            reads them from the models.
        similarity: that of the one-hot attention. "normalized" is the cosine similarity of the paper's Eq. 5; the
            released weights need "scaled", the scaled dot product of the official code.
        bicubic: whose bicubic filter enlarged the images that the weights were trained on, and has to enlarge those
            that they are used on: "pillow" (a = -0.5) for the trainer of this package, "torch" (a = -0.75) for the
            released weights.
        reference_attention: "one-hot", as in the paper; or, its ablations, "softmax", stock attention, or "none": no
            attention to references, and no weights for it.

    Raises:
        ValueError: if `bicubic` or `reference_attention` is not one of these.
    """

    _no_split_modules = ["AllInAttention"]  # noqa: RUF012
    _repeated_blocks = ["AllInAttention"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        unet_sites: dict[str, dict[str, Any]],
        similarity: Similarity = "normalized",
        bicubic: Bicubic = "pillow",
        reference_attention: ReferenceAttention = "one-hot",
    ) -> None:
        super().__init__()
        if bicubic not in BICUBIC:
            raise ValueError(f"bicubic is {bicubic!r}: give one of {', '.join(map(repr, BICUBIC))}.")
        if reference_attention not in get_args(ReferenceAttention):
            allowed = ", ".join(map(repr, get_args(ReferenceAttention)))
            raise ValueError(f"reference_attention is {reference_attention!r}: give one of {allowed}.")
        self.unet = nn.ModuleDict(
            {
                site_key(site): AllInAttention(
                    **{option: value for option, value in options.items() if option != "control_index"},
                    has_reference=self.attends_to_references,
                )
                for site, options in unet_sites.items()
            }
        )
        self._keep_processors()

    @classmethod
    def from_hosts(
        cls,
        unet: Host,
        controlnet: Host,
        similarity: Similarity = "normalized",
        bicubic: Bicubic = "pillow",
        reference_attention: ReferenceAttention = "one-hot",
    ) -> Self:
        """Make a new adapter for these models, to be trained.

        As in the official code, both attentions and the norms start from those of the block's own self-attention, and
        what is added starts from zero, so that the conditioned UNet starts out as the stock one.
        """
        adapter = cls(
            unet_sites=control_sites(unet, controlnet),
            similarity=similarity,
            bicubic=bicubic,
            reference_attention=reference_attention,
        )
        for site in adapter.config.unet_sites:
            adapter._initialise(site, unet)
        return adapter

    @property
    def attends_to_references(self) -> bool:
        """Whether the adapter has attention to references."""
        return bool(self.config.reference_attention != "none")

    def sites(self, role: str) -> dict[str, dict[str, Any]]:
        """Map the UNet's sites to their options; a ControlNet has none."""
        return self.config.unet_sites if role == "unet" else {}

    def prepare_conditioning(
        self, lr: Sequence[torch.Tensor], reference: Sequence[torch.Tensor] | None = None
    ) -> dict[str, Prepared]:
        """Compute what every site adds and attends to, by site; see `AllInAttention.prepare`.

        `prepare`, `conditioning` and `set_conditioning` take the residuals of the ControlNet, those of the down blocks
        and then the middle one, each `[B, channels, h, w]`. A host may then be called with any multiple of `B`
        latents.

        Args:
            lr: the residuals for the image's latents.
            reference: those for the latents of the references, which may lie side by side; None if there is none.

        Raises:
            ValueError: if the residuals are not those this adapter was made for.
        """
        self._keep_processors()
        prepared = {}
        for site, options in self.sites("unet").items():
            prepared[site] = self.recomputed(
                self._attention(site).prepare,
                feature_of_site(lr, "lr", site, options),
                None if reference is None else feature_of_site(reference, "reference", site, options),
                self.dtype,
            )
        return prepared

    def all_in_attention(self, site: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Turn the hidden states `[k * B, N, channels]` of a site into those that its transformer block gets."""
        return self.recomputed(self._attention(site), hidden_states, self._conditioning[site])

    def site_hook(self, role: str, site: str, module: nn.Module) -> HiddenStatesHook:
        """Make the hook for one transformer block. Raises ValueError if `module` is of another kind or size."""
        expected = self.sites(role)[site]["channels"]
        found = check_site(role, site, module, BasicTransformerBlock)
        check_site_channels(role, site, found.norm1.normalized_shape[0], expected)
        return HiddenStatesHook(self, role, site, "all_in_attention")

    def _attention(self, site: str) -> AllInAttention:
        return self.unet[site_key(site)]  # type: ignore[return-value]  # a ModuleDict does not know their type

    def _keep_processors(self) -> None:
        attentions: list[Any] = list(self.unet.values())
        for attention in attentions:
            if self.attends_to_references:
                keep_processor(attention.attn_reference, self._reference_processor())
            keep_processor(attention.attn_lr, PreparedAttnProcessor())

    def _reference_processor(self) -> OneHotReferenceAttnProcessor | SoftmaxReferenceAttnProcessor:
        if self.config.reference_attention == "softmax":
            return SoftmaxReferenceAttnProcessor()
        return OneHotReferenceAttnProcessor(self.config.similarity)

    def _initialise(self, site: str, unet: Host) -> None:
        new, transformer = self._attention(site), unet.get_submodule(site.rsplit(".transformer_blocks", 1)[0])
        block: Any = unet.get_submodule(site)
        new.norm_lr.load_state_dict(transformer.norm.state_dict())
        # A base may project with a 1×1 convolution, which is the same.
        weight = {
            name: tensor.flatten(1) if tensor.ndim > 1 else tensor
            for name, tensor in transformer.proj_in.state_dict().items()
        }
        new.proj_lr.load_state_dict(weight)
        new.attn_lr.load_state_dict(block.attn1.state_dict())
        new.norm_hidden.load_state_dict(block.norm1.state_dict())
        _zero(new.out_lr)
        if self.attends_to_references:
            new.norm_reference.load_state_dict(transformer.norm.state_dict())
            new.attn_reference.load_state_dict(block.attn1.state_dict())
            _zero(new.out_reference)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
