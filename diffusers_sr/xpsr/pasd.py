"""`PASDPipeline`: pixel-aware Stable Diffusion (PASD, https://arxiv.org/abs/2308.14469)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..controlled import ControlledPipeline
from ..publishing.paper import Paper
from ..sampling.guidance import Guidance
from ..sampling.photo import Photo, Start
from ..texts import as_texts, pair_texts, shorten_before
from .call import PASDCall, PASDCallT
from .degradation_prompt import describe_degradation
from .denoiser import XPSRControl, XPSRDenoiser
from .prompts import ImagePrompts
from .script import SCRIPT


class PASDPipeline(ControlledPipeline[PASDCallT]):
    """PASD: the UNet's pixel attention reads the ControlNet's residuals, and one prompt says what the image shows.

    `XPSRPipeline` is built on it: the adapter is XPSR's without semantic fusion, and there is no low-level prompt. The
    prompt is given, or written by a multimodal language model, the `captioner`, whose low-level prompt is not used.

    Defaults are those of the official code's test script: 20 steps, guidance 9, the start from the image under the
    noise of two timesteps (`prepare_latents`), a shorter side of at least 768 pixels, and the image's colours restored
    by wavelets. Its scheduler is UniPC, which `diffusers-sr convert pasd` writes. The `paper_settings` are
    `official_preprocessing=True`, what that script does with images.

    The arguments are those of `ControlledPipeline`, with an `XPSRAdapter` without semantic fusion for the adapter
    (`XPSRAdapter.from_hosts(unet, controlnet, fusion=False)`).

    Example::

        pipeline = PASDPipeline.from_pretrained("path/to/converted/pasd", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4, high_level_prompt="a tree in a field.").images[0]
    """

    call_class = PASDCall
    denoiser_class = XPSRDenoiser
    paper: ClassVar[Paper] = Paper("PASD", "2308.14469")
    official_script = SCRIPT
    paper_settings: ClassVar[Mapping[str, Any]] = {"official_preprocessing": True}
    converters: ClassVar[dict[str, str]] = {"pasd": "diffusers_sr.xpsr.convert.convert_pasd"}
    _call_defaults: ClassVar[dict[str, Any]] = {
        "negative_prompt": "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed",
        "num_inference_steps": 20,
        "guidance_scale": 9.0,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "tile_size": 2560,
        "tile_overlap": 64,
        "process_size": 768,
        "color_fix": "wavelet",
        "captioner": None,
        "quality_prompt": "clean, high-resolution, 8k",
        "caption_overflow": "shorten",
        "added_noise_level": 900,
    }

    def check_components(self, call: PASDCallT) -> None:
        """Raise ValueError also if `added_noise_level` is not a timestep of the training."""
        super().check_components(call)
        last = self.scheduler.config.num_train_timesteps - 1
        if call.added_noise_level > last:
            raise ValueError(
                f"added_noise_level={call.added_noise_level}, expected a timestep of the training, from 0 to {last}."
            )

    def describe(self, image: torch.Tensor, call: PASDCallT) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Have the captioner describe the images, unless the call does.

        Raises:
            ValueError: if the captioner does not return one entry for each image.
        """
        high_level, _ = self.write_prompts(image, call)
        return self.texts_of(call, high_level), {}

    def texts_of(self, call: PASDCallT, high_level_prompt: str | list[str] | None) -> dict[str, Any]:
        """Name the arguments of `write_prompt` besides the prompt."""
        return {
            "high_level_prompt": high_level_prompt,
            "quality_prompt": call.quality_prompt,
            "caption_overflow": call.caption_overflow,
        }

    def write_prompts(
        self, image: torch.Tensor, call: PASDCallT, lacks_low_level: bool = False
    ) -> tuple[str | list[str] | None, list[str] | None]:
        """Let the captioner write the prompts that are missing; if none are, it is not called.

        Args:
            lacks_low_level: whether low-level prompts are to be written too.

        Returns:
            The high-level prompts, the call's own if it has them, and the low-level prompts if they were to be
            written. Either is None if nothing gives it.
        """
        high_level, low_level = call.high_level_prompt, None
        if call.captioner == "measured":
            if lacks_low_level:
                low_level = [describe_degradation(one) for one in image]
        elif call.captioner is not None and (high_level is None or lacks_low_level):
            prompts = self.caption(image, call)
            high_level = [each.high_level for each in prompts] if high_level is None else high_level
            low_level = [each.low_level for each in prompts] if lacks_low_level else None
        return high_level, low_level

    def caption(self, image: torch.Tensor, call: PASDCallT) -> list[ImagePrompts]:
        """Call the captioner on images `[images, 3, height, width]` in [0, 1].

        Raises:
            ValueError: if it does not return one entry for each image.
        """
        assert callable(call.captioner)
        prompts = call.captioner(self.image_processor.postprocess(image, "pil"))
        if len(prompts) != len(image):
            raise ValueError(
                f"The captioner returned {len(prompts)} prompts for {len(image)} images: it has to return one "
                "`ImagePrompts` for each."
            )
        return prompts

    def write_prompt(
        self,
        prompt: str | list[str] | None,
        high_level_prompt: str | list[str] | None = None,
        quality_prompt: str | None = None,
        caption_overflow: str | None = None,
    ) -> str | list[str] | None:
        """Write "`prompt`, `high_level_prompt` `quality_prompt`".

        Without `prompt` it is the official prompt, "`high_level_prompt` `quality_prompt`". If the text is longer than
        the text encoder reads, words before the quality prompt are left out, with a warning: those of the high-level
        prompt first. With `caption_overflow="cut"` the text stays as it is, and the text encoder does not read its
        end, as in the official code.

        Raises:
            ValueError: if `prompt` and `high_level_prompt` are lists of different lengths.
        """
        defaults = self.config.call_defaults
        ending = defaults["quality_prompt"] if quality_prompt is None else quality_prompt
        texts = joined_prompts(as_texts(prompt or ""), as_texts(high_level_prompt or ""))
        if (defaults["caption_overflow"] if caption_overflow is None else caption_overflow) == "cut":
            return [f"{text} {ending}".strip() for text in texts]
        return [shorten_before(text, ending, self._count_tokens, self.tokenizer.model_max_length) for text in texts]

    def prepare_control(
        self, call: PASDCallT, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> XPSRControl:
        """Take the enlarged image, and no low-level prompts."""
        return XPSRControl(photo.padded, [])

    def prepare_latents(self, call: PASDCallT, start: Start, scheduler: Any) -> torch.Tensor:
        """Make latents at the first timestep: noise alone, or the image's latents under the noise of two timesteps.

        The official code adds noise to the image's latents at the first timestep of the sampling, and then once more
        at `added_noise_level`. With a single draw of noise, as here, this is in distribution
        `sqrt(a) * image_latents + sqrt(1 - a) * noise`, `a` being the product of the `alphas_cumprod` of both
        timesteps. As in the official code, it is scaled by the scheduler's `init_noise_sigma`, so that the UNet sees
        the same at the first step with a scheduler that counts in sigmas. A scheduler without `alphas_cumprod` (one of
        EDM) does not know the noise of the training's timesteps: with it, the image lies under that of the first step
        alone.
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
    """Join what a user says of each image and what it shows; a list of one serves all entries of the other.

    Raises:
        ValueError: if both have several entries and differ in length.
    """
    pairs = pair_texts(prompts, high_level_prompts)
    return [f"{prompt}, {high_level}".strip() if prompt else high_level for prompt, high_level in pairs]
