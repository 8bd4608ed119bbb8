from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_sr.evaluation.pairs import result_pairs
from diffusers_sr.evaluation.protocols import PROTOCOLS, Protocol
from diffusers_sr.evaluation.scoring import Meter
from diffusers_sr.image.pairs import Pair, PairsError


@pytest.fixture
def pairs(tmp_path) -> list[Pair]:
    """Two pairs of 12 x 12 pixels: equal, and grey levels of 102 and 153."""
    made = []
    for name, levels in {"a": (102, 102), "b": (102, 153)}.items():
        files = [tmp_path / folder / f"{name}.png" for folder in ("results", "originals")]
        for path, level in zip(files, levels, strict=True):
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (12, 12), level).save(path)
        made.append(Pair(name, *files))
    return made


@pytest.fixture
def pyiqa(monkeypatch) -> types.ModuleType:
    """Something in place of pyiqa, which is not for commercial use: metrics that tell what they were called with."""
    module = types.ModuleType("pyiqa")

    def create_metric(name: str, device: torch.device):
        if name == "niqe":
            raise OSError("no network\nat all")

        def metric(*inputs, **options):
            if name == "fid":
                assert options == {"verbose": False}
                return (
                    torch.tensor(100.0) if [Path(folder).name for folder in inputs] == ["results", "originals"] else 0
                )
            assert all(image.shape == (1, 3, 12, 12) and image.device == device for image in inputs)
            return torch.tensor([[sum(image.mean() * 10**place for place, image in enumerate(inputs))]])

        return metric

    module.create_metric = create_metric  # type: ignore[attr-defined]
    module.list_models = lambda: ["lpips", "dists", "fid", "niqe", "musiq", "maniqa-pipal"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return module


def test_without_pyiqa_only_its_measures_are_missing(pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    scores = Meter(PROTOCOLS["osediff"]).measure(pairs)
    assert scores.names == ["a", "b"]
    # Y differs by 219 / 5 = 43.8: 20 log10(255 / 43.8) = 15.301 dB.
    assert scores.each["PSNR"] == pytest.approx([80, 15.301], abs=1e-3)
    assert scores.whole["PSNR"] == pytest.approx((80 + 15.301) / 2, abs=1e-3)
    assert scores.whole.keys() == scores.each.keys() == {"PSNR", "SSIM"}
    assert list(scores.unmeasured) == ["LPIPS", "DISTS", "FID", "NIQE", "MUSIQ", "MANIQA", "CLIPIQA"]
    assert set(scores.unmeasured.values()) == {"pip install 'diffusers-sr[eval]'"}


def test_all_damaged_files_are_listed_and_nothing_is_measured_after_the_first(pairs, pyiqa):
    damaged = [pairs[0].picture, pairs[1].original, pairs[1].picture]
    for path in damaged:
        Image.effect_noise((12, 12), 50).save(path)
        path.write_bytes(path.read_bytes()[:100])  # its size can be read, not its pixels
    found = result_pairs(*(path.parent for path in pairs[0][1:]))  # which decodes nothing
    pyiqa.create_metric = lambda name, device: pytest.fail
    with pytest.raises(PairsError) as error:
        Meter(PROTOCOLS["osediff"]).measure(found)
    named = [text.partition(": ")[0] for text in error.value.problems]
    assert named == [str(path) for path in damaged]


def test_pyiqa_gets_results_first_then_originals(pairs, pyiqa):
    scores = Meter(PROTOCOLS["osediff"]).measure(pairs)
    assert scores.each["LPIPS"] == pytest.approx([0.4 + 4, 0.4 + 6])
    assert scores.each["MANIQA"] == scores.each["MUSIQ"] == pytest.approx([0.4, 0.4])
    assert scores.whole["FID"] == 100
    assert "FID" not in scores.each
    assert scores.unmeasured == {
        "NIQE": "pyiqa cannot load niqe: no network",
        "CLIPIQA": "this pyiqa has no clipiqa: update it",
    }


def test_what_a_paper_does_not_say_is_not_measured(pairs, pyiqa):
    measures = tuple(measure for measure in PROTOCOLS["coser"].measures if measure.heading == "CLIP-Score")
    assert Meter(Protocol(measures)).unmeasured == {"CLIP-Score": "the paper does not say how it is computed"}


def test_the_crop_is_the_protocols(pairs):
    protocol = Protocol(PROTOCOLS["osediff"].measures[:1], crop_border=5)
    with Image.open(pairs[0].picture) as image:
        image.putpixel((4, 6), 255)
        image.save(pairs[0].picture)
    assert Meter(protocol).measure(pairs[:1]).whole["PSNR"] == pytest.approx(80)


def test_a_picture_that_is_too_small_is_named(pairs):
    protocol = Protocol(PROTOCOLS["osediff"].measures[:2], crop_border=1)
    with pytest.raises(ValueError, match=r"a\.png: 12x12 pixels are too few to compare: each side needs at least 13"):
        Meter(protocol).measure(pairs)
