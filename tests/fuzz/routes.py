"""The ways of a folder of damaged files through the command line and the trainers, and what has to come out."""

from __future__ import annotations

import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diffusers_sr.data.photos import read_image

from .folders import SOUND
from .models import Models
from .watch import Ended

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "diffusers_sr.cli")
ON_CPU = ("--device", "cpu")


@dataclass
class Outcome:
    """What became of the damaged files of a folder."""

    came_out: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Route:
    """A way, as a program that is given a whole folder.

    Attributes:
        command: makes the program and its arguments from the folder, that for the results, and the models.
        problems: called with the damaged files, the folder of results, how the program ended, and the outcome, which
            it counts; yields whatever is wrong.
        statuses: the exit statuses that are right if one of the files is damaged.
        every: one of how many folders goes this way.
        seconds: how long the program may show no sign of life, which is how long a file may take.
    """

    command: Callable[[Path, Path, Models], tuple[str, ...]]
    problems: Callable[[list[Path], Path, Ended, Outcome], Iterator[str]]
    statuses: tuple[int, ...]
    every: int = 1
    seconds: float = 20


def _upscale(folder: Path, results: Path, models: Models) -> tuple[str, ...]:
    return (*COMMAND, "upscale", str(folder), "-o", str(results), "--model", models.seesr, "--upscale", "1", *ON_CPU)


def _check_upscaled(files: list[Path], results: Path, ended: Ended, outcome: Outcome) -> Iterator[str]:
    lines = _lines_of(files, ended.errors)
    pictures = {path.stem: path for path in results.iterdir()} if results.is_dir() else {}
    yield from _check_sound(pictures)
    for path in files:
        if picture := pictures.get(path.stem):
            outcome.came_out += 1
            yield from _check_picture(picture)
        elif lines[path] == 1:
            outcome.refused += 1
        else:
            yield f"{path.name}: no picture, and {lines[path]} lines about it"


def _caption(folder: Path, results: Path, models: Models) -> tuple[str, ...]:
    options = ("--captioner", "measured", "--layout", "official", *ON_CPU)
    return (*COMMAND, "caption", str(folder), "-o", str(results), *options)


def _check_captions(files: list[Path], results: Path, ended: Ended, outcome: Outcome) -> Iterator[str]:
    lines = _lines_of(files, ended.errors)
    texts = Counter(path.stem for path in results.rglob("*.txt"))
    if texts[Path(SOUND).stem] != 2:
        yield "the whole photo is not described"
    for path in files:
        if texts[path.stem] == 2 and lines[path] == 0:
            outcome.came_out += 1
        elif texts[path.stem] == 0 and lines[path] == 1:
            outcome.refused += 1
        else:
            yield f"{path.name}: {texts[path.stem]} texts, and {lines[path]} lines about it"


def _references(folder: Path, results: Path, models: Models) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.fuzz.references", str(folder), str(results), models.coser)


def _check_references(files: list[Path], results: Path, ended: Ended, outcome: Outcome) -> Iterator[str]:
    said = dict(line.rsplit(": ", 1) for line in ended.output.splitlines() if ": " in line)
    if said.get(SOUND) != "0":
        yield "the whole photo is not taken as a reference"
    lines = ended.errors.splitlines()
    for path in files:
        about = [line for line in lines if f"argument --reference: {path}: " in line]
        picture = results / f"{path.name}.png"
        if said.get(path.name) == "0" and picture.exists() and not about:
            outcome.came_out += 1
            yield from _check_picture(picture)
        elif said.get(path.name) == "2" and not picture.exists() and len(about) == 1:
            outcome.refused += 1
        else:
            yield f"{path.name}: as a reference it ends with {said.get(path.name)}, and {len(about)} lines about it"


def _evaluate(folder: Path, results: Path, models: Models) -> tuple[str, ...]:
    options = ("--model", models.seesr, "--max-size", "64", "--pictures", str(results))
    return (sys.executable, str(ROOT / "training" / "evaluate.py"), "--data", str(folder), *options)


def _check_evaluation(files: list[Path], results: Path, ended: Ended, outcome: Outcome) -> Iterator[str]:
    lines = _lines_of(files, ended.errors)
    outcome.refused += sum(lines[path] for path in files)
    outcome.came_out += len(files) - outcome.refused
    if any(lines[path] > 1 for path in files):
        yield "a file is reported twice"
    if f"| heavy: {outcome.came_out + 1} photos |" not in ended.output:
        yield f"{outcome.came_out} photos were not reported, but the table is not of them and the whole one"


def _prepare(folder: Path, results: Path, models: Models) -> tuple[str, ...]:
    options = ("--photos_per_shard", "50", "--num_workers", "1")
    script = ROOT / "training" / "prepare.py"
    return (sys.executable, str(script), "--train_data_dir", str(folder), "--output_dir", str(results), *options)


def _check_shards(files: list[Path], results: Path, ended: Ended, outcome: Outcome) -> Iterator[str]:
    skipped = [line for log in results.glob("*.skipped.log") for line in log.read_text().splitlines()]
    images: list[str] = []
    for shard in sorted(results.glob("*.tar")):
        with tarfile.open(shard) as members:
            for member in members:
                if not member.name.endswith((".txt", ".json")):
                    images.append(member.name)
                    content = members.extractfile(member)
                    assert content is not None
                    yield from _check_photo(member.name, content.read())
    for path in files:
        count = sum(line.startswith(f"{path.name} ") for line in skipped)
        outcome.refused += count
        if count > 1:
            yield f"{path.name} is skipped {count} times"
    outcome.came_out += len(files) - outcome.refused
    if len(images) != outcome.came_out + 1 or len(skipped) != outcome.refused:
        yield f"{len(images)} images in shards and {len(skipped)} skipped, of {len(files) + 1}"


def _check_photo(name: str, content: bytes) -> Iterator[str]:
    try:
        read_image(content)
    except Exception as error:
        yield f"{name} in a shard cannot be read: {error}"


def _train(folder: Path, results: Path, models: Models) -> tuple[str, ...]:
    """Train until each photo had its turn: a damaged one hands it to the next, and has to be met all the same."""
    batch = 16
    steps = -(-len(list(folder.iterdir())) // batch)
    options = (
        "--block_out_channels", "8", "8", "--latent_channels", "4", "--resolution", "32", "--log_every", "1",
        "--train_batch_size", str(batch), "--max_train_steps", str(steps), "--dataloader_num_workers", "2",
    )  # fmt: skip
    script = ROOT / "training" / "train_autoencoder.py"
    return (sys.executable, str(script), "--train_data_dir", str(folder), "--output_dir", str(results), *options)


def _train_seesr(folder: Path, results: Path, models: Models) -> tuple[str, ...]:
    """Train a ControlNet and an adapter, which degrades the photos and makes validation pictures, too."""
    options = (
        "--pretrained_model_name_or_path", models.base, "--tagger", models.tagger, "--resolution", "32",
        "--log_every", "1", "--train_batch_size", "32", "--max_train_steps", "2", "--dataloader_num_workers", "2",
        "--validation_images", models.photos, "--validation_steps", "2", "--allow_missing_text", "true",
    )  # fmt: skip
    script = ROOT / "training" / "train_seesr.py"
    return (sys.executable, str(script), "--train_data_dir", str(folder), "--output_dir", str(results), *options)


def _check_training(files: list[Path], results: Path, ended: Ended, outcome: Outcome) -> Iterator[str]:
    skipped = Counter(
        name for path in [*files, Path(SOUND)] for name in [path.name] if f"Skipped: {name} " in ended.errors
    )
    outcome.refused += sum(skipped.values())
    outcome.came_out += len(files) - outcome.refused
    if SOUND in skipped:
        yield "the whole photo is skipped"
    if not any(results.rglob("*.safetensors")):
        yield "no weights are saved"


def _lines_of(files: list[Path], errors: str) -> Counter[Path]:
    """Count the lines that begin with each file."""
    # A progress bar ends in a carriage return, and what is written next may follow it in its line.
    lines = errors.replace("\r", "\n").splitlines()
    return Counter({path: sum(f"{path}: " in line for line in lines) for path in files})


def _check_sound(pictures: dict[str, Path]) -> Iterator[str]:
    picture = pictures.get(Path(SOUND).stem)
    if picture is None:
        yield "the whole photo did not come out"
        return
    with Image.open(picture) as image:
        if image.size != (40, 48):  # its EXIF data says that it lies on its side
            yield f"the whole photo came out as {image.size[0]}x{image.size[1]} pixels"
    yield from _check_picture(picture)


def _check_picture(path: Path) -> Iterator[str]:
    try:
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        yield f"{path.name} is not a whole picture: {error}"


ROUTES = {
    "upscale": Route(_upscale, _check_upscaled, (1,)),
    "caption": Route(_caption, _check_captions, (1,)),
    "prepare": Route(_prepare, _check_shards, (0,)),
    "train_autoencoder": Route(_train, _check_training, (0,)),
    "train_seesr": Route(_train_seesr, _check_training, (0,), every=4),
    "evaluate": Route(_evaluate, _check_evaluation, (1,), every=4),
    "references": Route(_references, _check_references, (0,), every=8),
}
