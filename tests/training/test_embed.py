"""Putting trained models into the package: `training/embed.py`."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_sr import hub
from diffusers_sr.hub import BASE, BASE_COMPONENTS, load_pipeline, pipeline_class
from diffusers_sr.one_step.pipeline import OneStepPipeline
from tests.components import components, tiny_image
from tests.training.runs import script


@pytest.fixture
def embed(tmp_path, monkeypatch):
    """The script, with an empty folder in place of the package's."""
    module = script("embed")
    for place in (module, hub):
        monkeypatch.setattr(place, "MODELS", tmp_path / "models")
    return module


@pytest.mark.parametrize("method", script("embed").TRAINED)
def test_what_was_trained_is_a_model_of_the_package(method, embed, tmp_path):
    parts = components(method)
    stock = {name: parts[name] for name in (*BASE_COMPONENTS, "scheduler")}
    nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**stock, **nothing).save_pretrained(tmp_path / "base")
    for name in parts.keys() - stock.keys():
        parts[name].save_pretrained(tmp_path / "trained" / name)
    trained = [f"--{method}", str(tmp_path / "trained")]

    embed.main(["--base", str(tmp_path / "base"), *trained, "--call", "process_size=16", "negative_prompt="])
    folder = tmp_path / "models" / f"{method}-small"
    assert {path.name for path in folder.parent.iterdir()} == {BASE, folder.name}
    assert not list(folder.rglob("*.py"))
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == pipeline_class(method).__name__
    expected = {**pipeline_class(method)._call_defaults, **embed.CALL_DEFAULTS}
    assert index["call_defaults"] == {**expected, "process_size": 16, "negative_prompt": ""}

    # What is embedded the next time takes over its defaults, but for one.
    embed.main([*trained, "--call", "tile_size=256"])
    index = json.loads((folder / "model_index.json").read_text())
    assert index["call_defaults"] == {**expected, "process_size": 16, "negative_prompt": "", "tile_size": 256}

    pipeline = load_pipeline(folder.name)
    pipeline.set_progress_bar_config(disable=True)
    for name, parameter in parts["adapter"].state_dict().items():
        assert torch.equal(pipeline.adapter.state_dict()[name], parameter.half().float())
    assert pipeline(tiny_image()).images[0].size == (64, 64)


def test_a_one_step_model_of_the_package_is_a_whole_pipeline(embed, tmp_path):
    parts = components("one_step")
    trained = OneStepPipeline(**{**parts, "lora": None}, call_defaults={"process_size": 32})
    trained.save_pretrained(tmp_path / "trained")
    embed.main(["--one_step", str(tmp_path / "trained"), "--call", "tile_size=256"])
    folder = tmp_path / "models" / "one-step-small"
    assert not list(folder.rglob("*.py"))
    defaults = json.loads((folder / "model_index.json").read_text())["call_defaults"]
    assert defaults == {**OneStepPipeline._call_defaults, **embed.ONE_STEP_CALL_DEFAULTS, "tile_size": 256}
    pipeline = load_pipeline(method="one_step")
    pipeline.set_progress_bar_config(disable=True)
    for name, parameter in parts["unet"].state_dict().items():
        assert torch.equal(pipeline.unet.state_dict()[name], parameter.half().float())
    assert pipeline(tiny_image()).images[0].size == (64, 64)


def test_a_value_without_a_name(embed, capsys):
    with pytest.raises(SystemExit):
        embed.main(["--call", "256"])
    assert "'256' is not of the form NAME=VALUE" in capsys.readouterr().err
