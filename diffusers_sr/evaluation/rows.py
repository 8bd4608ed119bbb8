"""The rows of a table of measures: what makes the results, a model, another program or a plain filter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..image.decoding import ImageFileError, read
from ..image.formats import images_in
from .baselines import BASELINES, to_image


class Row(NamedTuple):
    """A way to enlarge images."""

    enlarge: Callable[[str, str, Tensor, tuple[int, int]], Tensor]
    """Called with the names of the set and of the image, the image, [1, 3, h, w] in [0, 1], and (height, width)."""
    megabytes: float | None = None
    """The weights in half precision, in 10^6 bytes; None if it is not known."""


def baseline_row(name: str) -> Row:
    """Make the row of one of `BASELINES`."""
    return Row(lambda _, __, image, size: BASELINES[name](image, size))


def results_row(folder: Path) -> Row:
    """Make the row of pictures that are there already, `folder`/SET/NAME with any suffix of an image."""
    return Row(partial(_read_result, folder))


def pipeline_row(pipeline: Any, arguments: dict[str, Any]) -> Row:
    """Make the row of a pipeline of this package, which is always called with the seed 0 and these arguments."""

    def enlarge(_: str, __: str, image: Tensor, size: tuple[int, int]) -> Tensor:
        call = {"upscale": size[0] / image.shape[-2], "generator": torch.Generator().manual_seed(0)} | arguments
        result: Tensor = pipeline(image, output_type="pt", **call).images
        return result.float().cpu()

    modules = (each for each in pipeline.components.values() if isinstance(each, nn.Module))
    count = sum(weight.numel() for module in modules for weight in module.parameters())
    return Row(enlarge, 2 * count / 1e6)


def call_argument(text: str) -> tuple[str, Any]:
    """Read name and value from "name=value"; the value is JSON, or else a text."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def model_and_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """Read a model and arguments of its call from a text such as "cassr-small activation=lr"."""
    arguments: dict[str, Any] = {}
    while found := re.fullmatch(r"(.+?)\s+(\w+=\S*)", text, re.DOTALL):
        text = found[1]
        arguments = dict([call_argument(found[2])]) | arguments
    return text, arguments


def _read_result(folder: Path, set_name: str, name: str, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Read the result of another program.

    Raises:
        ImageFileError: if it is not there, cannot be read, or has another size.
    """
    inside = folder / set_name
    found = [path for path in images_in(inside) if path.stem == name] if inside.is_dir() else []
    if len(found) != 1:
        raise ImageFileError(f"{inside} has to hold one picture of the name {name}, and has {len(found)}")
    result = to_image(read(found[0]).image)
    if result.shape[-2:] != size:
        height, width = result.shape[-2:]
        raise ImageFileError(f"{found[0]} is {width}x{height} pixels, and its original {size[1]}x{size[0]}")
    return result
