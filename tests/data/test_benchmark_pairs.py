from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_sr.data.benchmark_pairs import RECIPES, DegradedCrops, make_pairs, plan_pairs
from tests.cli.photos import files


def ramp(height: int, width: int) -> np.ndarray:
    """Rows in red, columns in green, both modulo 256; their 256s in blue."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows % 256, columns % 256, 16 * (rows // 256) + columns // 256], -1).astype(np.uint8)


def place(image: Path) -> tuple[int, int]:
    """Where the first pixel of an image was in its ramp."""
    red, green, blue = np.asarray(Image.open(image)).astype(int)[0, 0]
    return red + 256 * (blue // 16), green + 256 * (blue % 16)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_crops_from_the_same_place_of_both(tmp_path):
    for camera, size in {"Canon": (131, 150), "Nikon": (128, 129)}.items():
        save(tmp_path / camera / f"{camera}_001_LR4.png", ramp(*size))
        save(tmp_path / camera / f"{camera}_001_HR.png", ramp(*(4 * side for side in size)))
        save(tmp_path / camera / f"{camera}_001_LR2.png", ramp(1, 1))
    planned = plan_pairs("realsr", [tmp_path / "Canon", tmp_path / "Nikon"])
    make_pairs("realsr", planned, tmp_path / "out")
    assert files(tmp_path / "out") == [
        f"{folder}/{camera}_001_LR4.png" for folder in ("test_HR", "test_LR") for camera in ("Canon", "Nikon")
    ]
    low, original = (tmp_path / "out" / folder / "Canon_001_LR4.png" for folder in ("test_LR", "test_HR"))
    assert Image.open(low).size == (128, 128)
    assert Image.open(original).size == (512, 512)
    assert (place(low), place(original)) == ((1, 11), (4, 44))
    assert place(tmp_path / "out/test_HR/Nikon_001_LR4.png") == (0, 0)


def test_the_pairs_of_drealsr_have_the_names_of_the_originals(tmp_path):
    save(tmp_path / "test_HR" / "P_x1.png", ramp(512, 512))
    save(tmp_path / "test_LR" / "P_x4.png", ramp(128, 128))
    assert [pair.name for pair in plan_pairs("drealsr", [tmp_path / "test_HR", tmp_path / "test_LR"])] == ["P_x1"]


def test_all_photos_that_cannot_be_used_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("s/a_HR.png"), ramp(512, 512))
    save(Path("s/b_LR4.png"), ramp(128, 128))
    for name, side in {"c": 500, "d": 516}.items():
        save(Path(f"s/{name}_HR.png"), ramp(side, 600))
        save(Path(f"s/{name}_LR4.png"), ramp(128, 150))
    save(Path("t/a_HR.png"), ramp(512, 512))
    with pytest.raises(ValueError) as error:
        plan_pairs("realsr", [Path("s"), Path("t")])
    assert str(error.value).splitlines() == [
        "These photos cannot be used, and nothing was made:",
        "  t/a_HR.png: has the same name as s/a_HR.png",
        "  t/a_HR.png: there is no a_LR4",
        "  s/b_LR4.png: there is no b_HR",
        "  s/c_HR.png: is 600x500 pixels; 512 are needed on each side",
        "  s/d_HR.png: is 600x516 pixels, its input 150x128",
    ]


def test_no_photo_at_all(tmp_path):
    with pytest.raises(ValueError, match="there is no photo whose names end in _x1"):
        plan_pairs("drealsr", [tmp_path])


def test_degraded_crops_depend_on_name_and_seed_alone(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "photos" / f"{name}.png", ramp(512, 700))
    planned = plan_pairs("div2k-val", [tmp_path / "photos"])
    assert [pair.name for pair in planned] == [f"{name}_{number:02d}" for name in "ab" for number in range(30)]
    for folder, pairs, seed in (
        ("all", [planned[0], planned[31]], 0),
        ("one", [planned[31]], 0),
        ("other", [planned[31]], 1),
    ):
        make_pairs("div2k-val", pairs, tmp_path / folder, seed)
    written = {
        folder: [(tmp_path / folder / kind / "b_01.png").read_bytes() for kind in ("test_LR", "test_HR")]
        for folder in ("all", "one", "other")
    }
    assert written["all"] == written["one"]
    assert written["all"][0] != written["other"][0]
    assert files(tmp_path / "all" / "test_LR") == ["a_00.png", "b_01.png"]
    assert place(tmp_path / "all/test_HR/b_01.png") == (0, 114)
    with Image.open(tmp_path / "all/test_LR/b_01.png") as low:
        assert low.size == (128, 128)
        assert np.asarray(low).mean((0, 1)) == pytest.approx([127.500, 127.293, 15.444], abs=0.02)


def test_a_photo_of_the_size_of_a_crop_is_taken_whole(tmp_path):
    save(tmp_path / "photos" / "p.png", ramp(512, 512))
    make_pairs("imagenet", plan_pairs("imagenet", [tmp_path / "photos"]), tmp_path / "out")
    assert (np.asarray(Image.open(tmp_path / "out/test_HR/p.png")) == ramp(512, 512)).all()


def test_originals_are_sharpened_where_a_paper_did(tmp_path):
    soft = np.full((512, 512, 3), 100, np.uint8)
    soft[:, 256:] = 160
    save(tmp_path / "photos" / "p.png", soft)
    planned = plan_pairs("div2k-val-sharpened", [tmp_path / "photos"])[:1]
    make_pairs("div2k-val-sharpened", planned, tmp_path / "out")
    sharp = np.asarray(Image.open(tmp_path / "out/test_HR/p_00.png"))
    assert sharp[256, 255, 0] < 95
    assert sharp[256, 256, 0] > 165


def test_degraded_inputs_are_small():
    recipes = [recipe for recipe in RECIPES.values() if isinstance(recipe, DegradedCrops)]
    assert len(recipes) == 3
    assert not any(recipe.degradation.enlarges for recipe in recipes)
