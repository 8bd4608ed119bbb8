"""Official one-step checkpoints to pipelines."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from diffusers_sr.one_step.convert import (
    convert_gdpo,
    convert_hypir,
    convert_omgsr,
    convert_osediff,
    convert_pisa,
)
from diffusers_sr.one_step.convert_gdpo import read_gdpo
from diffusers_sr.one_step.convert_hypir import adapted_by_hypir, read_hypir
from diffusers_sr.one_step.convert_lora import lora_shapes
from diffusers_sr.one_step.convert_omgsr import read_omgsr
from diffusers_sr.one_step.convert_osediff import read_osediff
from diffusers_sr.one_step.convert_pisa import read_pisa
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.publishing.model_card import render_model_card
from tests.components import (
    STABLE_DIFFUSION_2,
    scheduler,
    tiny_image,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)
from tests.one_step import official_files
from tests.one_step.official_files import Weights, by_hand

DOWN, UP = "lora_A", "lora_B"
FULL_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return tiny_unet().eval(), tiny_vae().eval()


def test_layers_at_full_size():
    """The layers and values of the official codes' own models, at full size on the meta device."""
    with init_empty_weights():
        unet, encoder = UNet2DConditionModel(**STABLE_DIFFUSION_2), AutoencoderKL(**FULL_VAE).encoder
    lists = official_files.parts(unet)
    assert {name: len(modules) for name, modules in lists.items()} == {"encoder": 94, "decoder": 148, "others": 16}
    assert (
        values(unet, [name for part in lists.values() for name in part], 4) == 4_055_712
    )  # OSEDiff's, and each of PiSA-SR's
    assert values(unet, adapted_by_hypir(unet), 256) == 259_474_432
    assert len(adapted_by_hypir(unet)) == 257
    ends = [end for end in (*official_files.ENDS, "conv_in") if end.startswith(("to_", "conv"))]
    assert values(unet, official_files.adapted(unet, ends), 32) == 25_257_216
    assert values(encoder, official_files.adapted(encoder, ends), 16) == 1_477_168


def values(model: nn.Module, modules: list[str], rank: int) -> int:
    return sum(shape.numel() for shape in lora_shapes(model, modules, rank, "checkpoint").values())


@pytest.fixture
def base(models, tmp_path) -> Path:
    """A folder with the base Stable Diffusion."""
    tokenizer = tiny_tokenizer()
    folder = tmp_path / "base"
    parts = {"text_encoder": tiny_text_encoder(tokenizer), "tokenizer": tokenizer, "scheduler": scheduler()}
    for name, part in {"unet": models[0], "vae": models[1], **parts}.items():
        part.save_pretrained(folder / name)
    return folder


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def copies(models: tuple[Any, Any]) -> tuple[Any, Any]:
    return copy.deepcopy(models[0]), copy.deepcopy(models[1])


def unchanged(model: Any, other: Any, but: tuple[str, ...] = ()) -> bool:
    own, expected = model.state_dict(), other.state_dict()
    return own.keys() == expected.keys() and all(
        torch.equal(own[key], expected[key]) for key in own if not key.startswith(but)
    )


@pytest.mark.parametrize("use_linear_projection", [True, False])
def test_pisa(models, use_linear_projection, tmp_path):
    unet, vae = tiny_unet(use_linear_projection=use_linear_projection), models[1]
    content = official_files.pisa(unet, ranks=(3, 5))
    stock = copies((unet, vae))
    converted = read_pisa(save(content, tmp_path / "pisa_sr.pkl"), unet, vae)
    assert (converted.prediction, converted.timestep, converted.noise_timestep) == ("residual", 1, None)
    assert converted.prompt_source == "stored"
    assert unchanged(converted.unet, stock[0])
    assert unchanged(converted.vae, stock[1])
    lora = converted.lora
    assert lora is not None
    assert lora.names == ["pixel", "semantic"]
    assert [lora.lora_metadata(name)["r"] for name in lora.names] == [3, 5]
    assert [lora.lora_metadata(name)["lora_alpha"] for name in lora.names] == [8, 8]
    official = content["state_dict_unet"]
    for name, short in (("pixel", "pix"), ("semantic", "sem")):
        weights = lora.lora_state_dict(name)
        assert len(weights) == len(official) / 2
        assert torch.equal(
            weights["conv_in.lora_A.weight"], official[f"conv_in.lora_A.default_encoder_{short}.weight"]
        )
        assert torch.equal(
            weights["mid_block.resnets.0.conv1.lora_B.weight"],
            official[f"mid_block.resnets.0.conv1.lora_B.default_others_{short}.weight"],
        )


def test_osediff(models, tmp_path):
    unet, vae = copies(models)
    content = official_files.osediff(unet, vae, ranks=(4, 2))
    converted = read_osediff(save(content, tmp_path / "osediff.pkl"), unet, vae)
    assert (converted.prediction, converted.timestep, converted.prompt_source) == ("x0", 999, "tags")
    trained = content["state_dict_unet"]
    assert torch.equal(unet.conv_in.weight, trained["conv_in.base_layer.weight"])
    assert torch.equal(unet.conv_in.bias, trained["conv_in.base_layer.bias"])
    assert unchanged(unet, models[0], but=("conv_in.",))
    assert converted.lora is not None
    assert converted.lora.lora_metadata("default")["lora_alpha"] == 8
    assert "conv_in" in converted.lora.modules_of("default")
    check_merged(vae, models[1], content["state_dict_vae"], 8 / 2, ".default_encoder")


def check_merged(vae: Any, stock: Any, weights: Weights, scale: float, adapter: str = "", prefix: str = "") -> None:
    """A VAE has a LoRA merged into it, and nothing else has changed."""
    modules = [key.partition(f".{DOWN}")[0] for key in weights if f".{DOWN}" in key]
    for module in modules:
        down, up = (weights[f"{module}.{matrix}{adapter}.weight"] for matrix in (DOWN, UP))
        expected = by_hand(stock.get_submodule(prefix + module), down, up, scale)
        torch.testing.assert_close(vae.get_submodule(prefix + module).weight, expected, atol=1e-5, rtol=1e-5)
    assert unchanged(vae, stock, but=tuple(f"{prefix}{module}.weight" for module in modules))
    assert not unchanged(vae, stock)


def test_omgsr(models, tmp_path):
    unet, vae = copies(models)
    weights, encoder = official_files.write_omgsr(tmp_path / "omgsr", unet, vae, ranks=(4, 2))
    converted = read_omgsr(tmp_path / "omgsr", unet, vae)
    assert (converted.prediction, converted.timestep, converted.prompt_source) == ("x0", 273, "stored")
    lora = converted.lora
    assert lora is not None
    assert lora.lora_metadata("default")["lora_alpha"] == 4
    assert lora.lora_state_dict("default").keys() == weights.keys()
    assert unchanged(unet, models[0])
    check_merged(vae, models[1], encoder, 1.0, prefix="encoder.")


def test_alpha_of_omgsr_is_that_of_its_configuration(models, tmp_path):
    folder = tmp_path / "omgsr"
    official_files.write_omgsr(folder, *models)
    for name, alpha in (("unet_lora_adapter", 16), ("vae_encoder_lora_adapter", 6)):
        path = folder / name / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": alpha}))
    encoder = load_file(folder / "vae_encoder_lora_adapter" / "adapter_model.safetensors")
    unet, vae = copies(models)
    converted = read_omgsr(folder, unet, vae)
    assert converted.lora is not None
    assert converted.lora.lora_metadata("default")["lora_alpha"] == 16
    weights = {key.removeprefix("base_model.model."): tensor for key, tensor in encoder.items()}
    check_merged(vae, models[1], weights, 6 / 2, prefix="encoder.")


@pytest.mark.parametrize("change", [{"use_rslora": True}, {"alpha_pattern": {"conv_in": 2}}, {"bias": "all"}])
def test_a_lora_that_is_not_plain(models, change, tmp_path):
    official_files.write_omgsr(tmp_path / "omgsr", *models)
    path = tmp_path / "omgsr" / "unet_lora_adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=f"does not describe a plain LoRA.*{next(iter(change))}"):
        read_omgsr(tmp_path / "omgsr", *copies(models))


def test_hypir(models, tmp_path):
    weights = official_files.hypir(models[0], rank=3)
    unet, vae = copies(models)
    converted = read_hypir(save(weights, tmp_path / "HYPIR_sd2.pth"), unet, vae)
    assert (converted.prediction, converted.timestep, converted.prompt_source) == ("x0", 200, "text")
    lora = converted.lora
    assert lora is not None
    assert lora.lora_metadata("default")["lora_alpha"] == lora.lora_metadata("default")["r"] == 3
    assert "conv_in" not in lora.modules_of("default")
    assert 2 * len(lora.modules_of("default")) == len(weights)
    assert unchanged(unet, models[0])
    assert unchanged(vae, models[1])


def test_gdpo(models, tmp_path):
    for name, model in zip(("unet", "vae"), models, strict=True):
        model.save_pretrained(tmp_path / name)
    converted = read_gdpo(tmp_path)
    assert (converted.timestep, converted.noise_timestep, converted.lora) == (100, 250, None)
    assert unchanged(converted.unet, models[0])
    assert unchanged(converted.vae, models[1])
    weights = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    weights["conv_in.lora"] = weights.pop("conv_in.bias")
    save_file(weights, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"(?s)1 missing:\n  conv_in.bias \[8\].*1 unexpected:\n  conv_in.lora"):
        read_gdpo(tmp_path)


MISSING = "conv_out.lora_A.default_decoder{}.weight"


@pytest.mark.parametrize(
    ("make", "read", "key", "ending"),
    [
        (lambda models: official_files.pisa(models[0]), read_pisa, "state_dict_unet", "_sem"),
        (lambda models: official_files.osediff(*models), read_osediff, "state_dict_unet", ""),
    ],
    ids=["pisa", "osediff"],
)
def test_one_error_lists_all_wrong_keys(models, make, read, key, ending, tmp_path):
    content = make(models)
    weights = content[key]
    del weights[MISSING.format(ending)]
    weights["extra.weight"] = torch.zeros(2)
    name = f"conv_in.lora_B.default_encoder{ending}.weight"
    weights[name] = weights[name][:, :1]
    unet, vae = copies(models)
    with pytest.raises(ValueError) as error:
        read(save(content, tmp_path / "checkpoint.pkl"), unet, vae)
    message = str(error.value)
    assert f"1 missing:\n  {MISSING.format(ending)}" in message
    assert "1 unexpected:\n  extra.weight [2]" in message
    assert f"1 mis-shaped:\n  {name} is [8, 1, 1, 1]" in message
    assert "checkpoint.pkl" in message
    assert unchanged(unet, models[0])
    assert unchanged(vae, models[1])


def without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: without(content, "lora_rank_unet_pix"), "lora_rank_unet_pix is missing"),
        (lambda content: {**content, "state_dict_vae": {}}, "'state_dict_vae' is unexpected"),
        (lambda content: {**content, "lora_rank_unet_sem": 2.5}, "lora_rank_unet_sem is not a positive whole number"),
        (lambda content: {**content, "state_dict_unet": [1]}, "state_dict_unet is not a dictionary of tensors"),
        (lambda content: {**content, "unet_lora_others_modules_pix": ["a", 1]}, "is not a list of module names"),
        (
            lambda content: {**content, "unet_lora_others_modules_pix": ["mid_block.no"]},
            r"not have: \['mid_block.no'\]",
        ),
        (lambda content: {**content, "lora_rank_unet_sem": 3}, r"mis-shaped:\n.*conv_in.lora_A.default_encoder_sem"),
        (lambda content: [content], "holds a list"),
    ],
)
def test_other_layouts(models, change, message, tmp_path):
    path = save(change(official_files.pisa(models[0])), tmp_path / "pisa_sr.pkl")
    with pytest.raises(ValueError, match=message):
        read_pisa(path, *copies(models))


@pytest.mark.parametrize("wrong", ["missing", "extra", "conv_in"])
def test_hypir_has_exactly_its_keys(models, wrong, tmp_path):
    weights = official_files.hypir(models[0])
    if wrong == "missing":  # a whole layer
        weights = {key: tensor for key, tensor in weights.items() if "mid_block.resnets.0.conv1." not in key}
    elif wrong == "extra":
        weights["alpha"] = torch.tensor(3.0)
    else:
        weights |= official_files.lora(models[0], ["conv_in"], 3, "default")
    with pytest.raises(ValueError, match="2 missing" if wrong == "missing" else r"[12] unexpected"):
        read_hypir(save(weights, tmp_path / "HYPIR_sd2.pth"), *copies(models))


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("read", [read_pisa, read_osediff, read_hypir])
def test_pickles_are_never_run(models, read, tmp_path):
    path = save({"state_dict_unet": {"conv_in.bias": Malicious(tmp_path / "owned")}}, tmp_path / "checkpoint.pkl")
    with pytest.raises(ValueError):
        read(path, *copies(models))
    assert not (tmp_path / "owned").exists()


def folders(models: tuple[Any, Any], folder: Path) -> dict[str, tuple[Callable[..., None], Path]]:
    """All converters, with a checkpoint for each."""
    official_files.write_omgsr(folder / "omgsr", *models)
    for name, model in zip(("unet", "vae"), models, strict=True):
        model.save_pretrained(folder / "gdpo" / name)
    return {
        "pisa": (convert_pisa, save(official_files.pisa(models[0]), folder / "pisa_sr.pkl")),
        "osediff": (convert_osediff, save(official_files.osediff(*models), folder / "osediff.pkl")),
        "gdpo": (convert_gdpo, folder / "gdpo"),
        "omgsr": (convert_omgsr, folder / "omgsr"),
        "hypir": (convert_hypir, save(official_files.hypir(models[0]), folder / "HYPIR_sd2.pth")),
    }


@pytest.mark.parametrize(
    ("method", "settings", "defaults"),
    [
        ("pisa", (1, None, "residual"), {}),
        ("osediff", (999, None, "x0"), {}),
        ("gdpo", (100, 250, "x0"), {}),
        ("omgsr", (273, None, "x0"), {"tile_size": 512, "tile_overlap": 256}),
        ("hypir", (200, None, "x0"), {"tile_size": 512, "tile_overlap": 256, "color_fix": "wavelet"}),
    ],
)
def test_converted_pipelines(models, base, method, settings, defaults, tmp_path):
    convert, checkpoint = folders(models, tmp_path)[method]
    convert(checkpoint, tmp_path / "output", base=base)
    pipeline = OneStepPipeline.from_pretrained(tmp_path / "output")
    config = pipeline.scheduler.config
    assert (config.timestep, config.noise_timestep, config.prediction) == settings
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    expected = {"tile_size": 768, "tile_overlap": 256, "process_size": 512, "color_fix": "adain"}
    expected |= {"pixel_scale": 1.0, "semantic_scale": 1.0, **defaults}
    assert pipeline.config.call_defaults == expected
    has_text_encoder = method not in ("pisa", "omgsr")
    assert (pipeline.text_encoder is not None) == (pipeline.tokenizer is not None) == has_text_encoder
    assert (tmp_path / "output" / "text_encoder").exists() == has_text_encoder
    assert (pipeline.stored_prompt is None) == has_text_encoder
    assert (pipeline.lora is None) == (method == "gdpo")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(tiny_image(), upscale=2, process_size=32, output_type="pil").images[0]
    assert image.size == (32, 32)


@pytest.mark.parametrize(
    ("method", "license", "text"),
    [
        ("pisa", "unknown", "README of their code says Apache-2.0"),
        ("osediff", "apache-2.0", "under its licence"),
        ("gdpo", "apache-2.0", "no licence file"),
        ("omgsr", "unknown", "ask them before you share"),
        ("hypir", "other", "non-commercial purposes only"),
    ],
)
def test_terms_are_in_the_card_and_said(models, base, method, license, text, tmp_path, caplog):
    convert, checkpoint = folders(models, tmp_path)[method]
    caplog.set_level(logging.INFO, "diffusers_sr")
    convert(checkpoint, tmp_path / "output", base=base)
    card = (tmp_path / "output" / "README.md").read_text(encoding="utf-8")
    assert f"license: {license}\n" in card
    assert f"| base | openrail++ |\n| weights | {license}: " in card
    assert text in card
    again = render_model_card(
        "me/x", OneStepPipeline, OneStepPipeline.from_pretrained(tmp_path / "output").card_details
    )
    assert again.text.count(text) == card.count(text)  # uploading the folder says the same
    assert str(tmp_path) not in card + (tmp_path / "output" / "model_index.json").read_text()
    (record,) = [record for record in caplog.records if text in record.getMessage()]
    assert record.levelno == (logging.WARNING if method in ("omgsr", "hypir") else logging.INFO)


def test_stored_prompt_is_that_of_the_text_encoder(models, base, tmp_path):
    convert, checkpoint = folders(models, tmp_path)["pisa"]
    convert(checkpoint, tmp_path / "output", base=base)
    pipeline = OneStepPipeline.from_pretrained(tmp_path / "output")
    tokenizer, text_encoder = tiny_tokenizer(), type(tiny_text_encoder(tiny_tokenizer()))
    encoder = text_encoder.from_pretrained(base / "text_encoder")
    tokens = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(pipeline.stored_prompt.embedding, encoder(tokens)[0])


def test_nothing_is_left_of_a_failure(models, base, tmp_path):
    content = official_files.pisa(models[0])
    del content["state_dict_unet"][MISSING.format("_pix")]
    with pytest.raises(ValueError, match="1 missing"):
        convert_pisa(save(content, tmp_path / "pisa_sr.pkl"), tmp_path / "output", base=base)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "pisa_sr.pkl"]


def test_a_base_that_does_not_predict_noise(models, base, tmp_path):
    convert, checkpoint = folders(models, tmp_path)["hypir"]
    path = base / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    with pytest.raises(ValueError, match="trained to predict 'v_prediction'"):
        convert(checkpoint, tmp_path / "output", base=base)


@pytest.mark.parametrize("convert", [convert_osediff, convert_gdpo])
def test_a_tagger_needs_its_files(convert, tmp_path):
    with pytest.raises(ValueError, match="`ram` and `ram_tags` belong together"):
        convert(tmp_path / "none", tmp_path / "output", base=tmp_path, ram=tmp_path / "ram.pth")
    with pytest.raises(ValueError, match="`dape` adapts RAM's weights"):
        convert(tmp_path / "none", tmp_path / "output", base=tmp_path, dape=tmp_path / "DAPE.pth")
