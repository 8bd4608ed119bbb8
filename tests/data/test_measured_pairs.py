from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_sr.data.degradation import degrade
from diffusers_sr.data.degradation_mixture import MILD
from diffusers_sr.data.measured_pairs import degraded_photos, picture_names, stored_pairs
from diffusers_sr.data.seeds import sample_generator
from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.image.pairs import PairsError


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def numbered(height: int, width: int) -> np.ndarray:
    """Pixels whose red is their row and whose green their column."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, 0 * rows], 2)


def test_stored_pairs_are_cropped_to_the_same_place(tmp_path: Path) -> None:
    """Of 11 x 9 pixels and 55 x 45, at most 33 pixels a side: six of the small ones' fives do, from the second on."""
    write(tmp_path / "hr" / "a.png", numbered(45, 55))
    write(tmp_path / "lr" / "a.png", numbered(9, 11))
    (sample,) = stored_pairs(tmp_path, 12, 33)
    low, original = ((255 * image[0]).round().int() for image in sample.read())
    assert (sample.name, low.shape, original.shape) == ("a", (3, 6, 6), (3, 30, 30))
    assert low[:2, 0, 0].tolist() == [1, 2]
    assert original[:2, 0, 0].tolist() == [5, 10]


def test_pairs_that_cannot_be_used(tmp_path: Path) -> None:
    write(tmp_path / "test_HR" / "a.png", numbered(40, 40))
    write(tmp_path / "test_HR" / "b.png", numbered(40, 40))
    write(tmp_path / "test_LR" / "a.jpg", numbered(10, 11))
    write(tmp_path / "test_HR" / "a.bmp", numbered(40, 40))
    with pytest.raises(PairsError) as error:
        stored_pairs(tmp_path, 12, None)
    originals = tmp_path / "test_HR"
    assert error.value.problems == [
        f"{originals / 'a.bmp'}: has the same name as a.png",
        f"{originals / 'b.png'}: has no partner in {tmp_path / 'test_LR'}",
    ]
    for name in ("a.bmp", "b.png"):
        (originals / name).unlink()
    (sample,) = stored_pairs(tmp_path, 12, None)
    with pytest.raises(ImageFileError, match=r"is 40x40 pixels and .*a\.jpg 11x10: each side of an original"):
        sample.read()


def test_originals_whose_inputs_are_not_there_are_not_reduced(tmp_path: Path) -> None:
    write(tmp_path / "gt" / "a.png", numbered(40, 40))
    with pytest.raises(PairsError, match="lq: this folder cannot be listed: No such file"):
        stored_pairs(tmp_path, 12, None)
    write(tmp_path / "lq" / "a.png", numbered(10, 10))
    assert [sample.name for sample in stored_pairs(tmp_path, 12, None)] == ["a"]


def test_originals_are_reduced_as_pillow_does(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 5 * numbered(46, 41))
    (sample,) = stored_pairs(tmp_path, 40, None)
    low, original = sample.read()
    assert original.shape == (1, 3, 44, 40)
    expected = Image.open(tmp_path / "a.png").crop((0, 0, 40, 44)).resize((10, 11), Image.Resampling.BICUBIC)
    difference = 255 * low[0].permute(1, 2, 0) - torch.from_numpy(np.array(expected)).float()
    assert difference.abs().max() < 1.01
    with pytest.raises(ImageFileError, match="is 41x46 pixels: to measure it, each side has to have at least 42"):
        stored_pairs(tmp_path, 42, None)[0].read()


def test_photos_are_degraded_by_their_number(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / name, 3 * numbered(64, 64))
    samples = degraded_photos([tmp_path / "a.png", tmp_path / "b.png"], MILD, 7, 12, None)
    lows = [sample.read().low for sample in samples]
    original = torch.from_numpy(3 * numbered(64, 64)).permute(2, 0, 1).float() / 255
    for number, low in enumerate(lows):
        expected = degrade(original, sample_generator(0, 7 + number), MILD)
        torch.testing.assert_close(low[0], (255 * expected).round() / 255)
    assert not torch.equal(*lows)


def test_pictures_of_photos_with_the_same_names_have_different_names() -> None:
    paths = [Path(name) for name in ("a/p.png", "b/p.png", "b/p.jpg", "c/p_2.png", "d/q.png")]
    names = picture_names(paths)
    assert [names[path] for path in paths] == ["p", "p_2", "p_3", "p_2_2", "q"]
