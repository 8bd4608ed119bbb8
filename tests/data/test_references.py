"""References: who is like whom, the file of it, and what training draws from it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_sr.data import references
from diffusers_sr.data.dataset import PhotoCrops
from diffusers_sr.data.degradation_settings import DegradationConfig
from diffusers_sr.data.lists import list_images, training_photos
from diffusers_sr.data.references import nearest_photos, read_references, write_references
from tests.data.samples import tensor

REFERENCES = {"0.png": {"1.png": 3.0, "2.png": 1.0}, "1.png": {"0.png": 1.0}, "2.png": {"0.png": 1.0}}


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three photos of one colour each, so that a crop says which photo it is of."""
    for number in range(3):
        Image.fromarray(np.full((40, 40, 3), 40 + 80 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return list_images(tmp_path)


def test_the_nearest_are_others_by_cosine_similarity() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    nearest = nearest_photos(["a", "b", "c", "d"], embeddings, 2)
    assert list(nearest["a"]) == ["b", "d"]
    assert list(nearest["c"]) == ["d", "b"]
    assert nearest["a"]["d"] == pytest.approx(0.5**0.5)
    with pytest.raises(ValueError, match="4 photos have at most 3 others, but 4"):
        nearest_photos(["a", "b", "c", "d"], embeddings, 4)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "references.csv"
    write_references(path, REFERENCES)
    assert read_references(path) == REFERENCES
    path.write_text("file,reference\na,b\na,c\n")
    assert read_references(path) == {"a": {"b": 1.0, "c": 1.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,reference\na,b\n", "needs 'file' and 'reference'"),
        ("file,reference,similarity\na,b,-0.1\n", "a and b the similarity '-0.1'"),
        ("file,reference,similarity\na,b,much\n", "the similarity 'much'"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "references.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_references(path)


def test_references_are_drawn_by_their_weights(photos: list[Path]) -> None:
    dataset = PhotoCrops(photos, 32, degradation=DegradationConfig(), sharpen_target=False, references=REFERENCES)
    seen: Counter[tuple[int, int]] = Counter()
    for index in range(180):
        sample = dataset[index]
        assert tensor(sample, "reference").shape == (3, 32, 32)
        means = (float(tensor(sample, name).mean()) for name in ("target", "reference"))
        photo, reference = (round((mean * 255 - 40) / 80) for mean in means)
        seen[photo, reference] += 1
    assert seen[1, 0] == seen[2, 0] == 60
    assert seen[0, 1] + seen[0, 2] == 60
    assert 35 <= seen[0, 1] <= 54  # 45 expected


def test_references_leave_the_rest_of_a_sample_as_it_is(photos: list[Path]) -> None:
    plain, with_reference = (
        PhotoCrops(photos, 32, degradation=DegradationConfig(), references=r)[5] for r in (None, REFERENCES)
    )
    assert "reference" not in plain
    assert torch.equal(tensor(plain, "degraded"), tensor(with_reference, "degraded"))


def test_every_photo_needs_references_among_the_photos(photos: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"no reference: \['2.png'\].*not among the photos: \['x.png'\]"):
        PhotoCrops(photos, 32, references={"0.png": {"x.png": 1.0}, "1.png": {"0.png": 1.0}})


def test_left_out_photos_are_not_trained_on(photos: list[Path], tmp_path: Path) -> None:
    listed = tmp_path / "held_out.txt"
    listed.write_text("1.png\n")
    assert [path.name for path in training_photos(tmp_path, listed)] == ["0.png", "2.png"]
    assert training_photos(tmp_path, None) == photos


def test_blocks_find_what_the_whole_matrix_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block is as large as the matrix: the last one is smaller, and each photo leaves out itself."""
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    embeddings = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    names = [f"{number}.png" for number in range(50)]
    whole = nearest_photos(names, embeddings, 5)
    monkeypatch.setattr(references, "_MOST_SIMILARITIES", 50 * 7 + 49)
    with Sizes():
        blocks = nearest_photos(names, embeddings, 5)
    assert max(sizes) == 50 * 7
    assert [*blocks] == names
    for name, others in blocks.items():
        assert name not in others and [*others] == [*whole[name]]
        assert list(others.values()) == pytest.approx([*whole[name].values()], abs=1e-6)
