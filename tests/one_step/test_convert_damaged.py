"""Files that are nearly official: each is refused with one error, before anything is changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_sr.one_step.convert_gdpo import read_gdpo
from diffusers_sr.one_step.convert_hypir import read_hypir
from diffusers_sr.one_step.convert_omgsr import read_omgsr
from diffusers_sr.one_step.convert_osediff import read_osediff
from diffusers_sr.one_step.convert_pisa import read_pisa
from tests.components import tiny_unet, tiny_vae
from tests.one_step import official_files


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return tiny_unet().eval(), tiny_vae().eval()


def refused(read: Callable[..., Any], path: Path, content: Any, models: tuple[Any, Any], message: str) -> None:
    torch.save(content, path)
    with pytest.raises(ValueError, match=message) as error:
        read(path, *copy.deepcopy(models))
    assert path.name in str(error.value)


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64])
def test_weights_that_are_not_real_numbers(models, kind, tmp_path):
    unet, vae = models
    message = "real numbers"
    pisa = official_files.pisa(unet)
    name = "conv_in.lora_A.default_encoder_sem.weight"
    pisa["state_dict_unet"][name] = pisa["state_dict_unet"][name].to(kind)
    refused(read_pisa, tmp_path / "pisa_sr.pkl", pisa, models, message)
    osediff = official_files.osediff(unet, vae)
    name = "quant_conv.lora_B.default_encoder.weight"
    osediff["state_dict_vae"][name] = osediff["state_dict_vae"][name].to(kind)
    refused(read_osediff, tmp_path / "osediff.pkl", osediff, models, message)
    hypir = official_files.hypir(unet)
    hypir["conv_out.lora_B.default.weight"] = hypir["conv_out.lora_B.default.weight"].to(kind)
    refused(read_hypir, tmp_path / "HYPIR_sd2.pth", hypir, models, message)
    official_files.write_omgsr(tmp_path / "omgsr", unet, vae)
    path = tmp_path / "omgsr" / "unet_lora_adapter" / "adapter_model.safetensors"
    save_file({key: tensor.to(kind) for key, tensor in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=message):
        read_omgsr(tmp_path / "omgsr", *copy.deepcopy(models))
    for folder, model in (("unet", unet), ("vae", vae)):
        model.save_pretrained(tmp_path / folder)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({**weights, "conv_in.bias": weights["conv_in.bias"].to(kind)}, path)
    with pytest.raises(ValueError, match=f"unet have to be {message}, but 1 are not: conv_in.bias: {kind}"):
        read_gdpo(tmp_path)


def test_a_module_in_two_lists(models, tmp_path):
    """Both would be active at the same time in the official code, so that dropping one changes the result."""
    unet, vae = models
    twice = {part: official_files.lora(unet, ["conv_in"], 4, f"default_{part}") for part in ("others", "others_pix")}
    pisa = official_files.pisa(unet)
    pisa["unet_lora_others_modules_pix"] = [*pisa["unet_lora_others_modules_pix"], "conv_in"]
    pisa["state_dict_unet"] |= twice["others_pix"]
    refused(read_pisa, tmp_path / "pisa_sr.pkl", pisa, models, r"more than one list: \['conv_in'\]")
    osediff = official_files.osediff(unet, vae)
    osediff["unet_lora_others_modules"] = [*osediff["unet_lora_others_modules"], "conv_in"]
    osediff["state_dict_unet"] |= twice["others"]
    refused(read_osediff, tmp_path / "osediff.pkl", osediff, models, r"more than one list: \['conv_in'\]")


def test_a_file_of_another_kind_is_said_in_few_lines(models, tmp_path):
    path = tmp_path / "HYPIR_sd2.pth"
    torch.save(official_files.hypir(models[0]), path)
    with pytest.raises(ValueError, match="does not have the official layout") as error:
        read_pisa(path, *copy.deepcopy(models))
    message = str(error.value)
    assert "state_dict_unet is missing" in message
    assert "… and 1" in message
    assert len(message.splitlines()) <= 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": "3"}, "r is not a positive whole number"),
        ({"r": 0}, "r is not a positive whole number"),
        ({"lora_alpha": None}, "lora_alpha is not a number"),
        ({"lora_alpha": "8"}, "lora_alpha is not a number"),
        ({"target_modules": None}, "target_modules is not a list of module names, or a regular expression"),
        ({"target_modules": 5}, "target_modules is not a list"),
        ({"target_modules": "("}, "target_modules is not a list"),
        ({"rank_pattern": {"conv_in": "2"}}, "rank_pattern is not a positive whole number by regular"),
        ({"rank_pattern": [2]}, "rank_pattern is not"),
        ("3", "holds a int, expected a dictionary"),
        ("[]", "holds a list, expected a dictionary"),
    ],
)
def test_configurations_of_peft(models, change, message, tmp_path):
    official_files.write_omgsr(tmp_path / "omgsr", *models)
    path = tmp_path / "omgsr" / "unet_lora_adapter" / "adapter_config.json"
    content = change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change})
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_omgsr(tmp_path / "omgsr", *copy.deepcopy(models))
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
