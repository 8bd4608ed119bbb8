"""CoSeR's cognitive encoder on weights in the official layout.

WEIGHTS_DIR holds `cog_adapter.npz` (the Q-Former's weights `sd.*`; `image_tokens`, `text_emb`, `text_tokens`), which
gives `cog_adapter.{out, target, loss}`, and `srresnet.npz` (`sd.*`; `image`), which gives `srresnet.out`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusers_sr.coser.cognition import CognitiveEncoder, cognitive_loss, cognitive_target
from diffusers_sr.coser.convert_cognition import cognitive_encoder_from_official

Tensors = dict[str, torch.Tensor]


def forward(weights: Path, dtype: torch.dtype) -> Tensors:
    encoder = load_encoder(weights).to(dtype)
    image_tokens, text, token_ids = read(
        weights / "cog_adapter.npz", ["image_tokens", "text_emb", "text_tokens"], dtype
    ).values()
    (image,) = read(weights / "srresnet.npz", ["image"], dtype).values()
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
        names = [name for name in np.load(weights / file).files if name.startswith("sd.")]
        state = read(weights / file, names)
        official |= {prefix + name.removeprefix("sd."): tensor for name, tensor in state.items()}
    width = official["global_adapter.Qformer.encoder.layer.0.crossattention.self.key.weight"].shape[1]
    config = CLIPVisionConfig(hidden_size=12, intermediate_size=1, num_hidden_layers=1, projection_dim=width)
    return cognitive_encoder_from_official(official, CLIPVisionModelWithProjection(config))


def read(file: Path, names: Iterable[str], dtype: torch.dtype = torch.float32) -> Tensors:
    with np.load(file) as stored:
        tensors = {name: torch.from_numpy(stored[name]) for name in names}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
