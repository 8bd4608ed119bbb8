"""The training scripts one after another, from photographs to a pipeline that runs, at tiny size."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from diffusers_sr import (
    CasSRAdapter,
    CasSRPipeline,
    ControllableFeatureWrapping,
    CoSeRAdapter,
    CoSeRPipeline,
    LatentControlNetModel,
    SCEditAdapter,
    SeeSRAdapter,
    SeeSRPipeline,
)
from diffusers_sr.hub import load_pipeline
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.constraint import DegradationFreeConstraint
from diffusers_sr.xpsr.pipeline import XPSRPipeline
from diffusers_sr.xpsr.prompts import ImagePrompts, write_official
from tests.training.runs import script

BASE = "--pretrained_model_name_or_path"
WEIGHTS = "diffusion_pytorch_model.safetensors"
RUN = ["--max_train_steps", "2", "--train_batch_size", "2", "--resolution", "32"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        coarse.resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"photo_{index}.png")
    (folder / "tags.csv").write_text('file,tags\nphoto_0.png,"sky, sea"\nphoto_1.png,sky\nphoto_2.png,tree\n')
    return folder


@pytest.fixture(scope="module")
def run(photos: Path) -> Callable[..., Path]:
    def run(stage: str, output_dir: Path, *options: object) -> Path:
        script(stage).main(
            [*RUN, "--train_data_dir", str(photos), "--output_dir", str(output_dir), *map(str, options)]
        )
        return output_dir

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, photos: Path, run: Callable[..., Path]) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    tags = ("--tags_file", photos / "tags.csv")
    (runs / "small").mkdir()
    Image.open(photos / "photo_0.png").resize((9, 8)).save(runs / "small" / "photo.png")
    small = ("--validation_images", runs / "small")
    vae = run("train_autoencoder", runs / "vae", "--block_out_channels", 8, 8, 8, "--latent_channels", 4)
    base = run(
        "train_base", runs / "base", "--vae", vae, *tags, "--block_out_channels", 8, 16, "--attention_head_dim", 8
    )
    tagger = run(
        "train_tagger", runs / "tagger", *tags, "--image_size", 32, "--embed_dim", 8, "--num_heads", 1, 2,
        "--window_size", 4, "--representation_dim", 16, "--head_hidden_size", 16,
    )  # fmt: skip
    dape = run("train_dape", runs / "dape", "--tagger", tagger)
    run(
        "train_seesr",
        runs / "seesr",
        BASE,
        base,
        "--tagger",
        dape,
        *tags,
        *small,
        "--learning_rate",
        1e-2,
    )
    run(
        "train_seesr_adversarial",
        runs / "one_step",
        BASE,
        base,
        "--seesr",
        runs / "seesr",
        *tags,
        *small,
    )
    clip = run(
        "train_clip", runs / "clip", BASE, base, *tags, "--image_size", 32, "--patch_size", 16,
        "--hidden_size", 16, "--num_hidden_layers", 1, "--projection_dim", 8, "--intermediate_size", 16,
    )  # fmt: skip
    options = ("--train_data_dir", photos, "--clip", clip, "--output", runs / "references.csv", "--count", 2)
    script("find_references").main([*map(str, options)])
    assert not [*runs.glob(".references.csv*")]
    cognition = run(
        "train_cognitive_encoder", runs / "cognition", BASE, base, "--clip", clip, *tags, "--num_queries", 3,
        "--srresnet_channels", 8, "--srresnet_blocks", 1, "--qformer_layers", 2, "--qformer_heads", 2,
        "--qformer_intermediate_size", 16,
    )  # fmt: skip
    ControllableFeatureWrapping.from_vae(
        StableDiffusionPipeline.from_pretrained(base).vae, num_rrdbs=1, growth_channels=4
    ).save_pretrained(runs / "cfw")
    run(
        "train_coser", runs / "coser", BASE, base, "--cognitive_encoder", cognition, *tags,
        "--references_file", runs / "references.csv", *small, "--learning_rate", 1e-2, "--cfw", runs / "cfw",
    )  # fmt: skip
    run(
        "train_coser_adversarial", runs / "coser_adversarial", BASE, base, "--coser", runs / "coser", *tags, *small,
        "--train_cfw", "true", "--cfw_rrdbs", 1, "--cfw_growth_channels", 4, "--learning_rate", 1e-2,
    )  # fmt: skip
    scedit = run("train_scedit", runs / "scedit", BASE, base, "--learning_rate", 1e-2)
    script("make_references").main(
        ["--train_data_dir", str(photos), "--output_dir", str(runs / "made"), BASE, str(base), "--scedit",
         str(scedit), "--num_samples", "3", "--batch_size", "2", "--steps", "2", "--resolution", "32"]
    )  # fmt: skip
    run("train_scedit_adversarial", runs / "scedit_adversarial", BASE, base, "--scedit", scedit)
    run(
        "train_cassr", runs / "cassr", BASE, base, "--scedit", scedit, "--references_dir", runs / "made",
        *small, "--learning_rate", 1e-2, "--lr_scheduler", "constant",
    )  # fmt: skip
    run(
        "train_cassr", runs / "cassr_of_seesr", BASE, base, "--scedit", scedit, "--references_dir", runs / "made",
        "--controlnet_model_name_or_path", runs / "seesr/controlnet", "--learning_rate", 0,
    )  # fmt: skip
    run(
        "train_cassr_adversarial", runs / "cassr_adversarial", BASE, base, "--cassr", runs / "cassr",
        "--scedit", runs / "scedit_adversarial", *small,
    )  # fmt: skip
    for number in range(3):
        write_official(runs / "prompts", f"photo_{number}", ImagePrompts(f"photo {number}", ""))
    run(
        "train_xpsr", runs / "xpsr", BASE, base, "--prompts_dir", runs / "prompts", *small,
        "--learning_rate", 1e-2, "--clean_ratio", 0.5, "--leave_out_sites", "up_blocks.1.resnets.0",
    )  # fmt: skip
    run(
        "train_xpsr_adversarial",
        runs / "xpsr_adversarial",
        BASE,
        base,
        "--xpsr",
        runs / "xpsr",
        *tags,
        *small,
    )
    return runs


def changed(a: Path, b: Path) -> set[str]:
    old, new = load_file(a), load_file(b)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_autoencoder_gives_latents_of_unit_scale(runs: Path) -> None:
    vae = StableDiffusionPipeline.from_pretrained(runs / "base").vae
    assert vae.config.scaling_factor != 0.18215
    assert not changed(*(runs / folder / WEIGHTS for folder in ("vae", "base/vae")))


def test_tokenizer_spells_tags_as_words_and_anything_else_in_bytes(runs: Path) -> None:
    tokenizer = StableDiffusionPipeline.from_pretrained(runs / "base").tokenizer
    assert tokenizer.tokenize("tree, sky") == ["tree</w>", ",</w>", "sky</w>"]
    assert tokenizer.decode(tokenizer("Zebra übt").input_ids, skip_special_tokens=True).strip() == "zebra übt"
    assert len(tokenizer("sky", padding="max_length").input_ids) == 77


def test_dape_changes_what_its_lora_targets_and_nothing_else(runs: Path) -> None:
    moved = changed(*(runs / stage / WEIGHTS for stage in ("tagger", "dape")))
    assert moved
    assert all(name.endswith(("q_proj.weight", "v_proj.weight", "query.weight", "key.weight")) for name in moved)


def test_seesr_trains_controlnet_and_adapter(runs: Path) -> None:
    base = StableDiffusionPipeline.from_pretrained(runs / "base")
    controlnet = ControlNetModel.from_pretrained(runs / "seesr/controlnet")
    adapter = SeeSRAdapter.from_pretrained(runs / "seesr/adapter")
    assert any(block.weight.abs().sum() > 0 for block in controlnet.controlnet_down_blocks)
    assert not torch.equal(controlnet.conv_in.weight, base.unet.conv_in.weight)
    for role in (adapter.unet, adapter.controlnet):
        assert all(transformer.proj_out.weight.abs().sum() > 0 for transformer in role.values())
    assert not changed(*(runs / stage / WEIGHTS for stage in ("dape", "seesr/tagger")))


def test_one_step_fine_tuning_moves_what_seesr_trained(runs: Path) -> None:
    for model in ("controlnet", "adapter"):
        assert changed(*(runs / stage / model / WEIGHTS for stage in ("seesr", "one_step")))
    assert not changed(*(runs / stage / "tagger" / WEIGHTS for stage in ("seesr", "one_step")))


def test_the_vision_tower_trains_and_the_cognitive_encoder_leaves_it_alone(runs: Path) -> None:
    clip = load_file(runs / "clip/model.safetensors")
    encoder = load_file(runs / "cognition" / WEIGHTS)
    assert {f"clip.{name}" for name in clip} <= encoder.keys()
    assert all(torch.equal(tensor, encoder[f"clip.{name}"]) for name, tensor in clip.items())
    assert not changed(*(runs / stage / WEIGHTS for stage in ("cognition", "coser/cognitive_encoder")))


def test_coser_trains_controlnet_and_adapter(runs: Path) -> None:
    base = StableDiffusionPipeline.from_pretrained(runs / "base")
    controlnet = LatentControlNetModel.from_pretrained(runs / "coser/controlnet")
    adapter = CoSeRAdapter.from_pretrained(runs / "coser/adapter")
    assert adapter.config.similarity == "normalized"
    assert not torch.equal(controlnet.conv_in.weight, base.unet.conv_in.weight)
    for attention in adapter.unet.values():
        assert attention.out_reference.weight.any()
        assert attention.out_lr.weight.any()


def test_one_step_fine_tuning_moves_what_coser_trained(runs: Path) -> None:
    for model in ("controlnet", "adapter"):
        assert changed(*(runs / stage / model / WEIGHTS for stage in ("coser", "coser_adversarial")))
    assert not changed(*(runs / stage / "cognitive_encoder" / WEIGHTS for stage in ("coser", "coser_adversarial")))
    cfw = ControllableFeatureWrapping.from_pretrained(runs / "coser_adversarial/cfw")
    for layer in cfw.fusion_layers.values():
        assert layer.resnet_in.conv2.weight.any()  # which starts from zero


def test_the_activation_trains_and_makes_references(runs: Path) -> None:
    activation = SCEditAdapter.from_pretrained(runs / "scedit/activation")
    assert activation.dense_hints[0].bias.any()
    assert all(tuner.linear_2.bias.any() for tuner in activation.tuners)
    assert changed(*(runs / stage / "activation" / WEIGHTS for stage in ("scedit", "scedit_adversarial")))
    made = sorted(path.name for path in (runs / "made").iterdir())
    assert made == ["00000000.png", "00000001.png", "00000002.png", "crops.json"]


def test_references_are_made_on_where_it_stopped(runs: Path, photos: Path, tmp_path: Path) -> None:
    """One at a time, without those that are there, each is the same."""
    folder = tmp_path / "made"
    shutil.copytree(runs / "made", folder)
    (folder / "00000001.png").unlink()
    Image.new("RGB", (32, 32)).save(folder / "00000002.png")
    script("make_references").main(
        ["--train_data_dir", str(photos), "--output_dir", str(folder), BASE, str(runs / "base"), "--scedit",
         str(runs / "scedit"), "--num_samples", "3", "--batch_size", "1", "--steps", "2", "--resolution", "32"]
    )  # fmt: skip
    first, again = (np.array(Image.open(path / "00000001.png")).astype(int) for path in (runs / "made", folder))
    assert abs(first - again).max() <= 1
    assert first.std() > 1
    assert not np.array(Image.open(folder / "00000002.png")).any()


def test_cassr_trains_controlnet_and_adapter(runs: Path) -> None:
    base = StableDiffusionPipeline.from_pretrained(runs / "base")
    controlnet = ControlNetModel.from_pretrained(runs / "cassr/controlnet")
    adapter = CasSRAdapter.from_pretrained(runs / "cassr/adapter")
    assert all(block.weight.any() for block in controlnet.controlnet_down_blocks)
    assert not torch.equal(controlnet.conv_in.weight, base.unet.conv_in.weight)
    for attentions in adapter.unet.values():
        assert all(attention.attn.to_out[0].weight.any() for attention in attentions.values())
    assert not changed(*(runs / stage / WEIGHTS for stage in ("scedit/activation", "cassr/activation")))
    for model in ("controlnet", "adapter"):
        assert changed(*(runs / stage / model / WEIGHTS for stage in ("cassr", "cassr_adversarial")))


def test_cassr_starts_from_half_the_residuals_of_a_trained_controlnet(runs: Path) -> None:
    trained, start = (load_file(runs / stage / "controlnet" / WEIGHTS) for stage in ("seesr", "cassr_of_seesr"))
    assert trained["controlnet_mid_block.weight"].any()
    for name, tensor in trained.items():
        halved = name.startswith(("controlnet_down_blocks", "controlnet_mid_block"))
        assert torch.equal(start[name], tensor / 2 if halved else tensor), name


def test_xpsr_trains_controlnet_adapter_and_constraint(runs: Path) -> None:
    base = StableDiffusionPipeline.from_pretrained(runs / "base")
    controlnet = ControlNetModel.from_pretrained(runs / "xpsr/controlnet")
    adapter = XPSRAdapter.from_pretrained(runs / "xpsr/adapter")
    constraint = DegradationFreeConstraint.from_pretrained(runs / "xpsr/constraint")
    assert all(block.weight.any() for block in controlnet.controlnet_down_blocks)
    assert not torch.equal(controlnet.conv_in.weight, base.unet.conv_in.weight)
    new = DegradationFreeConstraint.from_controlnet(controlnet).state_dict()
    assert new.keys() == constraint.state_dict().keys()
    assert "up_blocks.1.resnets.0" not in adapter.config.unet_sites
    assert "up_blocks.1.resnets.1" in adapter.config.unet_sites
    added = [*adapter.unet.values(), *(parts["fusion"] for parts in adapter.controlnet.values())]
    assert all(transformer.proj_out.weight.any() for transformer in added)
    for model in ("controlnet", "adapter"):
        assert changed(*(runs / stage / model / WEIGHTS for stage in ("xpsr", "xpsr_adversarial")))


def test_the_base_may_be_stored_in_half_precision(
    runs: Path, run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transformers loads a text encoder as it is stored, unlike diffusers."""
    base = StableDiffusionPipeline.from_pretrained(runs / "base", dtype=torch.float16)
    base.save_pretrained(tmp_path / "base")
    trained = run("train_scedit", tmp_path / "scedit", BASE, tmp_path / "base", "--max_train_steps", 1)
    assert (trained / "activation/config.json").is_file()
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" training/make_references.py --scedit {trained} ...")


@pytest.mark.parametrize(
    ("stage", "pipeline_class"),
    [
        ("seesr", SeeSRPipeline),
        ("one_step", SeeSRPipeline),
        ("coser", CoSeRPipeline),
        ("coser_adversarial", CoSeRPipeline),
        ("cassr", CasSRPipeline),
        ("cassr_adversarial", CasSRPipeline),
        ("xpsr", XPSRPipeline),
        ("xpsr_adversarial", XPSRPipeline),
    ],
)
def test_the_result_is_a_pipeline(runs: Path, stage: str, pipeline_class: Any) -> None:
    pipeline = load_pipeline(str(runs / stage))
    assert type(pipeline) is pipeline_class
    is_one_step = stage == "one_step" or stage.endswith("adversarial")
    defaults = {"process_size": 32, **({"num_inference_steps": 1, "guidance_scale": 1.0} if is_one_step else {})}
    assert pipeline.config.call_defaults == {**pipeline.config.call_defaults, **defaults}
    assert (getattr(pipeline, "cfw", None) is not None) == stage.startswith("coser")
    image = pipeline(Image.new("RGB", (10, 9)), num_inference_steps=2).images[0]
    assert image.size == (40, 36)
    grid = Image.open(runs / stage / "validation" / "step-2.png")
    before, after = (np.array(grid.crop(box)).astype(int) for box in ((0, 0, 32, 32), (40, 0, 72, 32)))
    assert grid.size == (72, 32) and abs(before - after).mean() > 1 and after.std() > 1


def test_a_result_can_be_read_by_all_who_may_read_new_files(runs: Path) -> None:
    """The file of the weights too, which safetensors writes for its owner alone."""
    for path in ("seesr/adapter", "dape", "seesr/checkpoint-2"):
        (weights,) = (runs / path).glob("*.safetensors")
        assert weights.stat().st_mode == (runs / "seesr/training_arguments.json").stat().st_mode
