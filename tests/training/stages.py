"""Every training stage at tiny size, on eight images that it can learn by heart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from transformers import CLIPConfig, CLIPModel

from diffusers_sr.one_step.lora import LoraSets
from diffusers_sr.one_step.pipeline import OneStepPipeline
from diffusers_sr.one_step.prediction import PIXEL, SEMANTIC
from diffusers_sr.one_step.scheduler import OneStepScheduler
from diffusers_sr.one_step.stored_prompt import StoredPrompt
from diffusers_sr.seesr.tagger import dape_lora_config
from diffusers_sr.training.adversarial import AdversarialLoss
from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.cassr import TrainableCasSR, TrainableSCEdit
from diffusers_sr.training.coser import TrainableCoSeR
from diffusers_sr.training.distillation import (
    ClassifierScoreDistillation,
    GuidedTeacher,
    VariationalScoreDistillation,
)
from diffusers_sr.training.engine import train
from diffusers_sr.training.lora import new_set
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.one_step import OneStepLoss, TrainableOneStep
from diffusers_sr.training.osediff import TrainableOSEDiff, regulariser_of
from diffusers_sr.training.restoration import BaseLoss, TrainableBase
from diffusers_sr.training.seesr import TrainableSeeSR
from diffusers_sr.training.trainable import TrainableDenoiser
from diffusers_sr.training.xpsr import TrainableXPSR
from diffusers_sr.xpsr.constraint import DegradationFreeConstraint
from tests.components import (
    components,
    randomise,
    scheduler,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_vae,
)
from tests.coser.components import tiny_cognitive_encoder
from tests.seesr.components import TAGS, tiny_tagger
from tests.training.runs import reset_accelerate, script

COUNT, SIZE = 8, 32


def noise_batch(tags: list[str], seeds: Tensor) -> dict[str, Any]:
    """Make a batch of two samples of noise, in the form of `PhotoCrops`."""
    generator = torch.Generator().manual_seed(0)
    return {
        "target": torch.rand(2, 3, 32, 32, generator=generator),
        "degraded": torch.rand(2, 3, 8, 8, generator=generator),
        "tags": tags,
        "seed": seeds,
    }


class Images(Dataset[dict[str, Any]]):
    """Eight smooth images again and again, as `PhotoCrops` gives them; noise and timestep of each are always the same.

    Args:
        reachable: pictures that `tiny_vae` can draw, which `AdversarialLoss` compares pixels with.
    """

    def __init__(self, reachable: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand((COUNT, 3, 3, 3), generator=generator)
        self.targets = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear", align_corners=True)
        if reachable:
            with torch.no_grad():
                latents = torch.randn((COUNT, 4, SIZE // 8, SIZE // 8), generator=generator)
                self.targets = components("seesr")["vae"].decode(latents).sample / 2 + 0.5

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = index % COUNT
        target = self.targets[number]
        return {
            "target": target,
            # Reducing alone leaves smooth images as they are; a tagger would have nothing to unlearn.
            "degraded": 1 - nn.functional.avg_pool2d(target, 4),
            "reference": target.flip(-1),
            "tags": f"{TAGS[number]}, {TAGS[(number + 3) % COUNT]}",
            "seed": torch.tensor(number + 1),
        }


@dataclass(frozen=True)
class Stage:
    """A stage, and what it trains.

    Attributes:
        module: as it is given to `train`.
        trained: beginnings of the names of the parameters that should train; all others are frozen,
        frozen: and so are these among them.
        learning_rate: with which it learns the images by heart.
        unused: batch entries that it does without.
        floor: what the loss cannot fall below.
        counted: the losses that have to fall; all by default.
    """

    module: nn.Module
    trained: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    learning_rate: float = 1e-2
    images: Images = field(default_factory=Images)
    unused: tuple[str, ...] = ()
    floor: float = 0.0
    counted: tuple[str, ...] | None = None

    @property
    def denoiser(self) -> TrainableDenoiser:
        """The part that predicts, in the stages of a method on a frozen Stable Diffusion."""
        assert isinstance(self.module, (DenoisingLoss, AdversarialLoss, OneStepLoss))
        return self.module.denoiser

    def batch(self) -> dict[str, Any]:
        """All images."""
        batch = default_collate([self.images[index] for index in range(COUNT)])
        return {name: value for name, value in batch.items() if name not in self.unused}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: value for name, value in self.images[index].items() if name not in self.unused}

    def should_train(self, name: str) -> bool:
        return name.startswith(self.trained) and not name.startswith(self.frozen)

    def loss(self) -> float:
        """Compute the loss of all images, above the floor."""
        self.module.eval()
        with torch.no_grad():
            losses = self.module(self.batch())
        return float(sum(value for name, value in losses.items() if self.counted in (None, (name,)))) - self.floor

    def fit(self, output_dir: Path, steps: int) -> None:
        """Train for so many steps on all images at once."""
        reset_accelerate()
        arguments = TrainingArguments(
            output_dir=str(output_dir),
            max_train_steps=steps,
            checkpointing_steps=steps,
            train_batch_size=COUNT,
            learning_rate=self.learning_rate,
            lr_scheduler="cosine",
            adam_weight_decay=0.0,
        )
        train(self.module, self, arguments, lambda folder: None)  # type: ignore[arg-type]


def base_of(parts: dict[str, Any]) -> StableDiffusionPipeline:
    """The stock pipeline in a method's components, whose last layer reaches the amplitude of what it predicts."""
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    with torch.no_grad():
        # As it is drawn, a frozen one reaches a third of a standard deviation.
        parts["unet"].conv_out.weight.mul_(5)
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**{name: parts[name] for name in names}, **options)


def seesr() -> TrainableDenoiser:
    parts = components("seesr")
    return TrainableSeeSR(base_of(parts), parts["controlnet"], parts["adapter"], parts["tagger"])


def coser(with_cfw: bool = False) -> TrainableDenoiser:
    parts = components("coser")
    cfw = parts["cfw"] if with_cfw else None
    return TrainableCoSeR(base_of(parts), parts["controlnet"], parts["adapter"], parts["cognitive_encoder"], cfw=cfw)


def scedit() -> TrainableDenoiser:
    parts = components("cassr")
    return TrainableSCEdit(base_of(parts), parts["activation"])


def cassr() -> TrainableDenoiser:
    parts = components("cassr")
    return TrainableCasSR(base_of(parts), parts["controlnet"], parts["adapter"], parts["activation"])


def xpsr(with_constraint: bool = False) -> TrainableDenoiser:
    parts = components("xpsr")
    constraint = randomise(DegradationFreeConstraint.from_controlnet(parts["controlnet"])) if with_constraint else None
    return TrainableXPSR(base_of(parts), parts["controlnet"], parts["adapter"], constraint, clean_ratio=0.5)


# What makes the features of the level without attention, which nothing reads.
UNREAD = ("denoiser.controlnet.controlnet_down_blocks.2.", "denoiser.controlnet.controlnet_down_blocks.3.")


def denoising(denoiser: TrainableDenoiser, *trained: str, frozen: tuple[str, ...] = ()) -> Stage:
    module = DenoisingLoss(denoiser, scheduler())
    return Stage(module, tuple(f"denoiser.{name}." for name in trained), frozen)


def one_step(denoiser: TrainableDenoiser, *trained: str, frozen: tuple[str, ...] = ()) -> Stage:
    """Without the losses that pull away from the pixels, and so without a discriminator."""
    velocity = DDPMScheduler.from_config(scheduler().config, prediction_type="v_prediction")
    return Stage(
        AdversarialLoss(denoiser, velocity, 0, 0, 0),
        tuple(f"denoiser.{name}." for name in trained),
        frozen,
        images=Images(reachable=True),
        unused=("reference",),
        counted=("pixel",),
    )


class Features(nn.Module):
    """A distance of pictures as LPIPS is one, of the features of a small convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 8, 3, 2))

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        return (self.layers(image) - self.layers(target)).square().mean((1, 2, 3), keepdim=True)


def one_step_model(trained: tuple[str, ...] = (), null_text_ratio: float = 0.5) -> TrainableOneStep:
    """A model with both LoRA sets, or one whose UNet is trained whole if no set is."""
    base = base_of(components("seesr"))
    lora = None
    if trained:
        sets = {name: new_set(base.unet, rank) for name, rank in ((PIXEL, 3), (SEMANTIC, 2))}
        random = {
            name: {key: 0.1 * torch.randn_like(tensor) for key, tensor in each.items()} for name, each in sets.items()
        }
        lora = LoraSets.from_state_dicts({name: (each, 8.0) for name, each in random.items()})
    return TrainableOneStep(base, OneStepScheduler(), OneStepPipeline.paper, lora, trained, null_text_ratio)


def teacher() -> GuidedTeacher:
    base = base_of(components("seesr"))
    negative = StoredPrompt.from_text(base.tokenizer, base.text_encoder, "blurred")
    return GuidedTeacher(base.unet, negative, scheduler(), 7.5)


def of_lora(module: OneStepLoss, trained: str, counted: tuple[str, ...] | None = None) -> Stage:
    names = tuple(
        name for name, _ in module.named_parameters() if f".lora_A.{trained}." in name or f".lora_B.{trained}." in name
    )
    return Stage(module, names, images=Images(reachable=True), unused=("reference",), counted=counted)


def pisa_pixel() -> Stage:
    return of_lora(OneStepLoss(one_step_model((PIXEL,))), PIXEL)


def pisa() -> Stage:
    module = OneStepLoss(
        one_step_model((SEMANTIC,)),
        perceptual=Features(),
        perceptual_weight=2.0,
        distillation=ClassifierScoreDistillation(teacher(), weight=1e-3),
    )
    return of_lora(module, SEMANTIC, counted=("l2",))


def one_step_unet() -> Stage:
    module = OneStepLoss(one_step_model(null_text_ratio=1.0), l2_weight=0.0, l1_weight=1.0, latent_weight=0.1)
    return Stage(module, ("denoiser.unet.",), images=Images(reachable=True), unused=("reference",))


def random_sets(model: nn.Module) -> None:
    """Draw the weights of LoRAs that are zero, as nothing before them has a gradient."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)


def osediff() -> Stage:
    base = base_of(components("seesr"))
    regulariser = regulariser_of(base.unet, 2)
    denoiser = TrainableOSEDiff(base, OneStepScheduler(timestep=300, prediction="x0"), 2)
    for model in (denoiser, regulariser):
        random_sets(model)
    module = OneStepLoss(
        denoiser,
        perceptual=Features(),
        perceptual_weight=2.0,
        distillation=VariationalScoreDistillation(teacher(), regulariser, weight=1e-3),
    )
    names = (
        *(name for name, _ in module.named_parameters() if ".lora_" in name),
        "denoiser.unet.conv_in.base_layer.",
    )
    return Stage(module, names, images=Images(reachable=True), unused=("reference",), counted=("l2",))


def autoencoder() -> Stage:
    return Stage(script("train_autoencoder").AutoencoderLoss(tiny_vae(), 1e-6), ("vae.",))


def base() -> Stage:
    denoiser = TrainableBase(base_of(components("seesr")), null_text_ratio=0.2)
    return Stage(BaseLoss(denoiser, scheduler()), ("denoising.denoiser.unet.", "denoising.denoiser.text_encoder."))


def tagger() -> Stage:
    return Stage(script("train_tagger").TaggerLoss(tiny_tagger()), ("tagger.",), learning_rate=3e-3)


def dape() -> Stage:
    teacher = tiny_tagger()
    student = copy.deepcopy(teacher)
    student.add_adapter(dape_lora_config(student))
    module = script("train_dape").DAPELoss(teacher, randomise(student), logits_weight=1.0)
    with torch.no_grad():
        logits = teacher(teacher.preprocess(Images().targets)).logits
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, logits.sigmoid())
    names = tuple(f"student.{name}" for name, parameter in student.named_parameters() if ".lora_" in name)
    return Stage(module, names, learning_rate=2e-2, floor=float(entropy))


def clip() -> Stage:
    tokenizer = tiny_tokenizer()
    text = tiny_text_encoder(tokenizer)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPModel(
        CLIPConfig(
            text_config=text.config.to_dict(),
            vision_config={**vision, "image_size": SIZE, "patch_size": 8, "projection_dim": 16},
            projection_dim=16,
        )
    )
    model.text_model.load_state_dict(text.state_dict())
    model.text_model.requires_grad_(False)
    names = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")
    return Stage(script("train_clip").CLIPLoss(model, tokenizer), tuple(f"clip.{name}" for name in names))


def cognitive_encoder() -> Stage:
    tokenizer = tiny_tokenizer()
    module = script("train_cognitive_encoder").CognitiveEncoderLoss(
        tiny_cognitive_encoder(), tiny_text_encoder(tokenizer), tokenizer
    )
    trained = {name.split(".")[0] for name, _ in module.encoder.named_parameters()} - {"clip"}
    return Stage(module, tuple(f"encoder.{name}" for name in sorted(trained)))


STAGES: dict[str, Callable[[], Stage]] = {
    "autoencoder": autoencoder,
    "base": base,
    "tagger": tagger,
    "dape": dape,
    "clip": clip,
    "cognitive_encoder": cognitive_encoder,
    "seesr": lambda: denoising(seesr(), "controlnet", "adapter"),
    "coser": lambda: denoising(coser(), "controlnet", "adapter", frozen=UNREAD),
    "scedit": lambda: denoising(scedit(), "activation"),
    "cassr": lambda: denoising(cassr(), "controlnet", "adapter"),
    "xpsr": lambda: denoising(xpsr(with_constraint=True), "controlnet", "adapter", "constraint"),
    "pisa_pixel": pisa_pixel,
    "pisa": pisa,
    "one_step": one_step_unet,
    "osediff": osediff,
    "seesr_adversarial": lambda: one_step(seesr(), "controlnet", "adapter"),
    "coser_adversarial": lambda: one_step(coser(with_cfw=True), "controlnet", "adapter", "cfw", frozen=UNREAD),
    "scedit_adversarial": lambda: one_step(scedit(), "activation"),
    "cassr_adversarial": lambda: one_step(cassr(), "controlnet", "adapter"),
    "xpsr_adversarial": lambda: one_step(xpsr(), "controlnet", "adapter"),
}


def build(name: str) -> Stage:
    """A stage, from a fixed seed."""
    torch.manual_seed(0)
    return STAGES[name]()
