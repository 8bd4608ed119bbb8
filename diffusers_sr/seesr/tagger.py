"""SeeSR's degradation-aware tagger: RAM's image branch, tuned on degraded images by low-rank adaptation (DAPE)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.outputs import BaseOutput
from peft import LoraConfig
from torch import nn
from transformers import SwinConfig, SwinModel

from .tagging_head import TaggingHead

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass
class TaggerOutput(BaseOutput):
    """The output of one pass of the tagger.

    Args:
        logits: [B, number of tags]; their sigmoid is the probability of a tag.
        representation: [B, 1 + N, representation_dim], SeeSR's soft prompt: the mean token first, then the N tokens
            of the last Swin stage, row by row (1 + 144 at the official size).
    """

    logits: torch.Tensor
    # accelerate's offloading rebuilds an output from a dictionary alone, which needs a default here.
    representation: torch.Tensor = None  # type: ignore[assignment]


class Tagger(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Swin transformer, image projection and tagging head: tags and representation from one pass over the image.

    The official RAM Swin-L at 384 pixels is the default (SeeSR paper, section 3.2; RAM without its captioning half).
    Tag names and thresholds belong to the weights and are therefore part of the configuration.

    In training, stochastic depth acts on the attention branch of a Swin block alone, as transformers does it; the
    official code drops the feed-forward branch as well. Nothing differs in evaluation.

    Args:
        tags: names of the tags, in the order of the logits.
        thresholds: one for each tag, between 0 and 1; a tag is given if its probability is above its threshold.
        image_size: side in pixels of the square the image is resized to; a multiple of
            `patch_size * 2 ** (stages - 1) * window_size`, so that every stage is tiled by whole windows.
        patch_size: side of a patch in pixels.
        embed_dim: channels of the first Swin stage, doubled by each further stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: side of an attention window in tokens.
        mlp_ratio: width of a Swin block's feed-forward network over the block's channels.
        drop_path_rate: stochastic depth of the last Swin block while training, growing linearly from 0 at the first.
        representation_dim: channels of the representation.
        head_hidden_size: width of the tagging head.
        head_num_heads: attention heads of the tagging head.
        head_intermediate_size: width of the tagging head's feed-forward networks.
        head_num_layers: layers of the tagging head.
        dropout: dropout of the tagging head while training.

    Raises:
        ValueError: if `tags` and `thresholds` differ in length, or `image_size` is not such a multiple.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["SwinStage", "TaggingHeadLayer"]  # noqa: RUF012
    _repeated_blocks = ["SwinLayer", "TaggingHeadLayer"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        tags: Sequence[str],
        thresholds: Sequence[float],
        image_size: int = 384,
        patch_size: int = 4,
        embed_dim: int = 192,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (6, 12, 24, 48),
        window_size: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        representation_dim: int = 512,
        head_hidden_size: int = 768,
        head_num_heads: int = 4,
        head_intermediate_size: int = 3072,
        head_num_layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(tags) != len(thresholds):
            raise ValueError(
                f"There are {len(tags)} tags but {len(thresholds)} thresholds: give one threshold for each tag."
            )
        multiple = patch_size * 2 ** (len(depths) - 1) * window_size
        if image_size % multiple:
            raise ValueError(
                f"`image_size` is {image_size}, but with patches of {patch_size} pixels, {len(depths)} stages and "
                f"windows of {window_size} tokens it has to be a multiple of {multiple}."
            )
        swin_config = SwinConfig(
            image_size=image_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
        )
        self.swin = SwinModel(swin_config, add_pooling_layer=False)
        self.image_proj = nn.Linear(self.swin.num_features, representation_dim)
        self.tagging_head = TaggingHead(
            num_tags=len(tags),
            representation_dim=representation_dim,
            hidden_size=head_hidden_size,
            num_heads=head_num_heads,
            intermediate_size=head_intermediate_size,
            num_layers=head_num_layers,
            dropout=dropout,
        )

    def preprocess(self, image: torch.Tensor, antialias: bool = True, mode: str = "bilinear") -> torch.Tensor:
        """Resize to the tagger's square and normalise.

        Bilinear with antialiasing, as torchvision's `Resize` in the official inference does it today. The aspect
        ratio is not kept: the official tagger was trained on squashed images.

        Args:
            image: [B, 3, H, W] in [0, 1], any size.
            antialias: whether a larger image is antialiased; it was not with the torchvision of the official code.
            mode: "bilinear", or "bicubic", which may leave [0, 1] and is not clamped.

        Returns:
            `pixel_values` [B, 3, image_size, image_size] for `forward`, in the dtype of the tagger.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"`image` has shape {list(image.shape)}, but has to be [B, 3, H, W]: an RGB batch.")
        size = (self.config.image_size, self.config.image_size)
        resized = F.interpolate(image.float(), size=size, mode=mode, antialias=antialias)
        mean = resized.new_tensor(IMAGE_MEAN).view(3, 1, 1)
        std = resized.new_tensor(IMAGE_STD).view(3, 1, 1)
        return ((resized - mean) / std).to(self.dtype)

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Compute Swin tokens [B, 1 + N, embed_dim * 2 ** (stages - 1)]: the mean of all first, then all of them."""
        tokens = self.swin(pixel_values=pixel_values).last_hidden_state
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)

    def forward(self, pixel_values: torch.Tensor) -> TaggerOutput:
        """Tag normalised images.

        Args:
            pixel_values: [B, 3, image_size, image_size], from `preprocess`.

        Returns:
            Logits and representation, from one Swin pass.
        """
        representation = self.image_proj(self.encode(pixel_values))
        return TaggerOutput(logits=self.tagging_head(representation), representation=representation)

    def tags(self, logits: torch.Tensor) -> list[list[str]]:
        """Name the tags of each image whose probability is above their threshold, in the order of the tag list.

        Args:
            logits: [B, number of tags], of any dtype; compared in float32.
        """
        thresholds = torch.tensor(self.config.thresholds, dtype=torch.float32, device=logits.device)
        given = torch.sigmoid(logits.float()) > thresholds
        return [[self.config.tags[index] for index in row.nonzero().flatten().tolist()] for row in given.cpu()]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save as `ModelMixin.save_pretrained` does; low-rank matrices have to be merged first.

        Raises:
            ValueError: if the tagger still carries a peft adapter: a plain tagger could not read its keys.
        """
        if getattr(self, "peft_config", None):
            raise ValueError(
                "This tagger carries a LoRA. Merge it with `merge_lora(tagger)`, or save the LoRA alone with "
                "`tagger.save_lora_adapter(...)`."
            )
        super().save_pretrained(*args, **kwargs)

    # Pipelines read the signature to know what they may pass.
    functools.update_wrapper(save_pretrained, ModelMixin.save_pretrained)


def dape_lora_config(tagger: Tagger) -> LoraConfig:
    """Describe DAPE's low-rank adaptation for `tagger.add_adapter`: what the official code trains, and nothing else.

    Rank 8 and alpha 1 (so a scale of 1/8) on queries and values of every Swin block and on queries and keys of the
    tagging head.
    """
    targets = [
        name
        for name, _ in tagger.named_modules()
        if name.endswith((".attention.q_proj", ".attention.v_proj", ".query", ".key"))
    ]
    return LoraConfig(r=8, lora_alpha=1, lora_dropout=0.0, target_modules=targets)


def merge_lora(tagger: Tagger) -> Tagger:
    """Add the tagger's low-rank matrices into its plain weights, in place, and remove peft's wrappers.

    Returns:
        The same tagger, with plain weights that `save_pretrained` accepts, and the same outputs as before.
    """
    tagger.fuse_lora()
    tagger.unload_lora()
    return tagger
