"""Measure results against their originals, with what is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..image.decoding import ImageFileError
from ..image.pairs import Pair, PairsError
from .fidelity import psnr, ssim
from .pairs import read_picture
from .protocols import Measure, Protocol

NOT_MEASURED = "not measured"

_OWN: dict[str, Callable[..., Tensor]] = {"PSNR": psnr, "SSIM": ssim}
Compare = Callable[[Tensor, Tensor], float]
"""The value of a result, given the original and the result."""


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Args:
        names: of the pictures.
        each: values of the pictures, in the order of their names, by measure.
        whole: the value of the whole folder, by measure: a mean, if there are values of the pictures.
        unmeasured: why the others were not measured, by measure.
    """

    names: Sequence[str]
    each: Mapping[str, Sequence[float]]
    whole: Mapping[str, float]
    unmeasured: Mapping[str, str]


class Meter:
    """The measures of a protocol, loaded once for all folders.

    Args:
        protocol: what to measure.
        device: where pyiqa's networks run.
    """

    def __init__(self, protocol: Protocol, device: str = "cpu") -> None:
        self.protocol = protocol
        self.unmeasured: dict[str, str] = {}
        self._compare: dict[str, Compare] = {}
        self._folders: dict[str, Any] = {}
        for measure in protocol.measures:
            if measure.library == "own":
                self._compare[measure.heading] = _own(measure, protocol.crop_border)
            elif isinstance(metric := _pyiqa_metric(measure, device), str):
                self.unmeasured[measure.heading] = metric
            elif measure.of == "folders":
                self._folders[measure.heading] = metric
            else:
                self._compare[measure.heading] = _of_pyiqa(metric, measure, device)

    def measure(self, pairs: Sequence[Pair], progress: Callable[[Sequence[Pair]], Iterable[Pair]] = iter) -> Scores:
        """Measure the results of one folder.

        Args:
            pairs: results and originals of equal size, as `result_pairs` finds them.
            progress: given the pairs, gives the same; it may show how many are done.

        Raises:
            PairsError: if files cannot be read; nothing is measured after the first, but all of them are listed.
            ValueError: if a picture is too small to be measured.
        """
        each: dict[str, list[float]] = {heading: [] for heading in self._compare}
        unread: list[str] = []
        for pair in progress(pairs):
            images = []
            for path in (pair.original, pair.picture):
                try:
                    images.append(read_picture(path))
                except ImageFileError as error:
                    unread.append(str(error))
            if unread:
                continue
            original, result = images
            for heading, compare in self._compare.items():
                try:
                    each[heading].append(compare(original, result))
                except ValueError as error:
                    raise ValueError(f"{pair.picture}: {error}") from error
        if unread:
            raise PairsError(unread)
        whole = {heading: sum(values) / len(values) for heading, values in each.items()}
        folders = [str(path.parent) for path in (pairs[0].picture, pairs[0].original)]
        for heading, metric in self._folders.items():
            whole[heading] = float(metric(*folders, verbose=False))
        return Scores([pair.name for pair in pairs], each, whole, self.unmeasured)


def _own(measure: Measure, crop_border: int) -> Compare:
    function = partial(_OWN[measure.heading], space=measure.variant, crop_border=crop_border)
    return lambda original, result: float(function(original, result))


def _of_pyiqa(metric: Any, measure: Measure, device: str) -> Compare:
    def compare(original: Tensor, result: Tensor) -> float:
        pictures = (result, original) if measure.of == "pair" else (result,)
        with torch.no_grad():
            return float(metric(*(picture.to(device) for picture in pictures)))

    return compare


def _pyiqa_metric(measure: Measure, device: str) -> Any:
    """Load a metric; or say why it cannot be loaded."""
    if not measure.library:
        return "the paper does not say how it is computed"
    try:
        import pyiqa
    except ImportError:
        return "pip install 'diffusers-sr[eval]'"
    except RuntimeError as error:  # a torchvision that does not belong to this torch
        return f"pyiqa cannot be imported: {_first_line(error)}"
    if measure.variant not in pyiqa.list_models():
        return f"this pyiqa has no {measure.variant}: update it"
    try:
        return pyiqa.create_metric(measure.variant, device=torch.device(device), **measure.options)
    except (ImportError, OSError, RuntimeError) as error:  # such as weights that cannot be downloaded
        return f"pyiqa cannot load {measure.variant}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
