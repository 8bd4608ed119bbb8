"""What the script gives for small checkpoints in the official layouts, against weights that are merged by hand."""

from __future__ import annotations

import copy
import json
import math
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
from tests.parity.one_step import load

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


def run(
    method: str, models: tuple[Any, Any], folder: Path, settings: dict[str, Any] = SETTINGS
) -> dict[str, torch.Tensor]:
    """Run the script on a picture of an odd size, 29 × 19, and put what it was given among the outputs."""
    for name, model in {"unet": models[0], "vae": models[1], "scheduler": scheduler()}.items():
        (model if name == "scheduler" else copy.deepcopy(model).float()).save_pretrained(folder / "base" / name)
    given = {
        "lr": torch.randint(0, 256, (19, 29, 3), dtype=torch.uint8),
        "prompt_embeds": torch.randn(1, 77, TEXT_DIM),
        "latent_noise": torch.randn(1, 4, 9, 14),
    }
    save_file(given, folder / "case_odd.safetensors")
    (folder / "cases.json").write_text(json.dumps({"cases": {"odd": settings}}))
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


def tile_by_hand(side: int, is_symmetric: bool) -> torch.Tensor:
    """The gaussian weights of a tile, whose centre lies half a pixel below the middle unless they are symmetric."""
    middle = (side - 1) / 2
    rows = [math.exp(-(((y - (middle if is_symmetric else side / 2)) / side) ** 2) / 0.02) for y in range(side)]
    columns = [math.exp(-(((x - middle) / side) ** 2) / 0.02) for x in range(side)]
    rows, columns = ([value / (0.02 * math.pi) ** 0.5 for value in values] for values in (rows, columns))
    return torch.tensor([[row * column for column in columns] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("method", ["pisa", "osediff", "omgsr"])
def test_tiles(models, method, tmp_path):
    unet, vae = models
    settings = {"process_size": 48, "latent_tiled_size": 6, "latent_tiled_overlap": 2}  # 48 pixels are 6 latents
    if method == "omgsr":
        official_files.write_omgsr(tmp_path, unet, vae)
        settings = {"process_size": 48}  # the overlap is half of it
    else:
        make = {"pisa": lambda: official_files.pisa(unet), "osediff": lambda: official_files.osediff(unet, vae)}
        name = {"pisa": "pisa_sr.pkl", "osediff": "osediff.pkl"}[method]
        torch.save(make[method](), tmp_path / name)
    outputs = run(method, models, tmp_path, settings)
    latents, prediction = outputs["latents"], outputs["model_pred"]
    assert latents.shape == (1, 4, 9, 14)
    assert prediction.dtype == outputs["denoised"].dtype == torch.float64
    rows, columns = ([0, 3], [0, 3, 6, 8]) if method == "omgsr" else ([0, 3], [0, 4, 8])
    loaded = load(method, tmp_path, torch.float64)
    timestep = {"pisa": 1, "osediff": 999, "omgsr": 273}[method]
    total, weights = torch.zeros_like(latents), torch.zeros_like(latents)
    for top in rows:
        for left in columns:
            place = (..., slice(top, top + 6), slice(left, left + 6))
            noise = predict(loaded.unet, {**outputs, "latents": latents[place]}, timestep)
            weight = tile_by_hand(6, method == "pisa")
            total[place] += noise * weight
            weights[place] += weight
    torch.testing.assert_close(prediction, total / weights, atol=1e-6, rtol=0)


def test_tiles_that_do_not_get_anywhere(models, tmp_path):
    torch.save(official_files.pisa(models[0]), tmp_path / "pisa_sr.pkl")
    settings = {"process_size": 32, "latent_tiled_size": 10, "latent_tiled_overlap": 9}
    with pytest.raises(ValueError, match=r"tiles of 9, .* overlap of 9"):
        run("pisa", models, tmp_path, settings)


def test_hypir_prepares_pictures_in_float32(models, tmp_path):
    unet, vae = models
    torch.save(official_files.hypir(unet), tmp_path / "HYPIR_sd2.pth")
    outputs = run("hypir", models, tmp_path, {"patch_size": 64, "stride": 32, "upscale": 4})
    photo = outputs["lr"].permute(2, 0, 1)[None].float() / 255
    enlarged = torch.nn.functional.interpolate(photo, scale_factor=4, mode="bicubic") * 2 - 1
    padded = torch.nn.functional.pad(enlarged, (0, 4, 0, 4)).double()  # from 76 × 116
    with torch.no_grad():
        first = vae.encode(padded[..., :64, :64]).latent_dist.mean
    weights = tile_by_hand(8, is_symmetric=False)
    only = (..., slice(0, 2), slice(0, 4))  # where there is one tile, whose weight is summed in float32
    expected = (first * weights / weights.float())[only]
    torch.testing.assert_close(outputs["tile_latents_unscaled.0"][only], expected, atol=1e-10, rtol=0)


def test_an_input_that_is_missing(models, tmp_path):
    for name, model in zip(("unet", "vae"), models, strict=True):
        copy.deepcopy(model).float().save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="INPUTS lack 'noise'"):
        run("gdpo", models, tmp_path)
