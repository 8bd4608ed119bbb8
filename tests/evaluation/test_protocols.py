from __future__ import annotations

import pytest

from diffusers_sr.data.benchmark_pairs import RECIPES
from diffusers_sr.evaluation.protocols import DEFAULT, PROTOCOLS, data_set

SAME = {"LPIPS": "lpips", "DISTS": "dists", "FID": "fid", "NIQE": "niqe", "MUSIQ": "musiq"}
OSEDIFF = {"PSNR": "ycbcr", "SSIM": "ycbcr", **SAME, "MANIQA": "maniqa-pipal", "CLIPIQA": "clipiqa"}
STABLESR = {"RealSR": 100, "DRealSR": 93, "DIV2K-Val": 3000}

FACTS = {
    "osediff": (OSEDIFF, 0, STABLESR),
    "seesr": (OSEDIFF, 4, STABLESR),
    "xpsr": (OSEDIFF | {"MANIQA": "maniqa"}, 0, STABLESR),
    "coser": (
        {
            "FID": "fid",
            "DISTS": "dists",
            "LPIPS": "lpips",
            "CLIP-Score": "cosine of two images",
            "MANIQA": "maniqa",
            "MUSIQ": "musiq",
        },
        0,
        {"ImageNet Test2000": 2000, "RealSR": 100, "DRealSR": 93},
    ),
    "cassr": (OSEDIFF | {"MANIQA": "maniqa"}, 0, STABLESR),
    "faithdiff": (
        {
            "PSNR": "rgb",
            "SSIM": "yiq",
            **SAME,
            "MANIQA": "maniqa-pipal",
            "CLIPIQA+": "clipiqa+_vitL14_512",
            "PAQ2PIQ": "paq2piq",
        },
        0,
        {},
    ),
}


def test_what_each_paper_measures():
    assert {
        name: (
            {measure.heading: measure.variant for measure in protocol.measures},
            protocol.crop_border,
            {one.title: one.pairs for one in protocol.data},
        )
        for name, protocol in PROTOCOLS.items()
    } == FACTS
    assert DEFAULT.measures == PROTOCOLS["osediff"].measures
    assert DEFAULT.data == ()


def test_in_which_direction_each_measure_gets_better():
    lower = {
        measure.heading
        for protocol in PROTOCOLS.values()
        for measure in protocol.measures
        if not measure.higher_is_better
    }
    assert lower == {"LPIPS", "DISTS", "FID", "NIQE"}


def test_every_test_set_can_be_made():
    assert {one.made_by for protocol in PROTOCOLS.values() for one in protocol.data} == RECIPES.keys()


def test_a_test_set_is_known_by_number_and_size():
    found = data_set("seesr", [(512, 512)] * 93)
    assert found is not None
    assert found.title == "DRealSR"
    assert data_set("faithdiff", [(3, 4)]) is None


@pytest.mark.parametrize("sizes", [[(512, 512)] * 92, [(512, 512)] * 92 + [(512, 511)]])
def test_other_photographs_are_refused(sizes):
    with pytest.raises(ValueError, match=r"There are 9[23] originals, of 512x51.*osediff.*DRealSR \(93 of 512"):
        data_set("osediff", sizes)
