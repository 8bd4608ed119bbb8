"""The options of `upscale` for less memory and for speed."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from diffusers_sr import SeeSRPipeline
from diffusers_sr.cli import memory_options
from diffusers_sr.sampling import fit
from tests.cli.photos import pixels
from tests.components import tiny_image
from tests.pipeline.tiny import build, difference
from tests.pipeline.tiny import run as call


@pytest.fixture
def photo(run):
    tiny_image().save("photo.png")


def settings(path: str) -> dict[str, object]:
    with Image.open(path) as image:
        record: dict[str, object] = json.loads(image.info["diffusers-sr"])["settings"]
    return record


def test_auto_chooses_sizes_and_says_them(run, photo, capsys, monkeypatch):
    monkeypatch.setattr(fit, "free_memory", lambda device: 0)
    assert run("photo.png", "-o", "auto.png", "--tile-size", "auto", "--vae-tile-size", "auto") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "chosen for the memory that is free: --tile-size 64, --tile-overlap 8, --vae-tile-size 64\n"
    )
    assert re.search(r"Images done: 1, \S+ seconds an image, peak memory \d+\.\d\d GB\n", captured.out)
    assert settings("auto.png") == {"upscale": 2.0, "vae_tile_size": 64}
    with pytest.raises(SystemExit):
        run("photo.png", "-o", "auto.png", "--tile-size", "some")
    assert "argument --tile-size: 'some' is neither a whole number nor auto" in capsys.readouterr().err


def test_sizes_that_memory_did_not_suffice_for_are_in_the_record(run, photo, monkeypatch):
    calls: list[None] = []
    decode = nn.Module.__call__

    def limited(module: nn.Module, *args: object, **kwargs: object) -> object:
        if type(module).__name__ == "Decoder" and not calls:
            calls.append(None)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "__call__", limited)
    assert run("photo.png", "-o", "big.png", "--upscale", "8") == 0
    assert calls and settings("big.png") == {"upscale": 8.0, "vae_tile_size": 64}


def test_the_backend_of_attention_is_set(run, photo):
    assert run("photo.png", "-o", "plain.png") == 0
    assert run("photo.png", "-o", "native.png", "--attention", "native") == 0
    assert (pixels("native.png") == pixels("plain.png")).all()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("model", [("enable_model_cpu_offload", (), {"device": "cuda:1"})]),
        ("group", [("enable_group_offload", (torch.device("cuda:1"),), {"offload_type": "leaf_level"})]),
    ],
)
def test_the_call_of_diffusers_that_offloads(kind, expected):
    """Another device is needed to do it; that results stay the same is shown where the pipelines are tested."""
    calls: list[object] = []

    class Recorder:
        def __getattr__(self, name):
            assert hasattr(SeeSRPipeline, name)
            return lambda *args, **kwargs: calls.append((name, args, kwargs))

    recorder: Any = Recorder()
    memory_options.offload(recorder, kind, "cuda:1")
    assert calls == expected


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--offload", "model", "the models run on the CPU"),
        ("--attention", "nonsense", "must be one of the following"),
        pytest.param(
            "--quantize",
            "int8",
            r"torchao is not installed: pip install 'diffusers-sr\[quantize\]'",
            marks=pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="it is installed"),
        ),
    ],
)
def test_what_is_not_possible_here(run, photo, capsys, option, value, message):
    with pytest.raises(SystemExit) as exit:
        run("photo.png", "-o", "big.png", option, value)
    assert exit.value.code == 2
    assert re.search(f"argument {option}: .*{message}", capsys.readouterr().err, re.DOTALL)


def test_what_is_compiled():
    """That compiled models give the same is shown where the adapters are tested."""
    pipeline = build("seesr")
    memory_options.compile_models(pipeline, backend="eager")
    compiled = [
        f"{name}.{path}"
        for name in ("unet", "controlnet", "vae", "adapter")
        for path, module in getattr(pipeline, name).named_modules()
        if module._compiled_call_impl is not None
    ]
    assert compiled == [
        "unet.down_blocks.0.attentions.0.transformer_blocks.0",
        "unet.up_blocks.1.attentions.0.transformer_blocks.0",
        "unet.up_blocks.1.attentions.1.transformer_blocks.0",
        "unet.mid_block.attentions.0.transformer_blocks.0",
        "controlnet.",
    ]


@pytest.mark.parametrize("kind", memory_options.QUANTIZATIONS)
def test_quantized_models_are_close(kind):
    pytest.importorskip("torchao")
    pipeline = build("seesr")
    expected = call(pipeline)
    memory_options.quantize(pipeline, kind)
    weight = pipeline.unet.down_blocks[0].attentions[0].proj_in.weight
    assert type(weight) is not nn.Parameter and weight.dtype == torch.float32
    assert 0 < difference(call(pipeline), expected) < 0.2
