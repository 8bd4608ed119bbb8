"""Train CasSR (paper, stage 2): ControlNet and multiple attention on a frozen Stable Diffusion.

    python training/make_references.py --train_data_dir PHOTOS --num_samples 100000 \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --scedit runs/scedit \
        --output_dir references
    accelerate launch training/train_cassr.py --train_data_dir PHOTOS --references_dir references \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --scedit runs/scedit \
        --output_dir runs/cassr

The output folder is that of a `CasSRPipeline`; what is the base's is only named there if the base is on the Hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from diffusers import DDPMScheduler

from diffusers_sr.cassr.adapter import CasSRAdapter
from diffusers_sr.cassr.denoiser import ActivationModel
from diffusers_sr.cassr.pipeline import CasSRPipeline
from diffusers_sr.data.made_references import CropsWithReferences
from diffusers_sr.pretrained.loading import load_pretrained
from diffusers_sr.training.arguments import option, parse_arguments
from diffusers_sr.training.cassr import ACTIVATIONS, TrainableCasSR, start_controlnet
from diffusers_sr.training.losses import DenoisingLoss
from diffusers_sr.training.photos import degraded_crops
from diffusers_sr.training.pipeline_run import train_pipeline
from diffusers_sr.training.publish import HubArguments
from diffusers_sr.training.ranges import Count, CountFromZero, OneOf, Share
from diffusers_sr.training.script import run_script
from diffusers_sr.training.trainable import DenoiserArguments, load_frozen_base


@dataclass(kw_only=True)
class CasSRArguments(DenoiserArguments, HubArguments):
    """Options for ControlNet and attention.

    The paper has a batch of 4 on each of eight GPUs, and a learning rate of 5e-4; the default here is a tenth of that,
    as for similar methods.
    """

    pretrained_model_name_or_path: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion: a folder or a Hub id."
    )
    scedit: str | None = option(None, "Output folder of train_scedit.py; needed unless --activation is lr.")
    references_dir: str | None = option(
        None, "Folder that make_references.py wrote for these photos and this seed; needed unless --activation is lr."
    )
    activation: Annotated[str, OneOf((*ACTIVATIONS, "lr"))] = option(
        "scedit",
        "What made the references (paper, Table 2): scedit, a controlnet that train_scedit.py trained, or lr: the "
        "enlarged crop is its own reference.",
    )
    multiple_attention: bool = option(
        True, "Attention to the image and to its reference; with false only the ControlNet's residuals (ablation)."
    )
    controlnet_model_name_or_path: str | None = option(
        None, "ControlNet to start from, trained on one image: a folder or a Hub id. By default a new one is made."
    )
    null_text_ratio: Share = option(0.1, "Share of samples without the general prompt.")
    sharpen_target: bool = option(False, "Train towards USM-sharpened photos.")
    train_batch_size: Count = option(4, "Samples per process and batch.")
    lr_scheduler: str = option("constant_with_warmup", "Name of a schedule of diffusers.optimization.get_scheduler.")
    lr_warmup_steps: CountFromZero = option(500, "Steps of linear warm-up, for schedules that have one.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scedit", "references_dir"):
            if (getattr(self, name) is not None) != (self.activation != "lr"):
                raise ValueError(f"--{name} and --activation lr exclude each other, and one of them is needed.")


def _activation(arguments: CasSRArguments) -> ActivationModel | None:
    if arguments.scedit is None:
        return None
    activation: ActivationModel = load_pretrained(ACTIVATIONS[arguments.activation], arguments.scedit, "activation")
    return activation


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(CasSRArguments, argv)
    torch.manual_seed(arguments.seed)
    base = load_frozen_base(arguments.pretrained_model_name_or_path)
    controlnet = start_controlnet(base, arguments.controlnet_model_name_or_path)
    denoiser = TrainableCasSR(
        base,
        controlnet,
        CasSRAdapter.from_hosts(base.unet, controlnet, arguments.multiple_attention),
        _activation(arguments),
        arguments.null_text_ratio,
    )
    if arguments.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    dataset: Any = degraded_crops(arguments)
    if arguments.references_dir is not None:
        dataset = CropsWithReferences(dataset, arguments.references_dir)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    call: dict[str, Any] = {"process_size": arguments.resolution}
    if arguments.activation == "lr":
        call["activation"] = "lr"
    loss = DenoisingLoss(denoiser, scheduler)
    train_pipeline(loss, dataset, arguments, CasSRPipeline, base.scheduler, call)


if __name__ == "__main__":
    run_script(main)
