"""CoSeR's cognitive encoder on weights in the official layout.

WEIGHTS_DIR holds `cog_adapter.npz` (the Q-Former's weights `sd.*`; `image_tokens`, `text_emb`, `text_tokens`), which
gives `cog_adapter.{out, target, loss}`, and `srresnet.npz` (`sd.*`; `image`), which gives `srresnet.out`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusers_sr.coser.cognition import CognitiveEncoder, cognitive_loss, cognitive_target
from diffusers_sr.coser.convert_cognition import cognitive_encoder_from_official
from tests.parity.arrays import read_arrays, read_state_dict

Tensors = dict[str, torch.Tensor]


def forward(weights: Path, dtype: torch.dtype) -> Tensors:
    encoder = load_encoder(weights).to(dtype)
    given = read_arrays(weights / "cog_adapter.npz", dtype, ["image_tokens", "text_emb", "text_tokens"])
    image_tokens, text, token_ids = given.values()
    (image,) = read_arrays(weights / "srresnet.npz", dtype, ["image"]).values()
    embedding = encoder.query(image_tokens)
    return {
        "cog_adapter.out": embedding,
        "cog_adapter.target": cognitive_target(text, token_ids, embedding.shape[1]),
        "cog_adapter.loss": cognitive_loss(embedding, text, token_ids),
        "srresnet.out": encoder.srresnet(image),
    }


def load_encoder(weights: Path) -> CognitiveEncoder:
    """The encoder of both files, with a CLIP that is never run: its tokens are given."""
    official: Tensors = {}
    for file, prefix in (("cog_adapter.npz", "global_adapter."), ("srresnet.npz", "pre_sr_model.")):
        official |= {prefix + name: tensor for name, tensor in read_state_dict(weights / file).items()}
    width = official["global_adapter.Qformer.encoder.layer.0.crossattention.self.key.weight"].shape[1]
    config = CLIPVisionConfig(hidden_size=12, intermediate_size=1, num_hidden_layers=1, projection_dim=width)
    return cognitive_encoder_from_official(official, CLIPVisionModelWithProjection(config))
