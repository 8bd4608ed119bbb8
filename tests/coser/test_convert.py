"""The official files of CoSeR to a pipeline."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusers_sr import CoSeRPipeline, load_pipeline
from diffusers_sr.cli.main import main
from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.convert import BASE_MIRROR, new_scheduler
from tests.components import inputs, tiny_image
from tests.coser.cognitive_encoders import VISION
from tests.coser.official_files import (
    CONTROLNET,
    UNET,
    assert_equal_weights,
    changed,
    convert_all,
    official_qformer,
    without_stock_unet,
)


def test_converted_pipeline_is_the_original_one(official, original, tmp_path):
    files = shutil.copytree(official, tmp_path / "official")
    convert_all(files, tmp_path / "output")
    shutil.rmtree(files)  # the weights were mapped from them
    pipeline = load_pipeline(str(tmp_path / "output"))
    assert type(pipeline) is CoSeRPipeline
    for name in ("unet", "controlnet", "adapter", "vae", "text_encoder", "cognitive_encoder", "cfw"):
        assert_equal_weights(getattr(pipeline, name), original[name])
    assert pipeline.adapter.config.similarity == "scaled"
    assert pipeline.adapter.config.bicubic == "torch"
    assert pipeline.cognitive_encoder.config.vision_config == VISION
    for name, value in new_scheduler().config.items():
        assert name.startswith("_") or pipeline.scheduler.config[name] == value, name
    call = {**inputs("coser"), "cfw_weight": 0.5}
    images = pipeline(**call).images
    expected = CoSeRPipeline(**original)(**{**call, "generator": torch.Generator("cpu").manual_seed(0)}).images
    torch.testing.assert_close(torch.tensor(images), torch.tensor(expected), atol=1e-3, rtol=0)


def test_without_base_and_cfw_the_rest_has_to_be_passed(official, original, tmp_path):
    convert_all(official, tmp_path / "output", base=None, cfw=None)
    index = json.loads((tmp_path / "output" / "model_index.json").read_text())
    missing = ("vae", "text_encoder", "tokenizer")
    assert all(index[name] == [None, None] for name in (*missing, "cfw"))
    pipeline = CoSeRPipeline.from_pretrained(tmp_path / "output", **{name: original[name] for name in missing})
    assert_equal_weights(pipeline.unet, original["unet"])
    assert pipeline.cfw is None
    assert pipeline.scheduler.config.timestep_spacing == "linspace"


def test_scheduler_is_the_official_codes():
    scheduler = new_scheduler()
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 999
    assert scheduler.timesteps[-1] == 0
    assert scheduler.alphas_cumprod[999].item() == pytest.approx(0.00466009850, rel=1e-5)


def test_checkpoint_without_stock_unet_needs_a_base(official, tmp_path):
    checkpoint = without_stock_unet(official / "coser.ckpt", tmp_path)
    with pytest.raises(ValueError, match=rf"not the UNet itself: give the base .*--base {BASE_MIRROR}"):
        convert_all(official, tmp_path / "output", checkpoint=checkpoint, base=None)
    assert [path.name for path in tmp_path.iterdir()] == ["coser.ckpt"]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "coser",
            {
                f"{UNET}input_blocks.1.0.in_layers.2.bias": None,
                f"{UNET}out.2.bias": None,
                f"{UNET}output_blocks.5.3.weight": torch.zeros(2),
                f"{UNET}input_blocks.0.0.weight": torch.zeros(64, 5, 3, 3),
            },
            r"UNet of .*coser.ckpt are not.*2 missing:.*conv_out.bias \[4\].*1 unexpected:\n  output_blocks.5.3.weight"
            r".*1 mis-shaped:\n  conv_in.weight is \[64, 5, 3, 3\], expected \[64, 4, 3, 3\]",
        ),
        ("coser", {f"{UNET}middle_block.1.proj_in.weight": None}, "missing:\n  middle_block.1.proj_in.weight"),
        ("coser", {f"{UNET}middle_block.1.norm_clr_lna.bias": None}, "attention of .*1 missing.*norm_lr.bias"),
        ("coser", {f"{UNET}middle_block.1.norm_clr_lna.bias": torch.zeros(3)}, r"norm_lr.bias is \[3\], expected"),
        ("coser", {f"{UNET}middle_block.1.new_lna.bias": torch.zeros(3)}, "1 unexpected:\n  middle_block.1.new_lna"),
        ("coser", {f"{UNET}input_blocks.1.1.norm_clr_lna.bias": torch.zeros(3)}, "1 unexpected:\n  input_blocks.1.1"),
        (
            "coser",
            {f"{CONTROLNET}zero_convs.5.0.bias": None},
            "ControlNet of .*1 missing:\n  controlnet_down_blocks.5",
        ),
        ("coser", {f"{CONTROLNET}hint_zero_conv.bias": None}, "1 missing:\n  controlnet_cond_embedding.bias"),
        ("coser", {f"{CONTROLNET}lna_kv.weight": torch.zeros(1)}, r"1 unexpected:\n  lna_kv.weight \[1\]"),
        ("coser", {"bridge.weight": torch.zeros(2)}, r"coser.ckpt is not an official .*keys\n  bridge.weight \[2\]$"),
        (
            "qformer",
            {"bridge.weight": torch.zeros(2)},
            r"qformer.ckpt is not an official .*keys\n  bridge.weight \[2\]$",
        ),
        (
            "qformer",
            {"pre_sr_model.body.1.conv2.bias": None},
            "qformer.ckpt are not.*1 missing:\n  pre_sr_model.body.1",
        ),
        (
            "qformer",
            {"pre_sr_model.conv_first.weight": None},
            "qformer.ckpt does not have.*missing:\n  pre_sr_model.conv_fi",
        ),
        (
            "qformer",
            {"global_adapter.Qformer.pooler.bias": torch.zeros(2)},
            "1 unexpected:\n  global_adapter.Qformer.p",
        ),
        ("cfw", {"decoder.fusion_layer_1.encode_enc_2.1.rdb3.conv5.bias": None}, "fusion layers are not.*1 missing"),
        ("cfw", {"decoder.fusion_layer_0.encode_enc_1.conv1.bias": torch.zeros(3)}, "1 unexpected.*fusion_layer_0"),
    ],
)
def test_wrong_keys(official, tmp_path, file, changes, message):
    path = changed(official / f"{file}.ckpt", tmp_path, changes)
    name = {"coser": "checkpoint"}.get(file, file)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        convert_all(official, tmp_path / "output", base=None, **{name: path})
    assert [path.name for path in tmp_path.iterdir()] == [f"{file}.ckpt"]


@pytest.mark.parametrize(
    ("argument", "file", "message"),
    [
        ("checkpoint", "qformer.ckpt", r"is not a CoSeR checkpoint: it has no keys model.diffusion_model.\*_lna"),
        ("checkpoint", "cfw.ckpt", "cfw.ckpt is not an official CoSeR file"),
        ("qformer", "cfw.ckpt", "cfw.ckpt is not an official CoSeR file"),
        ("cfw", "qformer.ckpt", "has no fusion layers: give StableSR's autoencoder, vqgan_cfw_00011.ckpt"),
    ],
)
def test_files_in_the_wrong_place(official, tmp_path, argument, file, message):
    with pytest.raises(ValueError, match=message):
        convert_all(official, tmp_path / "output", **{argument: official / file})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argument", ["checkpoint", "qformer", "cfw"])
def test_damaged_and_missing_files(official, tmp_path, argument):
    source = official / {"checkpoint": "coser.ckpt"}.get(argument, f"{argument}.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(source.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"cut.ckpt could not be read"):
        convert_all(official, tmp_path / "output", **{argument: tmp_path / "cut.ckpt"})
    with pytest.raises(FileNotFoundError, match=r"no weights file .*nowhere.ckpt"):
        convert_all(official, tmp_path / "output", **{argument: tmp_path / "nowhere.ckpt"})
    assert [path.name for path in tmp_path.iterdir()] == ["cut.ckpt"]


def test_qformer_of_another_base(official, original, tmp_path):
    qformer = {**original["cognitive_encoder"].config.qformer_config, "hidden_size": 48}
    wide = CognitiveEncoder(3, srresnet_channels=8, srresnet_blocks=2, vision_config=VISION, qformer_config=qformer)
    torch.save({"state_dict": official_qformer(wide)}, tmp_path / "wide.ckpt")
    with pytest.raises(ValueError, match="embedding has 48 channels, but the checkpoint's UNet expects 32"):
        convert_all(official, tmp_path / "output", qformer=tmp_path / "wide.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["wide.ckpt"]


def test_clip_of_another_size(official, tmp_path):
    CLIPVisionModelWithProjection(CLIPVisionConfig(**{**VISION, "projection_dim": 8})).save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match="tokens of 12 channels, but this CLIP's have 8"):
        convert_all(official, tmp_path / "output", clip=tmp_path / "c")


def test_output_is_never_overwritten(official, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="choose another output"):
        convert_all(official, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_commands(official, tmp_path, capsys):
    """From the official files to an enlarged photograph."""
    arguments = [
        *("convert", "coser", "--checkpoint", str(official / "coser.ckpt")),
        *("--qformer", str(official / "qformer.ckpt"), "--cfw", str(official / "cfw.ckpt")),
        *("--base", str(official / "base"), "--clip", str(official / "clip"), "--output", str(tmp_path / "coser")),
    ]
    assert main(arguments) == 0
    assert f"Written to {tmp_path / 'coser'}" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    index = tmp_path / "coser" / "model_index.json"
    index.write_text(index.read_text().replace('"process_size": 512', '"process_size": 16'))
    tiny_image(8, 8).save(tmp_path / "photo.png")
    arguments = [
        *("upscale", str(tmp_path / "photo.png"), "-o", str(tmp_path / "big.png")),
        *("--method", "coser", "--model", str(tmp_path / "coser"), "--steps", "1", "--device", "cpu"),
    ]
    assert main(arguments) == 0
    with Image.open(tmp_path / "big.png") as image:
        assert image.size == (32, 32)
