"""The official GDPO-SR folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel

from ..conversion.checkpoints import PathLike, load_parts, read_model_config, read_model_folder, stock_key
from ..publishing.paper import Paper
from .convert_lora import Converted


def read_gdpo(checkpoint: PathLike) -> Converted:
    """Read the folder with `unet` and `vae`, whose LoRA is merged already.

    Raises:
        FileNotFoundError: if there is no such folder, configuration or weights.
        ValueError: if a file is damaged, a configuration is that of another class, or keys are missing, unexpected or
            mis-shaped (all of them are listed).
    """
    return Converted(
        unet=_read_model(Path(checkpoint) / "unet", UNet2DConditionModel),
        vae=_read_model(Path(checkpoint) / "vae", AutoencoderKL),
        lora=None,
        prediction="x0",
        timestep=100,
        noise_timestep=250,
        prompt_source="tags",
        paper=Paper("GDPO-SR", "2603.16769"),
        license="apache-2.0",
        terms="by the README of the code, which has no licence file",
    )


def _read_model(folder: Path, kind: Any) -> Any:
    state_dict = read_model_folder(folder)
    with init_empty_weights(include_buffers=False):
        model = kind.from_config(read_model_config(folder, kind.__name__))
    load_parts(state_dict, [(model, stock_key)], folder)
    return model.eval()
