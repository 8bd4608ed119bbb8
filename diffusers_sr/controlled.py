"""`ControlledPipeline`: what the methods with a ControlNet and an attention adapter share."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import CLIPTextModel, CLIPTokenizer

from .attention.adapter import AttentionAdapter
from .pipeline import SuperResolutionPipeline
from .sampling.call import CallT
from .sampling.denoiser import ControlledDenoiser, Denoiser


class ControlledPipeline(SuperResolutionPipeline[CallT]):
    """Super-resolution with Stable Diffusion and a ControlNet, and an attention adapter on both.

    Args:
        controlnet: is shown the enlarged image, in [0, 1].
        adapter: the method's new attention. It is attached to `unet` and `controlnet` by the first call and stays
            attached; outside a call it has no effect on them.

    The other arguments are those of `SuperResolutionPipeline`.
    """

    denoiser_class: ClassVar[type[ControlledDenoiser]]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        adapter: AttentionAdapter,
        scheduler: KarrasDiffusionSchedulers,
        call_defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vae, text_encoder, tokenizer, unet, scheduler, call_defaults)
        self.register_modules(controlnet=controlnet, adapter=adapter)

    def denoiser(self, call: CallT) -> Denoiser:
        """Attach the adapter, and make the method's denoiser with the scales that this call gives."""
        self.adapter.attach(self.unet).attach(self.controlnet)
        return self.denoiser_class(
            self.unet,
            self.controlnet,
            self.adapter,
            call.controlnet_conditioning_scale,
            call.cross_attention_kwargs,
        )
