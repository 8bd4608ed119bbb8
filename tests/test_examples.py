"""The script in `examples/`: photographs as a newcomer has them become a model that `upscale` uses."""

from __future__ import annotations

import runpy
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from diffusers_sr.hub import pipeline_class
from tests.components import components, tiny_image
from tests.coser.components import tiny_cognitive_encoder
from tests.readme import commands
from tests.seesr.components import tiny_tagger
from tests.training.stages import base_of

SCRIPT = Path(__file__).parents[1] / "examples" / "train_on_your_photos.py"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 JPEGs of mixed sizes, some smaller than a crop, in folders, and the models that every method starts from."""
    folder = tmp_path_factory.mktemp("newcomer")
    for number in range(40):
        place = folder / "photos" / ("", "holiday", "holiday/beach")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        tiny_image(24 + 7 * (number % 5), 30 + 11 * (number % 4), seed=number).save(place / f"{number:02d}.jpg")
    base_of(components("seesr")).save_pretrained(folder / "base")
    tiny_tagger().save_pretrained(folder / "tagger")
    encoder = tiny_cognitive_encoder()
    encoder.save_pretrained(folder / "encoder")
    encoder.clip.save_pretrained(folder / "clip")
    return folder


def run(words: Sequence[str]) -> None:
    """Run a command in this process, small."""
    for command in commands(shlex.join([*words, "--steps", "1"] if "upscale" in words else words)):
        command()


@pytest.mark.parametrize("method", ["seesr", "coser", "cassr", "xpsr"])
def test_forty_jpegs_become_a_model_that_upscale_uses(
    given: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"base": "base", "tagger": "tagger", "cognitive_encoder": "encoder", "clip": "clip"}
    words = [word for name, model in options.items() for word in (f"--{name}", str(given / model))]
    runpy.run_path(str(SCRIPT))["main"]([method, str(given / "photos"), str(tmp_path), *words], run)
    assert Image.open(tmp_path / "enlarged.png").size == (4 * 24, 4 * 30)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / method, trust_remote_code=True)
    assert type(pipeline) is pipeline_class(method)
    assert f"The model is in {tmp_path / method}. Try it: diffusers-sr upscale" in capsys.readouterr().out
