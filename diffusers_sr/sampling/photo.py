"""The images of a call at the sizes that its steps work at, and the noise that sampling starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch

from ..image.pixels import output_size, pad_to_multiple, read_with_profiles, working_size
from .call import Call

Enlarge: TypeAlias = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
"""Resizes `[images, 3, height, width]` in [0, 1] to a height and a width."""


class Photo(NamedTuple):
    """The images of a call.

    Args:
        low_resolution: as they were given, `[images, 3, height, width]` in [0, 1].
        enlarged: at the size the models work at, `[images, 3, H, W]` in [0, 1].
        padded: the enlarged ones with both sides padded to whole latents.
        final_size: height and width of the result.
        profiles: the colour profile that each image is in, or None.
    """

    low_resolution: torch.Tensor
    enlarged: torch.Tensor
    padded: torch.Tensor
    final_size: tuple[int, int]
    profiles: Sequence[bytes | None] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the enlarged images."""
        height, width = self.enlarged.shape[-2:]
        return height, width


class Start(NamedTuple):
    """The start of sampling, `[B, channels, h, w]` each: noise, and the image's latents if it starts from them."""

    noise: torch.Tensor
    image_latents: torch.Tensor | None


def read_photo(call: Call, unit: int, device: torch.device, enlarge: Enlarge) -> Photo:
    """Read the images of a call, enlarge them and pad them.

    Args:
        unit: pixels per latent.
        enlarge: what enlarges them.

    Raises:
        TypeError: if `read_images` does.
        ValueError: if `read_images` does, or if the result would have no pixels.
    """
    low_resolution, profiles = read_with_profiles(call.image)
    low_resolution = low_resolution.to(device)
    height, width = low_resolution.shape[-2:]
    final_size = output_size(height, width, call.upscale)
    enlarged = enlarge(low_resolution, working_size(height, width, call.upscale, call.process_size))
    return Photo(low_resolution, enlarged, pad_to_multiple(enlarged, unit), final_size, profiles)


def check_against_photo(call: Call, photo: Photo, channels: int, unit: int) -> None:
    """Raise ValueError if what a call gives for each image, or each result, does not match their number or size.

    Args:
        channels: those of the latents.
        unit: pixels per latent.
    """
    num_images = len(photo.low_resolution)
    for name, count in call.counts_per_image().items():
        check_count_of(name, count, num_images)
    shape = latents_shape(call, photo, channels, unit)
    if isinstance(call.generator, list) and len(call.generator) != shape[0]:
        raise ValueError(f"There are {len(call.generator)} generators for {shape[0]} results: give one for each.")
    if call.latents is not None and call.latents.shape != shape:
        height, width = photo.padded.shape[-2:]
        raise ValueError(
            f"`latents` has shape {list(call.latents.shape)}, expected {list(shape)}: one latent for each {unit} × "
            f"{unit} pixels of the image at its working size, padded to {width}×{height}."
        )


def latents_shape(call: Call, photo: Photo, channels: int, unit: int) -> tuple[int, int, int, int]:
    """Compute the shape of all latents of a call, `[results, channels, h, w]`."""
    height, width = photo.padded.shape[-2:]
    return len(photo.padded) * call.num_images_per_prompt, channels, height // unit, width // unit


def for_each_result(value: torch.Tensor, name: str, num_images: int, num_images_per_prompt: int = 1) -> torch.Tensor:
    """Repeat one entry for all images, or one for each, to one for each result.

    Raises:
        ValueError: if there is a different number of entries.
    """
    check_count_of(name, len(value), num_images)
    return value.expand(num_images, *value.shape[1:]).repeat_interleave(num_images_per_prompt, dim=0)


def check_count_of(name: str, count: int, num_images: int) -> None:
    """Raise ValueError unless there is one entry for all images, or one for each."""
    if count not in (1, num_images):
        raise ValueError(f"There are {count} of `{name}` for {num_images} images: give one for all, or one for each.")
