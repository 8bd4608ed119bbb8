"""`XPSRPipeline`: cross-modal priors for super-resolution (XPSR, https://arxiv.org/abs/2403.05049)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import PIL.Image
import torch

from ..attention.control_features import control_features
from ..image.tiling import Window
from ..pipeline import SuperResolutionPipeline
from ..publishing.paper import Paper
from ..sampling.checks import check_texts
from ..texts import as_texts, pair_texts, shorten_before
from .adapter import LowLevel
from .degradation_prompt import describe_degradation
from .prompts import ImagePrompts

CaptionerLike: TypeAlias = Callable[[list[PIL.Image.Image]], list[ImagePrompts]] | Literal["measured"]


class XPSRControl(NamedTuple):
    """What the ControlNet is run on: images `[B, 3, H, W]` in [0, 1], or what it embeds of their tiles.

    `low_level` is what the adapter prepares of the low-level prompts: of the negative ones and of the prompts, of the
    prompts alone if they are not guided, or of none if the adapter takes none.
    """

    image: torch.Tensor
    low_level: list[LowLevel]


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

    def describe(  # type: ignore[override]  # every method has its own inputs here
        self,
        image: torch.Tensor,
        high_level_prompt: str | list[str] | None = None,
        low_level_prompt: str | list[str] | None = None,
        captioner: CaptionerLike | None = None,
        quality_prompt: str | None = None,
        negative_low_level_prompt: str | list[str] | None = None,
        guide_low_level: bool | None = None,
        low_level_prompt_embeds: torch.Tensor | None = None,
        negative_low_level_prompt_embeds: torch.Tensor | None = None,
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The prompts of the images: of the captioner those that are not given, and no call of it if none is missing.

        Texts and embeddings are one for all images, or one for each. Without a captioner a prompt that is not given is
        empty, and encoded as such.

        Args:
            image: `[B, 3, H, W]` in [0, 1], not enlarged.
            high_level_prompt: what the image shows.
            low_level_prompt: how good the image is.
            captioner: a function that is given the images as PIL images, not enlarged, and returns the `ImagePrompts`
                of each, such as a `Captioner`. "measured": the low-level prompt says what `describe_degradation`
                measures in the image, and there is no high-level prompt.
            quality_prompt: follows the high-level prompt (`encode_prompt`).
            negative_low_level_prompt: what the low-level prompt of the result should not be.
            guide_low_level: whether guidance is between both prompts and both negative prompts, as in the official
                code; otherwise the low-level prompt is the same in its halves (paper, Eq. 6).
            low_level_prompt_embeds, negative_low_level_prompt_embeds: `[1 or B, tokens, channels]`, instead of texts.

        Raises:
            ValueError: if a text or the captioner is none, a text and its embeddings are both given, the captioner
                returns another number of prompts; if there is a low-level prompt and the adapter takes none; or if
                embeddings are missing and there is no text encoder.
        """
        check_texts("high_level_prompt", high_level_prompt)
        check_texts("low_level_prompt", low_level_prompt, low_level_prompt_embeds)
        check_texts("negative_low_level_prompt", negative_low_level_prompt, negative_low_level_prompt_embeds)
        if quality_prompt is not None and not isinstance(quality_prompt, str):
            raise ValueError(f"quality_prompt={quality_prompt!r}, expected one text for all images.")
        has_low_level = self.adapter.fuses_semantics
        if not has_low_level and (low_level_prompt is not None or low_level_prompt_embeds is not None):
            raise ValueError(
                "There is a low-level prompt, but the adapter has no semantic fusion that could read it (it is "
                "PASD's): leave it out, and say in `prompt` or `high_level_prompt` what the image is."
            )

        captioner = self._or_default("captioner", captioner)
        lacks_low_level = has_low_level and low_level_prompt is None and low_level_prompt_embeds is None
        if captioner == "measured":
            if lacks_low_level:
                low_level_prompt = [describe_degradation(one) for one in image]
        elif callable(captioner):
            if high_level_prompt is None or lacks_low_level:
                prompts = captioner(self.image_processor.postprocess(image, "pil"))
                if len(prompts) != len(image):
                    raise ValueError(
                        f"The captioner returned {len(prompts)} prompts for {len(image)} images: it has to return one "
                        "`ImagePrompts` for each."
                    )
                if high_level_prompt is None:
                    high_level_prompt = [each.high_level for each in prompts]
                if lacks_low_level:
                    low_level_prompt = [each.low_level for each in prompts]
        elif captioner is not None:
            raise ValueError(
                f"captioner={captioner!r}, expected a function that is given images and returns their prompts, such "
                "as a `Captioner`, or 'measured'."
            )

        conditioning = {}
        if has_low_level:
            conditioning["low_level_prompt"], negative = self.encode_low_level_prompt(
                low_level_prompt,
                negative_low_level_prompt,
                self._or_default("guide_low_level", guide_low_level),
                low_level_prompt_embeds,
                negative_low_level_prompt_embeds,
                (self.cross_attention_kwargs or {}).get("scale"),
            )
            if negative is not None:
                conditioning["negative_low_level_prompt"] = negative
        return {"high_level_prompt": high_level_prompt, "quality_prompt": quality_prompt}, conditioning

    def encode_low_level_prompt(
        self,
        low_level_prompt: str | list[str] | None = None,
        negative_low_level_prompt: str | list[str] | None = None,
        guide_low_level: bool = True,
        low_level_prompt_embeds: torch.Tensor | None = None,
        negative_low_level_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode the low-level prompts and the negative ones in one call of the text encoder, as `encode_prompt` does.

        Without `guide_low_level` there are no negative ones. A text that is too long is cut off, with a warning.
        """
        return self._encode_pair(
            "low_level_prompt",
            low_level_prompt,
            negative_low_level_prompt,
            guide_low_level,
            low_level_prompt_embeds,
            negative_low_level_prompt_embeds,
            lora_scale,
        )

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        high_level_prompt: str | list[str] | None = None,
        quality_prompt: str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode "`prompt`, `high_level_prompt` `quality_prompt`", and the negative prompt.

        Without `prompt` it is the official prompt, "`high_level_prompt` `quality_prompt`". Where that is more than the
        text encoder reads, words are left out before the quality prompt, with a warning: of the high-level prompt
        first. (In the official code the quality prompt is what is cut off.) `prompt_embeds` replace the whole prompt.
        See `SuperResolutionPipeline.encode_prompt` for the rest.

        Raises:
            ValueError: if `prompt` and `high_level_prompt` are lists of different lengths.
        """
        # Without a tokenizer no prompt can be encoded, which the base class says.
        if prompt_embeds is None and self.tokenizer is not None:
            ending = self._or_default("quality_prompt", quality_prompt)
            prompt = [
                shorten_before(text, ending, self._count_tokens, self.tokenizer.model_max_length)
                for text in joined_prompts(as_texts(prompt or ""), as_texts(high_level_prompt or ""))
            ]
        prompt_embeds, negative_prompt_embeds = super().encode_prompt(
            prompt, negative_prompt, do_classifier_free_guidance, prompt_embeds, negative_prompt_embeds, lora_scale
        )
        return prompt_embeds, negative_prompt_embeds

    def prepare_latents(
        self, noise: torch.Tensor, image_latents: torch.Tensor | None = None, added_noise_level: int | None = None
    ) -> torch.Tensor:
        """Latents at the first timestep: noise alone, or the image's latents under the noise of two timesteps.

        The official code adds noise to the image's latents at the first timestep of the sampling, and then once more
        at `added_noise_level`. With one draw of noise as here this is, in distribution,
        `sqrt(a) * image_latents + sqrt(1 - a) * noise`, `a` being the product of the `alphas_cumprod` of both
        timesteps. As there it is scaled by the scheduler's `init_noise_sigma`; so with a scheduler that counts in
        sigmas, the UNet sees the same at the first step. One without `alphas_cumprod` (of EDM) does not know the
        noise of the training's timesteps: there the image lies under that of the first step alone.

        Args:
            added_noise_level: the second timestep, of the training: the higher, the less there is of the image.

        See `SuperResolutionPipeline.prepare_latents`.

        Raises:
            ValueError: if `added_noise_level` is no training timestep.
        """
        if image_latents is None or not hasattr(self.scheduler, "alphas_cumprod"):
            return super().prepare_latents(noise, image_latents)
        level = self._or_default("added_noise_level", added_noise_level)
        last = self.scheduler.config.num_train_timesteps - 1
        if not isinstance(level, Integral) or level < 0 or level > last:
            raise ValueError(f"added_noise_level={level!r}, expected a timestep of the training, from 0 to {last}.")
        # Some schedulers have timesteps between those of the training.
        first = round(float(self.scheduler.timesteps[0]))
        signal = float(self.scheduler.alphas_cumprod[first] * self.scheduler.alphas_cumprod[level])
        return (signal**0.5 * image_latents + (1 - signal) ** 0.5 * noise) * self.scheduler.init_noise_sigma

    def control_tiles(
        self, control: XPSRControl, num_results: int, windows: Sequence[Window], tile_batch_size: int
    ) -> list[XPSRControl]:
        """What the ControlNet makes of each group of tiles before its first block; the prompts are those of all."""
        tiles = super().control_tiles(control.image, num_results, windows, tile_batch_size)
        return [XPSRControl(tile, control.low_level) for tile in tiles]

    def denoise(
        self,
        latents: torch.Tensor,
        control: torch.Tensor,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor | None = None,
        *,
        conditioning: dict[str, torch.Tensor],
        **sampling: Any,
    ) -> torch.Tensor:
        """The loop over the scheduler's timesteps; what the adapter reads of low-level prompts is prepared before it.

        `conditioning` has the embeddings `low_level_prompt` and, if they are guided, `negative_low_level_prompt`. See
        `SuperResolutionPipeline.denoise`.
        """
        names = ["negative_low_level_prompt", "low_level_prompt"]
        if negative_prompt_embeds is None:
            names = names[1:]
        low_level = [
            self.adapter("prepare_low_level", conditioning[name].to(latents.device, self.adapter.dtype))
            for name in names
            if name in conditioning
        ]
        # The adapter has no conditioning but what `predict_noise` gives it, which changes from step to step.
        return super().denoise(
            latents,
            XPSRControl(control, low_level),
            prompt_embeds,
            negative_prompt_embeds,
            conditioning={},
            **sampling,
        )

    def predict_noise(
        self,
        latents: torch.Tensor,
        group: int,
        timestep: torch.Tensor,
        controls: list[XPSRControl],
        texts: list[torch.Tensor],
        controlnet_conditioning_scale: float,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """The noise in a group of tiles, by the ControlNet and then by the UNet, which attends to its residuals.

        See `SuperResolutionPipeline.predict_noise`.
        """
        tiles = len(latents) // len(texts[0])
        encoder_hidden_states = torch.cat([text.repeat(tiles, 1, 1) for text in texts])
        latents = latents.repeat(len(texts), 1, 1, 1)
        control = controls[group]
        # One half without guidance, which a callback can also switch off, is that of the prompt, the last.
        with self.adapter.conditioning(low_level=control.low_level[-len(texts) :] or None):
            features = control_features(
                self.controlnet,
                latents,
                timestep,
                encoder_hidden_states,
                control.image.repeat(len(texts), 1, 1, 1),
                controlnet_conditioning_scale,
            )
        with self.adapter.conditioning(controls=features):
            noise_pred = self.unet(
                latents,
                timestep,
                encoder_hidden_states=encoder_hidden_states,
                down_block_additional_residuals=features[:-1],
                mid_block_additional_residual=features[-1],
                cross_attention_kwargs=cross_attention_kwargs,
                return_dict=False,
            )[0]
        return self.guide(noise_pred.chunk(len(texts)))

    def _count_tokens(self, text: str) -> int:
        return len(self.tokenizer(self.maybe_convert_prompt(text, self.tokenizer)).input_ids)


def joined_prompts(prompts: list[str], high_level_prompts: list[str]) -> list[str]:
    """What a user says of each image, before what it shows; a list of one serves all of the other.

    Raises:
        ValueError: if both have several entries and differ in length.
    """
    pairs = pair_texts(prompts, high_level_prompts)
    return [f"{prompt}, {high_level}".strip() if prompt else high_level for prompt, high_level in pairs]
