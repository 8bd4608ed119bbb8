"""diffusers' functions for LoRAs, on a pipeline whose model consists of LoRA sets itself."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils.torch_utils import unwrap_module

from .lora import LoraSets
from .lora_use import hidden

Weights = float | dict[str, Any] | list[float | None] | list[dict[str, Any]] | None


class LoraSetsLoader(StableDiffusionMixin, StableDiffusionLoraLoaderMixin):
    """The functions of `LoraBaseMixin` for a UNet that has the LoRA sets of `lora` besides the user's LoRAs.

    Without such sets they are diffusers' own.
    """

    lora: LoraSets | None
    unet: Any
    _merged_adapters: set[str]

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Weights = None) -> None:
        """Choose among the LoRAs besides the model's own, which are active in every call, and set weights."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        # Weights by block cannot be given to `conv_in`, which a set may have; they are not meant for it either.
        is_of_others = self.lora is not None and not {*self.lora.names} & {*names}
        with hidden(self.lora, self.unet) if self.lora is not None and is_of_others else nullcontext():
            super().set_adapters(adapter_names, adapter_weights)

    def fuse_lora(
        self,
        components: Sequence[str] = ("unet", "text_encoder"),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Merge LoRAs into the weights, the model's own first: a layer with a merged LoRA leaves out all others.

        Args:
            components: the models whose LoRAs are merged.
            lora_scale: what the weights of LoRAs besides the model's own are multiplied with.
            safe_fusing: whether to raise an error if a merged weight is not finite.
            adapter_names: the LoRAs to merge besides the model's own; None for those that are active.
            kwargs: see `LoraBaseMixin.fuse_lora`.
        """
        own = self.lora.names if self.lora is not None and "unet" in components else []
        if self.lora is None or not own:
            super().fuse_lora([*components], lora_scale, safe_fusing, adapter_names, **kwargs)
            return
        self.lora.attach(self.unet)
        if not self.lora.is_fused(self.unet):
            self.unet.fuse_lora(safe_fusing=safe_fusing, adapter_names=own)
        others = None if adapter_names is None else [name for name in adapter_names if name not in own]
        self.lora.activate(self.unet, [])  # the scale is for what is active
        with warnings.catch_warnings():
            # As is meant: others are merged after the model's own, in as far as there are others.
            warnings.filterwarnings("ignore", "Already following adapters|All adapters are already", UserWarning)
            super().fuse_lora([*components], lora_scale, safe_fusing, others, **kwargs)
        self.lora.activate(self.unet, own)
        if adapter_names is not None:
            self._merged_adapters = self._merged_adapters - ({*own} - {*adapter_names})

    def unfuse_lora(self, components: Sequence[str] = ("unet", "text_encoder"), **kwargs: Any) -> None:
        """Take merged LoRAs out of the weights again, and take fused projections apart that were made of them."""
        if self.lora is not None and "unet" in components and self.has_fused_projections:
            self.unfuse_qkv_projections(unet=True, vae=False)
        super().unfuse_lora([*components], **kwargs)

    def unload_lora_weights(self) -> None:
        """Remove the LoRAs that were loaded besides the model's own.

        What is fused stays in the weights, as with diffusers' own pipelines. If the model's own sets are, the UNet is
        the model from then on, and the pipeline has no `lora` any more.
        """
        is_fused = self.lora is not None and self.lora.is_fused(self.unet)
        super().unload_lora_weights()
        if is_fused:
            self.lora = None
        elif self.lora is not None:
            self.lora.attach(self.unet)

    def fuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Fuse the projections of attention, and before that the LoRAs, which would be left out."""
        if unet and self.lora is not None and not self.lora.is_fused(self.unet):
            self.fuse_lora(components=["unet"])
        super().fuse_qkv_projections(unet, vae)

    @property
    def other_loras(self) -> list[str]:
        """The names of the LoRAs that the UNet has besides the model's own."""
        own = [] if self.lora is None else self.lora.names
        return [name for name in getattr(unwrap_module(self.unet), "peft_config", {}) if name not in own]

    @property
    def has_fused_projections(self) -> bool:
        """Whether the UNet's attention has fused projections."""
        return any(isinstance(each, FusedAttnProcessor2_0) for each in self.unet.attn_processors.values())
