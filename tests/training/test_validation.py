import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from diffusers_sr.cassr.pipeline import CasSRPipeline
from diffusers_sr.image.decoding import ImageFileError
from diffusers_sr.pipeline import SuperResolutionPipeline
from diffusers_sr.sampling.finite import NotFiniteError
from diffusers_sr.seesr.pipeline import SeeSRPipeline
from diffusers_sr.training.validation import before_after_grid, enlarge_with
from tests.components import tiny_image
from tests.training.runs import Fit, fit
from tests.training.stages import Images, build


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        tiny_image(6 + index, 5, seed=index).save(folder / f"{index}.png")
    return folder


class Enlarger:
    """Doubles images, notes the weights it sees, and draws from every global generator."""

    def __init__(self, module: Fit) -> None:
        self.module = module
        self.seen: list[torch.Tensor] = []

    def __call__(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        assert not self.module.dropout.training
        self.seen.append(self.module.layer.weight.detach().clone())
        random.random(), np.random.rand(), torch.rand(())
        return [image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST) for image in images]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_images_are_enlarged_with_the_weights_that_will_be_saved_and_change_nothing(
    tmp_path: Path, images: Path, ema_decay: float
) -> None:
    without = fit(tmp_path / "without", ema_decay=ema_decay)
    module = Fit()
    enlarge = Enlarger(module)
    options: dict[str, Any] = {"validation_images": str(images), "validation_steps": 3, "num_validation_images": 2}
    fit(tmp_path / "with", module, validate=enlarge, ema_decay=ema_decay, **options)
    assert torch.equal(module.layer.weight, without.layer.weight)
    written = sorted(path.name for path in (tmp_path / "with/validation").iterdir())
    assert written == ["step-3.png", "step-6.png", "step-8.png"]
    assert torch.equal(enlarge.seen[-1], module.layer.weight)
    assert len(enlarge.seen) == 3 * 2 and not torch.equal(enlarge.seen[0], enlarge.seen[2])
    assert Image.open(tmp_path / "with/validation/step-3.png").size == (2 * 14 + 8, 2 * 10 + 8)


def test_a_run_that_validates_is_resumed_exactly(tmp_path: Path, images: Path) -> None:
    """Its random states are those of the step, not those the validation left."""
    options: dict[str, Any] = {"validation_images": str(images), "validation_steps": 3, "checkpointing_steps": 3}
    whole, parts = Fit(), Fit()
    fit(tmp_path / "whole", whole, validate=Enlarger(whole), **options)
    fit(tmp_path / "parts", parts, validate=Enlarger(parts), max_train_steps=3, **{**options})
    resumed = Fit()
    fit(tmp_path / "parts", resumed, validate=Enlarger(resumed), resume_from_checkpoint="latest", **options)
    assert torch.equal(whole.layer.weight, resumed.layer.weight)


def test_the_grid_goes_to_the_tracker(tmp_path: Path, images: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    module = Fit()
    options: dict[str, Any] = {"validation_images": str(images), "validation_steps": 4, "report_to": ["tensorboard"]}
    fit(tmp_path, module, validate=Enlarger(module), **options)
    shown = [
        event
        for file in tmp_path.glob("logs/**/events*")
        for events in [EventAccumulator(str(file)).Reload()]
        for event in (events.Images("validation") if "validation" in events.Tags()["images"] else [])
    ]
    assert [event.step for event in shown] == [4, 8]
    assert (shown[0].width, shown[0].height) == Image.open(tmp_path / "validation/step-4.png").size


def test_a_picture_that_is_not_finite_does_not_end_the_run(
    tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def enlarge(images: Sequence[Image.Image]) -> list[Image.Image]:
        raise NotFiniteError("The result of decoding is not finite")

    fit(tmp_path / "run", validate=enlarge, validation_images=str(images), validation_steps=8)
    assert "There is no validation picture 3 of step 8: The result of decoding is not finite" in caplog.text
    assert (tmp_path / "run/checkpoint-8").is_dir()
    assert not (tmp_path / "run/validation").exists()


def test_results_are_measured_and_a_failure_costs_only_its_picture(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The photos are what the second image and the third become; the first cannot be enlarged."""
    (tmp_path / "photos").mkdir()
    for path in sorted(images.iterdir()):
        image = Image.open(path).resize((20, 16), Image.Resampling.NEAREST)
        image.save(path)
        image.resize((40, 32), Image.Resampling.NEAREST).save(tmp_path / "photos" / path.name)
    module = Fit()
    enlarge = Enlarger(module)
    sizes: list[tuple[int, int]] = []

    def sometimes(given: Sequence[Image.Image]) -> list[Image.Image]:
        sizes.extend(image.size for image in given)
        if len(sizes) == 1:
            raise RuntimeError("out of memory")
        return enlarge(given)

    options: dict[str, Any] = {"validation_hr_dir": str(tmp_path / "photos"), "validation_upscale": 2.0}
    options |= {"validation_crop_size": 32, "validation_images": str(images)}
    fit(tmp_path / "run", module, validate=sometimes, **options)
    assert sizes == [(16, 16)] * 3
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("validation")]
    assert lines[0] == "validation of step 8 begins: 3 image(s), 16x16 16x16 16x16"
    assert lines[1].startswith("validation of step 8: PSNR 80.0000 SSIM 1.0000 HaarPSI 1.0000 ")
    assert "There is no validation picture 1 of step 8: out of memory" in caplog.text
    assert Image.open(tmp_path / "run/validation/step-8.png").size == (2 * 32 + 8, 2 * 32 + 8)
    with pytest.raises(ValueError, match=r"one file of the same stem in --validation_images"):
        fit(tmp_path / "other", validate=enlarge, **{**options, "validation_upscale": 3.0})
    with pytest.raises(ValueError, match="give both, or neither"):
        fit(tmp_path / "other", validate=enlarge, **{**options, "validation_images": None})


def test_sigterm_breaks_a_validation_off_and_leaves_a_checkpoint(tmp_path: Path, images: Path) -> None:
    def enlarge(given: Sequence[Image.Image]) -> list[Image.Image]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
        raise AssertionError("it went on")

    start = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "run", validate=enlarge, validation_images=str(images), validation_steps=3)
    assert ended.value.code == 143 and time.monotonic() - start < 60
    assert (tmp_path / "run/checkpoint-3").is_dir()
    assert not (tmp_path / "run/validation").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_before_and_after_stand_side_by_side() -> None:
    before = [tiny_image(4, 3), tiny_image(2, 2, seed=1)]
    after = [tiny_image(8, 6, seed=2), tiny_image(4, 4, seed=3)]
    grid = before_after_grid(before, after)
    assert grid.size == (8 + 8 + 8, 6 + 8 + 4)
    assert grid.crop((16, 0, 24, 6)).tobytes() == after[0].tobytes()
    assert grid.crop((16, 14, 20, 18)).tobytes() == after[1].tobytes()
    assert grid.crop((0, 0, 8, 6)).tobytes() == before[0].resize((8, 6), Image.Resampling.BICUBIC).tobytes()


def test_images_that_cannot_be_enlarged_are_an_error_before_the_first_step(tmp_path: Path, images: Path) -> None:
    module = Fit()
    with pytest.raises(ValueError, match="cannot enlarge images"):
        fit(tmp_path, module, validation_images=str(images))
    for folder in ("empty", "missing"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=f"{folder}' has to be a folder that holds images"):
            fit(tmp_path, module, validate=Enlarger(module), validation_images=str(tmp_path / folder))
    (images / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageFileError, match=r"--validation_images: .*/0\.png is not an image"):
        fit(tmp_path, module, validate=Enlarger(module), validation_images=str(images))
    assert not module.batches


@pytest.mark.parametrize(("stage", "pipeline_class"), [("seesr", SeeSRPipeline), ("cassr", CasSRPipeline)])
def test_a_pipeline_enlarges_with_the_weights_that_train(
    stage: str, pipeline_class: type[SuperResolutionPipeline]
) -> None:
    built = build(stage)
    module, denoiser = built.module, built.denoiser
    enlarge = enlarge_with(
        pipeline_class, denoiser, module.scheduler, num_inference_steps=2, guidance_scale=1.0, process_size=32
    )
    denoiser.eval()
    first, again = (enlarge([tiny_image(8, 6), tiny_image(6, 8)]) for _ in range(2))
    assert [image.size for image in first] == [(32, 24), (24, 32)]
    assert [image.tobytes() for image in first] == [image.tobytes() for image in again]
    # A step of the training leaves the adapter conditioned on its batch.
    module(default_collate([Images()[0]]))
    assert enlarge([tiny_image(8, 6)])[0].tobytes() == first[0].tobytes()
    with torch.no_grad():
        for parameter in denoiser.get_submodule("adapter").parameters():
            parameter.mul_(1.5)
    assert enlarge([tiny_image(8, 6)])[0].tobytes() != first[0].tobytes()
