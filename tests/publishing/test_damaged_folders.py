"""Damaged folders of pipelines: one error, which names the file and what helps, and no traceback for a user."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError

from diffusers_sr import hub
from diffusers_sr.cli.main import main
from diffusers_sr.conversion.base import load_base
from diffusers_sr.pretrained.files import AGAIN, ModelFolderError
from diffusers_sr.pretrained.loading import explained, load_pretrained
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.seesr.tagger import Tagger
from diffusers_sr.training.trainable import load_frozen_base
from tests.components import components, tiny_image
from tests.permissions import without_rights
from tests.publishing.damaged import (
    INDEX,
    TEXT_ENCODER,
    UNET,
    WEIGHTS,
    Damages,
    changed,
    cut,
    locked,
    of_contents,
    of_files,
    removed,
    replaced,
)
from tests.training.runs import script

FILES, CONTENTS = of_files(), of_contents()


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(sound, tmp_path / "model", copy_function=os.link)
    yield tmp_path / "model"
    for parent, folders, _ in os.walk(tmp_path):
        for name in folders:
            if not (Path(parent) / name).is_symlink():
                (Path(parent) / name).chmod(0o755)


def damage(folder: Path, damages: Damages, name: str) -> str:
    """Damage a folder; the path that an error has to name."""
    change, path = damages[name]
    change(folder)
    return str(folder / path) if damages is FILES else path


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_what_they_should(folder: Path, name: str) -> None:
    path = damage(folder, FILES, name)
    error = KeyError("whatever a library raises")
    with without_rights(), pytest.raises(ModelFolderError) as raised, explained(SeeSRPipeline, folder):
        raise error
    message = str(raised.value)
    assert path in message
    assert any(remedy in message for remedy in (AGAIN, "ask for permission", "git lfs pull"))
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("name", CONTENTS)
def test_files_that_do_not_make_a_pipeline(folder: Path, name: str) -> None:
    path = damage(folder, CONTENTS, name)
    with pytest.raises(ValueError, match=re.escape(path)) as raised:
        hub.load_pipeline(str(folder))
    assert isinstance(raised.value, ModelFolderError) or "this package loads SeeSRPipeline" in str(raised.value)


def command(folder: Path, *options: str) -> int:
    tiny_image().save(folder.parent / "photo.png")
    photo, result = str(folder.parent / "photo.png"), str(folder.parent / "result.png")
    return main(["upscale", photo, "-o", result, "--model", str(folder), "--device", "cpu", *options])


SAMPLE = [
    f"list in {INDEX}",
    "list in unet/config.json",
    "unet/config.json is nested deeply",
    f"{UNET} is locked",
    f"cut header of {TEXT_ENCODER}",
    f"{TEXT_ENCODER} is from Git LFS",
    "adapter is a circle",
    "no tokenizer",
    "shards in a list",
    f"no {UNET}",
    f"other shapes in {TEXT_ENCODER}",
    "pickle that runs code",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_the_command_prints_one_line(folder: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = damage(folder, FILES if name in FILES else CONTENTS, name)
    with without_rights():
        assert command(folder) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"diffusers-sr: the model {folder} could not be loaded: ")
    assert path in lines[0]


def test_a_sound_folder_loads(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(folder) == 0
    assert capfd.readouterr().err.count("could not be loaded") == 0


def test_whole_folders_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "empty").mkdir()
    for name, problem in (
        ("weights.safetensors", "is not a folder"),
        ("empty", "There is no .*model_index.json"),
        ("nowhere/at/all", "There is no folder"),
        (f"{tmp_path}/nowhere", "There is no folder"),
        ("./nowhere", "There is no folder"),
    ):
        path = name if name.startswith((str(tmp_path), ".", "nowhere")) else str(tmp_path / name)
        with pytest.raises(ModelFolderError, match=problem):
            hub.load_pipeline(path)


def test_other_errors_stay_what_they_are(folder: Path) -> None:
    """Nothing is wrong with the folder, so that it is the caller's mistake."""
    with pytest.raises(KeyError, match="mine"), explained(SeeSRPipeline, folder):
        raise KeyError("mine")


def test_components_that_are_given_are_not_looked_for(folder: Path) -> None:
    given = {"unet": components("seesr")["unet"]}
    removed("unet/")(folder)
    assert hub.load_pipeline(str(folder), **given).unet is given["unet"]
    replaced(TEXT_ENCODER, b"")(folder)
    with pytest.raises(ModelFolderError, match=TEXT_ENCODER) as raised:
        hub.load_pipeline(str(folder), **given)
    assert isinstance(raised.value.__cause__, SafetensorError)


def test_saved_defaults_that_are_wrong_can_be_replaced(folder: Path) -> None:
    changed(INDEX, call_defaults={"steps": 3})(folder)
    pipeline = SeeSRPipeline.from_pretrained(folder, call_defaults={"num_inference_steps": 3})
    assert pipeline.config.call_defaults["num_inference_steps"] == 3


def test_weights_that_lack_a_name_of_their_first_versions_load(folder: Path) -> None:
    """Transformers drops a model's prefix from names, and weights of Stable Diffusion have it."""
    from safetensors.torch import load_file, save_file

    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(folder / TEXT_ENCODER).items()}
    (folder / TEXT_ENCODER).unlink()
    save_file(tensors, folder / TEXT_ENCODER, {"format": "pt"})
    loaded = hub.load_pipeline(str(folder)).text_encoder
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, tensors[f"text_model.{name}"])


@pytest.fixture(scope="module")
def sound_base(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(sound / name, folder / name)
    names = ("diffusers", "transformers")
    index = json.loads((sound / INDEX).read_text())
    pairs = {name: pair for name, pair in index.items() if isinstance(pair, list) and pair[0] in names}
    (folder / INDEX).write_text(json.dumps({**pairs, "_class_name": "StableDiffusionPipeline"}))
    return folder


@pytest.fixture
def base(sound_base: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound_base, tmp_path / "base", copy_function=os.link)
    return tmp_path / "base"


def test_a_base_to_train_or_convert_on(base: Path) -> None:
    assert isinstance(load_frozen_base(str(base)), StableDiffusionPipeline)
    assert load_base(base, 32, "me/mirror")["unet"].config.cross_attention_dim == 32
    cut(TEXT_ENCODER, 1000)(base)
    for load in (load_frozen_base, lambda path: load_base(path, 32, "me/mirror")):
        with pytest.raises(ModelFolderError, match=f"{TEXT_ENCODER} is not a whole safetensors file"):
            load(str(base))
    removed("vae/")(base)
    for load in (load_frozen_base, lambda path: load_base(path, 32, "me/mirror")):
        with pytest.raises(ModelFolderError, match=r"There is no .*/vae: download"):
            load(str(base))


def test_a_single_model(folder: Path) -> None:
    assert load_pretrained(Tagger, folder, "tagger").config.tags
    cut(f"tagger/{WEIGHTS}", 40_000)(folder)
    with pytest.raises(ModelFolderError, match=f"tagger/{WEIGHTS} is not a whole safetensors file"):
        load_pretrained(Tagger, folder, "tagger")
    with pytest.raises(ModelFolderError, match=r"There is no .*/nothing"):
        load_pretrained(Tagger, folder, "nothing")


def test_a_trainer_ends_with_one_line(
    base: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers_sr.training.script import run_script

    locked("tagger/")(folder)
    options = [
        "--train_data_dir",
        "nowhere",
        "--output_dir",
        str(tmp_path / "run"),
        "--tagger",
        str(folder / "tagger"),
    ]
    monkeypatch.setattr("sys.argv", ["training/train_seesr.py", *options])
    options += ["--pretrained_model_name_or_path", str(base)]
    with without_rights(), pytest.raises(SystemExit) as exit:
        run_script(lambda: script("train_seesr").main(options))
    assert exit.value.code == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if "%|" not in line and line]
    assert lines[-1].startswith(f"train_seesr.py: ModelFolderError: {folder / 'tagger'} may not be read")
