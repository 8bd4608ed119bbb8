"""`SeeSRPipeline`: semantics-aware super-resolution (SeeSR, https://arxiv.org/abs/2311.16518)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import CLIPTextModel, CLIPTokenizer

from ..controlled import ControlledPipeline
from ..publishing.paper import Paper
from ..sampling.finite import Stage
from ..sampling.guidance import Guidance
from ..sampling.photo import Photo, Start
from ..texts import as_texts, pair_texts
from .adapter import SeeSRAdapter
from .call import SeeSRCall
from .denoiser import SeeSRControl, SeeSRDenoiser
from .script import SCRIPT
from .tagger import Tagger

QUALITY_PROMPT = "clean, high-resolution, 8k"


class SeeSRPipeline(ControlledPipeline[SeeSRCall]):
    """SeeSR: tags of the image in the prompt, and a representation of it in the adapter's attention.

    Both come from one pass of the tagger over the image as it is given, not enlarged. They describe the whole image,
    and all tiles share them; the representation is there in both halves of classifier-free guidance, which therefore
    acts on the text alone.

    Defaults are those of the official code: 50 steps, guidance 5.5, the start from the image, tiles of 96 × 96
    latents that overlap by 4. With an sd-turbo base use `num_inference_steps=2, guidance_scale=1`.

    To reproduce a table, use `official_preprocessing=True`, and `prompt="None"`: the official shell script passes
    `--prompt None`, which puts the word into every prompt ("tags, None,clean, high-resolution, 8k"). Without a prompt
    its place stays empty.

    Args:
        tagger: may be None, if that is given explicitly (`from_pretrained(..., tagger=None)`), for calls with
            `representation`, and with `tags` or `prompt_embeds` unless no tags are wanted.

    The other arguments are those of `ControlledPipeline`.

    Example::

        pipeline = SeeSRPipeline.from_pretrained("path/to/converted/seesr", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4).images[0]
    """

    call_class = SeeSRCall
    denoiser_class = SeeSRDenoiser
    model_cpu_offload_seq = "tagger->text_encoder->unet->vae"
    paper: ClassVar[Paper] = Paper("SeeSR", "2311.16518")
    official_script = SCRIPT
    converters: ClassVar[dict[str, str]] = {
        "seesr": "diffusers_sr.seesr.convert.convert",
        "seesr-turbo": "diffusers_sr.seesr.convert.convert_turbo",
    }
    _call_defaults: ClassVar[dict[str, Any]] = {
        "negative_prompt": "dotted, noise, blur, lowres, smooth",
        "num_inference_steps": 50,
        "guidance_scale": 5.5,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "tile_size": 768,
        "tile_overlap": 32,
        "process_size": 512,
        "color_fix": "adain",
    }

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        adapter: SeeSRAdapter,
        scheduler: KarrasDiffusionSchedulers,
        tagger: Tagger | None,
        call_defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vae, text_encoder, tokenizer, unet, controlnet, adapter, scheduler, call_defaults)
        self.register_modules(tagger=tagger)

    def check_components(self, call: SeeSRCall) -> None:
        """Raise ValueError also if there is neither a tagger nor a representation."""
        super().check_components(call)
        if self.tagger is None and call.representation is None:
            raise ValueError(
                "The pipeline has no tagger to make the representation of the image: load one (`tagger=...`), or "
                "give `representation=`, and `tags=` for the prompt."
            )

    def describe(self, image: torch.Tensor, call: SeeSRCall) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Get the images' tags and representation from one pass of the tagger, or without it if the call has both."""
        tags, representation = call.tags, call.representation
        if self.tagger is not None and (tags is None or representation is None):
            # torchvision's `Resize`, with the version that the official code pins, does not antialias tensors.
            pixels = self.tagger.preprocess(image, antialias=not call.official_preprocessing)
            seen = Stage("tagging", self.tagger).run(lambda: self.tagger(pixels))
            tags = [", ".join(names) for names in self.tagger.tags(seen.logits)] if tags is None else tags
            representation = seen.representation if representation is None else representation
        assert representation is not None
        return {"tags": tags}, {"representation": representation}

    def write_prompt(
        self, prompt: str | list[str] | None, tags: str | list[str] | None = None
    ) -> str | list[str] | None:
        """Write the official prompt, "`tags`, `prompt`,clean, high-resolution, 8k".

        Without `prompt` its place stays empty: "`tags`, ,clean, high-resolution, 8k".

        Raises:
            ValueError: if `tags` and `prompt` are lists of different lengths.
        """
        return full_prompts(as_texts(tags or ""), as_texts(prompt or ""))

    def prepare_control(
        self, call: SeeSRCall, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> SeeSRControl:
        """Take the enlarged image, and what the adapter prepares from the representation."""
        prepared = Stage("preparing the representation", self.adapter).run(
            lambda: self.adapter.prepare(representation=seen["representation"].to(self.adapter.dtype))
        )
        return SeeSRControl(photo.padded, prepared)


def full_prompts(tags: list[str], prompts: list[str]) -> list[str]:
    """Make the prompts that SeeSR was trained with; a list of one entry serves every entry of the other.

    Raises:
        ValueError: if both have several entries and differ in length.
    """
    return [f"{tag}, {prompt},{QUALITY_PROMPT}" for prompt, tag in pair_texts(prompts, tags)]
