"""Convert the official weights of CoSeR's cognitive encoder to `CognitiveEncoder`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from accelerate import init_empty_weights
from transformers import CLIPVisionModelWithProjection

from ..conversion.checkpoints import PathLike, check_keys
from .cognition import CLIP, Q_FORMER, CognitiveEncoder, vision_config

PREFIXES = ("pre_sr_model.", "global_adapter.")
# BERT's text half: it is in the official files, but nothing in CoSeR uses it.
TEXT_BRANCH = re.compile(
    r"^global_adapter\.Qformer\.(embeddings\.(word_embeddings|position_embeddings|position_ids)"
    r"|encoder\.layer\.\d+\.(intermediate|output)\.)"
)
# The published sizes by their channels: a known depth reveals a missing block.
PUBLISHED_BLOCKS = {64: 16}
PUBLISHED_LAYERS = {1024: 12}

_RENAMED = (
    ("srresnet.", "pre_sr_model."),
    ("query_tokens", "global_adapter.query_tokens"),
    ("qformer.layernorm.", "global_adapter.Qformer.embeddings.LayerNorm."),
    ("qformer.", "global_adapter.Qformer."),
    ("attention.attention.", "attention.self."),
)


def cognitive_encoder_from_official(
    official: Mapping[str, torch.Tensor],
    clip: CLIPVisionModelWithProjection,
    source: PathLike = "the cognitive encoder",
) -> CognitiveEncoder:
    """Make a cognitive encoder from the official SRResNet and Q-Former and from CLIP, which CoSeR does not train.

    The sizes are read from the shapes. Official weights keep their dtype, and CLIP is cast to it.

    Args:
        official: tensors under the official names `pre_sr_model.*` and `global_adapter.*`; others, and those of the
            Q-Former's text half, are ignored.
        clip: CLIP's vision model, `laion/CLIP-ViT-H-14-laion2B-s32B-b79K` for the published weights. The encoder
            shares its tensors.
        source: what errors call the official weights.

    Raises:
        ValueError: if keys are missing, unexpected or mis-shaped (all of them are listed), or if the Q-Former does not
            read tokens as wide as this CLIP's.
    """
    weights = {
        key: tensor for key, tensor in official.items() if key.startswith(PREFIXES) and not TEXT_BRANCH.match(key)
    }
    with init_empty_weights(include_buffers=False):
        encoder = CognitiveEncoder(**_sizes(weights, clip, source))
    names = {key: official_key(key) for key in encoder.state_dict() if not key.startswith("clip.")}
    check_keys(weights, {name: encoder.state_dict()[key].shape for key, name in names.items()}, source)
    # Copies, so that the encoder neither shares memory with the caller's tensors nor keeps a mapped file open.
    own = {key: weights[name].clone() for key, name in names.items()}
    shared = {f"clip.{key}": tensor.to(own["query_tokens"].dtype) for key, tensor in clip.state_dict().items()}
    encoder.load_state_dict({**own, **shared}, assign=True)
    return encoder.eval()


def official_key(key: str) -> str:
    """Give the official name of a key of the cognitive encoder that is not CLIP's."""
    for own, official in _RENAMED:
        key = key.replace(own, official)
    return key


def _sizes(
    weights: Mapping[str, torch.Tensor], clip: CLIPVisionModelWithProjection, source: PathLike
) -> dict[str, object]:
    """Read the encoder's configuration from the shapes of the official weights, and CLIP's from its own."""
    layer = "global_adapter.Qformer.encoder.layer."
    conv, query_tokens, intermediate, cross_key = needed = [
        "pre_sr_model.conv_first.weight",
        "global_adapter.query_tokens",
        f"{layer}0.intermediate_query.dense.weight",
        f"{layer}0.crossattention.self.key.weight",
    ]
    if missing := [key for key in needed if key not in weights]:
        lines = "\n  ".join(missing)
        raise ValueError(f"{source} does not have the weights of CoSeR's SRResNet and Q-Former, missing:\n  {lines}")
    _, num_queries, hidden_size = weights[query_tokens].shape
    width = weights[cross_key].shape[1]
    if width != clip.config.projection_dim:
        raise ValueError(
            f"The Q-Former reads image tokens of {width} channels, but this CLIP's have {clip.config.projection_dim}: "
            f"give the CLIP it was trained with ({CLIP} for the published Q-Former)."
        )
    channels = len(weights[conv])
    return {
        "num_queries": num_queries,
        "srresnet_channels": channels,
        "srresnet_blocks": PUBLISHED_BLOCKS.get(channels, _count(weights, "pre_sr_model.body.")),
        "vision_config": vision_config(clip),
        # Heads and the frequency of cross-attention, which the shapes do not show, are the same in every CoSeR.
        "qformer_config": {
            **Q_FORMER,
            "hidden_size": hidden_size,
            "intermediate_size": len(weights[intermediate]),
            "num_hidden_layers": PUBLISHED_LAYERS.get(hidden_size, _count(weights, layer)),
        },
    }


def _count(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    numbers = {int(key.removeprefix(prefix).split(".")[0]) for key in weights if key.startswith(prefix)}
    return max(numbers, default=-1) + 1
