"""A small tagger, and how two are compared."""

from __future__ import annotations

import torch

from diffusers_sr.seesr.tagger import Tagger

TAGS = ["bridge", "cat", "flower", "house", "tree"]


def new_tagger() -> Tagger:
    """Two stages of two blocks, so that the second of each has shifted windows; nothing at zero."""
    torch.manual_seed(0)
    tagger = Tagger(
        tags=TAGS,
        thresholds=[0.65, 0.5, 0.8, 0.5, 0.5],
        image_size=64,
        embed_dim=8,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        representation_dim=16,
        head_hidden_size=24,
        head_intermediate_size=48,
    )
    for parameter in tagger.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tagger.eval()


def outputs(tagger: Tagger, pixel_values: torch.Tensor) -> torch.Tensor:
    """Logits and representation in one tensor."""
    with torch.no_grad():
        output = tagger(pixel_values)
    return torch.cat([output.logits.flatten(), output.representation.flatten()])


def assert_same(loaded: Tagger, tagger: Tagger, pixel_values: torch.Tensor) -> None:
    """Equal weights and buffers, and outputs up to what the kernels make of another memory alignment."""
    for (name, tensor), other in zip(tagger.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(tensor, other), name
    for (name, tensor), other in zip(tagger.named_buffers(), loaded.buffers(), strict=True):
        assert torch.equal(tensor, other), name
    atol, rtol = (1e-5, 1e-4) if loaded.dtype == torch.float32 else (1e-2, 1e-2)
    torch.testing.assert_close(outputs(loaded, pixel_values), outputs(tagger, pixel_values), atol=atol, rtol=rtol)
