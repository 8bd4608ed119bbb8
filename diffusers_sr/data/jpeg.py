"""JPEG compression in torch: what a baseline encoder and decoder with 4:2:0 chroma do to a picture."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..image.pixels import pad_to_multiple

# ITU-T T.81 annex K, tables K.1 and K.2.
LUMINANCE_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


@cache
def _dct_matrix() -> Tensor:
    """Make the orthonormal DCT-II of 8 samples: row k holds the cosine of frequency k."""
    frequency, position = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    matrix = torch.cos((2 * position + 1) * frequency * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


@cache
def _rgb_to_ycbcr_matrix() -> Tensor:
    """Make the matrix of JFIF's full-range conversion, without the offset of 128 of the two chroma channels."""
    return torch.tensor(
        [
            [0.299, 0.587, 0.114],
            [-0.168736, -0.331264, 0.5],
            [0.5, -0.418688, -0.081312],
        ]
    )


@cache
def _ycbcr_to_rgb_matrix() -> Tensor:
    return torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])


def quantization_table(table: tuple[tuple[int, ...], ...], quality: float) -> Tensor:
    """Scale a standard table by libjpeg's rule for `quality` (1 to 100, not necessarily whole): [8, 8] in 1..255."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return torch.floor((torch.tensor(table) * percent + 50) / 100).clamp(1, 255)


def _code_plane(plane: Tensor, table: Tensor) -> Tensor:
    """Quantise the DCT coefficients of [planes, height, width], sides multiples of 8, samples centred at 0."""
    planes, height, width = plane.shape
    dct = _dct_matrix().to(plane)
    table = table.to(plane)
    blocks = plane.view(planes, height // 8, 8, width // 8, 8).transpose(2, 3).contiguous()
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ coefficients.div_(table).round_().mul_(table) @ dct
    return blocks.transpose(2, 3).reshape(planes, height, width)


def _halve(planes: Tensor) -> Tensor:
    """Average 2 x 2 pixels of [planes, height, width]; F.avg_pool2d takes four times as long on a CPU."""
    upper, lower = planes[:, ::2], planes[:, 1::2]
    return (upper[..., ::2] + upper[..., 1::2]).add_(lower[..., ::2]).add_(lower[..., 1::2]).div_(4)


def jpeg(image: Tensor, quality: float) -> Tensor:
    """Encode and decode an image as JPEG: standard tables, 4:2:0 chroma, smooth chroma upsampling as in libjpeg.

    This differs from the official torch version in three points where that one is not real JPEG: sides that are not
    multiples of 16 are padded with edge pixels (there: black), chroma is interpolated (there: repeated), and the
    picture is rounded to 8 bits before and after (there: not).

    Args:
        image: [3, height, width] RGB in [0, 1], any size; values outside are clamped.
        quality: 1 to 100.

    Returns:
        [3, height, width] in [0, 1], multiples of 1/255. Not differentiable.

    Raises:
        ValueError: if the quality is outside 1..100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality!r}: a JPEG quality has to be between 1 and 100.")
    height, width = image.shape[-2:]
    rgb = (image * 255).round_().clamp_(0, 255)
    ycbcr = torch.einsum("dc,chw->dhw", _rgb_to_ycbcr_matrix().to(rgb), rgb)
    ycbcr = pad_to_multiple(ycbcr[None], 16)[0]

    luma = _code_plane(ycbcr[:1].round() - 128, quantization_table(LUMINANCE_TABLE, quality)).add_(128)
    chroma = _halve(ycbcr[1:]).round_()
    chroma = _code_plane(chroma, quantization_table(CHROMINANCE_TABLE, quality))
    chroma = F.interpolate(chroma.round_()[None], scale_factor=2, mode="bilinear")[0]

    decoded = torch.cat([luma, chroma])[:, :height, :width]
    rgb = torch.einsum("dc,chw->dhw", _ycbcr_to_rgb_matrix().to(decoded), decoded)
    return rgb.round_().clamp_(0, 255).div_(255)
