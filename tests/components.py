"""Tiny random components of every method's pipeline, and the arguments of a call.

`components(method)` gives what the pipeline class is constructed from, `inputs(method)` keyword arguments of a call.
All of it is built in memory from fixed seeds: real classes, nothing downloaded, and no parameter left at zero, so
that every component makes a difference to the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.cfw import ControllableFeatureWrapping
from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.xpsr.adapter import XPSRAdapter

METHODS = ("seesr", "coser", "cassr", "xpsr")

TEXT_DIM = 32
REPRESENTATION_DIM = 16
TAGS = ("bridge", "cat", "city", "flower", "mountain", "river", "sky", "tree")


def components(method: str) -> dict[str, Any]:
    """The components of one method's pipeline by the names of its constructor."""
    _check(method)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = tiny_unet()
        tokenizer = tiny_tokenizer()
        parts = {"vae": tiny_vae(), "text_encoder": tiny_text_encoder(tokenizer), "unet": unet}
        method_parts = {"seesr": _seesr_parts, "coser": _coser_parts, "cassr": _cassr_parts, "xpsr": _xpsr_parts}
        parts |= method_parts[method](unet, parts["vae"])
    return {**{name: part.eval() for name, part in parts.items()}, "tokenizer": tokenizer, "scheduler": scheduler()}


def inputs(method: str) -> dict[str, Any]:
    """Keyword arguments of a call: a 16×16 image to 64×64 in two steps, with guidance and both prompts."""
    _check(method)
    return {
        "image": tiny_image(),
        "prompt": "a sharp photo",
        **({"seesr": _seesr_inputs, "xpsr": _xpsr_inputs}.get(method, dict)()),
        "negative_prompt": "blur",
        "upscale": 4.0,
        "process_size": 16,
        "num_inference_steps": 2,
        "guidance_scale": 5.5,
        "generator": torch.Generator("cpu").manual_seed(0),
        "output_type": "np",
    }


def _seesr_parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    controlnet = tiny_controlnet()
    adapter = randomise(SeeSRAdapter.from_hosts(unet, controlnet, REPRESENTATION_DIM))
    return {"controlnet": controlnet, "adapter": adapter, "tagger": tiny_tagger()}


def _coser_parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    controlnet = randomise(LatentControlNetModel.for_unet(unet))
    return {
        "controlnet": controlnet,
        "adapter": randomise(CoSeRAdapter.from_hosts(unet, controlnet)),
        "cognitive_encoder": tiny_cognitive_encoder(),
        "cfw": randomise(ControllableFeatureWrapping.from_vae(vae, num_rrdbs=1, growth_channels=4)),
    }


def _cassr_parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    controlnet = tiny_controlnet()
    activation = randomise(SCEditAdapter.from_host(unet, hint_channels=(4, 8, 8, 8)))
    for embedding in (controlnet.controlnet_cond_embedding, activation.hint_embedding):
        for parameter in embedding.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter)  # a reference is seen through nothing else
    return {
        "controlnet": controlnet,
        "adapter": randomise(CasSRAdapter.from_hosts(unet, controlnet)),
        "activation": activation,
    }


def _xpsr_parts(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Any]:
    controlnet = tiny_controlnet()
    return {"controlnet": controlnet, "adapter": randomise(XPSRAdapter.from_hosts(unet, controlnet))}


def _seesr_inputs() -> dict[str, Any]:
    return {"tags": "cat, tree"}


def _xpsr_inputs() -> dict[str, Any]:
    """A prompt of each kind; the low-level ones as embeddings, so that a call can do without a text encoder."""
    embeds = torch.randn(2, 1, 7, TEXT_DIM, generator=torch.Generator().manual_seed(0))
    return {
        "high_level_prompt": "a tree.",
        "low_level_prompt_embeds": embeds[0],
        "negative_low_level_prompt_embeds": embeds[1],
    }


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


def tiny_tagger() -> Tagger:
    """A tagger of 32×32 pixels with 17 tokens, which gives some tags to `tiny_image()`."""
    tagger = randomise(
        Tagger(
            tags=TAGS,
            thresholds=[0.5] * len(TAGS),
            image_size=32,
            embed_dim=8,
            depths=(1, 1),
            num_heads=(2, 4),
            window_size=4,
            representation_dim=REPRESENTATION_DIM,
            head_hidden_size=16,
            head_num_heads=4,
            head_intermediate_size=32,
            head_num_layers=2,
        )
    )
    for parameter in tagger.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
    nn.init.normal_(tagger.tagging_head.label_embed, std=3)  # the tags have to differ more than rounding errors do
    with torch.no_grad():
        image = torch.from_numpy(np.array(tiny_image())).permute(2, 0, 1)[None] / 255
        tagger.tagging_head.classifier.bias -= tagger.eval()(tagger.preprocess(image)).logits.mean()
    return tagger


def tiny_cognitive_encoder() -> CognitiveEncoder:
    """A cognitive encoder of three queries as wide as the text, whose CLIP sees 28×28 pixels in five tokens."""
    clip = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 2}
    qformer = {"hidden_size": TEXT_DIM, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return randomise(
        CognitiveEncoder(
            num_queries=3,
            srresnet_channels=8,
            srresnet_blocks=1,
            vision_config={**clip, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
            qformer_config={**qformer, "cross_attention_frequency": 2},
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


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}: choose one of {', '.join(METHODS)}.")
