"""SeeSR's representation cross-attention (paper section 3.3; `image_attentions` in the official code)."""

from __future__ import annotations

from typing import Any, Self

import torch
from diffusers import ModelMixin, Transformer2DModel  # noqa: F401 (a pipeline looks its loader, ModelMixin, up here)
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..attention.adapter import AdapterHook, AttentionAdapter
from ..attention.prepared_transformer import (
    keep_transformer_processors,
    prepared_transformer,
    run_prepared,
    transformer_keys_and_values,
    transformer_options,
    with_hidden_states,
)
from ..attention.sites import Host, check_site, check_site_channels, site_key


class RepresentationHook(AdapterHook):
    """A hook that runs a site's representation transformer on what its text transformer returns."""

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Attend to the representation, unless the adapter has no conditioning."""
        if not self.adapter.is_conditioned:
            return output
        hidden_states = self.adapter("attend_to_representation", self.role, self.site, output[0])
        return with_hidden_states(output, hidden_states)


class SeeSRAdapter(AttentionAdapter):
    """A second transformer after every text transformer of the UNet and of the ControlNet, which attends to the image.

    The paper draws it as a cross-attention; in the official code, whose weights this holds, it is a complete
    `Transformer2DModel` like its neighbour (group norm, self-attention, cross-attention to the representation of the
    image, feed-forward, and a residual around all of it). Its output is what enters the skip connections and the
    ControlNet's residuals.

    Args:
        unet_sites, controlnet_sites: the name of every text transformer of the host, "down_blocks.0.attentions.0",
            with the options of the representation transformer that follows it: `num_attention_heads`,
            `attention_head_dim`, `in_channels`, `num_layers`, `norm_num_groups` and `use_linear_projection`.
            `from_hosts` reads them from the models. If both are empty, there is no such attention.
        representation_dim: channels of the representation.
    """

    _no_split_modules = ["Transformer2DModel"]  # noqa: RUF012
    _repeated_blocks = ["BasicTransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        unet_sites: dict[str, dict[str, Any]],
        controlnet_sites: dict[str, dict[str, Any]],
        representation_dim: int = 512,
    ) -> None:
        super().__init__()
        self.unet = _transformers(unet_sites, representation_dim)
        self.controlnet = _transformers(controlnet_sites, representation_dim)
        keep_transformer_processors(self)

    @classmethod
    def from_hosts(cls, unet: Host, controlnet: Host, representation_dim: int = 512, rca: bool = True) -> Self:
        """Make a new adapter for these models, to be trained.

        Its output projections are zero, so that the attached models start out as the stock ones. (The official code
        starts from random ones, which destroys what the base model knows.)

        Args:
            rca: whether there is representation cross-attention (RCA), through which alone the soft prompt enters;
                without it the adapter has no weights (the paper's ablation).
        """
        # diffusers takes arguments given by position for defaults, which are not saved.
        adapter = cls(
            unet_sites=_text_transformers(unet) if rca else {},
            controlnet_sites=_text_transformers(controlnet) if rca else {},
            representation_dim=representation_dim,
        )
        for transformer in (*adapter.unet.values(), *adapter.controlnet.values()):
            nn.init.zeros_(transformer.proj_out.weight)
            nn.init.zeros_(transformer.proj_out.bias)
        return adapter

    def prepare_conditioning(self, representation: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
        """Compute keys and values of every site by role and site, `[B, L, num_layers * 2 * channels]`.

        A host may then be called with any multiple of `B` images: guidance halves and tiles come as repetitions of the
        whole batch, with the image as the fastest index.

        Args:
            representation: `[B, L, representation_dim]`; `prepare`, `conditioning` and `set_conditioning` take it.

        Raises:
            ValueError: if `representation` has another shape.
        """
        dim = self.config.representation_dim
        if representation.ndim != 3 or representation.shape[-1] != dim:
            raise ValueError(
                f"`representation` has shape {list(representation.shape)}, expected [batch, tokens, {dim}]: give the "
                "representation that the tagger this adapter was trained with returns."
            )
        keep_transformer_processors(self)
        return {
            role: {
                site: transformer_keys_and_values(self._transformer(role, site), representation)
                for site in self.sites(role)
            }
            for role in ("unet", "controlnet")
        }

    def attend_to_representation(self, role: str, site: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Run the representation transformer of a site, `[B, C, H, W] -> [B, C, H, W]`, with its residual."""
        return run_prepared(self._transformer(role, site), hidden_states, self._conditioning[role][site])

    def site_hook(self, role: str, site: str, module: nn.Module) -> RepresentationHook:
        """Make the hook for one text transformer. Raises ValueError if `module` is of another kind or size."""
        expected = self.sites(role)[site]["in_channels"]
        found = check_site(role, site, module, Transformer2DModel)
        check_site_channels(role, site, found.in_channels, expected)
        return RepresentationHook(self, role, site)

    def _transformer(self, role: str, site: str) -> Transformer2DModel:
        return getattr(self, role)[site_key(site)]


def _text_transformers(host: Host) -> dict[str, dict[str, Any]]:
    return {
        name: transformer_options(module)
        for name, module in host.named_modules()
        if isinstance(module, Transformer2DModel)
    }


def _transformers(sites: dict[str, dict[str, Any]], representation_dim: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {site_key(site): prepared_transformer(representation_dim, options) for site, options in sites.items()}
    )
