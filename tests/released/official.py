"""The released models at a tiny size, in the repositories and under the URLs that the catalogue names."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import torch

from diffusers_sr.released.catalogue import RELEASED, SD2, SD15, SD21, SD_TURBO, Released
from diffusers_sr.released.sources import HubFiles, Source, WebFile, WebFiles
from tests.components import components
from tests.hub_stub import HubStub, Repository
from tests.one_step import official_files as one_step
from tests.seesr.official_files import write_official
from tests.xpsr.test_convert import new_checkpoint

OTHER = "0" * 40
"""The commit of the repositories whose commit the catalogue does not name."""


def publish(stub: HubStub) -> None:
    """Put everything that the catalogue names into the stub, and other files beside it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = components("seesr")
        write_official(folder / "seesr", parts)
        new_checkpoint(folder / "pasd", fusion=False)
        bases = files_in(folder / "seesr" / "base") | {"v2-1_512-ema-pruned.ckpt": b"not needed"}
        for base in (SD2, SD21, SD_TURBO):
            add(stub, base, bases)
        add(stub, SD15, files_in(folder / "pasd" / "base"))
        seesr = files_in(folder / "seesr", "unet", "controlnet", "DAPE.pth")
        add(stub, source("seesr-sd2", "unet"), seesr)
        add(stub, source("seesr-sd2", "ram"), {"ram_swin_large_14m.pth": read(folder / "seesr" / "ram.pth")})
        pasd = {f"pasd/checkpoint-100000/{path}": content for path, content in files_in(folder / "pasd").items()}
        add(stub, source("pasd", "unet"), pasd | {"pasd_light/unet/config.json": b"{}"})
        for part in ("unet", "vae"):
            parts[part].save_pretrained(folder / "gdpo" / part)
        add(stub, source("gdpo", "checkpoint"), {f"ckp/GDPOSR/{k}": v for k, v in files_in(folder / "gdpo").items()})
        torch.save(one_step.hypir(parts["unet"]), folder / "HYPIR_sd2.pth")
        add(stub, source("hypir", "checkpoint"), files_in(folder, "HYPIR_sd2.pth"))
        torch.save(one_step.osediff(parts["unet"], parts["vae"]), folder / "osediff.pkl")
        stub.web = files_in(folder, "osediff.pkl") | files_in(folder / "seesr" / "tags")


def source(name: str, argument: str) -> HubFiles:
    found = RELEASED[name].sources[argument]
    assert isinstance(found, HubFiles)
    return found


def add(stub: HubStub, where: HubFiles, files: dict[str, bytes]) -> None:
    repository = Repository(private=False)
    repository.commits.append((where.revision or OTHER, files))
    stub.repositories[where.repo] = repository


def on_the_stub(stub: HubStub) -> dict[str, Released]:
    """The catalogue, with the stub's URLs and digests for what is not on the Hub."""
    return {
        name: dataclasses.replace(model, sources={k: moved(stub, v) for k, v in model.sources.items()})
        for name, model in RELEASED.items()
    }


def moved(stub: HubStub, where: Source) -> Source:
    if isinstance(where, HubFiles):
        return where
    return WebFiles(tuple(web_file(stub, file.name) for file in where.files), where.is_folder)


def web_file(stub: HubStub, name: str, **changes: Any) -> WebFile:
    content = stub.web[name]
    file = WebFile(f"{stub.url}/web/{name}", f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
    return dataclasses.replace(file, **changes)


def files_in(folder: Path, *names: str) -> dict[str, bytes]:
    """The files of a folder by their paths in it, or those that have one of these names or are in such a folder."""
    return {
        path.relative_to(folder).as_posix(): read(path)
        for path in folder.rglob("*")
        if path.is_file() and (not names or path.relative_to(folder).parts[0] in names)
    }


def read(path: Path) -> bytes:
    return path.read_bytes()
