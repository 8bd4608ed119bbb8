"""Do with images what the official scripts do before and after the models, for whoever reproduces a published number.

The scripts of SeeSR, XPSR and PASD work with Pillow, in 8 bits. They resize up to three times before the models, where
one resize would do, stretch to multiples of 8 pixels, round down when they match the colours, and resize the result
once more if its size is another. CoSeR's works with tensors, and rounds down when it saves.

Without `official_preprocessing` images are resized once, padded instead of stretched, and rounded to the nearest
value. That is better for sides below 128 pixels (at the official sizes), for those whose enlarged sides are not
multiples of 8, and everywhere by half a level of brightness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..image.color import COLOR_FIXES
from ..image.pixels import read_with_profiles
from .call import Call
from .photo import Photo

BICUBIC = Image.Resampling.BICUBIC


class OfficialScript(Protocol):
    """What an official script does with images before and after the models."""

    def check(self, call: Call) -> None:
        """Raise ValueError if the script cannot do what a call asks for."""

    def read(self, call: Call, unit: int, device: torch.device) -> Photo:
        """Read the images of a call and bring them to the size that the script works at.

        Args:
            unit: pixels per latent.

        Raises:
            ValueError: if the script cannot work with an image of that size.
        """

    def finish(self, call: Call, photo: Photo, images: torch.Tensor) -> torch.Tensor:
        """Match the colours of decoded images, and bring them to the size and the 8 bits that the script saves.

        Args:
            images: `[results, 3, H, W]` in [0, 1], which the decoder may overshoot.

        Returns:
            The results, `[results, 3, height, width]`, multiples of 1/255.
        """


@dataclass(frozen=True)
class PillowScript:
    """A script that works with 8-bit images of Pillow.

    Args:
        enlarge: makes of an image, a whole factor and a process size what the script then stretches to whole latents.
    """

    enlarge: Callable[[Image.Image, int, int], Image.Image]

    def check(self, call: Call) -> None:
        """Raise ValueError unless the factor is a whole number, which is all that the scripts take."""
        if call.upscale != int(call.upscale):
            raise ValueError(
                f"upscale={call.upscale}, but the official script takes whole factors only: give one, or leave out "
                "official_preprocessing."
            )

    def read(self, call: Call, unit: int, device: torch.device) -> Photo:
        """Enlarge each image and stretch it to whole latents, with 8 bits after each resize."""
        low_resolution, profiles = read_with_profiles(call.image)
        height, width = low_resolution.shape[-2:]
        factor = int(call.upscale)
        stretched = []
        for image in to_pil(low_resolution):
            enlarged = self.enlarge(image, factor, int(call.process_size))
            if min(enlarged.size) < unit:
                raise ValueError(
                    f"An image of {width}×{height} pixels is too small: the official script would shrink it to "
                    "nothing. Give a larger process_size, or leave out official_preprocessing."
                )
            stretched.append(enlarged.resize((whole(enlarged.width, unit), whole(enlarged.height, unit)), BICUBIC))
        enlarged_images = from_pil(stretched).to(device)
        final_size = (height * factor, width * factor)
        return Photo(low_resolution.to(device), enlarged_images, enlarged_images, final_size, profiles)

    def finish(self, call: Call, photo: Photo, images: torch.Tensor) -> torch.Tensor:
        """Round to 8 bits, match the colours rounding down, and resize to the size that was asked for."""
        images = (images.clamp(0, 1) * 255).round() / 255
        if call.color_fix is not None:
            enlarged = photo.enlarged.repeat_interleave(call.num_images_per_prompt, dim=0)
            images = rounded_down(COLOR_FIXES[call.color_fix](images, enlarged))
        height, width = photo.final_size
        return from_pil([image.resize((width, height), BICUBIC) for image in to_pil(images)])


def rounded_down(images: torch.Tensor) -> torch.Tensor:
    """Cut values in [0, 1] to 8 bits, as torchvision's `ToPILImage` and numpy's `astype` do: to multiples of 1/255."""
    return (images * 255).floor() / 255


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """Convert `[B, 3, H, W]` in [0, 1] to images of 8 bits, to the nearest value."""
    arrays = (images * 255).round().to("cpu", torch.uint8).movedim(1, -1).numpy()
    return [Image.fromarray(array) for array in arrays]


def from_pil(images: list[Image.Image]) -> torch.Tensor:
    """Convert RGB images of one size to `[B, 3, H, W]` in [0, 1]."""
    array: np.ndarray[Any, Any] = np.stack([np.asarray(image) for image in images])
    return as_planes(torch.from_numpy(array).movedim(-1, 1).float() / 255)


def as_planes(images: torch.Tensor) -> torch.Tensor:
    """Give `[B, 3, H, W]` one plane of memory for each channel, as the official code has it.

    With the channels of a pixel side by side, torch's group normalisation on a CPU is a hundred times less exact.
    """
    return images.contiguous()


def whole(length: int, unit: int) -> int:
    """Give the largest multiple of `unit` up to `length`."""
    return length // unit * unit
