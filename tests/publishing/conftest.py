"""The folder of a sound pipeline, for the tests of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_sr.seesr.pipeline import SeeSRPipeline
from tests.components import components


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    defaults = {"num_inference_steps": 1, "guidance_scale": 1.0, "process_size": 16}
    SeeSRPipeline(**components("seesr"), call_defaults=defaults).save_pretrained(folder)
    return folder
