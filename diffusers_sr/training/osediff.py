"""Training of OSEDiff: a LoRA and the first layer of the UNet, and a LoRA of the VAE's encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from ..one_step.convert_lora import merge
from ..one_step.lora import LoraSets
from ..one_step.scheduler import OneStepScheduler
from ..publishing.paper import Paper
from ..seesr.tagger import Tagger
from ..texts import encode_texts
from .lora import ALPHA, lora_layers, new_set, train_sets, trained_sets
from .one_step import TrainableOneStep

PAPER = Paper("OSEDiff", "2406.08177")
SET = "default"


class TrainableOSEDiff(TrainableOneStep):
    """OSEDiff's model: x0 at the last timestep, from latents of an encoder that is trained too.

    Of the UNet a LoRA is trained and, besides, the whole of `conv_in`; of the VAE a LoRA of the encoder and
    `quant_conv`, which is merged into the VAE when it is saved. The prompt is the photos' tags as they are.

    Args:
        base, scheduler, null_text_ratio, call_defaults, base_name: see `TrainableOneStep`.
        rank: of both LoRAs.
        tagger: writes the pipeline's prompts; without one a call has to bring the tags.
    """

    def __init__(
        self,
        base: StableDiffusionPipeline,
        scheduler: OneStepScheduler,
        rank: int = 4,
        tagger: Tagger | None = None,
        null_text_ratio: float = 0.0,
        call_defaults: Mapping[str, Any] | None = None,
        base_name: str | None = None,
    ) -> None:
        super().__init__(
            base,
            scheduler,
            PAPER,
            LoraSets.from_state_dicts({SET: (new_set(base.unet, rank), ALPHA)}),
            (SET,),
            null_text_ratio,
            call_defaults,
            base_name,
            {} if tagger is None else {"tagger": tagger},
        )
        layers = [*lora_layers(self.vae, "encoder."), "quant_conv"]
        weights = new_set(self.vae, rank, layers)
        self._vae_lora = (LoraSets.from_state_dicts({SET: (weights, ALPHA)}).attach(self.vae),)
        train_sets(self.vae, (SET,))
        self.unet.conv_in.base_layer.requires_grad_(True)

    @torch.no_grad()
    def tags(self, batch: dict[str, Any]) -> Tensor:
        """Embed the tags of a batch, [B, tokens, channels]."""
        return encode_texts(list(batch["tags"]), self.tokenizer, self.text_encoder, batch["target"].device)

    def prompt_components(self) -> dict[str, Any]:
        """Give the text encoder, and the tagger if there is one."""
        tagger = self._modules.get("tagger")
        return {"text_encoder": self.text_encoder, "tokenizer": self.tokenizer, "tagger": tagger}

    def save(self, output_dir: Path) -> None:
        """Write the folder of the whole pipeline, with the LoRA of the VAE merged into it."""
        self.to("cpu").eval()
        (vae_lora,) = self._vae_lora
        weights = trained_sets(vae_lora, self.vae).lora_state_dict(SET)
        vae = copy.deepcopy(self.vae)
        vae_lora.detach(vae)
        merge(vae, weights, ALPHA)
        assert self._lora is not None
        pipeline = self.pipeline(trained_sets(self._lora[0], self.unet))
        pipeline.vae = vae
        pipeline.save_pretrained(output_dir)


def regulariser_of(unet: UNet2DConditionModel, rank: int = 4) -> UNet2DConditionModel:
    """Make a UNet that has, and trains, a LoRA in the mid block alone.

    The official code makes one of the whole UNet, but leaves only its last adapter active, which is that of the mid
    block: the others stay zero. The published model was made so, presumably.
    """
    regulariser = copy.deepcopy(unet)
    weights = new_set(regulariser, rank, lora_layers(regulariser, "mid_block."))
    LoraSets.from_state_dicts({"regulariser": (weights, ALPHA)}).attach(regulariser)
    train_sets(regulariser, ("regulariser",))
    return regulariser
