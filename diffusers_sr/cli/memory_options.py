"""The options for less memory and for speed: each is one call of diffusers, or of torchao."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ..pipeline import SuperResolutionPipeline

OFFLOADS = ("model", "group")
QUANTIZATIONS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
"""The configurations of torchao, by the type that they store the weights in."""


def add_memory_options(command: argparse.ArgumentParser) -> None:
    """Add the options; `apply_memory_options` does what they say."""
    group = command.add_argument_group("memory and speed")
    group.add_argument(
        "--offload",
        choices=OFFLOADS,
        help="keep the weights in main memory, and bring to the device one model at a time (model), or one layer at a "
        "time, which takes the least memory of the device and the most time (group)",
    )
    group.add_argument(
        "--quantize",
        choices=tuple(QUANTIZATIONS),
        help="store the weights of linear layers of UNet and ControlNet in 8 bits (needs torchao)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile UNet and ControlNet with torch.compile: the first photo takes longer, the others less time",
    )
    group.add_argument(
        "--attention",
        metavar="BACKEND",
        help="attention backend of diffusers, such as native, xformers or sage, for the attention that a method adds; "
        "that of a stock UNet always is torch's own",
    )


def apply_memory_options(
    parser: argparse.ArgumentParser, pipeline: SuperResolutionPipeline, options: argparse.Namespace, device: str
) -> None:
    """Do what the options say to a pipeline that is loaded; exit with status 2 if this is not possible here.

    Args:
        device: where the models are to run; with `--offload` they are in main memory so far.
    """
    steps = {
        "quantize": lambda: quantize(pipeline, options.quantize),
        "attention": lambda: set_attention(pipeline, options.attention),
        "offload": lambda: offload(pipeline, options.offload, device),
        "compile": lambda: compile_models(pipeline),
    }
    for name, apply in steps.items():
        if getattr(options, name):
            try:
                apply()
            except (ImportError, RuntimeError, ValueError) as error:
                parser.error(f"argument --{name}: {error}")


def offload(pipeline: SuperResolutionPipeline, kind: str, device: str) -> None:
    """Have diffusers bring weights to the device when they are needed.

    Raises:
        ValueError: if the device is the CPU.
    """
    import torch

    if device == "cpu":
        raise ValueError(
            "the models run on the CPU, so that main memory is where their weights are needed: leave it out"
        )

    if kind == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_group_offload(torch.device(device), offload_type="leaf_level")


def quantize(pipeline: SuperResolutionPipeline, kind: str) -> None:
    """Store the weights of linear layers in 8 bits, except those of LoRA.

    The embedded and converted models are loaded in parts, so that this cannot be left to `TorchAoConfig`, which
    diffusers applies while it loads a model: its own `quantize_` does the same to models that are there.

    Raises:
        ImportError: if there is no torchao.
    """
    try:
        from torchao import quantization
    except ImportError as error:
        raise ImportError("torchao is not installed: pip install 'diffusers-sr[quantize]'") from error
    from torch import nn

    def is_wanted(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and "lora_" not in name

    for model in heavy_models(pipeline):
        quantization.quantize_(model, getattr(quantization, QUANTIZATIONS[kind])(), filter_fn=is_wanted)


def set_attention(pipeline: SuperResolutionPipeline, backend: str) -> None:
    """Set the backend of the attention that goes through the dispatcher of diffusers.

    Raises:
        ValueError: if diffusers knows no such backend.
        RuntimeError: if the backend needs a package that is not installed.
    """
    for model in heavy_models(pipeline):
        model.set_attention_backend(backend)


def compile_models(pipeline: SuperResolutionPipeline, **options: Any) -> None:
    """Compile UNet and ControlNet, of those that have repeated blocks the blocks, which takes less time.

    Args:
        options: those of `torch.compile`.
    """
    for model in heavy_models(pipeline):
        if model._repeated_blocks:
            model.compile_repeated_blocks(**options)
        else:
            model.compile(**options)


def heavy_models(pipeline: SuperResolutionPipeline) -> list[Any]:
    """List the models that take most of the time and of the memory."""
    models: list[nn.Module | None] = [pipeline.unet, getattr(pipeline, "controlnet", None)]
    return [model for model in models if model is not None]
