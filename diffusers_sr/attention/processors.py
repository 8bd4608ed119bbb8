"""Attention processors: plain objects without parameters, which compute through diffusers' attention dispatcher.

The dispatcher makes `set_attention_backend` (native, flash, sage, xformers, …) reach them, and with every backend
except the reference one no matrix of attention scores is held in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_processor import Attention, XFormersAttnProcessor


class SelfAttnProcessor:
    """Self-attention of a transformer block, `[B, L, C] -> [B, L, C]`: diffusers' own, but through the dispatcher."""

    _attention_backend: AttentionBackendName | None = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from the hidden states to themselves."""
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        return _attend(self, attn, query, key, value)


class PreparedAttnProcessor:
    """Cross-attention to tokens whose keys and values are already computed.

    `encoder_hidden_states` holds, on its last axis, the keys and the values of every layer of the transformer one
    after the other: `[B, L, layers * 2 * C]`. They are the same in the two halves of classifier-free guidance, and
    those of an image representation also at every step and in every tile; where the hidden states are
    `[k * B, N, C]` they are repeated `k` times, with the image as the fastest index.

    The keys and values of the *text*, in the stock attention of the host, could be kept in the same way. They are
    deliberately not: it would need processors on the host, which get in the way of `set_default_attn_processor`,
    xformers and IP-Adapter, and save half a percent of a step.

    Args:
        layer: the index of the transformer block this processor serves.
    """

    _attention_backend: AttentionBackendName | None = None
    _parallel_config: Any = None

    def __init__(self, layer: int = 0) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from the hidden states `[k * B, N, C]` to the prepared keys and values."""
        width = attn.inner_dim
        key, value = (
            repeat_to_batch(encoder_hidden_states.narrow(-1, start, width), hidden_states.shape[0])
            for start in (2 * self.layer * width, (2 * self.layer + 1) * width)
        )
        return _attend(self, attn, attn.to_q(hidden_states), key, value)


def keys_and_values(attn: Attention, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute what `PreparedAttnProcessor` takes where there is one layer, `[B, L, channels] -> [B, L, 2 * C]`."""
    return torch.cat([attn.to_k(hidden_states), attn.to_v(hidden_states)], dim=-1)


def keep_processor(attn: Attention, processor: Any) -> None:
    """Put `processor` on `attn` unless one of its kind is there already.

    Calls that replace every processor of a pipeline (`enable_xformers_memory_efficient_attention`) reach into an
    adapter too. The processors they put there cannot use prepared keys and values; the dispatcher can do what they do.
    """
    if isinstance(attn.processor, type(processor)):
        return
    if isinstance(attn.processor, XFormersAttnProcessor) and hasattr(processor, "_attention_backend"):
        processor._attention_backend = AttentionBackendName.XFORMERS
    attn.set_processor(processor)


def repeat_to_batch(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """Repeat the whole of `tensor` to go from `[B, ...]` to `[batch, ...]`, where `batch` is a multiple of `B`.

    Raises:
        ValueError: if `batch` is not a multiple of `B`.
    """
    if batch % tensor.shape[0]:
        raise ValueError(
            f"The conditioning is for {tensor.shape[0]} images, which does not divide the batch of {batch} the model "
            "was called with: give the conditioning for one image, or for those that the batch repeats."
        )
    times = batch // tensor.shape[0]
    return tensor if times == 1 else tensor.repeat(times, *(1,) * (tensor.ndim - 1))


def _attend(
    processor: SelfAttnProcessor | PreparedAttnProcessor,
    attn: Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """Attend from `[B, N, C]` to `[B, L, C]` with several heads, and apply the output projection of `attn`."""
    query, key, value = (tensor.unflatten(-1, (attn.heads, -1)) for tensor in (query, key, value))
    hidden_states = dispatch_attention_fn(
        query, key, value, backend=processor._attention_backend, parallel_config=processor._parallel_config
    )
    return project_out(attn, hidden_states)


def project_out(attn: Attention, hidden_states: torch.Tensor) -> torch.Tensor:
    """Apply the output projection of `attn` to `[B, N, heads, head_dim]`."""
    hidden_states = attn.to_out[0](hidden_states.flatten(2))
    return attn.to_out[1](hidden_states)
