"""Tables of measures: one row for each method, means over images, and intervals of its differences from another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor

from .bootstrap import paired_interval
from .color import axis_psnr
from .haarpsi import haarpsi
from .measures import gmsd, log_power_spectrum_distance, mean_color_difference, psnr_y, ssim_y
from .weave import flat_weave

Values: TypeAlias = Mapping[str, float | None]
"""The measures of one image by name; None where one says nothing, such as that of flat areas where there are none."""

MOST_DECIBELS = 60.0
"""PSNR of a colour axis is at most this: that of a grey photo would be infinite. Rounding to 8 bits alone has 58.9."""


class Measure(NamedTuple):
    """A column of a table."""

    compute: Callable[[Tensor, Tensor], Tensor]
    """Called with reference and result, [batch, 3, height, width] RGB in [0, 1]; returns [batch]."""
    digits: int
    """Digits after the point."""


def _color_psnr(axis: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda reference, result: axis_psnr(reference, result, axis).clamp(max=MOST_DECIBELS)


ST_LPIPS = "ST-LPIPS ↓"
MEASURES: dict[str, Measure] = {
    "HaarPSI ↑": Measure(haarpsi, 3),
    "GMSD ↓": Measure(gmsd, 3),
    "magenta–green dB ↑": Measure(_color_psnr("magenta_green"), 2),
    "orange–blue dB ↑": Measure(_color_psnr("orange_blue"), 2),
    "spectrum ↓": Measure(log_power_spectrum_distance, 2),
    "SSIM-Y ↑": Measure(ssim_y, 3),
    "PSNR-Y ↑": Measure(psnr_y, 2),
    "mean colour ↓": Measure(mean_color_difference, 2),
    "weave": Measure(flat_weave, 2),
}
"""What is measured of each result, by name. An arrow says which direction is better; the weave should be 1."""
SMALLEST = 32
"""The side in pixels that an image needs for all of them."""
DIGITS = {ST_LPIPS: 3} | {name: measure.digits for name, measure in MEASURES.items()}


def measure(reference: Tensor, result: Tensor, st_lpips: Callable[[Tensor, Tensor], Tensor] | None) -> Values:
    """Compute all measures of one image, [1, 3, height, width] in [0, 1], and ST-LPIPS if its network is given."""
    computed = {name: each.compute(reference, result).item() for name, each in MEASURES.items()}
    if st_lpips is not None:
        computed = {ST_LPIPS: st_lpips(reference, result).item()} | computed
    return {name: value if math.isfinite(value) else None for name, value in computed.items()}


def mean(images: Sequence[Values], name: str) -> float | None:
    """Average a measure over the images that it says something about; None if there are none."""
    values = [value for each in images if (value := each.get(name)) is not None]
    return sum(values) / len(values) if values else None


def means_table(title: str, rows: Mapping[str, Sequence[Values]], more: Mapping[str, Mapping[str, str]]) -> str:
    """Write the means of each row as a Markdown table.

    Args:
        title: of the first column.
        rows: the images of each row, by its name.
        more: further columns: texts by row, by the columns' names.
    """
    lines = [_line(title, [*DIGITS, *more]), "|---|" + "---:|" * (len(DIGITS) + len(more))]
    for row, images in rows.items():
        cells = [_number(mean(images, name), digits) for name, digits in DIGITS.items()]
        lines.append(_line(row, [*cells, *(column.get(row, "–") for column in more.values())]))
    return "\n".join(lines)


def intervals_table(title: str, rows: Mapping[str, Mapping[str, Values]], baseline: str) -> str:
    """Write how far each row is from the baseline, as a Markdown table of means and 95 % bootstrap intervals.

    Args:
        title: of the first column.
        rows: the measures of each image by its name, by row. Images that both rows have are compared.
        baseline: name of the row that the others are compared with.
    """
    names = [name for name in DIGITS if any(name in image for image in rows[baseline].values())]
    lines = [_line(title, names), "|---|" + "---:|" * len(names)]
    for row, images in rows.items():
        if row != baseline:
            cells = [_interval(_differences(images, rows[baseline], name), DIGITS[name]) for name in names]
            lines.append(_line(row, cells))
    return "\n".join(lines)


def _differences(images: Mapping[str, Values], others: Mapping[str, Values], name: str) -> list[float]:
    both = ((image.get(name), others[key].get(name)) for key, image in images.items() if key in others)
    return [ours - theirs for ours, theirs in both if ours is not None and theirs is not None]


def _interval(differences: list[float], digits: int) -> str:
    if not differences:
        return "–"
    middle, low, high = paired_interval(differences)
    return f"{middle:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _number(value: float | None, digits: int) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"
