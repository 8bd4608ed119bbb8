"""Tiny random components of every method's pipeline, and the arguments of a call.

`components(method)` gives what the pipeline class is constructed from, `inputs(method)` keyword arguments of a call.
What is a method's own is in `tests/<method>/components.py`: its `parts`, its `inputs`, its `OWN_ARGUMENTS` and its
`DEFAULT_TILE_SIZE`.
All of it is built in memory from fixed seeds: real classes, nothing downloaded, and no parameter left at zero, so
that every component makes a difference to the result.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_sr.hub import METHODS, pipeline_class

TEXT_DIM = 32
STABLE_DIFFUSION_2: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
"""What sets the released UNet and ControlNet apart from the defaults of their classes."""


def components(method: str) -> dict[str, Any]:
    """The components of one method's pipeline by the names of its constructor."""
    own = _own(method)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = tiny_unet()
        tokenizer = tiny_tokenizer()
        parts = {"vae": tiny_vae(), "text_encoder": tiny_text_encoder(tokenizer), "unet": unet}
        parts |= own.parts(unet, parts["vae"])
    parts = {"tokenizer": tokenizer, "scheduler": scheduler()} | parts
    return {name: part.eval() if isinstance(part, nn.Module) else part for name, part in parts.items()}


def inputs(method: str) -> dict[str, Any]:
    """Keyword arguments of a call: a 16×16 image to 64×64 in two steps, with guidance and both prompts."""
    arguments = {
        "image": tiny_image(),
        "prompt": "a sharp photo",
        **_own(method).inputs(),
        "negative_prompt": "blur",
        "upscale": 4.0,
        "process_size": 16,
        "num_inference_steps": 2,
        "guidance_scale": 5.5,
        "generator": torch.Generator("cpu").manual_seed(0),
        "output_type": "np",
    }
    fixed = pipeline_class(method).call_class.fixed
    return {name: value for name, value in arguments.items() if name not in fixed}


def default_tile_size(method: str) -> int:
    """The `tile_size` of a call that names none, as the official code or the paper has it."""
    size: int = _own(method).DEFAULT_TILE_SIZE
    return size


def own_arguments(method: str) -> list[str]:
    """The arguments of a call that not every method has, in their order."""
    names: list[str] = _own(method).OWN_ARGUMENTS
    return names


def _own(method: str) -> ModuleType:
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}: choose one of {', '.join(METHODS)}.")
    return import_module(f"tests.{method}.components")


def tiny_image(width: int = 16, height: int = 16, seed: int = 0) -> Image.Image:
    """A colour gradient with noise on it."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0.1, 0.7, height)[:, None, None].expand(height, width, 3)
    columns = torch.linspace(0, 0.2, width)[None, :, None] * torch.tensor([1.0, 0.5, -0.5])
    noise = 0.1 * torch.rand((height, width, 3), generator=generator)
    return Image.fromarray(((rows + columns + noise).clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def tiny_unet(**overrides: Any) -> UNet2DConditionModel:
    """A UNet shaped like Stable Diffusion 2's, with two levels: four text transformers."""
    return randomise(
        UNet2DConditionModel(
            **{
                "sample_size": 8,
                "block_out_channels": (8, 16),
                "layers_per_block": 1,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                "attention_head_dim": (2, 4),
                "cross_attention_dim": TEXT_DIM,
                "norm_num_groups": 4,
                "use_linear_projection": True,
                **overrides,
            }
        )
    )


def tiny_controlnet(**overrides: Any) -> ControlNetModel:
    """The ControlNet of `tiny_unet`: two text transformers."""
    return randomise(
        ControlNetModel(
            **{
                "block_out_channels": (8, 16),
                "layers_per_block": 1,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "attention_head_dim": (2, 4),
                "cross_attention_dim": TEXT_DIM,
                "norm_num_groups": 4,
                "use_linear_projection": True,
                "conditioning_embedding_out_channels": (4, 8, 8, 8),
                **overrides,
            }
        )
    )


def tiny_vae() -> AutoencoderKL:
    """An autoencoder with Stable Diffusion's factor of 8 and 4 latent channels."""
    return randomise(
        AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        )
    )


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of single bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(code) for code in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    words = [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77)


def tiny_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return randomise(
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_DIM,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    )


def scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    )


def randomise(module: nn.Module) -> Any:
    """Give every parameter that is zero, such as a ControlNet's zero convolutions, random values, in place."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return module
