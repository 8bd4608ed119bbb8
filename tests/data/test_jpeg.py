from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_sr.data.jpeg import jpeg
from tests.data.samples import psnr


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("height, width", [(128, 144), (101, 77)])
def test_jpeg_is_the_library_s(photo: torch.Tensor, quality: int, height: int, width: int) -> None:
    image = photo[:, :height, :width]
    pixels = (image * 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    library = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255

    ours = jpeg(image, quality)
    assert ours.shape == image.shape
    assert psnr(ours, image) == pytest.approx(psnr(library, image), abs=0.25), "artefacts of equal strength"
    # Two decodings differ by rounding alone: by far less than either does from the photo.
    assert psnr(ours, library) > max(42, psnr(library, image) + 6)


def test_jpeg_gives_8_bit_values_and_gets_worse_with_quality(photo: torch.Tensor) -> None:
    results = [jpeg(photo * 1.2 - 0.1, quality) for quality in (95, 60.5, 30, 5)]
    for result in results:
        assert result.min() >= 0 and result.max() <= 1
        torch.testing.assert_close((result * 255).round() / 255, result)
    levels = [psnr(result, photo) for result in (jpeg(photo, quality) for quality in (95, 60.5, 30, 5))]
    assert levels == sorted(levels, reverse=True)


def test_jpeg_refuses_an_impossible_quality(photo: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"quality=0\.5"):
        jpeg(photo, 0.5)
