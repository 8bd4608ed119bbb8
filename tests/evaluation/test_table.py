from __future__ import annotations

import pytest
import torch

from diffusers_sr.evaluation.table import DIGITS, ST_LPIPS, Values, intervals_table, mean, means_table, measure


def test_measures_of_equal_images_and_of_a_grey_one() -> None:
    """Nothing differs: what is infinite or undefined is left out, but a grey photo's colours are at their best."""
    photo = (0.5 + 0.2 * torch.randn(1, 1, 64, 64)).expand(1, 3, 64, 64)
    photo = photo.clamp(0, 1)
    values = measure(photo, photo, lambda reference, result: (reference - result).mean((1, 2, 3)))
    assert list(values) == list(DIGITS)
    assert (values[ST_LPIPS], values["GMSD ↓"], values["mean colour ↓"]) == (0, 0, 0)
    assert values["HaarPSI ↑"] == pytest.approx(1, abs=1e-5)
    assert values["magenta–green dB ↑"] == values["orange–blue dB ↑"] == 60
    assert values["PSNR-Y ↑"] is None and values["weave"] is None
    assert ST_LPIPS not in measure(photo, photo, None)


def test_means() -> None:
    rows: dict[str, list[Values]] = {
        "first": [{"HaarPSI ↑": 0.5, "weave": 1.0}, {"HaarPSI ↑": 0.25, "weave": None}],
        "second": [{"HaarPSI ↑": 0.75, "weave": None}],
    }
    assert (mean(rows["first"], "HaarPSI ↑"), mean(rows["first"], "weave")) == (0.375, 1)
    lines = means_table("set", rows, {"MB": {"second": "31.4"}}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["set", *DIGITS, "MB"]
    assert len({len(line) for line in cells}) == 1
    first, second = (dict(zip(cells[0], line, strict=True)) for line in cells[2:])
    assert (first["HaarPSI ↑"], first["weave"], first["MB"]) == ("0.375", "1.00", "–")
    assert (second["HaarPSI ↑"], second["weave"], second["MB"]) == ("0.750", "not measured", "31.4")
    assert first[ST_LPIPS] == "not measured"


def test_intervals_of_the_images_that_both_rows_have() -> None:
    """Differences of 0 and 0.5: their resampled means reach from one to the other. The third image is alone."""
    rows: dict[str, dict[str, Values]] = {
        "bicubic": {"a": {"HaarPSI ↑": 0.5, "GMSD ↓": 0.1}, "b": {"HaarPSI ↑": 0.25, "GMSD ↓": None}},
        "model": {name: {"HaarPSI ↑": value, "GMSD ↓": None} for name, value in (("a", 0.5), ("b", 0.75), ("c", 1.0))},
    }
    lines = intervals_table("less bicubic", rows, "bicubic").splitlines()
    assert lines[0] == "| less bicubic | HaarPSI ↑ | GMSD ↓ |"
    assert lines[2:] == ["| model | +0.250 [+0.000, +0.500] | – |"]
