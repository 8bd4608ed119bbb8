"""What the official scripts of XPSR and PASD do with images before and after the models."""

from __future__ import annotations

from PIL import Image

from ..sampling.official import BICUBIC, PillowScript


def enlarge(image: Image.Image, factor: int, process_size: int) -> Image.Image:
    """Enlarge an image, and if its shorter side is then below `process_size`, once more, bilinearly, to that.

    The longer side of the second resize is rounded down.
    """
    image = image.resize((image.width * factor, image.height * factor), BICUBIC)
    shortest = min(image.size)
    if shortest < process_size:
        size = [int(process_size * side / shortest) for side in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    return image


SCRIPT = PillowScript(enlarge)
