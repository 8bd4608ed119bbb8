"""Training data that scripts make: charts, and pairs for a strong model to enlarge."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_mixture import EVERYDAY
from diffusers_sr.data.lists import list_images
from tests.data.samples import tensor
from tests.training.runs import script, write_noise_photos


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_charts_are_flat_with_edges_and_repeat(tmp_path: Path) -> None:
    module = script("make_charts")
    for folder, seed in (("a", 3), ("b", 4)):
        module.main(["--count", "3", "--side", "96", "--seed", str(seed), "--output_dir", str(tmp_path / folder)])
    charts = [levels(path) for path in sorted((tmp_path / "a").iterdir())]
    assert [chart.shape for chart in charts] == [(96, 96, 3)] * 3
    for chart in charts:
        change = abs(np.diff(chart, axis=1)).max(2)
        assert (change <= 1).mean() > 0.6  # flat, or a shade
        assert change.max() > 20
    # A chart belongs to its seed.
    assert np.array_equal(levels(tmp_path / "a/chart_001.png"), levels(tmp_path / "b/chart_000.png"))


def test_pairs_are_samples_of_the_training_and_go_on(tmp_path: Path) -> None:
    write_noise_photos(tmp_path / "photos", 2, 40)
    pairs = ["--train_data_dir", str(tmp_path / "photos"), "--resolution", "32", "--seed", "5"]
    command = [*pairs, "--output_dir", str(tmp_path / "pairs"), "--count"]
    script("make_pairs").main([*command, "2"])
    first = tmp_path / "pairs/low/000001.png"
    before = first.stat().st_mtime_ns
    script("make_pairs").main([*command, "3"])
    assert first.stat().st_mtime_ns == before
    names = [path.name for path in sorted((tmp_path / "pairs/low").iterdir())]
    assert (
        names
        == [path.name for path in sorted((tmp_path / "pairs/high").iterdir())]
        == [f"{n:06}.png" for n in range(3)]
    )
    crops = PhotoCrops(list_images(tmp_path / "photos"), 32, 5, degradation=EVERYDAY, sharpen_target=False)
    for folder, name in (("low", "degraded"), ("high", "target")):
        pixels = torch.from_numpy(levels(tmp_path / "pairs" / folder / "000002.png")).permute(2, 0, 1)
        assert torch.equal(pixels, (tensor(crops[2], name) * 255).round().long())
