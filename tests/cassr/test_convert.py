"""scepter's controllers become the adapter: every key, in every form they are published in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.convert import convert, scedit_from_official
from diffusers_sr.cli.main import main
from tests.components import randomise, tiny_unet

Tensors = dict[str, torch.Tensor]


def new_adapter(**options: Any) -> SCEditAdapter:
    """A UNet has two residual blocks a level, as every Stable Diffusion: six skip connections."""
    torch.manual_seed(0)
    return randomise(SCEditAdapter.from_host(tiny_unet(layers_per_block=2), hint_channels=(4, 5, 6, 7), **options))


def official(adapter: SCEditAdapter, prefix: str = "") -> Tensors:
    """In scepter's layout; its tuners are in the order of the decoder."""
    weights = {}
    for part in ("weight", "bias"):
        for number in range(0, len(adapter.hint_embedding), 2):
            weights[f"pre_hint_blocks.{number}.{part}"] = getattr(adapter.hint_embedding[number], part)
        for number, conv in enumerate(adapter.dense_hints):
            weights[f"dense_hint_blocks.{number}.1.{part}"] = getattr(conv, part)
        for number, tuner in enumerate(reversed(adapter.tuners)):
            weights[f"lsc_tuner_blocks.{number}.tuner_op.ln1.{part}"] = getattr(tuner.linear_1, part)
            weights[f"lsc_tuner_blocks.{number}.tuner_op.ln2.{part}"] = getattr(tuner.linear_2, part)
    return {prefix + key: tensor.detach().clone() for key, tensor in weights.items()}


def assert_same(converted: SCEditAdapter, original: SCEditAdapter) -> None:
    weights = original.state_dict()
    assert converted.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in converted.state_dict().items())
    for name in ("skip_channels", "downsamples", "hint_channels", "dense_hint_kernel", "down_ratio"):
        first, second = (json.dumps(adapter.config[name]) for adapter in (converted, original))
        assert first == second, name


@pytest.mark.parametrize("prefix", ["", "0.", "model.0."])
@pytest.mark.parametrize("options", [{}, {"dense_hint_kernel": 1}, {"down_ratio": 0.5}])
def test_weights_and_sizes(prefix: str, options: dict[str, Any]) -> None:
    original = new_adapter(**options)
    converted = scedit_from_official(official(original, prefix))
    assert_same(converted, original)
    assert not converted.training
    image = torch.rand(1, 3, 16, 24)
    for first, second in zip(converted.embed(image), original.embed(image), strict=True):
        assert torch.equal(first, second)


def test_a_ratio_that_leaves_a_rest() -> None:
    """The widths of its layers are rounded down: 2, 4 for 8, 16 channels."""
    original = new_adapter(down_ratio=0.3)
    inner = [tuner.get_submodule("linear_1") for tuner in original.tuners]
    assert [layer.out_features for layer in inner] == [2, 2, 2, 2, 4, 4]
    converted = scedit_from_official(official(original))
    assert converted.state_dict().keys() == original.state_dict().keys()
    assert converted.config.down_ratio == 0.25


def test_weights_keep_their_dtype() -> None:
    half = {key: tensor.half() for key, tensor in official(new_adapter()).items()}
    assert {parameter.dtype for parameter in scedit_from_official(half).parameters()} == {torch.float16}


def test_downsamples_may_be_given() -> None:
    original = SCEditAdapter([8, 8, 12, 12], [2], hint_channels=(4, 6))
    assert_same(scedit_from_official(official(original), downsamples=[2]), original)


@pytest.mark.parametrize("channels", [(320, 640, 1280, 1280), (320, 640, 1280)])
def test_released_sizes(channels: tuple[int, ...]) -> None:
    """They are those of Stable Diffusion 1 and 2, and of XL."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * len(channels),
            up_block_types=("UpBlock2D",) * len(channels),
        )
        original = SCEditAdapter.from_host(unet)
        converted = scedit_from_official(official(original)).attach(unet)
    assert converted.config.downsamples == original.config.downsamples == [3, 6, 9][: len(channels) - 1]
    assert converted.config.skip_channels == original.config.skip_channels
    assert converted.config.down_ratio == 1.0
    shapes = {key: tensor.shape for key, tensor in original.state_dict().items()}
    assert {key: tensor.shape for key, tensor in converted.state_dict().items()} == shapes
    assert converted.is_attached(unet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pre_hint_blocks.2.bias": None, "more.weight": torch.zeros(2)},
            r"1 missing:\n  pre_hint_blocks.2.bias \[4\]\n1 unexpected:\n  more.weight \[2\]",
        ),
        (
            {"lsc_tuner_blocks.0.tuner_op.ln2.weight": torch.zeros(16, 3)},
            r"1 mis-shaped:\n  lsc_tuner_blocks.0.tuner_op.ln2.weight is \[16, 3\], expected \[16, 16\]",
        ),
        ({"1.pre_hint_blocks.0.bias": torch.zeros(4)}, r"1 unexpected:\n  1.pre_hint_blocks.0.bias \[4\]"),
        ({"lsc_tuner_blocks.6.tuner_op.ln1.weight": torch.zeros(8, 8)}, r"1 unexpected:\n  lsc_tuner_blocks.6.tuner"),
        ({"lsc_tuner_blocks.2.tuner_op.ln1.weight": None}, r"1 missing:\n  lsc_tuner_blocks.2.tuner_op.ln1.weight"),
        ({"dense_hint_blocks.3.1.weight": None}, r"missing:\n  dense_hint_blocks.3.1.weight$"),
        ({"pre_hint_blocks.8.weight": None}, r"missing:\n  pre_hint_blocks.8.weight$"),
        ({"pre_hint_blocks.0.weight": torch.zeros(4, 1, 3, 3)}, r"is \[4, 1, 3, 3\], expected \[4, 3, 3, 3\]"),
        ({"dense_hint_blocks": None}, "it.bin is not a controller of SCEdit: it does not have all of pre_hint_blocks"),
    ],
)
def test_wrong_keys(changes: dict[str, torch.Tensor | None], message: str, tmp_path: Path) -> None:
    weights = official(new_adapter())
    for change, tensor in changes.items():
        weights = {key: value for key, value in weights.items() if not key.startswith(change)}
        weights |= {} if tensor is None else {change: tensor}
    torch.save(weights, tmp_path / "it.bin")
    with pytest.raises(ValueError, match=re.compile(message)):
        convert(tmp_path / "it.bin", tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["it.bin"]


@pytest.mark.parametrize("place", ["pytorch_model.bin", "0_SwiftSCETuning/pytorch_model.bin", "weights.safetensors"])
def test_command(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the folders of scepter, or any file of weights."""
    original, path = new_adapter(), tmp_path / "canny_control" / place
    path.parent.mkdir(parents=True)
    weights = official(original, "0.")
    if path.suffix == ".bin":
        torch.save(weights, path)
        path = tmp_path / "canny_control"
    else:
        save_file(weights, path)
    arguments = ["convert", "scedit", "--checkpoint", str(path), "--output", str(tmp_path / "adapter")]
    assert main(arguments) == 0
    assert f"Written to {tmp_path / 'adapter'}" in capsys.readouterr().out
    assert_same(SCEditAdapter.from_pretrained(tmp_path / "adapter"), original)
    assert main(arguments) == 1
    assert "adapter exists already: remove it, or choose another" in capsys.readouterr().err


def test_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for checkpoint, message in (
        (tmp_path / "nowhere.bin", "There is no weights file"),
        (tmp_path, "There is neither pytorch_model.bin nor 0_SwiftSCETuning/pytorch_model.bin in"),
    ):
        assert main(["convert", "scedit", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "output")]) == 1
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged_file(tmp_path: Path) -> None:
    torch.save(official(new_adapter()), tmp_path / "whole.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "whole.bin").read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"cut\.bin could not be read"):
        convert(tmp_path / "cut.bin", tmp_path / "output")
    assert not (tmp_path / "output").exists()
