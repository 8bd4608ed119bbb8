"""Enlarge photos by the pipeline, and write the results."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..image.decoding import ImageFileError
from ..image.deep import in_16_bits
from ..image.names import printable
from ..image.outputs import comparison_of
from ..image.transparency import shown
from ..image.writer import unkept, write_comparison, write_photo
from ..pipeline import SuperResolutionPipeline
from ..sampling.free_memory import peak_memory
from ..sampling.out_of_memory import is_out_of_memory, sizes_used
from .captioner import prompts_of
from .photos import Work
from .record import settings_record
from .tally import Tally
from .terminal import report

# A pixel of a tile takes about this many times the memory of a pixel of the result, of which only values are kept.
_MOST_TILES = 64


class Enlarger:
    """Enlarges the photos of a command.

    Every image starts from the same seed, so that its result does not depend on the other images.

    Args:
        pipeline: the model.
        options: those of the command.
        arguments: those of the pipeline's call that all photos share.
        is_shown: whether there is a progress bar of the steps.
    """

    def __init__(
        self,
        pipeline: SuperResolutionPipeline,
        options: argparse.Namespace,
        arguments: Mapping[str, Any],
        is_shown: bool = True,
    ) -> None:
        self.pipeline = pipeline
        self.options = options
        self.arguments = arguments
        self.is_shown = is_shown

    def enlarge(self, batch: Sequence[Work], tally: Tally) -> None:
        """Enlarge photos of one size in one call and write their results; what fails is reported."""
        arguments = {**self.arguments, "upscale": batch[0].upscale}
        record = self._record(arguments)
        for work in batch:
            for note in [*work.photo.notes, *unkept(work.photo, work.target, *work.size, record)]:
                report(work.source, note)
        self._enlarge(batch, arguments, tally)

    def _record(self, arguments: Mapping[str, Any]) -> str | None:
        return None if self.options.strip_metadata else settings_record(self.pipeline, self.options, arguments)

    def _enlarge(self, batch: Sequence[Work], arguments: Mapping[str, Any], tally: Tally) -> None:
        start = time.perf_counter()
        try:
            with sizes_used() as used:
                images = self._call(batch, arguments, used)
        # A ValueError is the pipeline's, about its arguments for these images.
        except (ValueError, OSError) as error:
            if len(batch) == 1:
                tally.fail(batch[0].source, str(error))
                return
            # One image may be the cause, or all together may need too much memory.
            report(batch[0].source, f"its batch of {len(batch)} failed, and is enlarged one by one: {error}")
            for work in batch:
                self._enlarge([work], arguments, tally)
            return
        tally.peak = max(tally.peak, peak_memory(self.pipeline._execution_device))
        record = self._record({**arguments, **used})
        for work, image in zip(batch, images, strict=True):
            try:
                write_photo(work.target, image, work.photo, self.options.quality, record)
                if self.options.compare:
                    write_comparison(comparison_of(work.target), image, work.photo)
            except ImageFileError as error:
                tally.fail(work.source, str(error))
            else:
                tally.seconds.append((time.perf_counter() - start) / len(batch))

    def _call(
        self, batch: Sequence[Work], arguments: Mapping[str, Any], used: Mapping[str, int]
    ) -> list[Image.Image | NDArray[np.uint16]]:
        """Call the pipeline; photos of 16 bits per channel become arrays.

        Args:
            used: the sizes that it has come down to where memory ran out.

        Raises:
            ValueError: if there is not enough memory, or an argument does not suit the pipeline.
            OSError: if there are no prompts for a photo.
        """
        sources = [work.source for work in batch]
        if self.options.prompts is not None:
            arguments = {**arguments, "captioner": prompts_of(sources, self.options.prompts)}
        self.pipeline.set_progress_bar_config(desc=_title(sources), disable=not self.is_shown)
        images = [shown(work.photo) for work in batch]
        generators = [torch.Generator("cpu").manual_seed(self.options.seed) for _ in batch]
        single = len(batch) == 1
        try:
            (results,) = self.pipeline(
                image=images[0] if single else images,
                generator=generators[0] if single else generators,
                output_type="pil" if batch[0].photo.deep is None else "np",
                return_dict=False,
                **arguments,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(
                f"there is not enough memory{_remedy(self.pipeline, batch[0], arguments, used)}"
            ) from error
        return [result if isinstance(result, Image.Image) else in_16_bits(result) for result in results]


def _title(sources: Sequence[Path]) -> str:
    others = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return f"{printable(sources[0].name)}{others}"


def _remedy(
    pipeline: SuperResolutionPipeline, work: Work, arguments: Mapping[str, Any], used: Mapping[str, int]
) -> str:
    """Say what helps when memory ran out: smaller tiles, unless the result is too large or they did not help."""
    call = pipeline.check_inputs(**arguments)
    width, height = work.size
    if width * height > _MOST_TILES * call.tile_size**2:
        return f" for a result of {width}x{height} pixels: try a smaller --upscale, or cut the image"
    sizes = {name: getattr(call, name) for name in ("tile_size", "vae_tile_size") if name not in used}
    smaller = [f"--{name.replace('_', '-')}" for name, size in sizes.items() if size > pipeline.vae_scale_factor]
    return f": try a smaller {' and '.join(smaller)}" if smaller else ""
