"""`SeeSRPipeline`: semantics-aware super-resolution (SeeSR, https://arxiv.org/abs/2311.16518)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import CLIPTextModel, CLIPTokenizer

from ..pipeline import SuperResolutionPipeline
from ..publishing.paper import Paper
from ..texts import as_texts, pair_texts
from .adapter import SeeSRAdapter
from .tagger import Tagger

QUALITY_PROMPT = "clean, high-resolution, 8k"


class SeeSRPipeline(SuperResolutionPipeline):
    """SeeSR: tags of the image in the prompt, and a representation of it in the adapter's attention.

    Both come from one pass of the tagger over the image as it is given, not enlarged. They describe the whole image,
    and all tiles share them; the representation is there in both halves of classifier-free guidance, which therefore
    acts on the text alone.

    Defaults are those of the official code: 50 steps, guidance 5.5, the start from the image, tiles of 96 × 96
    latents that overlap by 4. With an sd-turbo base take `num_inference_steps=2, guidance_scale=1`.

    Args:
        tagger: may be None, said explicitly (`from_pretrained(..., tagger=None)`), for calls with `representation`,
            and with `tags` or `prompt_embeds` unless no tags are wanted.

    The others are those of `SuperResolutionPipeline`.

    Example::

        pipeline = SeeSRPipeline.from_pretrained("path/to/converted/seesr", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4).images[0]
    """

    model_cpu_offload_seq = "tagger->text_encoder->unet->vae"
    paper: ClassVar[Paper] = Paper("SeeSR", "2311.16518")
    converters: ClassVar[dict[str, str]] = {"seesr": "diffusers_sr.seesr.convert.convert"}
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

    def describe(  # type: ignore[override]  # every method has its own inputs here
        self,
        image: torch.Tensor,
        tags: str | list[str] | None = None,
        representation: torch.Tensor | None = None,
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Tags and representation of the images, from one pass of the tagger; from none if both are given.

        Args:
            image: `[B, 3, H, W]` in [0, 1], not enlarged.
            tags: instead of the tagger's: comma-separated, for all images or one text for each.
            representation: instead of the tagger's, `[1 or B, tokens, representation_dim]`.

        Raises:
            ValueError: if there is no tagger and no `representation`.
        """
        if self.tagger is None:
            if representation is None:
                raise ValueError(
                    "The pipeline has no tagger to make the representation of the image: load one (`tagger=...`), or "
                    "give `representation=`, and `tags=` for the prompt."
                )
        elif tags is None or representation is None:
            seen = self.tagger(self.tagger.preprocess(image))
            tags = [", ".join(names) for names in self.tagger.tags(seen.logits)] if tags is None else tags
            representation = seen.representation if representation is None else representation
        return {"tags": tags}, {"representation": representation}

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        tags: str | list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode the official prompt, "`tags`, `prompt`,clean, high-resolution, 8k", and the negative prompt.

        Without `prompt` its place stays empty: "`tags`, ,clean, high-resolution, 8k". `prompt_embeds` replace the
        whole prompt. See `SuperResolutionPipeline.encode_prompt` for the rest.

        Raises:
            ValueError: if `tags` and `prompt` are lists of different lengths.
        """
        if prompt_embeds is None:
            prompt = full_prompts(as_texts(tags or ""), as_texts(prompt or ""))
        prompt_embeds, negative_prompt_embeds = super().encode_prompt(
            prompt,
            negative_prompt,
            do_classifier_free_guidance,
            prompt_embeds,
            negative_prompt_embeds,
            lora_scale,
        )
        return prompt_embeds, negative_prompt_embeds


def full_prompts(tags: list[str], prompts: list[str]) -> list[str]:
    """The texts SeeSR was trained to be prompted with; a list of one serves all of the other.

    Raises:
        ValueError: if both have several entries and differ in length.
    """
    return [f"{tag}, {prompt},{QUALITY_PROMPT}" for prompt, tag in pair_texts(prompts, tags)]
