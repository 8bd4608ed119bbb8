"""Enlarge images by the pipeline, and say what helps if memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..image.names import printable
from .terminal import is_out_of_memory

if TYPE_CHECKING:
    from PIL import Image

    from ..pipeline import SuperResolutionPipeline

# A pixel of a tile takes about this many times the memory of a pixel of the result, of which only values are kept.
_MOST_TILES = 64


def enlarge(
    pipeline: SuperResolutionPipeline,
    images: Sequence[Image.Image],
    names: Sequence[str],
    seed: int,
    arguments: dict[str, Any],
) -> list[Image.Image]:
    """Run the pipeline on RGB images of one size; its progress bar carries their names.

    Every image starts from the same seed, so that its result does not depend on the other images.

    Raises:
        ValueError: if there is not enough memory, or an argument does not suit the pipeline.
    """
    import torch

    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    pipeline.set_progress_bar_config(desc=printable(names[0]) + others)
    generators = [torch.Generator("cpu").manual_seed(seed) for _ in images]
    given: Any = (images[0], generators[0]) if len(images) == 1 else (list(images), generators)
    try:
        (results,) = pipeline(image=given[0], generator=given[1], return_dict=False, **arguments)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"there is not enough memory{_remedy(pipeline, images[0], arguments)}") from error
    return list(results)


def _remedy(pipeline: SuperResolutionPipeline, image: Image.Image, arguments: dict[str, Any]) -> str:
    """Say what helps when memory ran out: smaller tiles, unless the result is too large or tiles cannot be smaller."""
    call = pipeline.check_inputs(**arguments)
    width, height = round(image.width * call.upscale), round(image.height * call.upscale)
    if width * height > _MOST_TILES * call.tile_size**2:
        return f" for a result of {width}x{height} pixels: try a smaller --upscale, or cut the image"
    sizes = {"--tile-size": call.tile_size, "--vae-tile-size": call.vae_tile_size}
    smaller = [option for option, size in sizes.items() if size > pipeline.vae_scale_factor]
    return f": try a smaller {' and '.join(smaller)}" if smaller else ""
