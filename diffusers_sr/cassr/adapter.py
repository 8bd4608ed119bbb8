"""CasSR's multiple attention (paper, stage 2): reference attention, the UNet's own self-attention, LR attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers import ModelMixin  # noqa: F401 (a pipeline looks its loader up in the component's module)
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn

from ..attention.adapter import AdapterHook, AttentionAdapter, HiddenStatesHook
from ..attention.control_features import MIDDLE, control_sites, feature_of_site, feature_tokens
from ..attention.processors import PreparedAttnProcessor, keep_processor, keys_and_values
from ..attention.sites import Host, check_site, check_site_channels, site_key

SELF_ATTENTION = ".attn1"
CONTROLS = ("reference", "lr")


class ControlAttention(nn.Module):
    """Attention of a transformer block's hidden states to control features (paper, Eq. 1 and 2).

    Args:
        channels: channels of the transformer block.
        control_channels: channels of the control features.
        num_attention_heads: heads of the block's self-attention.
        norm_num_groups: groups of the control features' normalisation.
    """

    def __init__(self, channels: int, control_channels: int, num_attention_heads: int, norm_num_groups: int) -> None:
        super().__init__()
        self.norm_hidden = nn.LayerNorm(channels)
        self.norm_control = nn.GroupNorm(norm_num_groups, control_channels, eps=1e-6)
        self.attn = Attention(
            channels,
            cross_attention_dim=control_channels,
            heads=num_attention_heads,
            dim_head=channels // num_attention_heads,
        )

    def prepare(self, feature: torch.Tensor) -> torch.Tensor:
        """Compute keys and values of a control feature, `[B, control_channels, h, w] -> [B, h * w, 2 * channels]`."""
        return keys_and_values(self.attn, feature_tokens(self.norm_control(feature)))

    def forward(self, hidden_states: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
        """Compute what is added to the hidden states `[k * B, N, channels]`."""
        return self.attn(self.norm_hidden(hidden_states), encoder_hidden_states=prepared)


class LRAttentionHook(AdapterHook):
    """A hook that puts the LR attention after the self-attention of a transformer block."""

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Add the LR attention to the output while the adapter is conditioned."""
        if not self.adapter.is_conditioned:
            return output
        return self.adapter("attend_to_lr", self.site, output)


class CasSRAdapter(AttentionAdapter):
    """Reference and LR attention around the self-attention of the transformer blocks of the UNet's decoder.

    Both read the features of one ControlNet (its residuals, which the UNet gets too), run on the image and on its
    reference. On hidden states `x`, a block up to its attention to the text becomes::

        x1 = x  + scale_reference * reference_attention(x)
        x2 = x1 + self_attention(x1)
        x3 = x2 + scale_lr * lr_attention(x2)

    No code of CasSR was released, and the paper leaves much of this open. Its Eq. 1 and 2 have no residual, without
    which a new attention would destroy what the frozen UNet knows; here there is one, and the output projections start
    from zero. The hidden states are normalised as for the block's other attentions, and so are the control features,
    since they start from zero and have no scale of their own. A block reads the control feature whose skip connection
    enters the residual block before it; where the two differ in channels, the projections of keys and values take the
    ControlNet's. The middle block has no such attention: the paper names the upsampling blocks.

    Args:
        unet_sites: the names of these transformer blocks, such as "up_blocks.1.attentions.0.transformer_blocks.0",
            each with `channels`, `control_channels`, `num_attention_heads` and `norm_num_groups` of its two
            `ControlAttention`, and `control_index`: which of the ControlNet's down residuals they read. `from_hosts`
            reads them from the models. If there are none, there is no such attention.
    """

    _no_split_modules = ["ControlAttention"]  # noqa: RUF012
    _repeated_blocks = ["ControlAttention"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm"]  # noqa: RUF012

    @register_to_config
    def __init__(self, unet_sites: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.unet = nn.ModuleDict({site_key(site): _attentions(options) for site, options in unet_sites.items()})
        # The residual stream of a block between its two hooks, by site; empty outside a call of a host.
        self._streams: dict[str, torch.Tensor] = {}
        self._keep_processors()

    @classmethod
    def from_hosts(cls, unet: Host, controlnet: Host, multiple_attention: bool = True) -> Self:
        """Make a new adapter for these models, to be trained.

        Both attentions start from the block's own self-attention where the shapes allow it, and what they add starts
        from zero, so that the conditioned UNet initially computes what the stock one does.

        Args:
            multiple_attention: whether there is any attention; without it the adapter has no weights, and the method
                degenerates to a ControlNet for both images (the paper's ablation).
        """
        sites = control_sites(unet, controlnet) if multiple_attention else {}
        adapter = cls(
            unet_sites={site: options for site, options in sites.items() if options["control_index"] != MIDDLE}
        )
        for site in adapter.config.unet_sites:
            for name in CONTROLS:
                _initialise(adapter._attention(name, site), unet.get_submodule(site))
        return adapter

    def sites(self, role: str) -> dict[str, dict[str, Any]]:
        """List the transformer blocks, and the self-attention in each."""
        if role != "unet":
            return {}
        blocks = self.config.unet_sites
        return {**blocks, **{f"{site}{SELF_ATTENTION}": options for site, options in blocks.items()}}

    def prepare_conditioning(
        self,
        lr: Sequence[torch.Tensor] | None = None,
        reference: Sequence[torch.Tensor] | None = None,
        lr_scale: float = 1.0,
        reference_scale: float = 1.0,
    ) -> dict[str, dict[str, tuple[torch.Tensor, float]]]:
        """Compute keys and values from the image, "lr", and from the "reference", by site, each with its scale.

        `conditioned` takes the result; `prepare` and `conditioning` have the same arguments. Keys and values do not
        depend on the hidden states, so they are the same in both halves of the guidance.

        Args:
            lr, reference: the ControlNet's residuals for the image and for its reference, those of the down blocks and
                then that of the middle block, each `[B, channels, h, w]`. A host may then be called with any multiple
                of `B` latents. If one of them is None, its attention is left out.
            lr_scale, reference_scale: weights of what the attentions add; with 0 they add nothing.

        Raises:
            ValueError: if the residuals are not those this adapter was made for.
        """
        self._keep_processors()
        self._streams = {}
        return {
            name: {
                site: (
                    self.recomputed(
                        self._attention(name, site).prepare, feature_of_site(features, name, site, options)
                    ),
                    scale,
                )
                for site, options in self.config.unet_sites.items()
            }
            for name, features, scale in (("lr", lr, lr_scale), ("reference", reference, reference_scale))
            if features is not None
        }

    def attend_to_reference(self, site: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute `x1` of a site from `x`, `[k * B, N, channels]`, and keep it for `attend_to_lr`."""
        if "reference" in self._conditioning:
            hidden_states = hidden_states + self._attend("reference", site, hidden_states)
        self._streams[site] = hidden_states
        return hidden_states

    def attend_to_lr(self, site: str, attended: torch.Tensor) -> torch.Tensor:
        """Compute `x3 - x1` of a site from what its self-attention returns, `x2 - x1`: the block itself adds `x1`."""
        stream = self._streams.pop(site)
        if "lr" in self._conditioning:
            attended = attended + self._attend("lr", site, attended + stream)
        return attended

    def site_hook(self, role: str, site: str, module: nn.Module) -> AdapterHook:
        """Make the hook for a transformer block, or for the self-attention in one."""
        if site.endswith(SELF_ATTENTION):
            return LRAttentionHook(self, role, site.removesuffix(SELF_ATTENTION))
        expected = self.sites(role)[site]["channels"]
        found = check_site(role, site, module, BasicTransformerBlock)
        check_site_channels(role, site, found.norm1.normalized_shape[0], expected)
        return HiddenStatesHook(self, role, site, "attend_to_reference")

    def _attend(self, name: str, site: str, hidden_states: torch.Tensor) -> torch.Tensor:
        prepared, scale = self._conditioning[name][site]
        return scale * self.recomputed(self._attention(name, site), hidden_states, prepared)

    def _attention(self, name: str, site: str) -> ControlAttention:
        return self.unet[site_key(site)][name]  # type: ignore[index]  # a ModuleDict does not know its values' type

    def _keep_processors(self) -> None:
        for site in self.config.unet_sites:
            for name in CONTROLS:
                keep_processor(self._attention(name, site).attn, PreparedAttnProcessor())


def _attentions(options: dict[str, Any]) -> nn.ModuleDict:
    options = {option: value for option, value in options.items() if option != "control_index"}
    return nn.ModuleDict({name: ControlAttention(**options) for name in CONTROLS})


def _initialise(attention: ControlAttention, block: Any) -> None:
    attention.norm_hidden.load_state_dict(block.norm1.state_dict())
    own: dict[str, torch.Tensor] = attention.attn.state_dict()
    stock = block.attn1.state_dict()
    own.update({key: tensor for key, tensor in stock.items() if tensor.shape == own[key].shape})
    attention.attn.load_state_dict(own)
    nn.init.zeros_(attention.attn.to_out[0].weight)
    nn.init.zeros_(attention.attn.to_out[0].bias)
