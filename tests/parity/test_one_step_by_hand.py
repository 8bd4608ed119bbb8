"""What the script gives for small checkpoints in the official layouts, against weights that are merged by hand."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.components import TEXT_DIM, scheduler, tiny_unet, tiny_vae
from tests.one_step import official_files
from tests.one_step.official_files import Weights, by_hand
from tests.parity.forward import main

SETTINGS = {"process_size": 64, "default": False, "lambda_pix": 0.3, "lambda_sem": 0.9}


@pytest.fixture(params=[True, False], ids=["linear", "convolutions"])
def models(request) -> tuple[Any, Any]:
    """UNets whose transformers are entered as in Stable Diffusion 2 and 1."""
    torch.manual_seed(0)
    return tiny_unet(use_linear_projection=request.param).eval().double(), tiny_vae().eval().double()


@torch.no_grad()
def merged(model: Any, weights: Weights, scale: float) -> Any:
    model = copy.deepcopy(model)
    for key, down in weights.items():
        module, _, rest = key.partition(".lora_A")
        if rest:
            layer = model.get_submodule(module)
            layer.weight.copy_(by_hand(layer, down.double(), weights[f"{module}.lora_B{rest}"].double(), scale))
    return model


def run(method: str, models: tuple[Any, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Run the script on a picture of an odd size, 29 × 19, and put what it was given among the outputs."""
    for name, model in {"unet": models[0], "vae": models[1], "scheduler": scheduler()}.items():
        (model if name == "scheduler" else copy.deepcopy(model).float()).save_pretrained(folder / "base" / name)
    given = {
        "lr": torch.randint(0, 256, (19, 29, 3), dtype=torch.uint8),
        "prompt_embeds": torch.randn(1, 77, TEXT_DIM),
        "latent_noise": torch.randn(1, 4, 9, 14),
    }
    save_file(given, folder / "case_odd.safetensors")
    (folder / "cases.json").write_text(json.dumps({"cases": {"odd": SETTINGS}}))
    arguments = [method, str(folder), str(folder / "case_odd.safetensors"), str(folder / "outputs.safetensors")]
    main([*arguments, "--dtype", "float64"])
    return {**load_file(folder / "outputs.safetensors"), **given}


@torch.no_grad()
def predict(unet: Any, outputs: dict[str, torch.Tensor], timestep: int) -> torch.Tensor:
    prediction: torch.Tensor = unet(
        outputs["latents"], timestep, encoder_hidden_states=outputs["prompt_embeds"].double()
    ).sample
    return prediction


def check(outputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(outputs[name], tensor, atol=1e-9, rtol=1e-9, msg=partial("{}: {}".format, name))


def test_pisa(models, tmp_path):
    unet = models[0]
    content = official_files.pisa(unet, ranks=(2, 6))
    torch.save(content, tmp_path / "pisa_sr.pkl")
    outputs = run("pisa", models, tmp_path)
    sets = {
        short: {key: tensor for key, tensor in content["state_dict_unet"].items() if key.endswith(f"_{short}.weight")}
        for short in ("pix", "sem")
    }
    with_pixel = merged(unet, sets["pix"], 8 / 2)
    pixel, both = predict(with_pixel, outputs, 1), predict(merged(with_pixel, sets["sem"], 8 / 6), outputs, 1)
    prediction = 0.3 * pixel + 0.9 * (both - pixel)
    check(outputs, {"model_pred": prediction, "denoised": outputs["latents"] - prediction})
    assert outputs["final"].shape == (72, 112, 3)


def test_osediff(models, tmp_path):
    unet, vae = models
    content = official_files.osediff(unet, vae, ranks=(3, 5))
    content = {
        name: {key: tensor.float() for key, tensor in value.items()} if isinstance(value, dict) else value
        for name, value in content.items()
    }
    torch.save(content, tmp_path / "osediff.pkl")
    outputs = run("osediff", models, tmp_path)
    weights = content["state_dict_unet"]
    trained = copy.deepcopy(unet)
    trained.conv_in.load_state_dict({name: weights[f"conv_in.base_layer.{name}"] for name in ("weight", "bias")})
    pixels = load_input(outputs)
    with torch.no_grad():
        posterior = merged(vae, content["state_dict_vae"], 8 / 5).encode(pixels).latent_dist
        latents = (posterior.mean + posterior.std * outputs["latent_noise"].double()) * vae.config.scaling_factor
    prediction = predict(merged(trained, weights, 8 / 3), outputs, 999)
    alpha = scheduler().alphas_cumprod[999]
    restored = (latents - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
    check(outputs, {"latents": latents, "model_pred": prediction, "denoised": restored})


def load_input(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The picture that the VAE sees, by Pillow: four times as large, and squeezed to multiples of 8."""
    photo = Image.fromarray(outputs["lr"].numpy()).resize((116, 76), Image.Resampling.BICUBIC)
    squeezed = photo.resize((112, 72), Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(squeezed.tobytes()), dtype=torch.uint8).reshape(72, 112, 3)
    return (pixels.permute(2, 0, 1)[None] / 255 * 2 - 1).double()
