"""The scripts that train one-step models, from photographs to pipelines that enlarge, at tiny size."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from diffusers_sr.hub import load_pipeline
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import PIXEL, SEMANTIC
from tests.components import components, tiny_image
from tests.seesr.components import tiny_tagger
from tests.training.runs import reset_accelerate, script, write_noise_photos
from tests.training.stages import base_of

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a base and an image to enlarge."""
    folder = tmp_path_factory.mktemp("one_step")
    write_noise_photos(folder / "photos", 3, 40)
    (folder / "tags.csv").write_text('file,tags\n0.png,"sky, sea"\n1.png,sky\n2.png,tree\n')
    base_of(components("seesr")).save_pretrained(folder / "base")
    (folder / "small").mkdir()
    tiny_image(9, 8).save(folder / "small" / "image.png")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Callable[..., Path]:
    def run(stage: str, name: str, **options: Any) -> Path:
        has_text = stage != "one_step" or "null_text_ratio" in options
        values = {
            "train_data_dir": folder / "photos",
            **({"tags_file": folder / "tags.csv"} if has_text else {}),
            "pretrained_model_name_or_path": folder / "base",
            "output_dir": folder / name,
            "resolution": 32,
            "train_batch_size": 2,
            "max_train_steps": 4,
            "learning_rate": 1e-2,
            **options,
        }
        reset_accelerate()
        script(f"train_{stage}").main([str(part) for key, value in values.items() for part in (f"--{key}", value)])
        return folder / name

    return run


@pytest.fixture(scope="module")
def runs(folder: Path, run: Callable[..., Path]) -> Path:
    small = {"validation_images": folder / "small", "validation_crop_size": 36}
    run("pisa_pixel", "pixel", **small)
    run("pisa", "pisa", pixel=folder / "pixel", lpips_weight=0, lora_rank=2, **small)
    run("one_step", "unet", ema_decay=0.5, mixed_precision="bf16", **small)
    run("osediff", "osediff", lpips_weight=0, learning_rate=1e-3, **small)
    return folder


def changed(a: Path, b: Path) -> set[str]:
    old, new = load_file(a), load_file(b)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("name", ["pixel", "pisa", "unet"])
def test_the_result_is_a_pipeline_that_enlarges(runs: Path, name: str) -> None:
    pipeline = load_pipeline(str(runs / name), method="one_step")
    assert isinstance(pipeline, OneStepPipeline)
    assert pipeline.text_encoder is None and pipeline.tokenizer is None
    assert pipeline.config.call_defaults["process_size"] == 32
    assert not changed(runs / "base/vae" / WEIGHTS, runs / name / "vae" / WEIGHTS)
    base = StableDiffusionPipeline.from_pretrained(runs / "base")
    (empty,) = base.encode_prompt("", "cpu", 1, False)[:1]
    torch.testing.assert_close(pipeline.stored_prompt.embedding.data, empty)
    grid = np.array(Image.open(runs / name / "validation" / "step-4.png")).astype(int)
    assert grid.shape == (32, 2 * 36 + 8, 3)
    shown = grid[:, 44:]
    again = pipeline(tiny_image(9, 8), generator=torch.Generator().manual_seed(0)).images[0]
    # The picture was made by the weights that were saved. A step of rounding may differ.
    assert name == "unet" or abs(np.array(again).astype(int) - shown).max() <= 1


def test_lora_leaves_the_unet_as_it_is_and_the_semantic_stage_the_pixel_set(runs: Path) -> None:
    for name in ("pixel", "pisa"):
        assert not changed(runs / "base/unet" / WEIGHTS, runs / name / "unet" / WEIGHTS)
    first, second = (OneStepPipeline.from_pretrained(runs / name).lora for name in ("pixel", "pisa"))
    assert (first.names, second.names) == ([PIXEL], [PIXEL, SEMANTIC])
    for key, tensor in first.lora_state_dict(PIXEL).items():
        assert tensor.equal(second.lora_state_dict(PIXEL)[key]), key
        if key.endswith("lora_B.weight"):
            assert tensor.any() and second.lora_state_dict(SEMANTIC)[key].any(), key
    assert second.config.sets[PIXEL]["alpha"] == second.config.sets[SEMANTIC]["alpha"] == 8
    ranks = {name: {sizes[0] for sizes in second.config.sets[name]["modules"].values()} for name in second.names}
    assert ranks == {PIXEL: {4}, SEMANTIC: {2}}


def test_the_dials_of_what_was_trained_turn(runs: Path) -> None:
    pipeline = OneStepPipeline.from_pretrained(runs / "pisa")
    pipeline.set_progress_bar_config(disable=True)
    made = [
        pipeline(
            tiny_image(9, 8), semantic_scale=scale, generator=torch.Generator().manual_seed(0), output_type="np"
        ).images
        for scale in (0.0, 0.5, 1.0)
    ]
    assert all(abs(a - b).max() > 1e-3 for a, b in pairwise(made))


def test_a_whole_unet_is_trained_and_training_goes_on_from_it(runs: Path, run: Callable[..., Path]) -> None:
    unet = runs / "unet/unet" / WEIGHTS
    assert changed(runs / "base/unet" / WEIGHTS, unet) == load_file(unet).keys()
    assert OneStepPipeline.from_pretrained(runs / "unet").lora is None
    further = run("one_step", "further", unet_model_name_or_path=runs / "unet", learning_rate=0)
    assert not changed(unet, further / "unet" / WEIGHTS)


def test_osediff_is_saved_with_its_encoder_merged(runs: Path) -> None:
    """What was trained is in the LoRA, in `conv_in` and in the encoder, and the validation picture is made of it."""
    pipeline = load_pipeline(str(runs / "osediff"), method="one_step")
    pipeline.set_progress_bar_config(disable=True)
    assert (pipeline.scheduler.config.prediction, pipeline.scheduler.config.timestep) == ("x0", 999)
    assert pipeline.stored_prompt is None and pipeline.tagger is None and pipeline.lora.names == ["default"]
    assert pipeline.card_details.paper is not None and pipeline.card_details.paper.name == "OSEDiff"
    assert all(tensor.any() for tensor in pipeline.lora.lora_state_dict("default").values())
    unet = changed(runs / "base/unet" / WEIGHTS, runs / "osediff/unet" / WEIGHTS)
    assert unet == {"conv_in.weight", "conv_in.bias"}
    vae = changed(runs / "base/vae" / WEIGHTS, runs / "osediff/vae" / WEIGHTS)
    base = load_file(runs / "base/vae" / WEIGHTS)
    layers = ("conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out", "to_q", "to_k", "to_v", "to_out.0")
    encoder = {
        name for name in base if name.startswith("encoder.") and name.endswith(tuple(f".{n}.weight" for n in layers))
    }
    assert vae == encoder | {"quant_conv.weight"}
    again = pipeline(tiny_image(9, 8), prompt="", generator=torch.Generator().manual_seed(0)).images[0]
    grid = np.array(Image.open(runs / "osediff" / "validation" / "step-4.png")).astype(int)
    # Merging rounds otherwise, and x0 at the last timestep grows errors fifteen-fold.
    assert abs(np.array(again).astype(int) - grid[:, 44:]).mean() < 0.1


def test_osediff_takes_a_tagger_along(runs: Path, run: Callable[..., Path]) -> None:
    tiny_tagger().save_pretrained(runs / "tagger")
    output = run("osediff", "tagged", lpips_weight=0, tagger=runs / "tagger", max_train_steps=1)
    pipeline = OneStepPipeline.from_pretrained(output)
    assert not changed(runs / "tagger" / WEIGHTS, output / "tagger" / WEIGHTS)
    assert pipeline(tiny_image(9, 8)).images[0].size == (36, 32)


def test_osediff_needs_a_base_that_predicts_noise(runs: Path, run: Callable[..., Path], tmp_path: Path) -> None:
    base = StableDiffusionPipeline.from_pretrained(runs / "base")
    base.scheduler.register_to_config(prediction_type="v_prediction")
    base.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="trained to predict 'v_prediction', but OSEDiff needs a base that predicts no"
    ):
        run("osediff", "refused", lpips_weight=0, pretrained_model_name_or_path=tmp_path)


def test_the_formula_of_osediff(runs: Path, run: Callable[..., Path]) -> None:
    output = run("one_step", "x0", prediction="x0", timestep=999, max_train_steps=1)
    pipeline = OneStepPipeline.from_pretrained(output)
    assert (pipeline.scheduler.config.prediction, pipeline.scheduler.config.timestep) == ("x0", 999)
    assert pipeline.card_details.paper is not None and pipeline.card_details.paper.name == "OSEDiff"


RESUMED: dict[str, tuple[str, dict[str, Any]]] = {
    "pisa_pixel": ("lora", {}),
    "pisa": ("lora", {"lpips_weight": 0}),
    "osediff": ("lora", {"lpips_weight": 0, "learning_rate": 1e-3}),
    "one_step": (
        "unet",
        {"ema_decay": 0.5, "null_text_ratio": 0.5, "allow_missing_text": True, "degradation_device": "accelerator"},
    ),
}


@pytest.mark.parametrize("stage", RESUMED)
def test_a_run_that_is_resumed_ends_with_the_same_weights(runs: Path, run: Callable[..., Path], stage: str) -> None:
    trained, options = RESUMED[stage]
    if stage == "pisa":
        options = {**options, "pixel": runs / "pixel"}
    whole = run(stage, f"{stage}_whole", max_train_steps=2, **options)
    run(stage, f"{stage}_parts", max_train_steps=1, **options)
    parts = run(stage, f"{stage}_parts", max_train_steps=2, resume_from_checkpoint="latest", **options)
    assert not changed(whole / trained / WEIGHTS, parts / trained / WEIGHTS)
    assert not changed(whole / "vae" / WEIGHTS, parts / "vae" / WEIGHTS)


def test_a_model_without_a_pixel_set_is_refused(runs: Path, run: Callable[..., Path], tmp_path: Path) -> None:
    lora = OneStepPipeline.from_pretrained(runs / "pisa").lora
    weights = lora.lora_state_dict(SEMANTIC)
    type(lora).from_state_dicts({"default": (weights, 8)}).save_pretrained(tmp_path / "lora")
    with pytest.raises(ValueError, match=r"it has the LoRA sets \['default'\], but 'pixel' is needed"):
        run("pisa", "refused", pixel=tmp_path, lpips_weight=0)


def test_a_new_unet_begins_as_the_identity_and_learns_from_pairs(
    folder: Path, run: Callable[..., Path], tmp_path: Path
) -> None:
    """All samples are pairs whose targets are white: without them the noise of the photos would be learnt."""
    for name, size, color in (("low", 10, "black"), ("high", 40, "white")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (size, size), color).save(tmp_path / name / "pair.png")
    new = {"block_out_channels": 16, "pairs_lr_dir": tmp_path / "low", "pairs_hr_dir": tmp_path / "high"}
    options = {**new, "pairs_ratio": 1, "haarpsi_weight": 0.1, "adversarial_weight": 0.01}
    start = OneStepPipeline.from_pretrained(run("one_step", "start", **options, max_train_steps=1, learning_rate=0))
    trained = OneStepPipeline.from_pretrained(run("one_step", "trained", **options, max_train_steps=20))
    assert start.unet.config.block_out_channels == [16] and not start.unet.conv_out.weight.any()
    levels = []
    for pipeline in (start, trained):
        pipeline.set_progress_bar_config(disable=True)
        image = pipeline(Image.new("RGB", (10, 10)), color_fix=None, output_type="np").images
        levels.append(image.mean())
    assert levels[1] > levels[0] + 0.02


def test_options_that_do_not_belong_together(folder: Path, run: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="--pairs_lr_dir and --pairs_hr_dir belong together"):
        run("one_step", "none", pairs_lr_dir=folder / "small")
    with pytest.raises(ValueError, match="leave out one of them"):
        run("one_step", "none", block_out_channels=16, unet_model_name_or_path=folder / "base")
    weights = {"l1_weight": 0, "latent_weight": 0}
    with pytest.raises(ValueError, match=r"l1_weight, .* and adversarial_weight are all 0"):
        run("one_step", "none", **weights)
