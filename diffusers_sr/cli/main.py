"""The command `diffusers-sr`: `upscale` for photographs, `caption` for prompts, `convert` for official checkpoints.

What the commands do is in `diffusers_sr.cli`, which imports torch and the models when it needs them: --help and
wrong arguments are answered without.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .caption import caption
from .convert import convert
from .upscale import METHODS, upscale

DTYPES = ("float32", "float16", "bfloat16")
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
    method.set_defaults(run=convert, converter=("diffusers_sr.seesr.convert", "convert"))
    _add_networks(method)
    method.add_argument("--ram", type=Path, metavar="FILE", help="ram_swin_large_14m.pth")
    method.add_argument("--dape", type=Path, metavar="FILE", help="DAPE.pth")
    method.add_argument(
        "--ram-tags", type=Path, metavar="DIR", help="folder with ram_tag_list.txt and ram_tag_list_threshold.txt"
    )
    _add_base_and_output(method, "2")

    method = methods.add_parser("coser", help="CoSeR, with its Q-Former, CLIP and StableSR's CFW")
    method.set_defaults(run=convert, converter=("diffusers_sr.coser.convert", "convert"))
    method.add_argument("--checkpoint", required=True, type=Path, metavar="FILE", help="official CoSeR file")
    method.add_argument("--qformer", required=True, type=Path, metavar="FILE", help="official Q-Former file")
    method.add_argument("--cfw", type=Path, metavar="FILE", help="vqgan_cfw_00011.ckpt")
    method.add_argument(  # not given, it is not handed over
        "--clip", default=argparse.SUPPRESS, metavar="REPO_OR_DIR", help="the CLIP it sees with (LAION's ViT-H-14)"
    )
    _add_base_and_output(method, "2.1")

    method = methods.add_parser("scedit", help="SCEdit's controllers, which become an adapter for CasSR's activation")
    method.set_defaults(run=convert, converter=("diffusers_sr.cassr.convert", "convert"))
    method.add_argument(
        "--checkpoint", required=True, type=Path, metavar="FILE_OR_DIR", help="pytorch_model.bin, or its folder"
    )
    _add_output(method)

    for name, function, description in (
        ("xpsr", "convert", "XPSR"),
        ("pasd", "convert_pasd", "PASD, which becomes an XPSR without low-level prompts"),
    ):
        method = methods.add_parser(name, help=description)
        method.set_defaults(run=convert, converter=("diffusers_sr.xpsr.convert", function))
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
