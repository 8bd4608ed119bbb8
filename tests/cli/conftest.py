"""Folders of tiny models, and the command that runs them."""

from __future__ import annotations

import pytest

from diffusers_sr import CoSeRPipeline, OneStepPipeline, PASDPipeline, SeeSRPipeline, XPSRPipeline
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


def saved(tmp_path_factory, method, pipeline_class) -> str:
    """Folder of a method's tiny pipeline whose defaults are one step without guidance."""
    folder = tmp_path_factory.mktemp(method)
    pipeline_class(**components(method), call_defaults=CALL_DEFAULTS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return saved(tmp_path_factory, "seesr", SeeSRPipeline)


@pytest.fixture(scope="session")
def coser(tmp_path_factory) -> str:
    return saved(tmp_path_factory, "coser", CoSeRPipeline)


@pytest.fixture(scope="session")
def xpsr(tmp_path_factory) -> str:
    return saved(tmp_path_factory, "xpsr", XPSRPipeline)


@pytest.fixture(scope="session")
def pasd(tmp_path_factory) -> str:
    return saved(tmp_path_factory, "pasd", PASDPipeline)


@pytest.fixture(scope="session")
def one_step(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("one_step")
    parts = {name: part for name, part in components("one_step").items() if name not in ("text_encoder", "tokenizer")}
    OneStepPipeline(**parts, call_defaults={"process_size": 16}).save_pretrained(folder)
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
