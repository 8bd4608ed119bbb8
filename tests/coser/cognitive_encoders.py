"""A small cognitive encoder's configuration, and how two are compared."""

from __future__ import annotations

import torch

from diffusers_sr.coser.cognition import CognitiveEncoder

VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
Q_FORMER = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "cross_attention_frequency": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


def embedding(encoder: CognitiveEncoder, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder(image).embedding


def assert_same(loaded: CognitiveEncoder, encoder: CognitiveEncoder, image: torch.Tensor) -> None:
    """Equal weights and buffers, and an embedding up to what the kernels make of another memory alignment."""
    assert loaded.config.keys() >= {"vision_config", "qformer_config"}
    for (name, tensor), other in zip(encoder.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(tensor, other), name
    for (name, tensor), other in zip(encoder.named_buffers(), loaded.buffers(), strict=True):
        assert torch.equal(tensor, other), name
    tolerance = 1e-4 if loaded.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(embedding(loaded, image), embedding(encoder, image), atol=tolerance, rtol=tolerance)
