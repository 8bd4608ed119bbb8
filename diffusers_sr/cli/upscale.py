"""`diffusers-sr upscale`: enlarge photographs."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    CaptionerError,
    choose_device,
    default_dtype,
    is_out_of_memory,
    load_captioner,
    quiet_libraries,
    report,
)

if TYPE_CHECKING:
    from ..pipeline import SuperResolutionPipeline
    from ..xpsr.prompts import ImagePrompts

METHODS = ("seesr", "coser", "cassr", "xpsr")
"""Those of `diffusers_sr.hub`, which takes long to import; the first is what is taken without --method."""
MODELS = Path(__file__).parents[1] / "models"
# The options for what only some pipelines take, by their names in `options`, with the argument of the call it is.
METHOD_OPTIONS = {
    "reference": "reference_images",
    "num_references": "num_references",
    "cfw_weight": "cfw_weight",
    "low_level_prompt": "low_level_prompt",
    "prompts": "captioner",
    "captioner": "captioner",
}


def upscale(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr upscale`."""
    # Imported here, and torch with them, because --help and wrong arguments can be answered without.
    from ..image.decoding import ImageFileError
    from ..image.formats import images_in
    from ..image.outputs import plan_outputs
    from ..image.pixels import output_size
    from ..image.reader import read_photo
    from ..image.writer import check_output, write_photo

    options.model = options.model or _small_model(parser, options.method or METHODS[0])
    try:
        outputs = plan_outputs(options.input, options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    method_inputs = _method_inputs(parser, options)
    device = choose_device(parser, options.device)
    pipeline: SuperResolutionPipeline | None = None
    seconds: list[float] = []
    failures = skipped = 0
    for folder in options.input:
        if folder.is_dir() and not images_in(folder):
            failures += 1
            report(folder, "there is no image in this folder")
    for source, target in outputs:
        if options.skip_existing and target.exists():
            skipped += 1
            continue
        try:
            photo = read_photo(source)
            height, width = output_size(photo.image.height, photo.image.width, options.upscale)
            check_output(photo, target, width, height)
            target.parent.mkdir(parents=True, exist_ok=True)
            if pipeline is None:
                pipeline = _load(options, device)
                if pipeline is None:
                    return 1
                _check(parser, pipeline, options)
                if options.captioner == "measured":
                    method_inputs["captioner"] = options.captioner
                elif options.captioner is not None:
                    method_inputs["captioner"] = load_captioner(options.captioner, device, options.dtype)
            if options.prompts is not None:
                method_inputs["captioner"] = _prompts_of(source, options.prompts)
            for note in photo.notes:
                report(source, note)
            start = time.perf_counter()
            image = enlarge(pipeline, photo.image, source.name, options, method_inputs)
            write_photo(target, image, photo)
            seconds.append(time.perf_counter() - start)
        except CaptionerError as error:
            print(f"diffusers-sr: {error}", file=sys.stderr)
            return 1
        # A ValueError is the pipeline's about its arguments for this image.
        except (ImageFileError, ValueError, OSError) as error:
            failures += 1
            report(source, str(error))
    if skipped:
        print(f"Skipped, because they exist: {skipped}")
    if seconds:
        print(f"Images done: {len(seconds)}, {sum(seconds) / len(seconds):.1f} seconds an image")
    return 1 if failures else 0


def enlarge(
    pipeline: SuperResolutionPipeline,
    image: Any,
    name: str,
    options: argparse.Namespace,
    method_inputs: dict[str, Any],
) -> Any:
    """Run the pipeline on one RGB image; its progress bar carries `name`.

    Every image starts from the same seed, so that its result does not depend on what else is done.

    Raises:
        ValueError: If the memory does not suffice, or an argument does not suit the pipeline.
    """
    import torch

    pipeline.set_progress_bar_config(desc=name)
    try:
        (images,) = pipeline(
            image=image,
            generator=torch.Generator("cpu").manual_seed(options.seed),
            return_dict=False,
            **_call_arguments(options),
            **method_inputs,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError("there is not enough memory: try a smaller --tile-size") from error
    return images[0]


def _call_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What all images of a command are enlarged with."""
    arguments = {
        "prompt": options.prompt,
        "upscale": options.upscale,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "tile_size": options.tile_size,
        "tile_overlap": options.tile_overlap,
    }
    if options.color_fix is not None:
        arguments["color_fix"] = None if options.color_fix == "none" else options.color_fix
    return arguments


def _method_inputs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """What is given of `METHOD_OPTIONS`, with the references read; exit with status 2 if one cannot be.

    Captioners are not among it: one is loaded after the pipeline, and prompts from files are those of one image.
    """
    from ..image.decoding import ImageFileError
    from ..image.reader import read_photo

    references = []
    for path in options.reference or []:
        try:
            references.append(read_photo(path).image)
        except ImageFileError as error:
            parser.error(f"argument --reference: {path}: {error}")
    inputs = {
        "reference_images": references or None,
        "num_references": options.num_references,
        "cfw_weight": options.cfw_weight,
        "low_level_prompt": options.low_level_prompt,
    }
    return {name: value for name, value in inputs.items() if value is not None}


def _prompts_of(image: Path, prompts: Path) -> Callable[[Any], list[ImagePrompts]]:
    """A captioner that reads what it says of one image file from a folder of prompts."""
    from ..xpsr.prompts import read_prompts

    return lambda _: read_prompts(prompts, [image])


def _check(parser: argparse.ArgumentParser, pipeline: SuperResolutionPipeline, options: argparse.Namespace) -> None:
    """Exit with status 2 if an argument does not suit the pipeline, which is so for every image."""
    steps = (pipeline.describe, pipeline.prepare_control, pipeline.decode)
    taken = {name for step in steps for name in inspect.signature(step).parameters}
    given = [option for option in METHOD_OPTIONS if getattr(options, option) is not None]
    if refused := [f"--{option.replace('_', '-')}" for option in given if METHOD_OPTIONS[option] not in taken]:
        parser.error(f"{options.model} is a {type(pipeline).__name__}, which has no {', '.join(refused)}")
    try:
        pipeline.check_inputs(**_call_arguments(options))
    except ValueError as error:
        parser.error(str(error))


def _small_model(parser: argparse.ArgumentParser, method: str) -> str:
    """The model in the package that is of this method; exit with status 2 if there is none."""
    name = f"{method}-small"
    if not (MODELS / name).is_dir():
        parser.error(f"argument --method: the package has no small model of {method}; give one with --model")
    return name


def _load(options: argparse.Namespace, device: str) -> SuperResolutionPipeline | None:
    import torch

    quiet_libraries()
    from ..hub import load_pipeline

    dtype = getattr(torch, options.dtype or default_dtype(device))
    try:
        return load_pipeline(options.model, method=options.method, device=device, dtype=dtype)
    except (OSError, ValueError) as error:
        print(f"diffusers-sr: the model {options.model} could not be loaded: {error}", file=sys.stderr)
        return None
