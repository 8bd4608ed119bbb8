"""Training of one-step models: it fits what the pipeline does, and its losses are those of the papers."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from diffusers_sr.data.seeds import sample_generator
from diffusers_sr.one_step.prediction import PIXEL, SEMANTIC
from diffusers_sr.one_step.scheduler import OneStepScheduler
from diffusers_sr.texts import encode_texts
from diffusers_sr.training.losses import drops_texts
from diffusers_sr.training.one_step import OneStepLoss, one_step_scheduler_of
from diffusers_sr.training.osediff import TrainableOSEDiff
from diffusers_sr.training.script import run_script
from tests.components import scheduler
from tests.training.runs import script
from tests.training.stages import build, noise_batch, one_step_model

SEEDS = torch.tensor([11, 12])


@pytest.fixture
def batch() -> dict[str, Any]:
    return noise_batch(["cat, tree", ""], SEEDS)


@pytest.mark.parametrize(
    "formula",
    [{}, {"timestep": 999, "prediction": "x0"}, {"timestep": 100, "noise_timestep": 250, "prediction": "x0"}],
    ids=["residual", "x0", "noise"],
)
@pytest.mark.parametrize("trained", [(), (PIXEL,)], ids=["unet", "lora"])
def test_what_is_trained_is_what_the_pipeline_does(
    batch: dict[str, Any], formula: dict[str, Any], trained: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    denoiser = one_step_model(trained, null_text_ratio=1.0).eval()
    denoiser.scheduler = OneStepScheduler(**formula)
    with torch.no_grad():
        restored = denoiser.restore(batch)
    pipeline = denoiser.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    noise = [torch.randn((1, 4, 4, 4), generator=sample_generator(int(seed), "start")) for seed in SEEDS]
    for number, seed in enumerate(SEEDS):
        latents = pipeline(
            batch["degraded"][number : number + 1],
            process_size=32,
            latents=noise[number],
            generator=sample_generator(int(seed), "posterior"),
            output_type="latent",
        ).images
        # At timestep 999 errors of the prediction grow fifteen-fold.
        torch.testing.assert_close(latents[0], restored[number], atol=1e-4, rtol=1e-5)


def test_tags_are_followed_by_a_comma_and_dropped_for_a_whole_batch(batch: dict[str, Any]) -> None:
    denoiser = one_step_model((PIXEL,), null_text_ratio=0.5).eval()
    texts = encode_texts(["cat, tree, ", "", ""], denoiser.tokenizer, denoiser.text_encoder, torch.device("cpu"))
    chosen = set()
    for first in range(40):
        each = {**batch, "seed": torch.tensor([first, 1000 + first])}
        found = denoiser.text(each)
        drops = drops_texts(each["seed"], 0.5)
        chosen.add(drops)
        torch.testing.assert_close(found, texts[2:].repeat(2, 1, 1) if drops else texts[:2])
        assert drops == (torch.rand((), generator=sample_generator(first, "text")).item() < 0.5)
    assert chosen == {True, False}
    torch.testing.assert_close(denoiser.tags(batch), texts[:2])


def test_the_share_of_batches_without_tags() -> None:
    drops = [drops_texts(torch.tensor([first, 0]), 0.5) for first in range(4000)]
    assert abs(sum(drops) / 4000 - 0.5) < 0.03
    assert not any(drops_texts(torch.tensor([first]), 0.0) for first in range(100))
    assert all(drops_texts(torch.tensor([first]), 1.0) for first in range(100))


def test_osediff_has_the_tags_as_they_are(batch: dict[str, Any]) -> None:
    denoiser = build("osediff").denoiser.eval()
    assert isinstance(denoiser, TrainableOSEDiff)
    texts = encode_texts(["cat, tree", ""], denoiser.tokenizer, denoiser.text_encoder, torch.device("cpu"))
    torch.testing.assert_close(denoiser.text(batch), texts)
    torch.testing.assert_close(denoiser.tags(batch), texts)


class Difference(nn.Module):
    """Distances of pictures that are known: the mean difference of each pair."""

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (image - target).mean((1, 2, 3), keepdim=True)


def test_losses_in_numbers(batch: dict[str, Any]) -> None:
    """A decoder that draws a grey of 0.75 and one of 1.5, which is clamped to white; the target is 0.5.

    In [-1, 1] they are 0.5 and 1 from it.
    """
    denoiser = one_step_model(null_text_ratio=1.0)
    denoiser.decode = lambda latents, batch: torch.tensor([0.75, 1.5]).view(2, 1, 1, 1).expand(2, 3, 32, 32)  # type: ignore[method-assign]
    batch["target"] = torch.full((2, 3, 32, 32), 0.5)
    loss = OneStepLoss(denoiser, 2.0, 4.0, 10.0, Difference(), 8.0)
    losses = {name: value.item() for name, value in loss(batch).items()}
    with torch.no_grad():
        latents = (denoiser.restore(batch) - denoiser.encode(batch["target"])).abs().mean().item()
    assert losses == {
        "l2": 2 * (0.25 + 1) / 2,
        "l1": 4 * (0.5 + 1) / 2,
        "latent": pytest.approx(10 * latents),
        "perceptual": 8 * (0.5 + 1) / 2,
    }
    assert list(OneStepLoss(denoiser)(batch)) == ["l2"]


def test_the_semantic_stage_trains_with_all_its_models_frozen_but_one() -> None:
    module = build("pisa").module.train()
    assert isinstance(module, OneStepLoss) and module.perceptual is not None and module.distillation is not None
    assert module.denoiser.unet.training
    for model in (module.perceptual, module.distillation, module.denoiser.vae, module.denoiser.text_encoder):
        assert not any(part.training for part in model.modules() if part is not module.distillation)
    active = {tuple(layer.active_adapters) for layer in module.modules() if isinstance(layer, BaseTunerLayer)}
    assert active == {(PIXEL, SEMANTIC)}


def test_the_scheduler_has_the_noise_schedule_of_the_base() -> None:
    base = scheduler()
    base.register_to_config(beta_start=0.001)
    made = one_step_scheduler_of(base, 999, "x0")
    assert (made.config.beta_start, made.config.beta_schedule) == (0.001, base.config.beta_schedule)
    assert (made.config.timestep, made.config.prediction, made.config.noise_timestep) == (999, "x0", None)


@pytest.mark.skipif(importlib.util.find_spec("lpips") is not None, reason="lpips is installed")
@pytest.mark.parametrize("stage", ["pisa", "one_step", "osediff"])
def test_without_lpips_a_run_that_needs_it_ends_in_one_line(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"pisa": ["--pixel", "pixel"], "one_step": ["--lpips_weight", "1"], "osediff": []}[stage]
    monkeypatch.setattr(sys, "argv", [f"train_{stage}.py", "--output_dir", "runs", *options])
    with pytest.raises(SystemExit) as ended:
        run_script(script(f"train_{stage}").main)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"train_{stage}.py: MissingPackageError: --lpips_weight needs LPIPS")
    assert "pip install 'diffusers-sr[lpips]'" in line and "--lpips_weight 0 trains without it" in line


def test_options_that_cannot_be_meant() -> None:
    pisa, one_step = script("train_pisa"), script("train_one_step")
    with pytest.raises(ValueError, match="csd_first_timestep=500: it has to be below csd_end_timestep=500"):
        pisa.PiSAArguments(output_dir="runs", pixel="pixel", csd_first_timestep=500)
    with pytest.raises(ValueError, match="are all 0"):
        one_step.OneStepUNetArguments(output_dir="runs", l1_weight=0, latent_weight=0)
    with pytest.raises(ValueError, match=r"degradation='jpeg': it has to be text, one of seesr, .*pisa"):
        one_step.OneStepUNetArguments(output_dir="runs", degradation="jpeg")
