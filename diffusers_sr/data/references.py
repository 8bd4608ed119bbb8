"""Reference images for training: photographs that show the same as another one."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..image.names import printable
from ..image.partial import whole_file
from .names import is_utf8
from .tables import read_rows

COLUMNS = ("file", "reference", "similarity")

References = Mapping[str, Mapping[str, float]]
"""By every photo's file name: the file names of its references, with the weights they are drawn by."""

# Similarities that are held at a time; as float32 they take 256 MiB.
_MOST_SIMILARITIES = 1 << 26


def nearest_photos(names: Sequence[str], embeddings: Tensor, count: int) -> dict[str, dict[str, float]]:
    """Find the `count` photos whose embeddings are most similar to each photo's, and the cosine similarities.

    All photos are compared, on the device of the embeddings, a block of them with all at a time.

    Args:
        names: names of the photos.
        embeddings: [photos, channels].
        count: number of photos to find for each.

    Raises:
        ValueError: if there are not more than `count` photos.
    """
    if count >= len(names):
        raise ValueError(f"{len(names)} photos have at most {len(names) - 1} others, but {count} are asked for.")
    directions = torch.nn.functional.normalize(embeddings, dim=-1)
    rows = max(1, _MOST_SIMILARITIES // len(names))
    nearest = {}
    for start in range(0, len(names), rows):
        similarities = directions[start : start + rows] @ directions.T
        similarities.diagonal(start).fill_(-torch.inf)
        values, indices = similarities.topk(count, dim=-1)
        block = names[start : start + rows]
        for name, others, weights in zip(block, indices.tolist(), values.tolist(), strict=True):
            nearest[name] = {names[index]: value for index, value in zip(others, weights, strict=True)}
    return nearest


def write_references(path: str | Path, references: References) -> None:
    """Write a CSV file with the columns file, reference and similarity, whole or not at all.

    Raises:
        ValueError: if a photo's name is not UTF-8 text.
    """
    names = {*references, *(other for others in references.values() for other in others)}
    if broken := sorted(name for name in names if not is_utf8(name)):
        raise ValueError(f"The name {printable(broken[0])} is not UTF-8 text, as a table has to be: rename the photo.")
    # The writer itself leaves a carriage return without quotation marks, and it would end the row.
    has_return = any("\r" in name for name in names)
    with whole_file(Path(path)) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL)
        rows.writerow(COLUMNS)
        for name, others in references.items():
            rows.writerows((name, other, f"{similarity:.4f}") for other, similarity in others.items())


def read_references(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a CSV file with the columns file and reference; without a column similarity all weights are equal.

    Raises:
        ValueError: if `read_rows` raises it, a row has no file name, or a similarity is not a number above 0.
    """
    references: dict[str, dict[str, float]] = {}
    for where, row in read_rows(path, ("file", "reference")):
        if not row["file"] or not row["reference"]:
            raise ValueError(f"{where} has no file name: write one in each of the columns 'file' and 'reference'.")
        try:
            weight = float(row.get("similarity", 1))
        except ValueError:
            weight = 0.0
        if not 0 < weight < math.inf:
            raise ValueError(
                f"{where} gives {row['file']} and {row['reference']} the similarity {row['similarity']!r}; it has to "
                "be a number above 0: remove references that are not similar."
            )
        references.setdefault(row["file"], {})[row["reference"]] = weight
    return references


def check_references(references: References, photos: Sequence[str]) -> None:
    """Raise ValueError if one of the photos has no reference, or one that is not among them."""
    known = set(photos)
    without = sorted(name for name in known if name not in references)
    unknown = sorted({other for name in known for other in references.get(name, ()) if other not in known})
    if without or unknown:
        raise ValueError(
            f"These photos have no reference: {without}. These references are not among the photos: {unknown}. "
            "Find the references among the photos that are trained on (training/find_references.py)."
        )
