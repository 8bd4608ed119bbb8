"""The memory a training step needs at its peak, for recipes at Stable Diffusion's size.

    python benchmarks/training_memory.py [--recipes seesr_24gb coser_24gb ...]

On a machine with CUDA a step is run, on random weights, and `torch.cuda.max_memory_allocated` is what is shown. On any
other it is computed: the same step, of the trainer's own modules, runs on tensors that have shapes and types but no
data (`FakeTensorMode`), and every one of their storages is counted from where it comes to be until it is freed. What
decides the type of activations on a GPU, the lists of operations that CUDA's autocast runs in float32, is imitated.

The weights are those of RAM and CLIP, too, where a method needs them. Not in the figures, computed or measured: what
the allocator holds but does not use, the CUDA context, and the buffers of distributed data parallelism. Not in the
computed ones either: what single operations use inside, such as the workspaces of convolutions and CoSeR's search for
the most similar key. A gibibyte or two are to be left for that.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from accelerate.utils import send_to_device
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.library import _scoped_library
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.tagger import Tagger, dape_lora_config
from diffusers_sr.training.arguments import TrainingArguments, parse_arguments
from diffusers_sr.training.cassr import TrainableCasSR, TrainableSCEdit
from diffusers_sr.training.coser import TrainableCoSeR
from diffusers_sr.training.engine import trainable_parameters
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.seesr import TrainableSeeSR
from diffusers_sr.training.trainable import TrainableDenoiser
from diffusers_sr.training.xpsr import TrainableXPSR
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.constraint import DegradationFreeConstraint

TRAINING = Path(__file__).parents[1] / "training"
STAGES = sorted(path.stem.removesuffix("_24gb") for path in (TRAINING / "recipes").glob("*_24gb.yaml"))
GIB = 2**30

# The configurations of the published models, where they are not the defaults of diffusers and transformers.
UNETS: dict[str, dict[str, Any]] = {
    "1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "2": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
}
TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "1.5": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "2": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
NUM_RAM_TAGS = 4585
REPRESENTATION_DIM = 512

# What CUDA's autocast computes in float32 and the CPU's does not, of what is used here.
_FLOAT32_ON_CUDA = (
    torch.ops.aten.layer_norm.default,
    torch.ops.aten.group_norm.default,
    torch.ops.aten.softmax.int,
)
# bitsandbytes keeps two bytes a parameter, and a scale for each block of both; small tensors stay in float32.
_BLOCK, _SMALLEST_8BIT = 256, 4096


@dataclass
class Memory:
    """Bytes at the peak of a training step, and what they are made of.

    `activations` is the rest: activations, what operations need at the same time, and gradients on their way.
    """

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    average: int
    peak: int

    @property
    def activations(self) -> int:
        return self.peak - self.frozen - self.trained - self.gradients - self.optimizer - self.average


class Storages(TorchDispatchMode):
    """Counts the bytes of tensors without data. Operations on tensors with data, which are the host's, run as ever.

    Attributes:
        current, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._seen: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def count(self, values: Any) -> None:
        """Count the storages in `values` that have not been seen, until they are freed."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, FakeTensor) and (storage := tensor.untyped_storage()) not in self._seen:
                size = storage.nbytes()
                self._seen[storage] = size
                self.current += size
                self.peak = max(self.peak, self.current)
                weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.current -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            with no_dispatch():
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self.count(result)
        return result


@contextmanager
def cuda_lists() -> Iterator[None]:
    """Inside it the CPU's autocast chooses types as CUDA's does."""

    def in_float32(operation: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = tree_map_only(Tensor, lambda each: each.float(), (args, kwargs))
            with torch.autocast("cpu", enabled=False):
                return operation(*args, **kwargs)

        return kernel

    with _scoped_library("aten", "IMPL") as library:
        for operation in _FLOAT32_ON_CUDA:
            library.impl(operation, in_float32(operation), "AutocastCPU")
        yield


class AdamW8bitState:
    """The memory of bitsandbytes' AdamW8bit, which changes weights in place."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.state = [_moments_8bit(parameter) for parameter in parameters for _ in range(2)]

    def step(self) -> None:
        pass


def _moments_8bit(parameter: nn.Parameter) -> list[Tensor]:
    count = parameter.numel()
    if count < _SMALLEST_8BIT:
        return [parameter.new_empty(count, dtype=torch.float32)]
    scales = parameter.new_empty(-(-count // _BLOCK), dtype=torch.float32)
    return [parameter.new_empty(count, dtype=torch.uint8), scales]


def trainer(stage: str) -> ModuleType:
    """The script that trains a stage, as a module."""
    spec = importlib.util.spec_from_file_location(f"train_{stage}", TRAINING / f"train_{stage}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def arguments_class(script: ModuleType) -> type[TrainingArguments]:
    """The dataclass of a training script's options."""
    (kind,) = (
        value
        for value in vars(script).values()
        if isinstance(value, type) and issubclass(value, TrainingArguments) and value.__module__ == script.__name__
    )
    return kind


def read_recipe(recipe: Path) -> tuple[str, Any]:
    """The stage a recipe is named after, and the trainer's arguments with its options; folders are made up."""
    stage = recipe.stem.rpartition("_")[0]
    kind = arguments_class(trainer(stage))
    required = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    made_up = required - yaml.safe_load(recipe.read_text()).keys()
    options = [word for name in sorted(made_up) for word in (f"--{name}", "unused")]
    return stage, parse_arguments(kind, ["--config", str(recipe), *options])


def stable_diffusion(version: str) -> StableDiffusionPipeline:
    """Stable Diffusion, "1.5" or "2", with new weights, and a tokenizer that knows only letters."""
    tokens = [*"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({token: number for number, token in enumerate(tokens)}, [], model_max_length=77)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT_ENCODERS[version])),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**UNETS[version]),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ram() -> Tagger:
    """RAM's image branch, at its size."""
    return Tagger([f"tag {number}" for number in range(NUM_RAM_TAGS)], [0.5] * NUM_RAM_TAGS)


def build(stage: str, arguments: Any) -> nn.Module:
    """What the trainer of a stage gives to `train`, with new weights."""
    if stage == "dape":
        student = ram()
        student.add_adapter(dape_lora_config(student))
        if arguments.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        loss: nn.Module = trainer(stage).DAPELoss(ram(), student, arguments.logits_weight)
        return loss
    base = stable_diffusion("1.5" if "v1-5" in arguments.pretrained_model_name_or_path else "2")
    if stage == "cognitive_encoder":
        encoder = CognitiveEncoder()
        if arguments.gradient_checkpointing:
            encoder.enable_gradient_checkpointing()
        loss = trainer(stage).CognitiveEncoderLoss(encoder, base.text_encoder, base.tokenizer)
        return loss
    denoiser = _DENOISERS[stage](base, arguments)
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    with torch.device("cpu"):  # a scheduler's tables have to have data
        scheduler = DDPMScheduler.from_config(base.scheduler.config)
    return DenoisingLoss(denoiser, scheduler)


def _seesr(base: StableDiffusionPipeline, arguments: Any) -> TrainableDenoiser:
    controlnet = ControlNetModel.from_unet(base.unet)
    return TrainableSeeSR(base, controlnet, SeeSRAdapter.from_hosts(base.unet, controlnet, REPRESENTATION_DIM), ram())


def _coser(base: StableDiffusionPipeline, arguments: Any) -> TrainableDenoiser:
    controlnet = LatentControlNetModel.for_unet(base.unet)
    return TrainableCoSeR(
        base, controlnet, CoSeRAdapter.from_hosts(base.unet, controlnet, arguments.similarity), CognitiveEncoder()
    )


def _scedit(base: StableDiffusionPipeline, arguments: Any) -> TrainableDenoiser:
    return TrainableSCEdit(base, SCEditAdapter.from_host(base.unet, dense_hint_kernel=arguments.dense_hint_kernel))


def _cassr(base: StableDiffusionPipeline, arguments: Any) -> TrainableDenoiser:
    controlnet = ControlNetModel.from_unet(base.unet)
    adapter = CasSRAdapter.from_hosts(base.unet, controlnet)
    return TrainableCasSR(base, controlnet, adapter, SCEditAdapter.from_host(base.unet))


def _xpsr(base: StableDiffusionPipeline, arguments: Any) -> TrainableDenoiser:
    controlnet = ControlNetModel.from_unet(base.unet)
    constraint = DegradationFreeConstraint.from_controlnet(controlnet, arguments.latent_terms)
    return TrainableXPSR(base, controlnet, XPSRAdapter.from_hosts(base.unet, controlnet), constraint)


_DENOISERS: dict[str, Callable[[StableDiffusionPipeline, Any], TrainableDenoiser]] = {
    make.__name__.removeprefix("_"): make for make in (_seesr, _coser, _scedit, _cassr, _xpsr)
}
"""What trains a stage, by the stage's name."""


def synthetic_batch(arguments: TrainingArguments) -> dict[str, Any]:
    """A batch as `PhotoCrops` gives it."""
    count, side = arguments.train_batch_size, arguments.resolution
    batch: dict[str, Any] = {
        "target": torch.rand(count, 3, side, side),
        "degraded": torch.rand(count, 3, side // 4, side // 4),
        "tags": ["a photo"] * count,
        "seed": torch.arange(count),
    }
    if {"references_file", "references_dir"} & vars(arguments).keys():
        batch["reference"] = torch.rand(count, 3, side, side)
    return batch


class Computed:
    """Where a step runs on tensors without data."""

    def __init__(self) -> None:
        self.fake_tensors = FakeTensorMode(allow_non_fake_inputs=True)
        self.storages = Storages()

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.fake_tensors, self.storages, cuda_lists():
            yield

    def build(self, stage: str, arguments: Any) -> nn.Module:
        """The stage's module, in place."""
        with torch.device("meta"):
            module = build(stage, arguments)
        return self.place(module)

    def place(self, module: nn.Module) -> nn.Module:
        """A module whose tensors are on "meta"."""
        with self.fake_tensors:
            module.to_empty(device="cpu")
        self.storages.count([*module.parameters(), *module.buffers()])
        return module

    def place_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The pictures without data; the rest, of which the trainer makes decisions, stays as it is."""
        pictures = {
            name: self.fake_tensors.from_tensor(batch[name]) for name in ("target", "reference") & batch.keys()
        }
        self.storages.count(pictures)
        return {**batch, **pictures}

    def optimizer(self, parameters: list[nn.Parameter], use_8bit_adam: bool) -> Any:
        return AdamW8bitState(parameters) if use_8bit_adam else torch.optim.AdamW(parameters, foreach=True)

    def autocast(self, mixed_precision: str | None) -> Any:
        # The sizes are those of fp16, too.
        enabled = mixed_precision in ("bf16", "fp16")
        return torch.autocast("cpu", torch.bfloat16, enabled=enabled)

    def current(self) -> int:
        return self.storages.current

    def peak(self) -> int:
        return self.storages.peak

    def reset_peak(self) -> None:
        self.storages.peak = self.storages.current


class Measured:
    """Where a step runs on the first CUDA device."""

    running = staticmethod(nullcontext)
    current = staticmethod(torch.cuda.memory_allocated)
    peak = staticmethod(torch.cuda.max_memory_allocated)
    reset_peak = staticmethod(torch.cuda.reset_peak_memory_stats)

    def build(self, stage: str, arguments: Any) -> nn.Module:
        with torch.device("cuda"):
            return build(stage, arguments)

    def place_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        return send_to_device(batch, "cuda")

    def optimizer(self, parameters: list[nn.Parameter], use_8bit_adam: bool) -> Any:
        if use_8bit_adam:
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(parameters)
        return torch.optim.AdamW(parameters)

    def autocast(self, mixed_precision: str | None) -> Any:
        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return torch.autocast("cuda", types.get(str(mixed_precision)), enabled=mixed_precision in types)


def step_memory(
    place: Computed | Measured, module: nn.Module, batch: dict[str, Any], arguments: TrainingArguments
) -> Memory:
    """What one optimiser step of the trainer takes, with the optimiser's state and, where batches are accumulated, the
    gradients of those before.

    Args:
        module: of `place`.
        batch: of `synthetic_batch`.
    """
    module.train()
    parameters = [*trainable_parameters(module).values()]
    trained = _bytes(parameters)
    frozen = _bytes([*module.parameters(), *module.buffers()]) - trained
    batch = place.place_batch(batch)
    with place.running():
        before = place.current()
        average = EMAModel(parameters, decay=arguments.ema_decay) if arguments.ema_decay else None
        average_bytes = place.current() - before
        optimizer = place.optimizer(parameters, arguments.use_8bit_adam)
        _set_gradients(parameters, torch.zeros_like)
        optimizer.step()  # which makes its state
        _set_gradients(parameters, None)
        optimizer_bytes = place.current() - before - average_bytes
        place.reset_peak()
        for _ in range(min(arguments.gradient_accumulation_steps, 2)):
            with place.autocast(arguments.mixed_precision):
                loss = torch.stack([*module(batch).values()]).sum()
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, arguments.max_grad_norm)
        optimizer.step()
        if average is not None:
            average.step(parameters)
        peak = place.peak()
    return Memory(frozen, trained, trained, optimizer_bytes, average_bytes, peak)


def _set_gradients(parameters: list[nn.Parameter], make: Callable[[Tensor], Tensor] | None) -> None:
    for parameter in parameters:
        parameter.grad = None if make is None else make(parameter)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--recipes", nargs="+", default=[f"{stage}_24gb" for stage in STAGES], help="names of files (%(default)s)"
    )
    parser.add_argument("--train_batch_size", type=int, help="instead of the recipe's")
    options = parser.parse_args(argv)
    kind = Measured if torch.cuda.is_available() else Computed
    how = torch.cuda.get_device_name() if kind is Measured else "without a GPU, not measured"
    print(f'GiB at the peak of a training step, {kind.__name__.lower()} ({how}); "rest" is activations')
    columns = ("frozen", "trained", "gradients", "optimizer", "average", "activations", "peak")
    print("| recipe | batch | frozen weights | trained weights | gradients | optimiser | EMA | rest | peak |")
    print("|---|" + "---:|" * (len(columns) + 1))
    for name in options.recipes:
        stage, arguments = read_recipe(TRAINING / "recipes" / f"{name}.yaml")
        arguments.train_batch_size = options.train_batch_size or arguments.train_batch_size
        place = kind()
        memory = step_memory(place, place.build(stage, arguments), synthetic_batch(arguments), arguments)
        gc.collect()  # the models, before the next ones
        sizes = " | ".join(f"{getattr(memory, column) / GIB:.2f}" for column in columns)
        print(f"| {name} | {arguments.train_batch_size} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
