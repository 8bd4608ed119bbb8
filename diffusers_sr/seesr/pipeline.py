"""`SeeSRPipeline`: semantics-aware super-resolution (SeeSR, https://arxiv.org/abs/2311.16518)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import CLIPTextModel, CLIPTokenizer

from ..controlled import ControlledPipeline
from ..publishing.paper import Paper
from ..sampling.autoencoder import decode_latents
from ..sampling.finite import Stage
from ..sampling.guidance import Guidance
from ..sampling.loop import PredictNoise
from ..sampling.photo import Photo, Start
from ..sampling.prediction import GuidedPrediction
from ..texts import as_texts, pair_texts
from .adapter import SeeSRAdapter
from .call import DEFAULT_PSR_WEIGHT, SeeSRCall
from .denoiser import SeeSRControl, SeeSRDenoiser
from .four_steps import FourStepScheduler, check_steps
from .refinement import refined_condition, refined_prediction
from .script import SCRIPT
from .tagger import Tagger, TaggerOutput

QUALITY_PROMPT = "clean, high-resolution, 8k"


class SeeSRPipeline(ControlledPipeline[SeeSRCall]):
    """SeeSR: tags of the image in the prompt, and a representation of it in the adapter's attention.

    Both come from one pass of the tagger over the image as it is given, not enlarged. They describe the whole image,
    and all tiles share them; the representation is there in both halves of classifier-free guidance, which therefore
    acts on the text alone.

    Defaults are those of the official code: 50 steps, guidance 5.5, the start from the image, tiles of 96 × 96
    latents that overlap by 4. With an sd-turbo base use `num_inference_steps=2, guidance_scale=1`.

    To reproduce a table, use the `paper_settings`: `official_preprocessing=True`, what the official test script does
    with images, and `prompt="None"`: the official shell script passes `--prompt None`, which puts the word into every
    prompt ("tags, None,clean, high-resolution, 8k"). Without a prompt its place stays empty. All else that the paper
    states is the default: guidance and steps are not in it.

    With a `FourStepScheduler` it is AddSR (https://arxiv.org/abs/2404.01717), which is SeeSR distilled to 4 steps.
    Before each step but the first, the image predicted so far is blended into what ControlNet and tagger see, with the
    weight `psr_weight`. Fewer steps end with what the last of them predicts. Noise comes from `generator`, where the
    official code takes the global one; guidance and tiles work, where it fails. `diffusers-sr convert addsr` sets the
    defaults: those of the official code, 4 steps without guidance, but SeeSR's tiles (the official ones have 320 × 320
    latents).

    Args:
        tagger: may be None, if that is given explicitly (`from_pretrained(..., tagger=None)`), for calls with
            `representation`, and with `tags` or `prompt_embeds` unless no tags are wanted.
        quality_prompt: follows the tags and the prompt in every prompt.
        origin: for the model card, what converted weights come with; see `Origin.as_config`.

    The other arguments are those of `ControlledPipeline`.

    Raises:
        ValueError: if `quality_prompt` is not a text.

    Example::

        pipeline = SeeSRPipeline.from_pretrained("path/to/converted/seesr", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4).images[0]
    """

    call_class = SeeSRCall
    denoiser_class = SeeSRDenoiser
    model_cpu_offload_seq = "tagger->text_encoder->unet->vae"
    paper: ClassVar[Paper] = Paper("SeeSR", "2311.16518")
    official_script = SCRIPT
    paper_settings: ClassVar[Mapping[str, Any]] = {"official_preprocessing": True, "prompt": "None"}
    converters: ClassVar[dict[str, str]] = {
        "seesr": "diffusers_sr.seesr.convert.convert",
        "addsr": "diffusers_sr.seesr.convert.convert_addsr",
        "seesr-turbo": "diffusers_sr.seesr.convert.convert_turbo",
    }
    _call_defaults: ClassVar[dict[str, Any]] = {
        "negative_prompt": "dotted, noise, blur, lowres, smooth",
        "num_inference_steps": 50,
        "guidance_scale": 5.5,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "strength": 1.0,
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
        quality_prompt: str = QUALITY_PROMPT,
        origin: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vae, text_encoder, tokenizer, unet, controlnet, adapter, scheduler, call_defaults)
        self.check_options({"quality_prompt": quality_prompt})
        self.register_modules(tagger=tagger)
        self.register_to_config(quality_prompt=quality_prompt, origin=origin)

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Raise ValueError also if `quality_prompt` is not a text."""
        super().check_options(options)
        if not isinstance(text := options.get("quality_prompt", ""), str):
            raise ValueError(f"`quality_prompt` is {text!r:.60}, expected a text.")

    def check_components(self, call: SeeSRCall) -> None:
        """Check also that there is a tagger or a representation, and that AddSR's arguments suit the scheduler.

        Raises:
            ValueError: if there is neither of the two, if `psr_weight` is given and the scheduler is not AddSR's, or
                if AddSR's has fewer steps than the call.
        """
        super().check_components(call)
        if isinstance(self.scheduler, FourStepScheduler):
            check_steps(call.num_inference_steps)
        elif call.psr_weight is not None:
            raise ValueError(
                f"psr_weight={call.psr_weight} is AddSR's, but the pipeline's scheduler is a "
                f"{type(self.scheduler).__name__}, not a FourStepScheduler: leave psr_weight out, or load a folder "
                "from `diffusers-sr convert addsr`."
            )
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
            seen = self._tag(self.tagger.preprocess(image, antialias=not call.official_preprocessing))
            tags = [", ".join(names) for names in self.tagger.tags(seen.logits)] if tags is None else tags
            representation = seen.representation if representation is None else representation
        assert representation is not None
        return {"tags": tags}, {"representation": representation}

    def write_prompt(
        self, prompt: str | list[str] | None, tags: str | list[str] | None = None
    ) -> str | list[str] | None:
        """Write the official prompt, "`tags`, `prompt`,clean, high-resolution, 8k", with the model's `quality_prompt`.

        Without `prompt` its place stays empty: "`tags`, ,clean, high-resolution, 8k".

        Raises:
            ValueError: if `tags` and `prompt` are lists of different lengths.
        """
        return full_prompts(as_texts(tags or ""), as_texts(prompt or ""), self.config.quality_prompt)

    def prepare_control(
        self, call: SeeSRCall, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> SeeSRControl:
        """Take the enlarged image, and what the adapter prepares from the representation."""
        return SeeSRControl(photo.padded, self._prepare(seen["representation"]), photo.size)

    def predictor(
        self, call: SeeSRCall, prediction: GuidedPrediction, control: SeeSRControl, scheduler: Any
    ) -> PredictNoise:
        """Refine the control between AddSR's steps, unless the weight of that is 0."""
        if not isinstance(scheduler, FourStepScheduler) or call.psr_weight == 0:
            return prediction
        return refined_prediction(prediction, scheduler, lambda latents: self.refine(call, control, latents))

    def refine(self, call: SeeSRCall, control: SeeSRControl, latents: torch.Tensor) -> SeeSRControl:
        """Blend the photo with the image of latents, and look at the blend anew (AddSR's PSR).

        As the official code, the tagger resizes the blend bicubically. A representation that was given stays.

        Args:
            control: that of the photo.
            latents: the image's as a step predicted them, `[B, channels, h, w]`, scaled.
        """
        decoded = decode_latents(self.vae, latents, call.vae_tile_size, self.vae_scale_factor)
        weight = DEFAULT_PSR_WEIGHT if call.psr_weight is None else call.psr_weight
        photo = control.image.repeat_interleave(call.num_images_per_prompt, dim=0)
        control = control._replace(image=refined_condition(photo, decoded, weight))
        if call.representation is not None:
            return control
        height, width = control.size or photo.shape[-2:]
        pixels = self.tagger.preprocess(control.image[..., :height, :width], antialias=False, mode="bicubic")
        return control._replace(representation=self._prepare(self._tag(pixels).representation))

    def _tag(self, pixels: torch.Tensor) -> TaggerOutput:
        output: TaggerOutput = Stage("tagging", self.tagger).run(lambda: self.tagger(pixels))
        return output

    def _prepare(self, representation: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
        return Stage("preparing the representation", self.adapter).run(
            lambda: self.adapter.prepare(representation=representation.to(self.adapter.dtype))
        )


def full_prompts(tags: list[str], prompts: list[str], quality_prompt: str = QUALITY_PROMPT) -> list[str]:
    """Make the prompts that SeeSR was trained with; a list of one entry serves every entry of the other.

    Raises:
        ValueError: if both have several entries and differ in length.
    """
    return [f"{tag}, {prompt},{quality_prompt}" for prompt, tag in pair_texts(prompts, tags)]
