"""The feed-forward of an adapter's transformers."""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward

# Measured with benchmarks/seesr_step.py: the widest activations of a step of Stable Diffusion's size are 20 million
# numbers, which the system maps anew page by page at every call; this many stay in memory and in the cache.
_MOST_ELEMENTS = 2**21


class ChunkedFeedForward(FeedForward):
    """diffusers' feed-forward, which on a CPU processes the tokens in parts: the same result in less time and memory.

    A GPU processes them all together; many small parts would leave it idle.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `[B, tokens, channels]` to the same shape."""
        whole = super().forward
        if hidden_states.device.type != "cpu":
            return whole(hidden_states)
        parts = -(-hidden_states.shape[:-1].numel() * self.net[0].proj.out_features // _MOST_ELEMENTS)
        if parts == 1:
            return whole(hidden_states)
        return torch.cat([whole(part) for part in hidden_states.chunk(parts, dim=1)], dim=1)
