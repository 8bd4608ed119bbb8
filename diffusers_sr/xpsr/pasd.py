"""`PASDPipeline`: pixel-aware Stable Diffusion (PASD, https://arxiv.org/abs/2308.14469)."""

from __future__ import annotations

from typing import Any, ClassVar

from ..publishing.paper import Paper
from .pipeline import XPSRPipeline


class PASDPipeline(XPSRPipeline):
    """PASD: the UNet's pixel attention reads the ControlNet's residuals, and one prompt says what the image shows.

    XPSR is built on it; its adapter is XPSR's without semantic fusion, and there is no low-level prompt. The prompt is
    given, or written by a multimodal language model, the `captioner`, whose low-level prompt is not used.

    Defaults are those of the official code's test script: 20 steps, guidance 9, the start from the image under the
    noise of two timesteps (`prepare_latents`), a shorter side of at least 768 pixels, and colours of the image by
    wavelets. Its scheduler is UniPC, which `diffusers-sr convert pasd` writes.

    The arguments are those of `SuperResolutionPipeline`, with an `XPSRAdapter` without semantic fusion for the adapter
    (`XPSRAdapter.from_hosts(unet, controlnet, fusion=False)`).

    Example::

        pipeline = PASDPipeline.from_pretrained("path/to/converted/pasd", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4, high_level_prompt="a tree in a field.").images[0]
    """

    paper: ClassVar[Paper] = Paper("PASD", "2308.14469")
    example_call: ClassVar[dict[str, Any]] = {}
    converters: ClassVar[dict[str, str]] = {"pasd": "diffusers_sr.xpsr.convert.convert_pasd"}
    _call_defaults: ClassVar[dict[str, Any]] = {
        **XPSRPipeline._call_defaults,
        "negative_prompt": "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed",
        "guidance_scale": 9.0,
        "process_size": 768,
        "color_fix": "wavelet",
        "quality_prompt": "clean, high-resolution, 8k",
        "added_noise_level": 900,
    }
