"""`XPSRPipeline`: cross-modal priors for super-resolution (XPSR, https://arxiv.org/abs/2403.05049)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..publishing.paper import Paper
from ..sampling.finite import Stage
from ..sampling.guidance import Guidance
from ..sampling.photo import Photo, Start
from .call import XPSRCall
from .denoiser import XPSRControl
from .pasd import PASDPipeline


class XPSRPipeline(PASDPipeline[XPSRCall]):
    """XPSR: a high-level prompt says what the image shows, and a low-level prompt how good it is.

    Both are given, or written by a multimodal language model, the `captioner`. UNet and ControlNet read the high-level
    prompt as their text; the ControlNet's semantic fusion reads the low-level prompt as well, and the UNet's pixel
    attention reads the ControlNet's residuals. The prompts describe the whole image, and all tiles share them. The
    constraint that the ControlNet was trained with is not part of the pipeline.

    Without semantic fusion and a low-level prompt this is PASD (https://arxiv.org/abs/2308.14469): use `PASDPipeline`,
    which has PASD's defaults. With PASD's adapter this pipeline takes no low-level prompt either. With one whose
    `fusion` is "low" (the paper's ablation) the low-level prompt takes the place of the high-level one.

    Defaults are those of the official code: 20 steps, guidance 4.5 for both prompts, the start from the image under
    the noise of two timesteps (`prepare_latents`), one tile for up to 320 × 320 latents and otherwise tiles that
    overlap by 8. The paper has guidance 5.5 for the high-level prompt only (`guide_low_level=False`), and writes it
    in another form: its 5.5 is 6.5 here. Its negative prompt lacks "raster lines" and the full stop. These are the
    `paper_settings`, with `official_preprocessing=True`, what the official test script does with images; whether the
    published numbers were made with the paper's values or with the code's is not known.

    The official code, which the published numbers were made with, cuts off the quality prompt after a long caption:
    `caption_overflow="cut"`, which is the default with `official_preprocessing=True`, and otherwise "shorten".

    The arguments are those of `ControlledPipeline`, with an `XPSRAdapter` for the adapter.

    Example::

        pipeline = XPSRPipeline.from_pretrained("path/to/converted/xpsr", torch_dtype=torch.float16).to("cuda")
        captioner = Captioner.from_pretrained("HuggingFaceTB/SmolVLM-500M-Instruct", "cuda", torch.float16)
        image = pipeline(load_image("photo.png"), upscale=4, captioner=captioner).images[0]
    """

    call_class = XPSRCall
    paper: ClassVar[Paper] = Paper("XPSR", "2403.05049")
    paper_settings: ClassVar[Mapping[str, Any]] = {
        "official_preprocessing": True,
        "guidance_scale": 6.5,
        "guide_low_level": False,
        "negative_prompt": "blurry, dotted, noise, unclear, lowres, over-smoothed",
    }
    example_call: ClassVar[dict[str, Any]] = {"captioner": "measured"}  # needs no language model
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
        "caption_overflow": "shorten",
        "added_noise_level": 800,
    }

    def check_components(self, call: XPSRCall) -> None:
        """Raise ValueError also if the adapter does not take the low-level prompt, or it cannot be encoded."""
        texts, embeds = call.low_level_prompt, call.low_level_prompt_embeds
        if self.adapter.config.fusion == "low":
            texts = None  # it is the prompt
            if call.high_level_prompt is not None:
                raise ValueError(
                    "There is a high-level prompt, but the adapter was trained with the low-level prompt in its "
                    "place: leave it out."
                )
        if not self.adapter.fuses_semantics:
            if texts is not None or embeds is not None:
                raise ValueError(
                    "There is a low-level prompt, but the adapter has no semantic fusion that could read it (it is "
                    "PASD's): leave it out, and say in `prompt` or `high_level_prompt` what the image shows."
                )
        elif embeds is None or (call.guide_low_level and call.negative_low_level_prompt_embeds is None):
            self._check_text_encoder("low_level_prompt")
        super().check_components(call)

    def describe(self, image: torch.Tensor, call: XPSRCall) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Have the captioner write the prompts that the call does not give, and encode the low-level ones.

        Without a captioner, a prompt that is not given is empty, and is encoded as such.

        Raises:
            ValueError: if the captioner does not return one entry for each image.
        """
        is_low = self.adapter.config.fusion == "low"
        takes_low_level = self.adapter.fuses_semantics or is_low
        is_missing = takes_low_level and call.low_level_prompt is None and call.low_level_prompt_embeds is None
        high_level, written = self.write_prompts(image, call, is_missing)
        low_level = call.low_level_prompt if written is None else written
        texts = self.texts_of(call, low_level if is_low else high_level)
        if not self.adapter.fuses_semantics:
            return texts, {}
        return texts, self.encode_low_level_prompts(low_level, call)

    def encode_low_level_prompts(self, texts: str | list[str] | None, call: XPSRCall) -> dict[str, torch.Tensor]:
        """Encode the low-level prompts, and the negative ones if they are guided, in one call of the text encoder.

        A text that is too long is cut off, with a warning.

        Args:
            texts: the prompts to encode, which are the call's `low_level_prompt` or the captioner's.
        """
        prompt, negative = self._encode_pair(
            "low_level_prompt",
            (texts, call.negative_low_level_prompt),
            (call.low_level_prompt_embeds, call.negative_low_level_prompt_embeds),
            call.guide_low_level,
            call.lora_scale,
        )
        return {"low_level_prompt": prompt} | ({} if negative is None else {"negative_low_level_prompt": negative})

    def prepare_control(
        self, call: XPSRCall, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> XPSRControl:
        """Take the enlarged image, and what the adapter prepares from the low-level prompts."""
        names = ["negative_low_level_prompt", "low_level_prompt"]
        if guidance.negative_prompt_embeds is None:
            names = names[1:]
        texts = [seen[name] for name in names if name in seen]
        low_level = Stage("preparing the low-level prompts", self.adapter).run(
            lambda: [self.adapter("prepare_low_level", text.to(self.adapter.dtype)) for text in texts]
        )
        return XPSRControl(photo.padded, low_level)
