"""The command `diffusers-sr`: `upscale` for photographs, `caption` for prompts, `convert` for official checkpoints."""

from __future__ import annotations

import argparse
import functools
import inspect
import logging
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import SuperResolutionPipeline
    from .xpsr.captioner import Captioner
    from .xpsr.prompts import ImagePrompts

DTYPES = ("float32", "float16", "bfloat16")
METHODS = ("seesr", "coser", "cassr", "xpsr")
# The options for what only some pipelines take, by their names in `options`, with the argument of the call it is.
METHOD_OPTIONS = {
    "reference": "reference_images",
    "num_references": "num_references",
    "cfw_weight": "cfw_weight",
    "low_level_prompt": "low_level_prompt",
    "prompts": "captioner",
    "captioner": "captioner",
}

# Of `diffusers_sr.xpsr`, which cannot be imported for --help: PRACTICAL_MODEL of its captioner, and LAYOUTS.
CAPTIONER = "HuggingFaceTB/SmolVLM-500M-Instruct"
LAYOUTS = ("cache", "official")
CAPTIONER_HELP = "folder or Hub id of an image-text-to-text model, or `measured`: by what can be measured, without one"

UPSCALE_HELP = """\
Enlarge photographs.

INPUT is an image file or a folder, of which every image in it is taken (not in folders below it; files that are
hidden or have no image's suffix are passed over). OUTPUT is the file to write if INPUT is one file and OUTPUT ends in
.png, .jpg, .webp, .tif or .bmp; otherwise a folder. In a folder a result keeps the name of its input, ending in .png
if its own kind cannot be written, and with a number if the name is taken by another result. What exists at OUTPUT is
overwritten (or left, with --skip-existing), but never an input.

EXIF orientation is applied; colour profile, EXIF data and transparency are kept; grey stays grey. Output has 8 bits a
channel.

A file that cannot be read or written is reported, and the others are still done. The exit status is 0 if all went
well, 1 if something failed, 2 if the arguments make no sense, and 130 after an interruption.
"""


CAPTION_HELP = """\
Describe photographs: what each shows, and how good it is.

FOLDER is a folder of images (not in folders below it). What is described already is left as it is, so that a run that
was interrupted goes on. `diffusers-sr upscale --prompts` takes the output, and so does the training of XPSR.

A file that cannot be read is reported, and the others are still done. The exit status is 0 if all went well, 1 if
something failed, 2 if the arguments make no sense, and 130 after an interruption.
"""


class CaptionerError(Exception):
    """A captioner cannot be loaded, with which no image can be done."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: Without the program's name; those of the process by default.

    Raises:
        SystemExit: With status 2 for wrong arguments and 0 after `--help`, as argparse does.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(parser, options)
    except KeyboardInterrupt:
        print("diffusers-sr: interrupted", file=sys.stderr)
        return 130


def upscale(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr upscale`."""
    # Imported here, and torch with them, because --help and wrong arguments can be answered without.
    from .files import ImageFileError, check_output, images_in, plan_outputs, read_photo, write_photo
    from .images import output_size

    options.model = options.model or _small_model(parser, options.method or METHODS[0])
    try:
        outputs = plan_outputs(options.input, options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    method_inputs = _method_inputs(parser, options)
    device = _device(parser, options.device)
    pipeline: SuperResolutionPipeline | None = None
    seconds: list[float] = []
    failures = skipped = 0
    for folder in options.input:
        if folder.is_dir() and not images_in(folder):
            failures += 1
            _report(folder, "there is no image in this folder")
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
                    method_inputs["captioner"] = _load_captioner(options.captioner, device, options.dtype)
            if options.prompts is not None:
                method_inputs["captioner"] = _prompts_of(source, options.prompts)
            for note in photo.notes:
                _report(source, note)
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
            _report(source, str(error))
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
        if not _is_out_of_memory(error):
            raise
        raise ValueError("there is not enough memory: try a smaller --tile-size") from error
    return images[0]


def caption(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr caption`."""
    if options.names and options.captioner != "measured":
        parser.error("argument --names: not allowed with another --captioner than measured, which says what it sees")
    device = _device(parser, options.device)
    from .xpsr.caption_folder import caption_folder, measure_folder
    from .xpsr.captioner import captioner_settings

    load = functools.cache(_load_captioner)  # where all is described, nothing is loaded
    try:
        if options.captioner == "measured":
            done = measure_folder(
                options.folder,
                options.output,
                layout=options.layout,
                high_level_from_names=options.names,
                report=_report,
            )
        else:
            done = caption_folder(
                options.folder,
                options.output,
                lambda images: load(options.captioner, device, options.dtype, batch_size=options.batch_size)(images),
                captioner_settings(options.captioner),
                layout=options.layout,
                batch_size=options.batch_size,
                report=_report,
            )
    except (CaptionerError, OSError, ValueError) as error:
        print(f"diffusers-sr: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        print("diffusers-sr: there is not enough memory: try a smaller --batch-size", file=sys.stderr)
        return 1
    print(f"Images described: {done.described}, described before: {done.kept}")
    return 1 if done.unreadable else 0


def convert(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run `diffusers-sr convert METHOD`, whose options are the arguments of the method's converter."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("diffusers_sr").setLevel(logging.INFO)
    _quiet_libraries()
    module, function = options.converter
    converter = getattr(import_module(module, __package__), function)
    arguments = {name: value for name, value in vars(options).items() if name not in ("run", "converter")}
    try:
        converter(**arguments)
    except (OSError, ValueError) as error:
        print(f"diffusers-sr: {error}", file=sys.stderr)
        return 1
    print(f"Written to {options.output}")
    return 0


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
    from .files import ImageFileError, read_photo

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


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # CUDA has a class for it; the other devices say it in words only.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error)


def _prompts_of(image: Path, prompts: Path) -> Callable[[Any], list[ImagePrompts]]:
    """A captioner that reads what it says of one image file from a folder of prompts."""
    from .xpsr.prompts import read_prompts

    return lambda _: read_prompts(prompts, [image])


def _load_captioner(model: str, device: str, dtype: str | None, **arguments: Any) -> Captioner:
    """The language model that describes images; `arguments` are further ones of a `Captioner`.

    Raises:
        CaptionerError: If it cannot be loaded.
    """
    import torch

    _quiet_libraries()
    from .xpsr.captioner import Captioner

    try:
        return Captioner.from_pretrained(model, device, getattr(torch, dtype or _default_dtype(device)), **arguments)
    except (ImportError, OSError, ValueError) as error:
        raise CaptionerError(str(error)) from error


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
    if not (Path(__file__).parent / "models" / name).is_dir():
        parser.error(f"argument --method: the package has no small model of {method}; give one with --model")
    return name


def _load(options: argparse.Namespace, device: str) -> SuperResolutionPipeline | None:
    import torch

    _quiet_libraries()
    from .hub import load_pipeline

    dtype = getattr(torch, options.dtype or _default_dtype(device))
    try:
        return load_pipeline(options.model, method=options.method, device=device, dtype=dtype)
    except (OSError, ValueError) as error:
        print(f"diffusers-sr: the model {options.model} could not be loaded: {error}", file=sys.stderr)
        return None


def _default_dtype(device: str) -> str:
    return "float16" if device.startswith("cuda") else "float32"


def _quiet_libraries() -> None:
    """Leave the terminal to the progress of images and of downloads: what libraries say and count while loading."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not in its `__all__`
        are_progress_bars_disabled,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    downloads_are_shown = not are_progress_bars_disabled()
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    if downloads_are_shown:  # transformers hides them with its own
        enable_progress_bars()


def _device(parser: argparse.ArgumentParser, name: str | None) -> str:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return next(kind for kind, there in available.items() if there)
    if not available.get(name.split(":")[0]):
        kinds = ", ".join(kind for kind, there in available.items() if there)
        parser.error(f"argument --device: {name} is not there; this machine has {kinds}")
    return name


def _report(path: Path, reason: str) -> None:
    print(f"{path}: {' '.join(reason.split())}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffusers-sr", description="Super-resolution of real photographs with Stable Diffusion."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "upscale",
        help="enlarge photographs",
        description=UPSCALE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=upscale)
    command.add_argument("input", nargs="+", type=Path, metavar="INPUT", help="image files and folders of images")
    command.add_argument("-o", "--output", required=True, type=Path, help="image file or folder to write")
    command.add_argument(
        "--method", choices=METHODS, help="of the --model; without one, of the package's small model (seesr)"
    )
    command.add_argument("--model", help="pipeline folder, Hub id, or a model in the package")
    command.add_argument("--upscale", type=_positive_float, default=4.0, help="factor (%(default)s)")
    command.add_argument("--steps", type=_positive_int, help="denoising steps (the model's default)")
    command.add_argument(
        "--guidance-scale", type=float, help="weight of the text; up to 1 is none (the model's default)"
    )
    command.add_argument("--prompt", help="what is in the image, added to what the model sees in it")
    command.add_argument(
        "--tile-size", type=_positive_int, help="in output pixels; less needs less memory (the model's default)"
    )
    command.add_argument(
        "--tile-overlap", type=int, help="in output pixels, less than the tile size (the model's default)"
    )
    command.add_argument(
        "--color-fix", choices=("adain", "wavelet", "none"), help="how colours are kept (the model's default)"
    )
    command.add_argument("--skip-existing", action="store_true", help="leave results that exist, to resume a folder")
    command.add_argument("--seed", type=int, default=0, help="of the noise, for each image anew (%(default)s)")
    _add_device(command)

    group = command.add_argument_group("options of CoSeR")
    references = group.add_mutually_exclusive_group()
    references.add_argument(
        "--reference",
        action="append",
        type=Path,
        metavar="FILE",
        help="image to take textures from, instead of a generated one; may be given several times, for all images",
    )
    references.add_argument("--num-references", type=_positive_int, help="to generate (the model's default)")
    group.add_argument(
        "--cfw-weight", type=_fraction, help="from 0, realism, to 1, fidelity to the image (the model's default)"
    )

    group = command.add_argument_group("options of XPSR")
    group.add_argument(
        "--low-level-prompt", metavar="TEXT", help="how good the image is, instead of what a captioner or file says"
    )
    captioners = group.add_mutually_exclusive_group()
    captioners.add_argument(
        "--prompts", type=Path, metavar="DIR", help="folder with prompts of every image, as `caption` writes it"
    )
    captioners.add_argument("--captioner", metavar="MODEL", help=f"what describes the images: {CAPTIONER_HELP}")

    command = commands.add_parser(
        "caption",
        help="describe photographs, for XPSR",
        description=CAPTION_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=caption)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="folder of images")
    command.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder of prompts to write")
    command.add_argument("--captioner", default=CAPTIONER, metavar="MODEL", help=f"{CAPTIONER_HELP} (%(default)s)")
    command.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="one file, found by the images' pixels, or text files found by their names (%(default)s)",
    )
    command.add_argument("--names", action="store_true", help="with `measured`: the name of a file says what it shows")
    command.add_argument("--batch-size", type=_positive_int, default=4, help="images at once (%(default)s)")
    _add_device(command)

    methods = commands.add_parser("convert", help="make a folder to load of official checkpoints").add_subparsers(
        required=True, metavar="METHOD"
    )
    method = methods.add_parser("seesr", help="SeeSR, with RAM and DAPE")
    method.set_defaults(run=convert, converter=(".seesr.convert", "convert"))
    _add_networks(method)
    method.add_argument("--ram", type=Path, metavar="FILE", help="ram_swin_large_14m.pth")
    method.add_argument("--dape", type=Path, metavar="FILE", help="DAPE.pth")
    method.add_argument(
        "--ram-tags", type=Path, metavar="DIR", help="folder with ram_tag_list.txt and ram_tag_list_threshold.txt"
    )
    _add_base_and_output(method, "2")

    method = methods.add_parser("coser", help="CoSeR, with its Q-Former, CLIP and StableSR's CFW")
    method.set_defaults(run=convert, converter=(".coser.convert", "convert"))
    method.add_argument("--checkpoint", required=True, type=Path, metavar="FILE", help="official CoSeR file")
    method.add_argument("--qformer", required=True, type=Path, metavar="FILE", help="official Q-Former file")
    method.add_argument("--cfw", type=Path, metavar="FILE", help="vqgan_cfw_00011.ckpt")
    method.add_argument(  # not given, it is not handed over
        "--clip", default=argparse.SUPPRESS, metavar="REPO_OR_DIR", help="the CLIP it sees with (LAION's ViT-H-14)"
    )
    _add_base_and_output(method, "2.1")

    method = methods.add_parser("scedit", help="SCEdit's controllers, which become an adapter for CasSR's activation")
    method.set_defaults(run=convert, converter=(".cassr.convert_scedit", "convert"))
    method.add_argument(
        "--checkpoint", required=True, type=Path, metavar="FILE_OR_DIR", help="pytorch_model.bin, or its folder"
    )
    _add_output(method)

    for name, function, description in (
        ("xpsr", "convert", "XPSR"),
        ("pasd", "convert_pasd", "PASD, which becomes an XPSR without low-level prompts"),
    ):
        method = methods.add_parser(name, help=description)
        method.set_defaults(run=convert, converter=(".xpsr.convert", function))
        _add_networks(method)
        _add_base_and_output(method, "1.5")
    return parser


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", help="cuda, cuda:1, mps or cpu (the first of them that is there)")
    command.add_argument("--dtype", choices=DTYPES, help="of the weights (float16 on cuda, otherwise float32)")


def _add_networks(method: argparse.ArgumentParser) -> None:
    method.add_argument("--unet", required=True, type=Path, metavar="DIR", help="official unet folder")
    method.add_argument("--controlnet", required=True, type=Path, metavar="DIR", help="official controlnet folder")


def _add_base_and_output(method: argparse.ArgumentParser, version: str) -> None:
    method.add_argument(
        "--base", metavar="REPO_OR_DIR", help=f"the Stable Diffusion {version} base the checkpoint was trained on"
    )
    _add_output(method)


def _add_output(method: argparse.ArgumentParser) -> None:
    method.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write; must not exist")


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
