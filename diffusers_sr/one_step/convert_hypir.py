"""The official HYPIR checkpoint."""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel

from ..conversion.checkpoints import PathLike, read_state_dict
from ..publishing.paper import Paper
from .convert_lora import Converted, lora_shapes, renamed, with_adapter
from .lora import LoraSets, layer_sizes

# The ends of the names in `lora_modules` of the official configuration: every layer of the transformers and resnets,
# and `conv_out`, but not `conv_in`.
MODULES = (
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_shortcut",
    "conv_out",
    "proj_in",
    "proj_out",
    "ff.net.2",
    "ff.net.0.proj",
)


def read_hypir(checkpoint: PathLike, unet: UNet2DConditionModel, vae: AutoencoderKL) -> Converted:
    """Read `HYPIR_sd2.pth`: the state dict of one LoRA, whose alpha is its rank. UNet and VAE stay the base's.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or if keys are missing, unexpected or mis-shaped (all of them are listed).
    """
    state_dict = read_state_dict(checkpoint)
    # No configuration goes with the file: its first matrix A, a whole one, has the rank of all.
    rank = next((len(tensor) for key, tensor in state_dict.items() if ".lora_A." in key and tensor.ndim), 1)
    shapes = lora_shapes(unet, adapted_by_hypir(unet), rank, checkpoint)
    weights = renamed(state_dict, {key: with_adapter(key, "default") for key in shapes}, shapes, checkpoint)
    return Converted(
        unet=unet,
        vae=vae,
        lora=LoraSets.from_state_dicts({"default": (weights, rank)}),
        prediction="x0",
        timestep=200,
        prompt_source="text",
        paper=Paper("HYPIR", "2507.20590"),
        license="other",
        terms="the HYPIR Software License Agreement. The weights are the property of SupPixel Pty Ltd. They may be "
        "used for non-commercial purposes only, and neither they nor what is derived from them, such as this folder, "
        "may be passed on without SupPixel's written permission",
        is_restricted=True,
        call_defaults={"tile_size": 512, "tile_overlap": 256, "color_fix": "wavelet"},
    )


def adapted_by_hypir(unet: UNet2DConditionModel) -> list[str]:
    """List the layers of a UNet that the official configuration names, as PEFT does."""
    return [
        name
        for name, layer in unet.named_modules()
        if layer_sizes(layer) is not None and any(name == end or name.endswith(f".{end}") for end in MODULES)
    ]
