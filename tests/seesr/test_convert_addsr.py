"""The official files of AddSR, which have SeeSR's layout, to a pipeline."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_sr import SeeSRPipeline
from diffusers_sr.cli.main import main
from diffusers_sr.publishing.model_card import render_model_card
from diffusers_sr.seesr.convert import convert_addsr
from diffusers_sr.seesr.four_steps import FourStepScheduler
from tests.components import tiny_image
from tests.seesr.official_files import TAGS, change

PROMPT = "cat, ,clean, high-resolution, 8k, extremely detailed, best quality, sharp"


def convert_all(official, output, **changes) -> None:
    arguments: dict[str, Any] = {
        "ram": official / "ram.pth",
        "dape": official / "DAPE.pth",
        "ram_tags": official / "tags",
        "base": str(official / "base"),
        **changes,
    }
    convert_addsr(official / "unet", official / "controlnet", output, **arguments)


@pytest.mark.parametrize("is_foreign", [False, True])
def test_converted_pipeline(official, original, tmp_path, is_foreign, caplog):
    # AddSR trains the whole UNet.
    change(official / "unet", **{"conv_in.bias": torch.ones(8)})
    convert_all(official, tmp_path / "output")
    assert "differ" not in caplog.text
    if is_foreign:
        pipeline = DiffusionPipeline.from_pretrained(tmp_path / "output", trust_remote_code=True)
    else:
        pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output")
    assert type(pipeline).__name__ == "SeeSRPipeline"
    assert torch.equal(pipeline.unet.conv_in.bias, torch.ones(8))
    assert torch.equal(pipeline.unet.conv_in.weight, original["unet"].conv_in.weight)
    assert pipeline.tagger.config.tags == TAGS
    addsr = {"num_inference_steps": 4, "guidance_scale": 1.0}
    assert pipeline.config.call_defaults == {**SeeSRPipeline._call_defaults, **addsr}
    assert pipeline.write_prompt(None, tags="cat") == [PROMPT]
    timesteps = []

    def watch(pipeline, step, timestep, tensors):
        timesteps.append(int(timestep))
        return {}

    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(tiny_image(), process_size=32, upscale=2, callback_on_step_end=watch).images[0]
    assert image.size == (32, 32)
    assert timesteps == [999, 749, 499, 249]


def test_the_noise_schedule_is_the_bases(official, tmp_path):
    path = official / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_train_timesteps": 400, "beta_end": 0.02}))
    convert_all(official, tmp_path / "output")
    scheduler = SeeSRPipeline.from_pretrained(tmp_path / "output").scheduler
    assert isinstance(scheduler, FourStepScheduler)
    assert (scheduler.config.beta_start, scheduler.config.beta_end) == (0.00085, 0.02)
    assert scheduler.timesteps.tolist() == [399, 299, 199, 99]


def test_a_base_that_does_not_predict_noise(official, tmp_path):
    path = official / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    with pytest.raises(ValueError, match="trained to predict 'v_prediction'"):
        convert_all(official, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_without_tagger_and_base_the_rest_has_to_be_passed(official, original, tmp_path):
    convert_all(official, tmp_path / "output", ram=None, dape=None, ram_tags=None, base=None)
    index = json.loads((tmp_path / "output" / "model_index.json").read_text())
    missing = ("vae", "text_encoder", "tokenizer", "tagger")
    assert all(index[name] == [None, None] for name in missing)
    pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output", **{name: original[name] for name in missing})
    assert pipeline.scheduler.timesteps.tolist() == [999, 749, 499, 249]


def test_terms_are_in_the_card_and_said(official, tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffusers_sr")
    convert_all(official, tmp_path / "output")
    card = (tmp_path / "output" / "README.md").read_text(encoding="utf-8")
    assert "license: other\n" in card
    assert "| base | openrail++ |\n| weights | other: " in card
    assert "2404.01717" in card
    text = "the licences of SeeSR, StyleGAN-T and ADD must be followed too"
    assert text in card
    loaded = SeeSRPipeline.from_pretrained(tmp_path / "output")
    assert text in render_model_card("me/x", SeeSRPipeline, loaded.card_details).text
    assert str(tmp_path) not in card + (tmp_path / "output" / "model_index.json").read_text()
    (record,) = [record for record in caplog.records if text in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("Licence of the weights of AddSR: other (Apache-2.0. ")


def test_command(official, tmp_path, capsys):
    arguments = [
        *("convert", "addsr"),
        *("--unet", str(official / "unet"), "--controlnet", str(official / "controlnet")),
        *("--ram", str(official / "ram.pth"), "--dape", str(official / "DAPE.pth")),
        *("--ram-tags", str(official / "tags"), "--base", str(official / "base")),
        *("--output", str(tmp_path / "addsr")),
    ]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    index = tmp_path / "addsr" / "model_index.json"
    content = json.loads(index.read_text())
    content["call_defaults"]["process_size"] = 32  # the models are tiny, but the official size is not
    index.write_text(json.dumps(content))
    tiny_image().save(tmp_path / "photo.png")
    upscale = ["upscale", str(tmp_path / "photo.png"), "--model", str(tmp_path / "addsr"), "--upscale", "2"]
    upscale += ["--strip-metadata"]  # the record of the settings would tell them apart
    files = []
    for weight in ("0", "0.4", "1"):
        files.append(tmp_path / f"{weight}.png")
        assert main([*upscale, "-o", str(files[-1]), "--psr-weight", weight]) == 0
    files.append(tmp_path / "default.png")
    assert main([*upscale, "-o", str(files[-1])]) == 0
    contents = [file.read_bytes() for file in files]
    assert contents[1] == contents[3]
    assert len(set(contents)) == 3
