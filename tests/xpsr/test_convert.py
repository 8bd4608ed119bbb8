"""Official XPSR and PASD checkpoints: every key, and folders that load."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel, UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

from diffusers_sr import PASDPipeline, XPSRPipeline
from diffusers_sr.hub import load_pipeline
from diffusers_sr.xpsr import convert as converters
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.constraint import DegradationFreeConstraint
from diffusers_sr.xpsr.convert import BASE_MIRROR, convert, convert_pasd, load_networks
from tests.components import components, inputs, randomise

SHAPES = Path(__file__).parent / "data" / "sd15_keys_shapes.json.gz"
WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET_FLAGS = {
    "up_use_lowlevel_prompt": [False, False],
    "mid_use_lowlevel_prompt": False,
    "down_use_lowlevel_prompt": False,
}
CONTROLNET_FLAGS = {"return_rgbs": True, "use_rrdb": False, "use_lowlevel_prompt": True, "use_latent_pred": True}


def official_unet(parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    state_dict = dict(parts["unet"].state_dict())
    for key, tensor in parts["adapter"].unet.state_dict().items():
        match = re.fullmatch(r"(up_blocks__\d)__(?:attentions|resnets)__(\d)\.(.+)", key)
        assert match is not None
        block, layer, rest = match.groups()
        state_dict[f"{block.replace('__', '.')}.pixel_attentions.{layer}.{rest}"] = tensor
    return state_dict


def official_controlnet(parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    state_dict = dict(parts["controlnet"].state_dict())
    names = {"low_level": "attentions_lowlevel", "fusion": "attentions_connect"}
    for key, tensor in parts["adapter"].controlnet.state_dict().items():
        match = re.fullmatch(r"(.+)__attentions__(\d)\.(low_level|fusion)\.(.+)", key)
        assert match is not None
        block, layer, part, rest = match.groups()
        state_dict[f"{block.replace('__', '.')}.{names[part]}.{layer}.{rest}"] = tensor
    for key, tensor in parts["constraint"].state_dict().items():
        state_dict[f"controlnet_cond_embedding.{key}" if key.startswith("to_rgbs") else key] = tensor
    return state_dict


def write_official(folder: Path, model: ModelMixin, state_dict: Any, flags: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    save_file(state_dict, folder / WEIGHTS)
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    config |= {"_class_name": type(model).__name__, "_diffusers_version": "0.21.4", **flags}
    (folder / "config.json").write_text(json.dumps(config))


def new_checkpoint(folder: Path, fusion: bool) -> dict[str, Any]:
    """Write `unet/`, `controlnet/` and a `base/` with the same UNet, and give what is in them."""
    parts = components("xpsr")
    if not fusion:
        parts["adapter"] = randomise(XPSRAdapter.from_hosts(parts["unet"], parts["controlnet"], fusion=False))
    terms = "code" if fusion else "none"
    parts["constraint"] = randomise(DegradationFreeConstraint.from_controlnet(parts["controlnet"], terms))
    own_flags = CONTROLNET_FLAGS if fusion else {"return_rgbs": True, "use_rrdb": False}
    write_official(folder / "unet", parts["unet"], official_unet(parts), UNET_FLAGS if fusion else {})
    write_official(folder / "controlnet", parts["controlnet"], official_controlnet(parts), own_flags)
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        parts[name].save_pretrained(folder / "base" / name)
    return parts


@pytest.fixture
def official(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return tmp_path / "official", new_checkpoint(tmp_path / "official", fusion=True)


@pytest.fixture
def pasd(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return tmp_path / "official", new_checkpoint(tmp_path / "official", fusion=False)


def change_config(folder: Path, **options: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> None:
    state_dict = {**load_file(folder / WEIGHTS), **tensors}
    (folder / WEIGHTS).unlink()  # it is mapped into memory
    save_file({key: tensor for key, tensor in state_dict.items() if tensor is not None}, folder / WEIGHTS)


def check_parts(loaded: Any, parts: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        state_dict, expected = getattr(loaded, name).state_dict(), parts[name].state_dict()
        assert state_dict.keys() == expected.keys(), name
        assert all(torch.equal(state_dict[key], tensor) for key, tensor in expected.items()), name


@pytest.fixture
def stable_diffusion_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, torch.Tensor]]:
    """Official folders of the real size in `tmp_path`, whose tensors have no data, and their state dicts."""
    with gzip.open(SHAPES, "rt") as file:
        shapes = json.load(file)
    states = {
        role: {key: torch.empty(shape, device="meta") for key, shape in keys.items()} for role, keys in shapes.items()
    }
    options = {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8, "cross_attention_dim": 768}
    for role, model_class, flags in (
        ("unet", UNet2DConditionModel, UNET_FLAGS),
        ("controlnet", ControlNetModel, CONTROLNET_FLAGS),
    ):
        with torch.device("meta"):
            model = model_class(**options)
        (tmp_path / role).mkdir()
        config = {**model.config, "_class_name": model_class.__name__, **flags}
        (tmp_path / role / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(converters, "read_model_folder", lambda folder: states[Path(folder).name])
    return states


def test_every_official_key_has_its_place(tmp_path: Path, stable_diffusion_1: dict[str, Any]) -> None:
    networks = load_networks("xpsr", tmp_path / "unet", tmp_path / "controlnet")
    held = {name: sum(len(part.state_dict()) for part in parts) for name, parts in {
        "unet": (networks.unet, networks.adapter.unet),
        "controlnet": (networks.controlnet, networks.adapter.controlnet, networks.constraint),
    }.items()}  # fmt: skip
    assert held == {"unet": 998, "controlnet": 736} == {role: len(keys) for role, keys in stable_diffusion_1.items()}
    assert networks.constraint.config.latent_terms == "code"


def test_every_key_of_pasd_has_its_place(tmp_path: Path, stable_diffusion_1: dict[str, Any]) -> None:
    added = re.compile(r".*attentions_(lowlevel|connect)\.|conv_degradation")
    for key in [key for key in stable_diffusion_1["controlnet"] if added.match(key)]:
        del stable_diffusion_1["controlnet"][key]
    networks = load_networks("pasd", tmp_path / "unet", tmp_path / "controlnet")
    assert not networks.adapter.fuses_semantics
    assert len(networks.constraint.state_dict()) == 6


def test_converted_pipeline_is_the_original_one(official: Any, tmp_path: Path) -> None:
    folder, parts = official
    convert(folder / "unet", folder / "controlnet", tmp_path / "output", base=folder / "base")
    pipeline = XPSRPipeline.from_pretrained(tmp_path / "output")
    check_parts(pipeline, parts, ("unet", "controlnet", "adapter", "vae", "text_encoder"))
    flags = {*UNET_FLAGS, *CONTROLNET_FLAGS}
    assert not flags & {*pipeline.unet.config, *pipeline.controlnet.config}
    constraint = DegradationFreeConstraint.from_pretrained(tmp_path / "output" / "constraint")
    assert constraint.config.latent_terms == "code"
    expected = parts.pop("constraint").state_dict()
    assert constraint.state_dict().keys() == expected.keys()
    assert all(torch.equal(constraint.state_dict()[key], tensor) for key, tensor in expected.items())
    assert "constraint" not in json.loads((tmp_path / "output" / "model_index.json").read_text())
    reference = XPSRPipeline(**parts)
    assert pipeline.config.call_defaults == reference.config.call_defaults
    image = torch.from_numpy(pipeline(**inputs("xpsr")).images)
    torch.testing.assert_close(image, torch.from_numpy(reference(**inputs("xpsr")).images), atol=1e-4, rtol=0)


def test_converted_pasd_has_its_defaults(pasd: Any, tmp_path: Path) -> None:
    folder, parts = pasd
    convert_pasd(folder / "unet", folder / "controlnet", tmp_path / "output", base=folder / "base")
    pipeline = load_pipeline(str(tmp_path / "output"), method="pasd")
    assert type(pipeline) is PASDPipeline
    check_parts(pipeline, parts, ("unet", "controlnet", "adapter"))
    assert not pipeline.adapter.fuses_semantics
    assert isinstance(pipeline.scheduler, UniPCMultistepScheduler)
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    defaults = pipeline.config.call_defaults
    assert (defaults["guidance_scale"], defaults["added_noise_level"], defaults["process_size"]) == (9.0, 900, 768)
    assert len(DegradationFreeConstraint.from_pretrained(tmp_path / "output" / "constraint").state_dict()) == 6
    images = pipeline(**inputs("pasd")).images
    assert images.shape == (1, 64, 64, 3)
    assert images.std() > 1e-3


def test_without_base_the_rest_has_to_be_passed(official: Any, tmp_path: Path) -> None:
    folder, parts = official
    convert(folder / "unet", folder / "controlnet", tmp_path / "output")
    missing = ("vae", "text_encoder", "tokenizer", "scheduler")
    index = json.loads((tmp_path / "output" / "model_index.json").read_text())
    assert all(index[name] == [None, None] for name in missing)
    pipeline = XPSRPipeline.from_pretrained(tmp_path / "output", **{name: parts[name] for name in missing})
    assert pipeline(**inputs("xpsr")).images.shape == (1, 64, 64, 3)


def test_pickled_weights_in_half_precision_are_read(official: Any) -> None:
    folder, _ = official
    state_dict = {key: tensor.half() for key, tensor in load_file(folder / "unet" / WEIGHTS).items()}
    (folder / "unet" / WEIGHTS).unlink()
    torch.save(state_dict, folder / "unet" / "diffusion_pytorch_model.bin")
    networks = load_networks("xpsr", folder / "unet", folder / "controlnet")
    assert {networks.unet.dtype, *(weight.dtype for weight in networks.adapter.unet.parameters())} == {torch.float16}
    assert networks.controlnet.dtype == torch.float32
    assert not networks.adapter.is_attached(networks.unet)


def test_a_checkpoint_without_latent_heads(official: Any) -> None:
    folder, _ = official
    keys = [key for key in load_file(folder / "controlnet" / WEIGHTS) if key.startswith("conv_degradation")]
    change_weights(folder / "controlnet", **dict.fromkeys(keys))
    networks = load_networks("xpsr", folder / "unet", folder / "controlnet")
    assert networks.constraint.config.latent_terms == "none"


@pytest.mark.parametrize(
    ("role", "missing", "unexpected"),
    [
        ("unet", "up_blocks.0.pixel_attentions.0.norm.weight", "up_blocks.9.pixel_attentions.0.norm.weight"),
        ("unet", "conv_in.bias", "conv_in.more"),
        ("controlnet", "mid_block.attentions_connect.0.norm.bias", "mid_block.attentions_connect.7.norm.bias"),
        ("controlnet", "conv_degradation_mid.0.bias", "conv_degradation.33.0.bias"),
        ("controlnet", "controlnet_cond_embedding.to_rgbs.1.weight", "controlnet_cond_embedding.to_rgbs.4.weight"),
    ],
)
def test_one_error_lists_all_wrong_keys(
    official: Any, tmp_path: Path, role: str, missing: str, unexpected: str
) -> None:
    folder, _ = official
    change_weights(
        folder / role, **{missing: None, unexpected: torch.zeros(3), "time_embedding.linear_1.bias": torch.zeros(5)}
    )
    with pytest.raises(ValueError) as error:
        convert(folder / "unet", folder / "controlnet", tmp_path / "output")
    message = str(error.value)
    for expected in (
        f"1 missing:\n  {missing} ",
        f"1 unexpected:\n  {unexpected} [3]",
        "linear_1.bias is [5], expected",
    ):
        assert expected in message
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("role", "option", "value"),
    [
        ("unet", "up_use_lowlevel_prompt", [False, True]),
        ("unet", "mid_use_lowlevel_prompt", True),
        ("unet", "down_use_lowlevel_prompt", True),
        ("controlnet", "use_rrdb", True),
    ],
)
def test_options_the_released_checkpoints_do_not_use(official: Any, role: str, option: str, value: Any) -> None:
    folder, _ = official
    change_config(folder / role, **{option: value})
    with pytest.raises(ValueError, match=rf"{role} has {re.escape(f'{option}={value!r}')}, .*not supported"):
        load_networks("xpsr", folder / "unet", folder / "controlnet")


@pytest.mark.parametrize("name", ["norm2_plus.weight", "attn2_plus.to_k.weight", "proj_in_plus.weight"])
def test_pasd_light_is_refused(pasd: Any, tmp_path: Path, name: str) -> None:
    folder, _ = pasd
    key = f"up_blocks.1.attentions.0.transformer_blocks.0.{name}"
    change_weights(folder / "unet", **{key: torch.zeros(3)})
    with pytest.raises(ValueError, match=rf"unet holds .*pasd_light \({re.escape(key)}\).*not supported"):
        convert_pasd(folder / "unet", folder / "controlnet", tmp_path / "output")


def test_each_method_says_what_converts_the_other(tmp_path: Path) -> None:
    for fusion, converter, message in (
        (True, convert_pasd, "XPSR checkpoint.*convert xpsr"),
        (False, convert, "not hold an XPSR checkpoint.*convert pasd"),
    ):
        folder = tmp_path / str(fusion)
        new_checkpoint(folder, fusion)
        with pytest.raises(ValueError, match=message):
            converter(folder / "unet", folder / "controlnet", tmp_path / "output")


def test_swapped_folders(official: Any, tmp_path: Path) -> None:
    folder, _ = official
    with pytest.raises(ValueError, match="describes a ControlNetModel, but a UNet2DConditionModel is expected"):
        convert(folder / "controlnet", folder / "unet", tmp_path / "output")


def test_base_that_cannot_be_had(official: Any, tmp_path: Path) -> None:
    folder, _ = official
    with pytest.raises(OSError, match=f"'nowhere/at-all' could not be loaded.*'{BASE_MIRROR}' is a mirror"):
        convert(folder / "unet", folder / "controlnet", tmp_path / "output", base="nowhere/at-all")
