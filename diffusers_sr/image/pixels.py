"""Read images of every usual kind, and bring them to the sizes the models work on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers.utils import logging

from .decoding import load, on_white, to_rgb
from .sources import read_source

logger = logging.get_logger(__name__)

ImageInput: TypeAlias = PIL.Image.Image | np.ndarray[Any, Any] | torch.Tensor | str | os.PathLike[str]
Bicubic = Literal["pillow", "torch"]
# The value that stands for white, by the type of the values.
WHITE = {torch.uint8: 255.0, torch.uint16: 65535.0}
# Bicubic resampling and half precision exceed [0, 1] by less than this; such values are clipped.
ROUNDING = 1e-3
# A working size has at most so many squares of `process_size`, unless the result has.
MOST_SQUARES = 16


def read_images(images: ImageInput | Sequence[ImageInput]) -> torch.Tensor:
    """Read one image or several of one size as `[B, 3, H, W]`, float32 in [0, 1].

    An image is the path or the URL of a file; a PIL image of any mode; an array `[H, W]`, `[H, W, C]` or
    `[B, H, W, C]`; or a tensor `[H, W]`, `[C, H, W]` or `[B, C, H, W]`; arrays and tensors of 1 or 3 channels, of
    uint8, uint16, or floats in [0, 1].
    Grey becomes RGB with three equal channels. Transparent parts of an image are put on white, with a warning: the
    result has no alpha channel. A file is turned upright as its EXIF data says, and 16 bits per channel are read
    whole. Of a PIL image pixels are taken as they are; an orientation in its EXIF data is not applied
    (`diffusers.utils.load_image` does that). CMYK becomes sRGB by its colour profile, if it has one.

    Raises:
        TypeError: if an image is of another kind, or its values are of another type.
        ValueError: if there is no image, or one cannot be read, is empty, has another number of axes or channels,
            values that are not finite or outside [0, 1], or a colour profile that cannot be used; or if the images
            differ in size.
    """
    return read_with_profiles(images)[0]


def read_with_profiles(images: ImageInput | Sequence[ImageInput]) -> tuple[torch.Tensor, list[bytes | None]]:
    """Read images as `read_images` does, with the colour profile of RGB that each of them is in, if it says so."""
    if not isinstance(images, (list, tuple)):
        return _read(images)
    if not images:
        raise ValueError("`image` is an empty list: give at least one image.")
    read = [_read(image) for image in images]
    sizes = sorted({(tensor.shape[3], tensor.shape[2]) for tensor, _ in read})
    if len(sizes) > 1:
        raise ValueError(
            f"The images of one call must have one size, but these are {', '.join(f'{w}×{h}' for w, h in sizes)} "
            "(width × height): call the pipeline once for each size."
        )
    return torch.cat([tensor for tensor, _ in read]), [profile for _, profiles in read for profile in profiles]


def keep_profiles(results: Any, profiles: Sequence[bytes | None], num_images_per_prompt: int) -> Any:
    """Put colour profiles on results that are PIL images, whose files then have them; give the results."""
    if isinstance(results, list):
        for number, result in enumerate(results):
            if (profile := profiles[number // num_images_per_prompt]) is not None:
                result.info["icc_profile"] = profile
    return results


def read_references(images: ImageInput | Sequence[ImageInput], size: tuple[int, int]) -> torch.Tensor:
    """Read one image or several, of any sizes, and stretch each to `(height, width)`: `[B, 3, height, width]`.

    Raises:
        ValueError: if there is no image, or as `read_images` does.
    """
    each = images if isinstance(images, (list, tuple)) else [images]
    if not each:
        raise ValueError("`reference_images` is an empty list: give at least one image, or None to generate them.")
    return torch.cat([resize(read_images(image), size) for image in each])


def output_size(height: int, width: int, upscale: float) -> tuple[int, int]:
    """Compute height and width of the result. Raises ValueError if it would have no pixels."""
    size = round(height * upscale), round(width * upscale)
    if min(size) < 1:
        raise ValueError(
            f"upscale={upscale} leaves no pixels of an image of {width}×{height} pixels: give a larger factor."
        )
    return size


def working_size(height: int, width: int, upscale: float, process_size: int) -> tuple[int, int]:
    """Compute height and width the models work at: the result's, or those whose shorter side is `process_size`.

    The larger of the two is taken, as in the official code. Only if an image is more than 16 times as long as it is
    wide does the second have fewer pixels than that: as many as 16 squares of `process_size`, which is said in the
    log. (One of 1 × 1000 pixels would become 64 × 64,000 for a `process_size` of 64, and becomes 8 × 8095.)
    """
    scale = process_size / min(height, width)
    if max(height, width) > MOST_SQUARES * min(height, width) and scale > upscale:
        most = math.sqrt(MOST_SQUARES / (height * width)) * process_size
        logger.warning(
            f"An image of {width}×{height} pixels is more than {MOST_SQUARES} times as long as it is wide: it is "
            f"enlarged by {max(upscale, most):.4g} before it is processed, instead of by {scale:.4g}, which a shorter "
            f"side of process_size={process_size} pixels would need."
        )
        scale = most
    scale = max(upscale, scale)
    return round(height * scale), round(width * scale)


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize `[B, 3, H, W]` in [0, 1] to `(height, width)` with Pillow's bicubic filter."""
    if image.shape[-2:] == size:
        return image
    # `antialias` makes torch use Pillow's kernel, for enlarging too.
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def resize_as_torch(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize `[B, 3, H, W]` in [0, 1] to `(height, width)` with torch's bicubic filter, whose lobes are deeper.

    Its a is -0.75, Pillow's is -0.5. It is meant for enlarging: it takes four pixels along each axis, however much it
    reduces.
    """
    return F.interpolate(image, size, mode="bicubic").clamp(0, 1)


BICUBIC: dict[Bicubic, Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]] = {
    "pillow": resize,
    "torch": resize_as_torch,
}
"""The functions that enlarge bicubically, by whose filter they have."""


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column of `[B, C, H, W]` until both sides are multiples of `multiple`."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _read(image: Any) -> tuple[torch.Tensor, list[bytes | None]]:
    profile = None
    if isinstance(image, (str, os.PathLike)):
        image, profile = read_source(image)
    elif isinstance(image, PIL.Image.Image):
        profile = image.info.get("icc_profile")
    tensor = _values(image)
    # A profile of grey or of inks is not that of the RGB that they become.
    is_of_rgb = profile is not None and profile[16:20] == b"RGB "
    return tensor, [profile if is_of_rgb else None] * len(tensor)


def _values(image: Any) -> torch.Tensor:
    tensor = _channels_first(image)
    if tensor.dtype in WHITE:
        tensor = tensor.float().div_(WHITE[tensor.dtype])  # a copy of its own, and large
    elif tensor.is_floating_point():
        tensor = tensor.float()
    else:
        raise TypeError(f"The values of an image are {tensor.dtype}, expected uint8, uint16 or floats in [0, 1].")
    if 0 in tensor.shape:
        raise ValueError(
            f"An image of {tensor.shape[3]}×{tensor.shape[2]} pixels is empty: give one with at least one pixel."
        )
    if tensor.shape[1] not in (1, 3):
        raise ValueError(
            f"An image has {tensor.shape[1]} channels, expected 1 or 3: arrays are [H, W, C] or [B, H, W, C], tensors "
            "[C, H, W] or [B, C, H, W]."
        )
    if not tensor.isfinite().all():
        raise ValueError("An image has values that are NaN or infinite: replace them before the call.")
    low, high = tensor.min().item(), tensor.max().item()
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"The values of an image run from {low:.4g} to {high:.4g}, expected floats in [0, 1]: divide what runs to "
            "255 by 255, and map what runs from -1 to 1 by x / 2 + 0.5."
        )
    return tensor.clamp(0, 1).expand(-1, 3, -1, -1)


def _channels_first(image: Any) -> torch.Tensor:
    """Bring an image to `[B, C, H, W]`, its values unchanged."""
    if isinstance(image, PIL.Image.Image):
        image = _pil_to_array(image)
    if isinstance(image, np.ndarray):
        tensor, channels = torch.from_numpy(np.array(image, order="C")), -1
    elif isinstance(image, torch.Tensor):
        tensor, channels = image, -3
    else:
        raise TypeError(
            f"An image is a {type(image).__name__}, expected a path, a URL, a PIL image, a numpy array or a torch "
            "tensor."
        )
    if tensor.ndim == 2:
        return tensor[None, None]
    if tensor.ndim not in (3, 4):
        raise ValueError(f"An image has {tensor.ndim} axes (shape {list(tensor.shape)}), expected 2, 3 or 4.")
    if tensor.ndim == 3:
        tensor = tensor[None]
    return tensor.movedim(channels, 1)


def _pil_to_array(image: PIL.Image.Image) -> np.ndarray[Any, Any]:
    load(image)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode.startswith("I") and "transparency" not in image.info:
        # 16-bit grey, in full precision.
        return np.asarray(image, dtype=np.float32) / np.float32(65535)
    decoded = to_rgb(image)
    if decoded.alpha is None or decoded.alpha.getextrema() == (255, 255):
        return np.asarray(decoded.image)
    logger.warning("The image is transparent in parts: it is put on white, and the result has no alpha channel.")
    return np.asarray(on_white(decoded.image, decoded.alpha))
