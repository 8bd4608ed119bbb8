"""Folders and repositories of strangers: none of their code runs without trust."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusers_sr import hub
from diffusers_sr.cli.main import main
from diffusers_sr.publishing.stubs import trusted_index
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from tests.components import tiny_image
from tests.permissions import without_rights
from tests.publishing.hostile import CLASS, HOSTILE, STUB, add, move_out

Place = tuple[Path, Path, Path]


@pytest.fixture
def place(sound: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A pipeline's folder, one outside it, and the file that code in them is to write."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        # Where diffusers copies the code of custom components to.
        monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(top / "modules"))
        monkeypatch.syspath_prepend(str(top / "modules"))
        monkeypatch.chdir(top)
        shutil.copytree(sound, top / "folder")
        (top / "outside").mkdir()
        yield top / "folder", top / "outside", top / "it-ran"
        for parent, folders, _ in os.walk(top):
            for each in folders:
                if not (Path(parent) / each).is_symlink():
                    (Path(parent) / each).chmod(0o755)


def by_class(folder: Path) -> None:
    SeeSRPipeline.from_pretrained(folder)


def by_name(folder: Path) -> None:
    hub.load_pipeline(str(folder))


def by_command(folder: Path) -> None:
    tiny_image().save(folder.parent / "photo.png")
    photo, result = str(folder.parent / "photo.png"), str(folder.parent / "result.png")
    if status := main(["upscale", photo, "-o", result, "--model", str(folder), "--device", "cpu"]):
        raise ValueError(f"exit status {status}")


WAYS: dict[str, Callable[[Path], None]] = {"class": by_class, "name": by_name, "command": by_command}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_code_of_a_stranger_runs(place: Place, name: str) -> None:
    folder, outside, mark = place
    HOSTILE[name](folder, outside, f"open({str(mark)!r}, 'w').close()\n")
    with without_rights():
        for way in WAYS.values():
            with pytest.raises((ValueError, OSError)):
                way(folder)
            assert not mark.exists()
        assert not is_trusted(folder) or "pickle" in name, "pickles are weights, of which no code is loaded"


def test_these_tests_obey_permissions(place: Place) -> None:
    folder, _, _ = place
    (folder / "vae").chmod(0o311)
    with without_rights(), pytest.raises(PermissionError):
        os.listdir(folder / "vae")
    assert os.geteuid() != 0 or os.listdir(folder / "vae")


def is_trusted(folder: Path) -> bool:
    return trusted_index(folder, SeeSRPipeline) is not None


@pytest.mark.parametrize("way", WAYS)
def test_a_sound_folder_loads(place: Place, way: str) -> None:
    folder, _, _ = place
    with without_rights():
        WAYS[way](folder)
    assert way != "command" or (folder.parent / "result.png").exists()


def test_what_changes_after_it_was_checked_does_not_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is read again after the check, and then the code."""
    folder, _, mark = place
    read = SeeSRPipeline._dict_from_json_file.__func__  # type: ignore[attr-defined]

    def read_and_change(cls: type, path: str) -> Any:
        index = read(cls, path)
        (folder / STUB).write_text(f"open({str(mark)!r}, 'w').close()\n{CLASS}")
        return index

    monkeypatch.setattr(SeeSRPipeline, "_dict_from_json_file", classmethod(read_and_change))
    assert isinstance(SeeSRPipeline.from_pretrained(folder), SeeSRPipeline)
    assert (folder / STUB).read_text() != CLASS
    assert not mark.exists()


def test_weights_may_be_links_out_of_the_folder(place: Place) -> None:
    """The folder of a component that no code is taken from, and files of weights."""
    folder, outside, _ = place
    move_out(folder / "unet", outside)
    weights = "diffusion_pytorch_model.safetensors"
    shutil.move(folder / "adapter" / weights, outside / weights)
    (folder / "adapter" / weights).symlink_to(outside / weights)
    assert is_trusted(folder)
    assert isinstance(SeeSRPipeline.from_pretrained(folder), SeeSRPipeline)


def into_blobs(folder: Path, snapshot: Path) -> Path:
    """Lay a folder out as the Hub's cache does: a snapshot, whose files are links to the repository's blobs."""
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return blobs


def test_a_snapshot_of_the_hub_loads(place: Place) -> None:
    folder, outside, _ = place
    into_blobs(folder, outside / "models--me--seesr" / "snapshots" / "1")
    assert isinstance(SeeSRPipeline.from_pretrained(outside / "models--me--seesr/snapshots/1"), SeeSRPipeline)


def test_a_snapshot_with_links_to_another_repository(place: Place) -> None:
    folder, outside, mark = place
    snapshot = outside / "models--me--seesr" / "snapshots" / "1"
    blobs = into_blobs(folder, snapshot)
    other = outside / "models--me--other" / "blobs"
    other.mkdir(parents=True)
    shutil.copy(folder / STUB, other / "stub")
    (snapshot / STUB).unlink()
    (snapshot / STUB).symlink_to(other / "stub")
    assert not is_trusted(snapshot), "even with the same bytes"
    (snapshot / STUB).unlink()
    shutil.copy(folder / STUB, blobs / "stub")
    (snapshot / STUB).symlink_to(blobs / "stub")
    assert is_trusted(snapshot)
    add(blobs / "stub", f"open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SeeSRPipeline.from_pretrained(snapshot)
    assert not mark.exists()


@pytest.mark.parametrize("content", ["[]", '"pipeline"', "{", "\ud800".encode("utf-8", "surrogatepass")])
def test_an_index_that_is_none(place: Place, content: str | bytes) -> None:
    folder, _, _ = place
    (folder / "model_index.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"expected a JSON object|decode|Expecting"):
        trusted_index(folder, SeeSRPipeline)
    (folder / "model_index.json").unlink()
    os.mkfifo(folder / "model_index.json")
    with pytest.raises(OSError, match="not a regular file"):
        trusted_index(folder, SeeSRPipeline)


def test_private_modules_of_this_package_are_not_imported(place: Place) -> None:
    folder, _, _ = place
    index = json.loads((folder / "model_index.json").read_text())
    for module in ("diffusers_sr.__main__", "diffusers_sr._private.adapter", "diffusers_sr..seesr"):
        changed = {**index, "adapter": [module, "SeeSRAdapter"]}
        (folder / "model_index.json").write_text(json.dumps(changed))
        (folder / STUB).rename(folder / "adapter" / f"{module}.py")
        (folder / "adapter" / f"{module}.py").write_text(f"from {module} import SeeSRAdapter\n")
        assert not is_trusted(folder)
        (folder / "adapter" / f"{module}.py").rename(folder / STUB)
