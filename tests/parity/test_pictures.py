"""Pictures are those that the official scripts made, from image file to image file."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_sr.pipeline import SuperResolutionPipeline
from diffusers_sr.sampling.official import from_pil
from diffusers_sr.sampling.photo import Photo
from diffusers_sr.seesr.script import SCRIPT as SEESR
from diffusers_sr.xpsr.script import SCRIPT as XPSR
from tests.parity.pictures.__main__ import main
from tests.parity.pictures.compare import differences
from tests.parity.pictures.recordings import Recording, picture, recordings
from tests.parity.pictures.weights import load_pipeline

DATA = Path(__file__).parent / "data" / "pictures"
VECTORS = os.environ.get("PICTURES_PARITY_VECTORS")
RECORDINGS = recordings(Path(VECTORS)) if VECTORS else []
needs_recordings = pytest.mark.skipif(
    not RECORDINGS, reason="recordings are too large for the repository: name their folder in PICTURES_PARITY_VECTORS"
)


@pytest.fixture(scope="module")
def pipelines() -> dict[str, SuperResolutionPipeline]:
    return {}


@needs_recordings
@pytest.mark.parametrize(
    "recording", RECORDINGS or [None], ids=lambda each: f"{each.method}-{each.folder.name}" if each else "none"
)
def test_whole_picture(recording: Recording, pipelines: dict[str, SuperResolutionPipeline]) -> None:
    if recording.method not in pipelines:
        pipelines[recording.method] = load_pipeline(recording.method, recording.weights)
    found = differences(recording, pipelines[recording.method])
    assert len(found) >= 5
    assert [each for each in found if not each.is_small] == []


@pytest.mark.parametrize("script", [SEESR, XPSR], ids=["seesr", "xpsr"])
def test_enlarged_image(script: Any) -> None:
    call = SimpleNamespace(image=picture(DATA / "input.png"), upscale=4, process_size=512)
    photo = script.read(call, 8, torch.device("cpu"))
    assert torch.equal(photo.padded, from_pil([picture(DATA / "condition.png")]))


def test_colours_and_rounding() -> None:
    condition = picture(DATA / "condition.png").crop((200, 150, 328, 278))
    call: Any = SimpleNamespace(color_fix="wavelet", num_images_per_prompt=1)
    enlarged = from_pil([condition])
    photo = Photo(enlarged, enlarged, enlarged, (128, 128))
    result = SEESR.finish(call, photo, from_pil([picture(DATA / "decoded_crop.png")]))
    levels = (result[0, :, 32:96, 32:96] * 255).round().movedim(0, -1).numpy()
    difference = np.abs(levels - np.asarray(picture(DATA / "final_wavelet_crop.png"), dtype=float))
    # Sums in another order may fall on the other side of a whole number.
    assert difference.max() <= 1
    assert difference.mean() < 0.002


def test_command_says_which_recordings_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--method", "seesr"])
    assert stopped.value.code == 2
    assert f"there is no such recording in {tmp_path}" in capsys.readouterr().err
