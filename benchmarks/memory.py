"""The peak memory of a call against the size of the result.

    OMP_WAIT_POLICY=passive python benchmarks/memory.py [--model seesr-small] [--sides 512 1024 2048 4096]
    python benchmarks/memory.py --model full --method seesr --device cuda --dtype float16

A photo is enlarged four times to squares of these sides, in one step with guidance, with tiles and bands of one size.
"full" is a method of the published models' size, with random weights. The memory is the peak beyond the models: of the
process (CPU, Linux only), or allocated on the device (CUDA), where whole feature maps of the autoencoder are kept in
main memory. The last column is what each further pixel of the result takes: of a CPU that is the image itself, in
several forms, and one feature map of an `AutoencoderKL`, which works in bands; nothing else grows with the image.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, too, it finds its neighbours

from benchmarks.one_step import Place, pisa, seesr
from benchmarks.seesr_step import DTYPES, peak_memory
from diffusers_sr import load_pipeline

FULL = {"one_step": pisa, "seesr": lambda size, place: seesr(size, place, pisa(size, place))}
"""The methods that can be made at full size, by name."""


def full_size(method: str, place: Place) -> Any:
    """Make a pipeline of the published size with random weights."""
    return FULL[method]("sd2", place)


def call(pipeline: Any, side: int, options: argparse.Namespace) -> None:
    """Enlarge a photo of noise to a square of this side."""
    photo = Image.effect_noise((side // 4, side // 4), 80).convert("RGB")
    arguments: dict[str, Any] = {"tile_size": options.tile_size, "tile_overlap": options.tile_size // 8}
    if "num_inference_steps" not in pipeline.call_class.fixed:
        arguments["num_inference_steps"] = 1
    if options.model == "full" and options.method == "seesr":
        arguments["tags"] = "a photo"  # a random tagger finds everything
    pipeline(
        photo,
        vae_tile_size=options.tile_size,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **arguments,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="seesr-small", help="as of load_pipeline, or full (%(default)s)")
    parser.add_argument("--method", choices=FULL, default="one_step", help="of a full one (%(default)s)")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--tile-size", type=int, default=512, help="of denoiser and autoencoder (%(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", type=torch.device, default="cpu")
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    dtype = DTYPES[options.dtype]
    if options.model == "full":
        pipeline = full_size(options.method, Place(options.device, dtype))
    else:
        pipeline = load_pipeline(options.model, device=str(options.device), dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    print(f"{options.model}, {options.dtype}, {options.device.type}, tiles of {options.tile_size}²", flush=True)
    call(pipeline, min(256, options.tile_size), options)  # what libraries allocate once
    before: tuple[int, int] | None = None
    for side in options.sides:
        peak = peak_memory(partial(call, pipeline, side, options), options.device)
        growth = ""
        if before is not None:
            growth = f"{(peak - before[1]) / (side**2 - before[0] ** 2):6.0f} bytes a pixel more"
        print(f"{side:5d}² {peak / 1e6:8.0f} MB  {growth}", flush=True)
        before = (side, peak)


if __name__ == "__main__":
    main()
