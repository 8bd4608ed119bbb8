"""The colours under what is transparent."""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffusers_sr.image.transparency import under_transparency


def sticker(hidden: tuple[int, int, int]) -> tuple[Image.Image, Image.Image]:
    """A yellow disc with a soft border on a transparent ground, under which there is another colour."""
    y, x = np.mgrid[:37, :50]
    alpha = np.clip((12 - np.hypot(x - 24, y - 18)) * 128, 0, 255).astype(np.uint8)
    pixels = np.full((37, 50, 3), (255, 220, 60), np.uint8)
    pixels[alpha == 0] = hidden
    return Image.fromarray(pixels), Image.fromarray(alpha)


def test_stickers_that_look_alike_are_alike() -> None:
    black, yellow = (np.asarray(under_transparency(*sticker(hidden))) for hidden in ((0, 0, 0), (255, 220, 60)))
    assert np.abs(black.astype(int) - yellow).max() <= 2
    assert np.abs(black.astype(int) - (255, 220, 60)).max() <= 2


def test_pixels_that_can_be_seen_are_not_changed() -> None:
    image, alpha = sticker((0, 0, 0))
    image = Image.composite(Image.effect_noise(image.size, 90).convert("RGB"), image, alpha)
    filled = np.asarray(under_transparency(image, alpha))
    visible = np.asarray(alpha) >= 16
    assert np.array_equal(filled[visible], np.asarray(image)[visible])


def test_colours_go_on_to_the_nearest() -> None:
    pixels = np.zeros((1, 64, 3), np.uint8)
    alpha = np.zeros((1, 64), np.uint8)
    pixels[0, :4], pixels[0, -4:] = (200, 0, 0), (0, 0, 200)
    alpha[0, :4] = alpha[0, -4:] = 255
    filled = np.asarray(under_transparency(Image.fromarray(pixels), Image.fromarray(alpha)))[0]
    assert np.abs(filled[[6, 57]].astype(int) - [(200, 0, 0), (0, 0, 200)]).max() <= 5


def test_images_without_anything_to_fill_stay() -> None:
    image, _ = sticker((0, 0, 0))
    for value in (0, 16, 255):
        assert under_transparency(image, Image.new("L", image.size, value)) is image
    assert under_transparency(image.crop((0, 0, 1, 1)), Image.new("L", (1, 1), 7)).size == (1, 1)
