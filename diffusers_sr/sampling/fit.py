"""Choose the sizes of tiles for the memory that is free: `tile_size="auto"` and `vae_tile_size="auto"`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from .autoencoder import level_widths
from .checks import AUTO
from .free_memory import free_memory
from .memory_table import BYTES_PER_LATENT, BYTES_PER_PIXEL
from .placement import model_dtype

if TYPE_CHECKING:
    from .call import CallT

_SHARE = 0.6
"""How much of the free memory a tile may take. The table counts tensors. What operations use internally, above all the
convolutions of an autoencoder on a CPU, and what the allocator holds comes on top."""
_STEP = 64
"""Pixels: tiles are multiples of this, and at least as large."""


def with_fitting_tiles(pipeline: Any, call: CallT) -> CallT:
    """Replace "auto" by the largest sizes whose tiles fit into the memory that is free, up to the model's own sizes.

    So a result is that of the model's own tiles wherever they fit. The overlap shrinks with the tile.

    Args:
        pipeline: its models are where the call will run them, or are brought there by hooks.
    """
    sizes: dict[str, Any] = {}
    if AUTO not in (call.tile_size, call.vae_tile_size):
        return call
    unit, device = pipeline.vae_scale_factor, pipeline._execution_device
    free = free_memory(device)
    if call.tile_size == AUTO:
        own = pipeline.config.call_defaults["tile_size"]
        names = ("unet", "controlnet", "adapter", "lora")
        models = [model for name in names if (model := getattr(pipeline, name, None)) is not None]
        together = call.tile_batch_size * _images(call.image) * call.num_images_per_prompt
        bytes_per_pixel = together * bytes_per_latent(pipeline) / unit**2
        sizes["tile_size"] = largest_tile(own, _left(free, models, device), bytes_per_pixel, unit)
        sizes["tile_overlap"] = call.tile_overlap * sizes["tile_size"] // own // unit * unit
    if call.vae_tile_size == AUTO:
        most: Any = next(field.default for field in dataclasses.fields(call) if field.name == "vae_tile_size")
        left = _left(free, [pipeline.vae], device)
        sizes["vae_tile_size"] = largest_tile(most, left, bytes_per_pixel_of(pipeline.vae), unit)
    return dataclasses.replace(call, **sizes)


def largest_tile(most: int, free: float, bytes_per_pixel: float, unit: int) -> int:
    """Compute the side of the largest tile, in steps of 64 pixels, that takes no more than its share of `free`.

    Args:
        most: the largest size that is wanted, which need not be a whole number of steps.
        unit: pixels per latent; the result is a multiple of it.
    """
    fitting = math.isqrt(int(max(_SHARE * free, 0) / bytes_per_pixel))
    if fitting >= most:
        return most
    step = math.lcm(_STEP, unit)
    return min(max(fitting // step * step, step), most)


def bytes_per_latent(pipeline: Any) -> float:
    """Look up what a guided step takes for each latent of a tile.

    For a class without rows it is that of its base class, or the most of all; for a UNet of another width it is in
    proportion to that of the nearest.
    """
    return _look_up(BYTES_PER_LATENT, type(pipeline), pipeline.unet)


def bytes_per_pixel_of(vae: Any) -> float:
    """Look up what encoding or decoding takes for each pixel of a tile; see `bytes_per_latent`."""
    return _look_up(BYTES_PER_PIXEL, type(unwrap_module(vae)), vae)


def _look_up(table: Mapping[tuple[str, int], Mapping[str, int]], kind: type, model: Any) -> float:
    known = {name for name, _ in table}
    name = next((each.__name__ for each in kind.__mro__ if each.__name__ in known), None)
    rows = {row: sizes for row, sizes in table.items() if name in (None, row[0])}
    width, dtype = width_of(model), model_dtype(model)
    nearest = min((row[1] for row in rows), key=lambda each: abs(math.log(each / width)))
    column = "float32" if dtype.itemsize > 2 else "float16"
    most = max(sizes[column] for row, sizes in rows.items() if row[1] == nearest)
    return most * max(dtype.itemsize / 4, 1) * width / nearest


def width_of(model: Any) -> int:
    """Read the channels of the first level of a UNet or an autoencoder."""
    return level_widths(model)[0]


def _images(image: Any) -> int:
    """Count the images of a call, of whatever kind they are."""
    if isinstance(image, (list, tuple)):
        return sum(map(_images, image))
    return len(image) if getattr(image, "ndim", 0) == 4 else 1


def _left(free: int, models: Iterable[nn.Module], device: torch.device) -> int:
    """Subtract the weights that model offloading will bring to the device; what is brought in parts takes little."""
    if device.type == "cpu":
        return free
    waiting = [model for model in models if "_hf_hook" in vars(model)]
    tensors = chain.from_iterable(chain(model.parameters(), model.buffers()) for model in waiting)
    return free - sum(each.nbytes for each in tensors if each.device != device and not each.is_meta)
