"""`XPSRPipeline`: cross-modal priors for super-resolution (XPSR, https://arxiv.org/abs/2403.05049)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from typing_extensions import Unpack

from ..pipeline import SuperResolutionPipeline
from ..publishing.paper import Paper
from ..sampling.guidance import Guidance
from ..sampling.photo import Photo, Start
from ..sampling.prompts import EncodeOptions
from ..texts import as_texts, pair_texts, shorten_before
from .call import XPSRCall
from .degradation_prompt import describe_degradation
from .denoiser import XPSRControl, XPSRDenoiser
from .prompts import ImagePrompts


class XPSRPipeline(SuperResolutionPipeline):
    """XPSR: a high-level prompt says what the image shows, and a low-level prompt how good it is.

    Both are given, or written by a multimodal language model, the `captioner`. The high-level prompt is what UNet and
    ControlNet read as their text; the ControlNet's semantic fusion reads the low-level prompt beside it, and the
    UNet's pixel attention the ControlNet's residuals. The prompts describe the whole image, and all tiles share them.
    The constraint that the ControlNet was trained with is no part of the pipeline.

    With an adapter without semantic fusion this is PASD (https://arxiv.org/abs/2308.14469), which has no low-level
    prompt.

    Defaults are those of the official code: 20 steps, guidance 4.5 of both prompts, the start from the image under the
    noise of two timesteps (`prepare_latents`), one tile for up to 320 × 320 latents and otherwise tiles that overlap
    by 8. The paper has guidance 5.5 of the high-level prompt only (`guide_low_level=False`), in another form: its
    5.5 is 6.5 here. Its negative prompt lacks "raster lines" and the full stop.

    The arguments are those of `SuperResolutionPipeline`, with an `XPSRAdapter` for the adapter.

    Example::

        pipeline = XPSRPipeline.from_pretrained("path/to/converted/xpsr", torch_dtype=torch.float16).to("cuda")
        captioner = Captioner.from_pretrained("HuggingFaceTB/SmolVLM-500M-Instruct", "cuda", torch.float16)
        image = pipeline(load_image("photo.png"), upscale=4, captioner=captioner).images[0]
    """

    call_class = XPSRCall
    denoiser_class = XPSRDenoiser
    paper: ClassVar[Paper] = Paper("XPSR", "2403.05049")
    example_call: ClassVar[dict[str, Any]] = {"captioner": "measured"}  # which needs no language model
    converters: ClassVar[dict[str, str]] = {"xpsr": "diffusers_sr.xpsr.convert.convert"}
    _call_defaults: ClassVar[dict[str, Any]] = {
        "negative_prompt": "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed.",
        "num_inference_steps": 20,
        "guidance_scale": 4.5,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "tile_size": 2560,
        "tile_overlap": 64,
        "process_size": 512,
        "color_fix": "adain",
        "captioner": None,
        "quality_prompt": "clean, high-resolution, 8k, high quality, clear text.",
        "negative_low_level_prompt": "high resolution, best quality, clear",
        "guide_low_level": True,
        "added_noise_level": 800,
    }

    def check_components(self, call: XPSRCall) -> None:
        """Raise ValueError, besides, if the adapter takes no low-level prompt, or embeddings of it are missing."""
        super().check_components(call)
        last = self.scheduler.config.num_train_timesteps - 1
        if call.added_noise_level > last:
            raise ValueError(
                f"added_noise_level={call.added_noise_level}, expected a timestep of the training, from 0 to {last}."
            )
        texts, embeds = call.low_level_prompt, call.low_level_prompt_embeds
        if not self.adapter.fuses_semantics:
            if texts is not None or embeds is not None:
                raise ValueError(
                    "There is a low-level prompt, but the adapter has no semantic fusion that could read it (it is "
                    "PASD's): leave it out, and say in `prompt` or `high_level_prompt` what the image is."
                )
        elif embeds is None or (call.guide_low_level and call.negative_low_level_prompt_embeds is None):
            self._check_text_encoder("low_level_prompt")

    def describe(self, image: torch.Tensor, call: XPSRCall) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Have the images described, as far as the call does not: no captioner is called if nothing is missing.

        Without a captioner a prompt that is not given is empty, and encoded as such.

        Raises:
            ValueError: if the captioner returns another number of prompts.
        """
        takes_low_level = self.adapter.fuses_semantics
        lacks_low_level = takes_low_level and call.low_level_prompt is None and call.low_level_prompt_embeds is None
        high_level, low_level = call.high_level_prompt, call.low_level_prompt
        if call.captioner == "measured":
            if lacks_low_level:
                low_level = [describe_degradation(one) for one in image]
        elif call.captioner is not None and (high_level is None or lacks_low_level):
            prompts = self.caption(image, call)
            high_level = [each.high_level for each in prompts] if high_level is None else high_level
            low_level = [each.low_level for each in prompts] if lacks_low_level else low_level
        texts = {"high_level_prompt": high_level, "quality_prompt": call.quality_prompt}
        return texts, self.encode_low_level_prompts(low_level, call) if takes_low_level else {}

    def caption(self, image: torch.Tensor, call: XPSRCall) -> list[ImagePrompts]:
        """Call the captioner on images `[images, 3, height, width]` in [0, 1].

        Raises:
            ValueError: if it returns another number of prompts.
        """
        assert callable(call.captioner)
        prompts = call.captioner(self.image_processor.postprocess(image, "pil"))
        if len(prompts) != len(image):
            raise ValueError(
                f"The captioner returned {len(prompts)} prompts for {len(image)} images: it has to return one "
                "`ImagePrompts` for each."
            )
        return prompts

    def encode_low_level_prompts(self, texts: str | list[str] | None, call: XPSRCall) -> dict[str, torch.Tensor]:
        """Encode the low-level prompts, and the negative ones if they are guided, in one call of the text encoder.

        A text that is too long is cut off, with a warning.

        Args:
            texts: instead of the call's `low_level_prompt`.
        """
        prompt, negative = self._encode_pair(
            "low_level_prompt",
            (texts, call.negative_low_level_prompt),
            (call.low_level_prompt_embeds, call.negative_low_level_prompt_embeds),
            call.guide_low_level,
            call.lora_scale,
        )
        return {"low_level_prompt": prompt} | ({} if negative is None else {"negative_low_level_prompt": negative})

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        high_level_prompt: str | list[str] | None = None,
        quality_prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode "`prompt`, `high_level_prompt` `quality_prompt`", and the negative prompt.

        Without `prompt` it is the official prompt, "`high_level_prompt` `quality_prompt`". Where that is more than the
        text encoder reads, words are left out before the quality prompt, with a warning: of the high-level prompt
        first. (In the official code the quality prompt is what is cut off.) `prompt_embeds` replace the whole prompt.
        See `PromptEncoder.encode_prompt` for the rest.

        Raises:
            ValueError: if `prompt` and `high_level_prompt` are lists of different lengths.
        """
        # Without a tokenizer no prompt can be encoded, which the base class says.
        if options.get("prompt_embeds") is None and self.tokenizer is not None:
            ending = self.config.call_defaults["quality_prompt"] if quality_prompt is None else quality_prompt
            prompt = [
                shorten_before(text, ending, self._count_tokens, self.tokenizer.model_max_length)
                for text in joined_prompts(as_texts(prompt or ""), as_texts(high_level_prompt or ""))
            ]
        prompt_embeds, negative_prompt_embeds = super().encode_prompt(prompt, negative_prompt, **options)
        return prompt_embeds, negative_prompt_embeds

    def prepare_control(
        self, call: XPSRCall, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> XPSRControl:
        """Take the enlarged image, and what the adapter prepares of the low-level prompts."""
        names = ["negative_low_level_prompt", "low_level_prompt"]
        if guidance.negative_prompt_embeds is None:
            names = names[1:]
        low_level = [self.adapter("prepare_low_level", seen[name]) for name in names if name in seen]
        return XPSRControl(photo.padded, low_level)

    def prepare_latents(self, call: XPSRCall, start: Start, scheduler: Any) -> torch.Tensor:
        """Make latents at the first timestep: noise alone, or the image's latents under the noise of two timesteps.

        The official code adds noise to the image's latents at the first timestep of the sampling, and then once more
        at `added_noise_level`. With one draw of noise as here this is, in distribution,
        `sqrt(a) * image_latents + sqrt(1 - a) * noise`, `a` being the product of the `alphas_cumprod` of both
        timesteps. As there it is scaled by the scheduler's `init_noise_sigma`; so with a scheduler that counts in
        sigmas, the UNet sees the same at the first step. One without `alphas_cumprod` (of EDM) does not know the
        noise of the training's timesteps: there the image lies under that of the first step alone.
        """
        if start.image_latents is None or not hasattr(scheduler, "alphas_cumprod"):
            return super().prepare_latents(call, start, scheduler)
        # Some schedulers have timesteps between those of the training.
        first = round(float(scheduler.timesteps[0]))
        signal = float(scheduler.alphas_cumprod[first] * scheduler.alphas_cumprod[call.added_noise_level])
        latents = signal**0.5 * start.image_latents + (1 - signal) ** 0.5 * start.noise
        return latents * scheduler.init_noise_sigma

    def _count_tokens(self, text: str) -> int:
        return len(self.tokenizer(self.maybe_convert_prompt(text, self.tokenizer)).input_ids)


def joined_prompts(prompts: list[str], high_level_prompts: list[str]) -> list[str]:
    """What a user says of each image, before what it shows; a list of one serves all of the other.

    Raises:
        ValueError: if both have several entries and differ in length.
    """
    pairs = pair_texts(prompts, high_level_prompts)
    return [f"{prompt}, {high_level}".strip() if prompt else high_level for prompt, high_level in pairs]
