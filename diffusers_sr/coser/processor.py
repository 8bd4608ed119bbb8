"""The attention processors of CoSeR's reference attention: one-hot, and softmax in its place."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention

from ..attention.processors import PreparedAttnProcessor, keys_and_values, project_out
from .one_hot import Similarity, one_hot_attention


class OneHotReferenceAttnProcessor:
    """CoSeR's reference attention (paper, Eq. 5): each query takes the value of the one key most similar to it.

    It has several heads, as in the official code, and no attention backend: no softmax is computed, and no matrix of
    scores is held either (`diffusers_sr.coser.one_hot`).

    Args:
        similarity: that of `one_hot_attention`.
    """

    def __init__(self, similarity: Similarity) -> None:
        self.similarity = similarity

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from `[B, N, C]` to `encoder_hidden_states`, `[B, L, C]`."""
        query, key, value = (
            projection(tokens).unflatten(-1, (attn.heads, -1))
            for projection, tokens in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        return project_out(attn, one_hot_attention(query, key, value, self.similarity))


class SoftmaxReferenceAttnProcessor(PreparedAttnProcessor):
    """Stock attention with a softmax in place of the one-hot attention (the paper's ablation)."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from `[B, N, C]` to `encoder_hidden_states`, `[B, L, C]`."""
        return super().__call__(attn, hidden_states, keys_and_values(attn, encoder_hidden_states))
