"""What SeeSR's official script does with images before and after the models (`official_preprocessing=True`)."""

from __future__ import annotations

from PIL import Image

from ..sampling.official import BICUBIC, PillowScript


def enlarge(image: Image.Image, factor: int, process_size: int) -> Image.Image:
    """Resize an image whose shorter side is too short for `process_size` to the side that suits it, then enlarge it.

    A side of the first resize is rounded down, so that the second may miss `process_size` by up to the factor.
    """
    shortest = process_size // factor
    if min(image.size) < shortest:
        scale = shortest / min(image.size)
        image = image.resize((int(scale * image.width), int(scale * image.height)), BICUBIC)
    return image.resize((image.width * factor, image.height * factor), BICUBIC)


SCRIPT = PillowScript(enlarge)
