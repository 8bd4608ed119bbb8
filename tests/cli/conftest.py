"""Folders of tiny models, and the command that runs them."""

from __future__ import annotations

import pytest

from diffusers_sr import CoSeRPipeline, PASDPipeline, SeeSRPipeline, XPSRPipeline
from diffusers_sr.cli.main import main
from tests.components import components
from tests.xpsr.test_captioner import build as build_captioner

CALL_DEFAULTS = {
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "process_size": 16,
    "tile_size": 64,
    "tile_overlap": 8,
}


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """Folder of a tiny pipeline whose defaults are one step without guidance."""
    folder = tmp_path_factory.mktemp("model")
    SeeSRPipeline(**components("seesr"), call_defaults=CALL_DEFAULTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def coser(tmp_path_factory) -> str:
    """The same of CoSeR."""
    folder = tmp_path_factory.mktemp("coser")
    CoSeRPipeline(**components("coser"), call_defaults=CALL_DEFAULTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def xpsr(tmp_path_factory) -> str:
    """The same of XPSR."""
    folder = tmp_path_factory.mktemp("xpsr")
    XPSRPipeline(**components("xpsr"), call_defaults=CALL_DEFAULTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def pasd(tmp_path_factory) -> str:
    """The same of PASD."""
    folder = tmp_path_factory.mktemp("pasd")
    PASDPipeline(**components("pasd"), call_defaults=CALL_DEFAULTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def language_model(tmp_path_factory) -> str:
    """Folder of a tiny captioner."""
    folder = tmp_path_factory.mktemp("language_model")
    described = build_captioner("idefics3")
    described.model.save_pretrained(folder)
    described.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """The command `upscale` in an empty folder, by factor 2 on the CPU; the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        return main(["upscale", "--model", model, "--upscale", "2", "--device", "cpu", *arguments])

    return run
