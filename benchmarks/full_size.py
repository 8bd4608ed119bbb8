"""The modules that the trainers fit, at the size of the published models, with new weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.recipes import trainer
from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.coser.adapter import CoSeRAdapter
from diffusers_sr.coser.cognition import CognitiveEncoder
from diffusers_sr.coser.controlnet import LatentControlNetModel
from diffusers_sr.one_step.lora import LoraSets
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import PIXEL, SEMANTIC
from diffusers_sr.one_step.scheduler import OneStepScheduler
from diffusers_sr.one_step.stored_prompt import StoredPrompt
from diffusers_sr.seesr.adapter import SeeSRAdapter
from diffusers_sr.seesr.tagger import Tagger, dape_lora_config
from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.cassr import TrainableCasSR, TrainableSCEdit
from diffusers_sr.training.coser import TrainableCoSeR
from diffusers_sr.training.distillation import ClassifierScoreDistillation, GuidedTeacher, VariationalScoreDistillation
from diffusers_sr.training.lora import ALPHA, new_set
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.one_step import OneStepLoss, TrainableOneStep
from diffusers_sr.training.osediff import TrainableOSEDiff, regulariser_of
from diffusers_sr.training.seesr import TrainableSeeSR
from diffusers_sr.training.trainable import TrainableDenoiser
from diffusers_sr.training.xpsr import TrainableXPSR
from diffusers_sr.xpsr.adapter import XPSRAdapter
from diffusers_sr.xpsr.constraint import DegradationFreeConstraint

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


def stable_diffusion(version: str) -> StableDiffusionPipeline:
    """Make Stable Diffusion "1.5" or "2" with new weights, and with a tokenizer that knows only letters."""
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
    """Make RAM's image branch at its published size."""
    return Tagger([f"tag {number}" for number in range(NUM_RAM_TAGS)], [0.5] * NUM_RAM_TAGS)


def build(stage: str, arguments: Any) -> nn.Module:
    """Build the module that the trainer of a stage gives to `train`, with new weights."""
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
    if stage in _ONE_STEP:
        return _ONE_STEP[stage](base, arguments)
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
"""The functions that build the denoiser of a stage, by the stage's name."""


class PerceptualVGG(nn.Module):
    """A distance of pictures by the features of VGG-16 before each of its poolings, as LPIPS has it."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
        self.levels = nn.ModuleList()
        channels = 3
        for level in widths:
            layers: list[nn.Module] = [] if channels == 3 else [nn.MaxPool2d(2)]
            for width in level:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            self.levels.append(nn.Sequential(*layers))

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        distance = torch.zeros((), device=image.device)
        for level in self.levels:
            image, target = level(image), level(target)
            ours, theirs = (nn.functional.normalize(features, dim=1) for features in (image, target))
            distance = distance + (ours - theirs).square().sum(1).mean()
        return distance


def _one_step(base: StableDiffusionPipeline, arguments: Any, names: tuple[str, ...]) -> TrainableOneStep:
    """Make a model with these LoRA sets, whose last one is trained."""
    sets = {name: (new_set(base.unet, arguments.lora_rank), ALPHA) for name in names}
    with torch.device("cpu"):
        scheduler = OneStepScheduler()
    denoiser = TrainableOneStep(
        base, scheduler, OneStepPipeline.paper, LoraSets.from_state_dicts(sets), names[-1:], arguments.null_text_ratio
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    return denoiser


def _pisa_pixel(base: StableDiffusionPipeline, arguments: Any) -> nn.Module:
    return OneStepLoss(_one_step(base, arguments, (PIXEL,)))


def _teacher(base: StableDiffusionPipeline, guidance_scale: float) -> GuidedTeacher:
    with torch.device("cpu"):  # a scheduler's tables have to have data
        scheduler = DDPMScheduler.from_config(base.scheduler.config)
    negative_prompt = StoredPrompt.from_text(base.tokenizer, base.text_encoder, "a b c")
    return GuidedTeacher(UNet2DConditionModel(**UNETS["2"]), negative_prompt, scheduler, guidance_scale)


def _pisa(base: StableDiffusionPipeline, arguments: Any) -> nn.Module:
    return OneStepLoss(
        _one_step(base, arguments, (PIXEL, SEMANTIC)),
        perceptual=PerceptualVGG(),
        perceptual_weight=arguments.lpips_weight,
        distillation=ClassifierScoreDistillation(_teacher(base, arguments.csd_guidance_scale)),
    )


def _osediff(base: StableDiffusionPipeline, arguments: Any) -> nn.Module:
    regulariser = regulariser_of(base.unet, arguments.lora_rank)
    with torch.device("cpu"):
        scheduler = OneStepScheduler(timestep=999, prediction="x0")
    denoiser = TrainableOSEDiff(base, scheduler, arguments.lora_rank, ram())
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
        regulariser.enable_gradient_checkpointing()
    teacher = _teacher(base, arguments.vsd_guidance_scale)
    return OneStepLoss(
        denoiser,
        perceptual=PerceptualVGG(),
        perceptual_weight=arguments.lpips_weight,
        distillation=VariationalScoreDistillation(teacher, regulariser),
    )


_ONE_STEP = {"pisa_pixel": _pisa_pixel, "pisa": _pisa, "osediff": _osediff}
"""The functions that build the loss of a stage of one-step models, by the stage's name."""


def synthetic_batch(arguments: TrainingArguments) -> dict[str, Any]:
    """Make a batch like those of `PhotoCrops`."""
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
