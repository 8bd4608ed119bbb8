"""CoSeR's cognitive encoder: what an image shows, in the words of Stable Diffusion's text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.outputs import BaseOutput
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from .srresnet import SRResNet

CLIP = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""The CLIP of the paper, on the Hub."""

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

VIT_H_14: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1024,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
# BERT's base size, as wide as the text states of Stable Diffusion 2.
Q_FORMER: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "cross_attention_frequency": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


@dataclass
class CognitiveEncoderOutput(BaseOutput):
    """The output of one pass of the cognitive encoder.

    Args:
        embedding: [B, num_queries, D], the cognitive embedding, to follow the D-channel states of a text.
        image_tokens: [B, 1 + N, projection_dim], CLIP's tokens: the class token first, then the N patches, row by row
            (1 + 256 at the official size).
    """

    embedding: torch.Tensor
    # accelerate's offloading rebuilds an output from a dictionary alone, which needs a default here.
    image_tokens: torch.Tensor = None  # type: ignore[assignment]


class CLIPImageTokens(CLIPVisionModelWithProjection):
    """CLIP's vision tower with a projection of all its tokens, where CLIP itself projects the class token alone.

    As in the official code the tokens are those of the last block, without the layer norm that follows it.
    """

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map `[B, 3, image_size, image_size]`, normalised, to tokens `[B, 1 + N, projection_dim]`."""
        return self.visual_projection(self.vision_model(pixel_values).last_hidden_state)


class CognitiveEncoder(ModelMixin, ConfigMixin):
    """The encoder of a low-resolution image to its cognitive embedding (CoSeR paper, section 3.2).

    An SRResNet enlarges the image, a frozen CLIP sees it, and a Q-Former reads CLIP's tokens with learned queries.
    The defaults are the official sizes: CLIP ViT-H/14 and 50 queries for the text encoder of Stable Diffusion 2.

    Offloading hooks fire when the encoder is called. `query` alone needs weights that are on the tokens' device.

    Args:
        num_queries: tokens of the embedding.
        srresnet_channels: channels of the SRResNet.
        srresnet_blocks: residual blocks of the SRResNet.
        vision_config: arguments of `transformers.CLIPVisionConfig`.
        qformer_config: arguments of `transformers.Blip2QFormerConfig`; its `hidden_size` is that of the text states
            the embedding follows. `encoder_hidden_size` is not among them: it is CLIP's `projection_dim`.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["SRResNet", "CLIPVisionEmbeddings", "CLIPEncoderLayer", "Blip2QFormerLayer"]  # noqa: RUF012
    _repeated_blocks = ["CLIPEncoderLayer", "Blip2QFormerLayer"]  # noqa: RUF012
    # Where block-level group offloading finds the lists of blocks.
    _group_offload_block_modules = ["srresnet", "clip", "vision_model", "qformer", "encoder"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        num_queries: int = 50,
        srresnet_channels: int = 64,
        srresnet_blocks: int = 16,
        vision_config: Mapping[str, Any] = VIT_H_14,
        qformer_config: Mapping[str, Any] = Q_FORMER,
    ) -> None:
        super().__init__()
        self.srresnet = SRResNet(srresnet_channels, srresnet_blocks)
        self.clip = CLIPImageTokens(CLIPVisionConfig(**vision_config))
        qformer = Blip2QFormerConfig(**qformer_config, encoder_hidden_size=self.clip.config.projection_dim)
        self.qformer = Blip2QFormerModel(qformer)
        self.query_tokens = nn.Parameter(0.02 * torch.randn(1, num_queries, qformer.hidden_size))

    def forward(self, image: torch.Tensor) -> CognitiveEncoderOutput:
        """Compute the cognitive embedding of images.

        Args:
            image: [B, 3, H, W] in [0, 1], the low-resolution images as they are, of any size.

        Returns:
            The embedding, and the image tokens it was read from, in the dtype of the encoder.

        Raises:
            ValueError: if `image` has another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"`image` has shape {list(image.shape)}, but has to be [B, 3, H, W]: an RGB batch.")
        enlarged = self.srresnet(image.to(self.dtype))
        image_tokens = self.clip(self._pixel_values(enlarged))
        return CognitiveEncoderOutput(embedding=self.query(image_tokens), image_tokens=image_tokens)

    def query(self, image_tokens: torch.Tensor) -> torch.Tensor:
        """Read image tokens [B, L, projection_dim] with the learned queries: the embedding [B, num_queries, D]."""
        queries = self.query_tokens.expand(image_tokens.shape[0], -1, -1)
        return self.qformer(query_embeds=queries, encoder_hidden_states=image_tokens).last_hidden_state

    def _pixel_values(self, enlarged: torch.Tensor) -> torch.Tensor:
        """Resize to CLIP's square and normalise.

        As in the official code: bicubic without antialiasing, and so mostly a choice of pixels, without keeping the
        aspect ratio and without clipping.
        """
        size = (self.clip.config.image_size, self.clip.config.image_size)
        precise = enlarged.to(torch.promote_types(enlarged.dtype, torch.float32))
        resized = F.interpolate(precise, size=size, mode="bicubic", align_corners=False, antialias=False)
        return normalise_for_clip(resized).to(self.dtype)


def normalise_for_clip(image: torch.Tensor) -> torch.Tensor:
    """Bring an image [B, 3, H, W] in [0, 1] to the mean and deviation of CLIP's training images."""
    mean = image.new_tensor(IMAGE_MEAN).view(3, 1, 1)
    std = image.new_tensor(IMAGE_STD).view(3, 1, 1)
    return (image - mean) / std


def vision_config(clip: CLIPVisionModelWithProjection) -> dict[str, Any]:
    """Read the `vision_config` of a `CognitiveEncoder` that is to have this CLIP's weights."""
    return {name: getattr(clip.config, name) for name in VIT_H_14}


def freeze_clip(encoder: CognitiveEncoder) -> CognitiveEncoder:
    """Select what the first training stage trains, in place: all except CLIP, through which gradients still flow.

    Returns:
        The same encoder.
    """
    encoder.requires_grad_(True)
    encoder.clip.requires_grad_(False)
    return encoder


def cognitive_target(text_hidden_states: torch.Tensor, token_ids: torch.Tensor, num_queries: int) -> torch.Tensor:
    """Select what the embedding of an image is trained to be, given its caption (paper, Eq. 3).

    These are the states of the last `num_queries` tokens up to the end-of-text token; for a shorter text all of them,
    with the last one repeated. As in the official code the end-of-text token, which the equation's index leaves out,
    is the last one; with one query, the class token instead of the sequence (the paper's ablation), it is all
    there is. It is where the caption's largest token id is first found: tokens added after CLIP's own have to be
    replaced.

    Args:
        text_hidden_states: [B, L, D], the text encoder's states of the captions.
        token_ids: [B, L], the captions' token ids.
        num_queries: tokens of the embedding.

    Returns:
        [B, num_queries, D].

    Raises:
        ValueError: if there is not one state for each token.
    """
    if token_ids.shape != text_hidden_states.shape[:2]:
        raise ValueError(
            f"`token_ids` has shape {list(token_ids.shape)}, but `text_hidden_states` has "
            f"{list(text_hidden_states.shape)}: give [B, L] token ids and their [B, L, D] states."
        )
    last = token_ids.argmax(dim=1, keepdim=True)
    first = (last + 1 - num_queries).clamp(min=0)
    positions = (first + torch.arange(num_queries, device=token_ids.device)).minimum(last)
    return text_hidden_states.take_along_dim(positions[..., None], dim=1)


def cognitive_loss(embedding: torch.Tensor, text_hidden_states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Compute the loss of an embedding [B, Q, D] (paper, Eq. 4): mean squared error against its `cognitive_target`."""
    target = cognitive_target(text_hidden_states, token_ids, embedding.shape[1])
    return F.mse_loss(embedding.float(), target.float())
