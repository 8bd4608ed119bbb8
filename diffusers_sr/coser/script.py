"""What CoSeR's official scripts do with images before and after the models (`official_preprocessing=True`).

There are two. `inference.py` generates a reference, has no process size, and works only with images whose enlarged
sides are multiples of 64. `inference_tile.py` has a process size of 512, a grey reference, and pads by reflection to
multiples of 32. Where both work they do the same with an image, so that here a process size of 0 stands for the first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..image.color import adain, wavelet
from ..image.pixels import read_with_profiles, resize_as_torch
from ..sampling.call import Call
from ..sampling.finite import check_finite
from ..sampling.official import as_planes, rounded_down
from ..sampling.photo import Photo

_MULTIPLE = 32


class CoSeRScript:
    """The two scripts, which work with tensors: see `diffusers_sr.sampling.official.OfficialScript`."""

    def check(self, call: Call) -> None:
        """Raise nothing: the scripts take all that a call can ask for."""

    def read(self, call: Call, unit: int, device: torch.device) -> Photo:
        """Enlarge with torch's bicubic filter, sides rounded down, and reflect the image below and to the right.

        A side is padded by 32 pixels, although it is a multiple of 32, if the other is not.

        Raises:
            ValueError: if the image is too small to be enlarged or padded.
        """
        low_resolution, profiles = read_with_profiles(call.image)
        low_resolution = as_planes(low_resolution).to(device)
        height, width = low_resolution.shape[-2:]
        scale = max(call.process_size / min(height, width), call.upscale)
        size = int(height * scale), int(width * scale)
        has_whole_sides = not any(side % _MULTIPLE for side in size)
        padding = [0 if has_whole_sides else _MULTIPLE - side % _MULTIPLE for side in size]
        padded_size = size[0] + padding[0], size[1] + padding[1]
        final_size = size
        if scale > call.upscale:
            final_size = int(padded_size[0] * call.upscale / scale), int(padded_size[1] * call.upscale / scale)
        if min(final_size) < 1 or any(pad >= side for pad, side in zip(padding, size, strict=True)):
            raise ValueError(
                f"An image of {width}×{height} pixels is too small: the official script cannot pad it. Give a larger "
                "process_size, or leave out official_preprocessing."
            )
        enlarged = resize_as_torch(low_resolution, size)
        padded = F.pad(enlarged, (0, padding[1], 0, padding[0]), mode="reflect")
        return Photo(low_resolution, enlarged, padded, final_size, profiles)

    def finish(self, call: Call, photo: Photo, images: torch.Tensor) -> torch.Tensor:
        """Match the colours of the padded images before their values are limited; then cut, resize and round down."""
        padded = photo.padded.repeat_interleave(call.num_images_per_prompt, dim=0)
        if call.color_fix == "adain":
            # The script does this in [-1, 1], where the same constant is a quarter of what it is here.
            images = adain(images, padded, epsilon=1e-5 / 4)
        elif call.color_fix == "wavelet":
            images = wavelet(images, padded)
        check_finite("the colour fix", images)
        images = images[..., : photo.size[0], : photo.size[1]].clamp(0, 1)
        if photo.final_size != photo.size:
            images = resize_as_torch(images, photo.final_size)
        return rounded_down(images)


SCRIPT = CoSeRScript()
