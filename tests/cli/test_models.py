"""Which model `diffusers-sr upscale` takes."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from diffusers_sr import hub
from diffusers_sr.cli.main import main
from diffusers_sr.one_step.pipeline import OneStepPipeline
from tests.cli.photos import files, pixels
from tests.components import components, tiny_image


def test_model_of_another_method(run, model, coser, capsys):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.png", "--method", "coser") == 1
    assert f"'{model}' holds a SeeSRPipeline, but method='coser' is CoSeRPipeline" in capsys.readouterr().err
    assert run("photo.png", "-o", "big.png", "--method", "seesr", "--model", coser) == 1
    assert "holds a CoSeRPipeline, but method='seesr' is SeeSRPipeline" in capsys.readouterr().err
    assert files() == ["photo.png"]
    with pytest.raises(ValueError, match="method='magic', expected one of 'seesr', 'coser'"):
        hub.load_pipeline(coser, method="magic")


@pytest.mark.parametrize(
    "arguments",
    [(), ("--method", "one_step"), ("--method", "seesr"), ("--method", "coser"), ("--model", "coser-small")],
)
def test_the_small_model_of_a_method(model, coser, tmp_path, monkeypatch, capsys, arguments):
    """The package's model of the method is taken, with parts of the base or whole; by default the one-step model."""
    parts = components("seesr")
    base = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    StableDiffusionPipeline(
        **base, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(tmp_path / hub.BASE)
    for name, folder in (("seesr-small", model), ("coser-small", coser)):
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns(*hub.BASE_COMPONENTS))
        index = json.loads((tmp_path / name / "model_index.json").read_text())
        index |= {part: [None, None] for part in hub.BASE_COMPONENTS}
        (tmp_path / name / "model_index.json").write_text(json.dumps(index))
    whole = tmp_path / "one-step-small"
    OneStepPipeline(**{**components("one_step"), "lora": None}).save_pretrained(whole)
    monkeypatch.setattr(hub, "MODELS", tmp_path)
    assert hub.embedded_models() == ["coser-small", "one-step-small", "seesr-small"]
    tiny_image().save(tmp_path / "photo.png")
    results: list[np.ndarray[Any, Any]] = []
    words = "".join(arguments)
    expected = coser if "coser" in words else model if "seesr" in words else str(whole)
    for extra in (arguments, ("--model", expected)):
        path = str(tmp_path / f"{len(results)}.png")
        assert main(["upscale", str(tmp_path / "photo.png"), "-o", path, "--device", "cpu", *extra]) == 0
        results.append(pixels(path))
    first, second = results
    assert np.array_equal(first, second)


def test_a_method_without_a_small_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "MODELS", tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["upscale", "photo.png", "-o", "out.png", "--method", "xpsr"])
    assert exit.value.code == 2
    assert "no small model of xpsr; give one with --model" in capsys.readouterr().err


def test_nothing_is_loaded_for_nothing(capsys, tmp_path):
    (tmp_path / "empty.png").touch()
    assert main(["upscale", str(tmp_path / "empty.png"), "-o", str(tmp_path / "out.png"), "--model", "no/model"]) == 1
    assert "model" not in capsys.readouterr().err


def test_a_name_that_no_model_has(run, capsys):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.png", "--model", "seesr-sd3") == 1
    assert "no folder seesr-sd3, and no model of this name: `diffusers-sr models` lists" in capsys.readouterr().err


def test_model_that_cannot_be_had(run, capsys):
    tiny_image().save("photo.png")
    assert run("photo.png", "-o", "big.png", "--model", "no/model") == 1
    assert "the model no/model could not be loaded" in capsys.readouterr().err
    assert files() == ["photo.png"]
