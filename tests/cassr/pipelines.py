"""Small CasSR pipelines, and what is seen of their calls."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from PIL import Image

from diffusers_sr.cassr.denoiser import CasSRControl
from diffusers_sr.cassr.pipeline import CasSRPipeline
from diffusers_sr.sampling.photo import Start
from tests.components import components, inputs, tiny_controlnet

STOCK = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


def build(**overrides: Any) -> CasSRPipeline:
    pipeline = CasSRPipeline(**{**components("cassr"), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: CasSRPipeline, **overrides: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.as_tensor(pipeline(**{**inputs("cassr"), "generator": generator, **overrides}).images)


class Images(NamedTuple):
    """An image and its reference, in pixels."""

    lr: torch.Tensor
    reference: torch.Tensor


def control(pipeline: CasSRPipeline, **overrides: Any) -> Images:
    """The image and the reference of a call."""
    made = []

    class Prepared(Exception):
        pass

    prepare = pipeline.prepare_control

    @functools.wraps(prepare)
    def spy(*args: Any, **kwargs: Any) -> CasSRControl:
        made.append(prepare(*args, **kwargs))
        raise Prepared

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Prepared):
        patch.setattr(pipeline, "prepare_control", spy)
        run(pipeline, **overrides)
    (prepared,) = made
    assert prepared.reference is not None
    return Images(prepared.lr, prepared.reference)


def stock_pipeline(pipeline: CasSRPipeline, kind: type[Any] = StableDiffusionPipeline, **parts: Any) -> Any:
    """Diffusers' own pipeline of copies of the stock components, to which nothing is attached."""
    stock = {name: copy.deepcopy(pipeline.components[name]) for name in STOCK}
    pipeline.adapter.detach(stock["unet"])
    made = kind(**stock, **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def first_latents(pipeline: CasSRPipeline, noise: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Make what sampling starts from, of an enlarged image."""
    call = pipeline.check_inputs()
    start = Start(noise, pipeline.encode_image(call, image))
    return pipeline.prepare_latents(call, start, pipeline.prepare_scheduler(2))


def tiny_activation_controlnet() -> ControlNetModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        controlnet = tiny_controlnet().eval()
        for parameter in controlnet.controlnet_cond_embedding.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
    return controlnet


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()
