"""Train a method on a folder of your own photographs, and enlarge one of them with what came of it.

    python examples/train_on_your_photos.py seesr PHOTOS runs

It runs the commands that it prints, one after the other: those of training/README.md, but with the package's small
Stable Diffusion and small parts that belong to it, so that it shows the way on any computer. The photographs may be of
any size and in folders of any depth; those smaller than the crops are skipped. For results worth having, take those
commands with a full Stable Diffusion, thousands of photographs and the recipes.

Options that are not its own go to every trainer, such as --mixed_precision bf16.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from diffusers_sr.data.lists import list_images
from diffusers_sr.hub import BASE, MODELS

TRAINING = Path(__file__).parents[1] / "training"


def stages(options: argparse.Namespace) -> list[list[str]]:
    """List the training commands of a method, without the options of all trainers."""
    photos, out = ["--train_data_dir", options.photos], Path(options.output)
    base = ["--pretrained_model_name_or_path", options.base]
    # A tagger may find nothing in a photo.
    shards = ["--train_shards_path_or_url", str(out / "shards"), "--allow_missing_text", "true"]
    # Whole photos with tags, which are SeeSR's texts, and stand in for captions with CoSeR and XPSR.
    prepare = ["prepare", *photos, "--tagger", options.tagger, "--output_dir", str(out / "shards")]
    if options.method == "seesr":
        dape = str(out / "dape")
        return [
            prepare,
            ["train_dape", *photos, "--tagger", options.tagger, "--output_dir", dape],
            ["train_seesr", *shards, *base, "--tagger", dape],
        ]
    if options.method == "coser":
        references = str(out / "references.csv")
        clip = [] if options.clip is None else ["--clip", options.clip]
        encoder = ["--cognitive_encoder", options.cognitive_encoder]
        return [
            prepare,
            ["find_references", *photos, *clip, "--count", "3", "--output", references],
            ["train_coser", *shards, *base, *encoder, "--references_file", references],
        ]
    if options.method == "cassr":
        scedit, references = (str(out / name) for name in ("scedit", "references"))
        sizes = ["--resolution", str(options.resolution), "--num_samples", str(options.references)]
        return [
            ["train_scedit", *photos, *base, "--output_dir", scedit],
            ["make_references", *photos, *base, "--scedit", scedit, *sizes, "--output_dir", references],
            ["train_cassr", *photos, *base, "--scedit", scedit, "--references_dir", references],
        ]
    return [prepare, ["train_xpsr", *shards, *base]]


def run(words: Sequence[str]) -> None:
    """Run a command in a process of its own; one of this package's by the same Python."""
    program = [] if words[0] == "python" else ["-m", "diffusers_sr.cli"]
    subprocess.run([sys.executable, *program, *words[1:]], check=True)


def main(argv: Sequence[str] | None = None, run: Callable[[Sequence[str]], object] = run) -> None:
    """Run the commands of a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("seesr", "coser", "cassr", "xpsr"))
    parser.add_argument("photos", help="folder of photographs")
    parser.add_argument("output", help="folder for the models, and for what is made on the way")
    parser.add_argument("--base", default=str(MODELS / BASE), help="Stable Diffusion: a folder or a Hub id")
    parser.add_argument("--tagger", default=str(MODELS / "seesr-small" / "tagger"), help="folder of a tagger")
    parser.add_argument(
        "--cognitive_encoder", default=str(MODELS / "coser-small" / "cognitive_encoder"), help="folder (CoSeR)"
    )
    parser.add_argument("--clip", help="CLIP that finds the references: a folder or a Hub id (CoSeR)")
    parser.add_argument("--references", type=int, default=100, help="how many references are made (CasSR)")
    parser.add_argument("--resolution", type=int, default=64, help="side of the crops; 512 with a full base")
    parser.add_argument("--max_train_steps", type=int, default=300, help="steps of each stage (%(default)s)")
    options, further = parser.parse_known_args(argv)

    model = str(Path(options.output) / options.method)
    of_trainers = ["--resolution", str(options.resolution), "--max_train_steps", str(options.max_train_steps)]
    commands = [["python", str(TRAINING / f"{stage}.py"), *words] for stage, *words in stages(options)]
    commands[-1] += ["--output_dir", model]
    for words in commands:
        if Path(words[1]).name.startswith("train_"):
            words += [*of_trainers, *further]
    photo = list_images(options.photos)[0]
    enlarged = str(Path(options.output) / "enlarged.png")
    commands.append(["diffusers-sr", "upscale", str(photo), "--model", model, "--output", enlarged])
    for words in commands:
        print(f"$ {shlex.join(words)}", flush=True)
        run(words)


if __name__ == "__main__":
    main()
