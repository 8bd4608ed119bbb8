"""How papers measure: their test sets, their measures by the names of the variants, colour space and crop.

It imports nothing heavy, so that help texts can list the protocols. Where a fact could not be found, the text below
the protocol says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Measure:
    """A measure of results.

    Args:
        heading: its name in tables, such as MANIQA.
        variant: which one it is, such as maniqa-pipal, by pyiqa's name; of PSNR and SSIM the colour space.
        higher_is_better: whether larger values are better.
        of: what it looks at: each result and its original, each result alone, or the two folders.
        library: "own" if this package computes it, otherwise "pyiqa", or "" if neither does.
        options: arguments of pyiqa's metric besides its name.
    """

    heading: str
    variant: str
    higher_is_better: bool
    of: Literal["pair", "result", "folders"]
    library: Literal["own", "pyiqa", ""] = "pyiqa"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arrow(self) -> str:
        """The direction in which it gets better."""
        return "↑" if self.higher_is_better else "↓"


@dataclass(frozen=True)
class PairSet:
    """The pairs of originals and inputs of a test set.

    Args:
        title: its name in tables.
        pairs: number of pairs.
        made_by: what `diffusers-sr testset` calls it.
        side: width and height of the originals.
    """

    title: str
    pairs: int
    made_by: str
    side: int = 512


@dataclass(frozen=True)
class Protocol:
    """What a paper measures, and on what.

    Args:
        measures: in the order of the columns.
        data: test sets that have originals; none if they are not known well enough to be checked.
        crop_border: pixels that PSNR and SSIM leave out on each side.
    """

    measures: tuple[Measure, ...]
    data: tuple[PairSet, ...] = ()
    crop_border: int = 0


PSNR_Y = Measure("PSNR", "ycbcr", True, "pair", "own")
SSIM_Y = Measure("SSIM", "ycbcr", True, "pair", "own")
LPIPS = Measure("LPIPS", "lpips", False, "pair")
DISTS = Measure("DISTS", "dists", False, "pair")
FID = Measure("FID", "fid", False, "folders")
NIQE = Measure("NIQE", "niqe", False, "result")
MUSIQ = Measure("MUSIQ", "musiq", True, "result")
MANIQA = Measure("MANIQA", "maniqa", True, "result")
MANIQA_PIPAL = Measure("MANIQA", "maniqa-pipal", True, "result")
CLIPIQA = Measure("CLIPIQA", "clipiqa", True, "result")

REALSR = PairSet("RealSR", 100, "realsr")
DREALSR = PairSet("DRealSR", 93, "drealsr")
DIV2K_VAL = PairSet("DIV2K-Val", 3000, "div2k-val")

OSEDIFF = Protocol(
    (PSNR_Y, SSIM_Y, LPIPS, DISTS, FID, NIQE, MUSIQ, MANIQA_PIPAL, CLIPIQA), (REALSR, DREALSR, DIV2K_VAL)
)
"""OSEDiff (arXiv 2406.08177), from `test_metrics.py` of its code, which is what most later papers use.

PSNR and SSIM are those of the Y of video-range YCbCr, without a crop. LPIPS has AlexNet, MUSIQ and CLIPIQA are pyiqa's
defaults (KonIQ-10k; CLIP's ResNet-50), MANIQA is that of PIPAL. FID is between the folders, with pyiqa's defaults. The
test sets are StableSR's (Hub data set `Iceclear/StableSR-TestSets`): crops of 512 pixels from the centres of RealSR
and DRealSR, and 3000 degraded crops of DIV2K's validation set. The code's own logs are reproduced to 1e-5 for each
image by PSNR and SSIM of this package.
"""

SEESR = replace(OSEDIFF, crop_border=4)
"""SeeSR (arXiv 2311.16518). Its repository has no script that measures.

The authors say in its issue 30 that MANIQA is that of PIPAL, and that four pixels are cropped on each side. Issue 60
agrees: somebody's 26.8475 dB on DRealSR with this crop in the full-range Y, plus the 1.3219 dB between the two ranges,
are the paper's 28.17. Whether NIQE was cropped, too, is not said; here it is not. The other variants are taken to be
OSEDiff's, which has the same first author and repeats SeeSR's figures in its tables. RealLR200, which has no
originals, is not among the test sets.
"""

XPSR = replace(
    OSEDIFF,
    measures=(PSNR_Y, SSIM_Y, LPIPS, DISTS, FID, NIQE, CLIPIQA, MUSIQ, MANIQA),
    data=(REALSR, DREALSR, PairSet("DIV2K-Val", 3000, "div2k-val-sharpened")),
)
"""XPSR (arXiv 2403.05049), from `metrics` in `test.py` of its code.

PSNR and SSIM are of the Y of video-range YCbCr, without a crop; MANIQA is pyiqa's default, that of KonIQ-10k, whose
values are about 0.1 lower than those of PIPAL. The script measures centre crops of RealSR and DRealSR, and a folder of
degraded crops of DIV2K's validation set. Its `make_valid.py` sharpens the originals of the latter before it degrades
them, and draws crops and degradations at random, so that they cannot be made again. The number of crops is that of
the authors' next paper (VARSR, issue 21 of its repository); XPSR's repository does not say it.
"""

COSER = Protocol(
    (
        FID,
        DISTS,
        LPIPS,
        Measure("CLIP-Score", "cosine of two images", True, "pair", ""),
        MANIQA,
        MUSIQ,
    ),
    (PairSet("ImageNet Test2000", 2000, "imagenet"), REALSR, DREALSR),
)
"""CoSeR (arXiv 2311.16512). The authors' code is not published, and the one that others wrote does not measure.

The paper reports perceptual measures only, neither PSNR nor SSIM, on 2000 photos of ImageNet (two of each class, 512
pixels wide and high, degraded by Real-ESRGAN's recipe; which ones is not known), and on RealSR and DRealSR. The list
of measures could not be checked against the paper for this. Not found: which MANIQA (here pyiqa's default), which CLIP
its CLIP-Score compares results and originals with (so it is not measured), and how RealSR and DRealSR are cropped
(here as by StableSR).
"""

CASSR = replace(OSEDIFF, measures=(PSNR_Y, SSIM_Y, LPIPS, DISTS, FID, NIQE, MUSIQ, MANIQA, CLIPIQA))
"""CasSR (arXiv 2403.11451). There is no code, and not all of the paper could be read for this.

The paper reports MUSIQ in its ablations; that the other measures are the usual ones, that MANIQA is pyiqa's default,
that PSNR and SSIM are of Y without a crop, and that the test sets are StableSR's are assumptions. Compare with its
tables only what is measured on other models of the same table, too.
"""

FAITHDIFF = Protocol(
    (
        Measure("PSNR", "rgb", True, "pair", "own"),
        Measure("SSIM", "yiq", True, "pair", "own"),
        LPIPS,
        DISTS,
        FID,
        NIQE,
        MUSIQ,
        MANIQA_PIPAL,
        Measure("CLIPIQA+", "clipiqa+_vitL14_512", True, "result"),
        Measure("PAQ2PIQ", "paq2piq", True, "result"),
    )
)
"""FaithDiff (CVPR 2025), from `test_metrics.py` of its code.

It takes pyiqa's defaults for PSNR, all three channels, and for SSIM, luma of full range, so that neither can be
compared with OSEDiff's; CLIPIQA is the variant CLIPIQA+ with ViT-L/14. Its repository has no originals and does not
say how the synthetic test sets were degraded, so that the data are not checked. RealDeg, which it links, has none.
"""

PROTOCOLS: dict[str, Protocol] = {
    "osediff": OSEDIFF,
    "seesr": SEESR,
    "xpsr": XPSR,
    "coser": COSER,
    "cassr": CASSR,
    "faithdiff": FAITHDIFF,
}
"""The protocols by name."""

DEFAULT = replace(OSEDIFF, data=())
"""What is measured without a protocol: OSEDiff's measures, on whatever pictures there are."""


def data_set(name: str, sizes: Sequence[tuple[int, int]]) -> PairSet | None:
    """Find which of a protocol's test sets originals are by their number and size; None if it does not say.

    Args:
        name: one of `PROTOCOLS`.
        sizes: width and height of each original.

    Raises:
        ValueError: if they are none of the protocol's test sets.
    """
    data = PROTOCOLS[name].data
    if not data:
        return None
    for one in data:
        if len(sizes) == one.pairs and set(sizes) == {(one.side, one.side)}:
            return one
    allowed = ", ".join(
        f"{one.title} ({one.pairs} of {one.side}x{one.side} pixels, made by `testset {one.made_by}`)" for one in data
    )
    found = " and ".join(sorted({f"{width}x{height}" for width, height in sizes})[:3])
    raise ValueError(
        f"There are {len(sizes)} originals, of {found} pixels; the protocol {name} measures on {allowed}. To measure "
        "on other photographs, leave out --protocol."
    )
