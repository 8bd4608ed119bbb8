"""`CasSRPipeline`: image activation and multiple attention (CasSR, https://arxiv.org/abs/2403.11451)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import CLIPTextModel, CLIPTokenizer

from ..controlled import ControlledPipeline
from ..image.pixels import ImageInput, pad_to_multiple, read_references
from ..publishing.paper import Paper
from ..sampling.guidance import Guidance
from ..sampling.photo import Photo, Start, for_each_result
from ..texts import as_texts
from .activation import SCEditAdapter
from .adapter import CasSRAdapter
from .call import CasSRCall
from .denoiser import (
    ActivationDenoiser,
    ActivationModel,
    CasSRControl,
    CasSRDenoiser,
    is_activation_model,
    is_scedit,
)

if TYPE_CHECKING:
    from ..sampling.call import Generators

GENERAL_PROMPT = "clean, high-resolution"


class CasSRPipeline(ControlledPipeline[CasSRCall]):
    """CasSR: the image is activated into a cleaner one with the same content, which then guides its super-resolution.

    The first stage samples this reference with stock Stable Diffusion, steered by the enlarged image through the
    `activation`, and decodes it. The second samples the result: the ControlNet is run on the enlarged image and on the
    reference, and the UNet gets the weighted sum of both residuals and attends to each separately. The ControlNet runs
    once per step, with the positive prompt, and serves both halves of the guidance. Both stages start from the same
    latents, and nothing but its pixels is read from the image: the prompt is the paper's general one, which follows
    the user's own.

    No code was released. The paper states the general prompt, guidance, and the start from the image, which it takes
    from SeeSR; the other defaults fill in what it leaves open. The negative prompt is empty (its ablation calls it a
    null input), guidance 5.5 and 50 steps are SeeSR's, guidance 7.5 for the activation is SCEdit's. There is no colour
    fix, since none is mentioned. Tiles have 64 × 64 latents, the size of the training crops, and overlap by 16; a
    reference is cut into the same tiles as the image it shows.

    All that the paper states is the default, so that there are no `paper_settings`.

    Args:
        controlnet: sees the enlarged image and the reference, in [0, 1].
        activation: makes the reference: SCEdit's adapter, or a ControlNet for degraded images. It may be None, given
            explicitly, for calls with `reference_images`, another `activation`, or no reference. A model whose
            `call_defaults` have `activation="lr"` is loaded without it.

    The other arguments are those of `ControlledPipeline`.

    Example::

        pipeline = CasSRPipeline.from_pretrained("path/to/cassr", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4).images[0]
    """

    call_class = CasSRCall
    denoiser_class = CasSRDenoiser
    paper: ClassVar[Paper] = Paper("CasSR", "2403.11451")
    converters: ClassVar[dict[str, str]] = {"scedit": "diffusers_sr.cassr.convert.convert"}
    _call_defaults: ClassVar[dict[str, Any]] = {
        "negative_prompt": "",
        "num_inference_steps": 50,
        "guidance_scale": 5.5,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "strength": 1.0,
        "tile_size": 512,
        "tile_overlap": 128,
        "process_size": 512,
        "color_fix": None,
        "activation": None,
        "activation_steps": None,
        "activation_guidance_scale": 7.5,
        "reference_conditioning_scale": 1.0,
    }

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        adapter: CasSRAdapter,
        scheduler: KarrasDiffusionSchedulers,
        activation: SCEditAdapter | ControlNetModel | None,
        call_defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vae, text_encoder, tokenizer, unet, controlnet, adapter, scheduler, call_defaults)
        self.register_modules(activation=activation)

    @classmethod
    def components_left_out(cls, call_defaults: Mapping[str, Any]) -> set[str]:
        """Name the activation if the image is its own reference. See `PublishablePipeline.components_left_out`."""
        return {"activation"} if call_defaults.get("activation") == "lr" else set()

    def check_components(self, call: CasSRCall) -> None:
        """Raise ValueError also if there is nothing to make a reference with, or `activation` cannot make one."""
        super().check_components(call)
        if call.reference_conditioning_scale == 0:
            return
        activation = call.activation
        if activation is None and call.reference_images is None and self.activation is None:
            raise ValueError(
                "The pipeline has no activation to make the reference with: load one (`activation=...`), or call it "
                "with `reference_images=`, with a function or 'lr' as `activation=`, or with "
                "`reference_conditioning_scale=0` for no reference."
            )
        if not (activation in (None, "lr") or is_activation_model(activation) or callable(activation)):
            raise ValueError(
                f"activation={activation!r}, expected an SCEditAdapter, a ControlNetModel, a function that takes "
                "and returns an image, or 'lr' for the image itself."
            )

    def describe(self, image: torch.Tensor, call: CasSRCall) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Return nothing: the prompt is a general one, and what the adapter reads changes from step to step."""
        return {}, {}

    def write_prompt(self, prompt: str | list[str] | None) -> str | list[str] | None:
        """Write "`prompt`, clean, high-resolution", or without `prompt` the general one alone."""
        return general_prompts(as_texts(prompt or ""))

    def draw_latents(self, posterior: DiagonalGaussianDistribution, generator: Generators = None) -> torch.Tensor:
        """Take the mode of the posterior instead of a draw: the image is to be recovered, not varied."""
        return posterior.mode()

    def prepare_control(
        self, call: CasSRCall, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> CasSRControl:
        """Take the image and its reference, which is given or made from it (paper, stage 1).

        Raises:
            ValueError: if there is neither one reference nor one for each image.
        """
        activation = self.activation if call.activation is None else call.activation
        if call.reference_conditioning_scale == 0:
            reference = None
        elif call.reference_images is not None:
            reference = self._read_references(call.reference_images, photo)
        elif is_activation_model(activation):
            reference = self.activate(call, activation, photo, guidance, start)
        elif callable(activation):
            images = self.image_processor.postprocess(photo.low_resolution, "pil")
            reference = self._read_references([activation(each) for each in images], photo)
        else:
            reference = photo.padded
        return CasSRControl(photo.padded, reference, call.reference_conditioning_scale)

    def activate(
        self, call: CasSRCall, activation: ActivationModel, photo: Photo, guidance: Guidance, start: Start
    ) -> torch.Tensor:
        """Sample references with stock Stable Diffusion, steered by the images, and decode them, `[B, 3, H, W]`."""
        if is_scedit(activation):
            activation.attach(self.unet)
        else:
            self.adapter.attach(activation)  # so that this ControlNet can take an image that is already embedded
        denoiser = ActivationDenoiser(self.unet, activation, call.cross_attention_kwargs)
        guidance = replace(guidance, scale=call.activation_guidance_scale)
        latents = self.sample_reference(call, denoiser, [photo.padded], guidance, start, call.activation_steps)
        return self.decode(call, photo, latents).clamp_(0, 1)

    def _read_references(self, images: ImageInput | Sequence[ImageInput], photo: Photo) -> torch.Tensor:
        """Read references, one for each image, at its size and padded as it is: `[images, 3, H, W]`."""
        references = read_references(images, photo.size).to(photo.padded.device)
        references = pad_to_multiple(references, self.vae_scale_factor)
        return for_each_result(references, "reference_images", len(photo.padded))


def general_prompts(prompts: list[str]) -> list[str]:
    """Add the general prompt to each prompt; in place of an empty one it stands alone."""
    return [f"{prompt}, {GENERAL_PROMPT}" if prompt else GENERAL_PROMPT for prompt in prompts]
