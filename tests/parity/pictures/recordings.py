"""What an official script was given, drew, computed and saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file


@dataclass(frozen=True)
class Recording:
    """One picture of an official script.

    Args:
        method: "seesr", "xpsr" or "coser".
        folder: folder of the case.
    """

    method: str
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder.parents[1] / "weights"

    @cached_property
    def info(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text(encoding="utf-8"))

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "io.safetensors")

    @property
    def image(self) -> Image.Image:
        return picture(self.folder / "input.png")

    @property
    def results(self) -> dict[str, Image.Image]:
        """What was saved, by file name."""
        return {path.stem: picture(path) for path in sorted(self.folder.glob("final*.png"))}

    def numbered(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors `name.0`, `name.1` and so on, in their order; some may be missing."""
        found = [key for key in self.tensors if key.rpartition(".")[0] == name]
        return {key: self.tensors[key] for key in sorted(found, key=lambda key: int(key.rpartition(".")[2]))}


def recordings(folder: Path, methods: Sequence[str] = ("seesr", "xpsr", "coser")) -> list[Recording]:
    """List the recordings in a folder."""
    return [Recording(method, case) for method in methods for case in sorted((folder / method / "cases").glob("*"))]


def picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
