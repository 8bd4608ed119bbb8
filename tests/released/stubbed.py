"""What the tests of released models with a `HubStub` share: a plugin of pytest, for its fixtures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import constants

from diffusers_sr.hub import load_pipeline
from diffusers_sr.released import cache, catalogue
from diffusers_sr.released.errors import ReleasedModelError
from tests.hub_stub import running
from tests.released.official import OTHER, on_the_stub, publish, source

HYPIR = f"/lxq007/HYPIR/resolve/{OTHER}/HYPIR_sd2.pth"
RAM = "/spaces/{0.repo}/resolve/{0.revision}/ram_swin_large_14m.pth".format(source("seesr-sd2", "ram"))


@pytest.fixture(scope="session")
def repositories():
    publish(running)
    return running.repositories


@pytest.fixture(autouse=True)
def hub(repositories, tmp_path, monkeypatch):
    """The stub with everything on it and no memory of requests, and an empty cache."""
    running.repositories = dict(repositories)
    running.requests, running.tampered, running.cut = [], {}, {}
    running.gated = set()
    running.refuse = lambda method, path: False
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, model in on_the_stub(running).items():
        monkeypatch.setitem(catalogue.RELEASED, name, model)
    monkeypatch.chdir(tmp_path)
    return running


def sent(hub) -> Counter[str]:
    """How often the content of each file was asked for."""
    return Counter(path for method, path, _ in hub.requests if method == "GET" and not path.startswith("/api/"))


def left() -> list[str]:
    """What is in the folder of the converted models, without the files of locks."""
    return sorted(path.name for path in cache.cache_folder().glob("*") if not path.name.endswith(".lock"))


def says(name: str, message: str) -> None:
    """Loading fails with this message, of one line, and nothing is left half-written."""
    with pytest.raises(ReleasedModelError, match=message) as error:
        load_pipeline(name)
    assert "\n" not in str(error.value)
    assert not [entry for entry in left() if entry != "downloads"]
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))
