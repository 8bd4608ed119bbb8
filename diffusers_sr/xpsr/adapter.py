"""XPSR's attention: semantic fusion in the ControlNet, conditional (pixel) attention in the UNet's decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias, get_args

import torch
from diffusers import ModelMixin, Transformer2DModel  # noqa: F401 (a pipeline looks its loader, ModelMixin, up here)
from diffusers.configuration_utils import register_to_config
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from ..attention.adapter import AdapterHook, AttentionAdapter
from ..attention.control_features import decoder_features, feature_of_site, feature_tokens
from ..attention.prepared_transformer import (
    keep_transformer_processors,
    prepared_transformer,
    run_prepared,
    transformer_keys_and_values,
    transformer_options,
    with_hidden_states,
)
from ..attention.processors import repeat_to_batch
from ..attention.sites import Host, check_site, check_site_channels, site_key

LOW_LEVEL, FUSION = "low_level", "fusion"

Fusion: TypeAlias = Literal["sfa", "parallel", "serial", "high", "low"]
LowLevel = Mapping[str, torch.Tensor]


class SemanticFusionHook(AdapterHook):
    """A hook that puts the low-level branch beside a text transformer of the ControlNet, and the fusion after it."""

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Run the low-level branch on the transformer's input while the adapter is conditioned."""
        if self.adapter.is_conditioned:
            self.adapter("describe_low_level", self.site, args[0] if args else kwargs["hidden_states"])
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Fuse the transformer's output with the low-level branch's while the adapter is conditioned."""
        if not self.adapter.is_conditioned:
            return output
        return with_hidden_states(output, self.adapter("fuse_semantics", self.site, _hidden_states(output)))


class PixelAttentionHook(AdapterHook):
    """A hook that runs a decoder layer's pixel attention on what its text transformer or residual block returns."""

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Apply the pixel attention to the output while the adapter is conditioned."""
        if not self.adapter.is_conditioned:
            return output
        return with_hidden_states(output, self.adapter("attend_to_control", self.site, _hidden_states(output)))


class XPSRAdapter(AttentionAdapter):
    """Semantic fusion of two texts in a ControlNet, and attention to its residuals in the UNet's decoder.

    Each attention in the paper's figures is a complete `Transformer2DModel` in the official code: group norm,
    self-attention, cross-attention, feed-forward, and a residual around all of it. This adapter holds their weights.

    Semantic fusion (paper, section 3.2): beside every text transformer of the ControlNet, which reads the high-level
    prompt, a second one reads the low-level prompt, and a third reads the result of the second. On hidden states `x`::

        h  = transformer(x, high-level prompt)  # the ControlNet's own
        l  = low_level(x, low-level prompt)
        x' = fusion(h, l)                       # h gives query and residual; l, not normalised, keys and values

    Conditional attention: every layer of the UNet's decoder ends with a pixel attention, whose keys and values come
    from the ControlNet's residual for the layer's skip connection, again not normalised. (The residuals are added to
    the skip connections as well, in the stock way.)

    Without semantic fusion it is the adapter of PASD (https://arxiv.org/abs/2308.14469), which has the same pixel
    attention.

    The paper's ablations have other values of `fusion`. The official code has neither parallel nor serial fusion; how
    they are wired is decided here::

        parallel: x' = h + (low_level(x, low-level prompt) - x)  # both read x, and both changes are added up
        serial:   x' = low_level(h, low-level prompt)            # the second reads what the first has made of x
        high:     x' = h                                         # PASD: one prompt, the high-level one
        low:      x' = h                                         # one prompt, the low-level one takes its place

    Args:
        unet_sites: the name of the last module of every layer of the decoder, such as "up_blocks.0.resnets.0" or
            "up_blocks.1.attentions.0", with the options of its pixel attention (`num_attention_heads`,
            `attention_head_dim`, `in_channels`, `num_layers`, `norm_num_groups` and `use_linear_projection`), and
            which of the ControlNet's down residuals it reads: `control_index` and `control_channels`.
        controlnet_sites: the name of every text transformer of the ControlNet, such as "down_blocks.0.attentions.0",
            with the same options for the two transformers that are added to it. If it is empty, there is no semantic
            fusion.
        cross_attention_dim: channels of the low-level prompt's embeddings.
        fusion: "sfa", semantic-fusion attention, or the ablation that takes its place where there are sites.

    `from_hosts` reads all but the last from the models.

    Raises:
        ValueError: if `fusion` is not one of these.
    """

    _no_split_modules = ["Transformer2DModel"]  # noqa: RUF012
    _repeated_blocks = ["BasicTransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        unet_sites: dict[str, dict[str, Any]],
        controlnet_sites: dict[str, dict[str, Any]],
        cross_attention_dim: int = 768,
        fusion: Fusion = "sfa",
    ) -> None:
        super().__init__()
        if fusion not in get_args(Fusion):
            raise ValueError(f"fusion is {fusion!r}: give one of {', '.join(map(repr, get_args(Fusion)))}.")

        def added(options: dict[str, Any]) -> nn.ModuleDict:
            low_level = prepared_transformer(cross_attention_dim, options)
            if fusion != "sfa":
                return nn.ModuleDict({LOW_LEVEL: low_level})
            return nn.ModuleDict({LOW_LEVEL: low_level, FUSION: prepared_transformer(options["in_channels"], options)})

        self.unet = nn.ModuleDict(
            {
                site_key(site): prepared_transformer(options["control_channels"], options)
                for site, options in unet_sites.items()
            }
        )
        self.controlnet = nn.ModuleDict({site_key(site): added(options) for site, options in controlnet_sites.items()})
        # The results of the low-level branches between the two hooks of a site; empty outside a call of a host.
        self._low_levels: dict[str, torch.Tensor] = {}
        keep_transformer_processors(self)

    @classmethod
    def from_hosts(
        cls, unet: Host, controlnet: Host, fusion: Fusion | bool = "sfa", leave_out: Sequence[str] = ()
    ) -> Self:
        """Make a new adapter for these models, to be trained.

        As in the official code, the transformers of the semantic fusion start from the ControlNet's own where the
        shapes allow it. What fusion and pixel attention add starts from zero, so that the attached models initially
        compute what the stock ones do; in the official code it does not start from zero.

        Args:
            fusion: how the ControlNet reads the two prompts; True is "sfa", and False is "high", PASD's adapter.
            leave_out: prefixes of the names of sites that get no attention. Attention between all pixels takes most of
                its time at the largest level, "up_blocks.3".
        """
        left_out = tuple(leave_out)
        if isinstance(fusion, bool):
            fusion = "sfa" if fusion else "high"
        text_transformers = {
            name: module
            for name, module in controlnet.named_modules()
            if isinstance(module, Transformer2DModel)
            and fusion not in ("high", "low")
            and not name.startswith(left_out)
        }
        layers = _decoder_layers(unet, controlnet)
        # diffusers treats arguments given by position as defaults, which are not saved.
        adapter = cls(
            unet_sites={name: options for name, options in layers.items() if not name.startswith(left_out)},
            controlnet_sites={name: transformer_options(module) for name, module in text_transformers.items()},
            cross_attention_dim=controlnet.config.cross_attention_dim,
            fusion=fusion,
        )
        added = [adapter._pixel_attention(site) for site in adapter.config.unet_sites]
        for site, text_transformer in text_transformers.items():
            parts: Any = adapter.controlnet[site_key(site)]
            for part in parts.values():
                _copy_fitting(text_transformer, part)
            added.append(part)  # the last one, which the ControlNet's hidden states get
        for transformer in added:
            nn.init.zeros_(transformer.proj_out.weight)
            nn.init.zeros_(transformer.proj_out.bias)
        return adapter

    @property
    def fuses_semantics(self) -> bool:
        """Whether the adapter takes a low-level prompt besides the other: XPSR's does, PASD's does not."""
        return bool(self.config.controlnet_sites)

    def prepare_low_level(self, texts: torch.Tensor) -> LowLevel:
        """Compute keys and values of low-level prompts by site of the ControlNet, `[B, L, num_layers * 2 * channels]`.

        Call it as `adapter("prepare_low_level", texts)` with embeddings `[B, L, cross_attention_dim]`. The result
        depends on neither noise nor step: it is one entry of `low_level` in `conditioning`, the same at every step.

        Raises:
            ValueError: if `texts` has another shape.
        """
        dim = self.config.cross_attention_dim
        if texts.ndim != 3 or texts.shape[-1] != dim:
            raise ValueError(
                f"The low-level prompts have shape {list(texts.shape)}, expected [batch, tokens, {dim}]: give what "
                "the text encoder this adapter was trained with returns."
            )
        return {
            site: transformer_keys_and_values(self._fusion_part(site, LOW_LEVEL), texts)
            for site in self.sites("controlnet")
        }

    def prepare_conditioning(
        self, low_level: Sequence[LowLevel] | None = None, controls: Sequence[torch.Tensor] | None = None
    ) -> dict[str, Any]:
        """Sort the inputs by site for `conditioned`; `prepare` and `conditioning` have the same arguments.

        Args:
            low_level: what `prepare_low_level` returns, once for each of the equal parts that the ControlNet's batch
                consists of: with guidance for the negative prompts and for the prompts, otherwise for the prompts
                alone. Each part may be any multiple of the prepared prompts: tiles are repetitions of them, with the
                image as the fastest index. Without it the ControlNet computes what the stock one does.
            controls: the residuals of the ControlNet, multiplied by their scale: those of the down blocks and then
                that of the middle block, each `[B, channels, h, w]` (`control_features`). The UNet may be called with
                any multiple of `B` latents. Without them the UNet computes what the stock one does.

        Raises:
            ValueError: if the residuals are not those this adapter was made for.
        """
        keep_transformer_processors(self)
        self._low_levels = {}
        conditioning: dict[str, Any] = {}
        if low_level is not None:
            conditioning["low_level"] = list(low_level)
        if controls is not None:
            conditioning["controls"] = {
                site: feature_of_site(controls, "controls", site, options)
                for site, options in self.sites("unet").items()
            }
        return conditioning

    def describe_low_level(self, site: str, hidden_states: torch.Tensor) -> None:
        """Run the low-level branch of a site on `x`, `[B, C, H, W]`, and keep what `fuse_semantics` needs of it."""
        if "low_level" not in self._conditioning or self.config.fusion == "serial":
            return
        low_level = self._run_low_level(site, hidden_states)
        self._low_levels[site] = low_level - hidden_states if self.config.fusion == "parallel" else low_level

    def _run_low_level(self, site: str, hidden_states: torch.Tensor) -> torch.Tensor:
        parts, batch = self._conditioning["low_level"], len(hidden_states)
        if batch % len(parts):
            raise ValueError(
                f"There are low-level prompts for {len(parts)} equal parts of a batch, but the ControlNet was called "
                f"with a batch of {batch}: give one for each half of the guidance, or one for all."
            )
        text = torch.cat([repeat_to_batch(part[site], batch // len(parts)) for part in parts])
        return run_prepared(self._fusion_part(site, LOW_LEVEL), hidden_states, text)

    def fuse_semantics(self, site: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Compute `x'` of a site from what its text transformer returns, `h`, `[B, C, H, W]`."""
        if "low_level" not in self._conditioning:
            return hidden_states
        if self.config.fusion == "serial":
            return self._run_low_level(site, hidden_states)
        low_level = self._low_levels.pop(site)
        if self.config.fusion == "parallel":
            return hidden_states + low_level
        fusion = self._fusion_part(site, FUSION)
        return run_prepared(fusion, hidden_states, transformer_keys_and_values(fusion, feature_tokens(low_level)))

    def attend_to_control(self, site: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply the pixel attention of a site, `[B, C, H, W] -> [B, C, H, W]`, with its residual."""
        if "controls" not in self._conditioning:
            return hidden_states
        attention = self._pixel_attention(site)
        tokens = feature_tokens(self._conditioning["controls"][site])
        return run_prepared(attention, hidden_states, transformer_keys_and_values(attention, tokens))

    def site_hook(self, role: str, site: str, module: nn.Module) -> AdapterHook:
        """Make the hook for a layer of the UNet's decoder, or for a text transformer of the ControlNet."""
        expected = self.sites(role)[site]["in_channels"]
        kind: type[Any] = ResnetBlock2D if ".resnets." in site else Transformer2DModel
        check_site_channels(role, site, _out_channels(check_site(role, site, module, kind)), expected)
        return (PixelAttentionHook if role == "unet" else SemanticFusionHook)(self, role, site)

    def _pixel_attention(self, site: str) -> Transformer2DModel:
        return self.unet[site_key(site)]

    def _fusion_part(self, site: str, name: str) -> Transformer2DModel:
        return self.controlnet[site_key(site)][name]  # type: ignore[index]


def _decoder_layers(unet: Host, controlnet: Host) -> dict[str, dict[str, Any]]:
    heads: Any = unet.config.num_attention_heads or unet.config.attention_head_dim
    if not isinstance(heads, Sequence):
        heads = [heads] * len(unet.up_blocks)
    sites = {}
    for name, index in decoder_features(unet, controlnet).items():
        resnet: Any = unet.get_submodule(name)
        block, _, layer = name.partition(".resnets.")
        num_heads = heads[-1 - int(block.rpartition(".")[2])]  # the configuration counts from the encoder's first
        last = f"{block}.attentions.{layer}" if hasattr(unet.get_submodule(block), "attentions") else name
        sites[last] = {
            "num_attention_heads": num_heads,
            "attention_head_dim": resnet.out_channels // num_heads,
            "in_channels": resnet.out_channels,
            "num_layers": 1,
            "norm_num_groups": unet.config.norm_num_groups,
            "use_linear_projection": unet.config.use_linear_projection,
            "control_index": index,
            "control_channels": controlnet.controlnet_down_blocks[index].out_channels,
        }
    return sites


def _copy_fitting(source: nn.Module, target: nn.Module) -> None:
    own = target.state_dict()
    given = source.state_dict()
    own.update({key: tensor for key, tensor in given.items() if tensor.shape == own[key].shape})
    target.load_state_dict(own)


def _out_channels(module: Any) -> int:
    channels: int = module.out_channels
    return channels


def _hidden_states(output: Any) -> torch.Tensor:
    """Take the hidden states from what a residual block or a transformer returns."""
    hidden_states: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return hidden_states
