"""The Query2Label head of RAM: one learned query per tag, answered by cross-attention to the image representation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class TaggingHeadLayer(nn.Module):
    """Cross-attention to the representation and a feed-forward network, each followed by a residual and a norm.

    There is no self-attention: tags do not see each other, as in RAM, which deletes it from BERT's layers.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, intermediate_size: int, representation_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(representation_dim, hidden_size)
        self.value = nn.Linear(representation_dim, hidden_size)
        self.attention_output = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.intermediate = nn.Linear(hidden_size, intermediate_size)
        self.feed_forward_output = nn.Linear(intermediate_size, hidden_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor, representation: torch.Tensor) -> torch.Tensor:
        """Map `hidden_states` [B or 1, T, H] and `representation` [B, L, D] to [B, T, H].

        A batch of 1 serves all images: before the first layer the queries are still the same for each of them.
        """
        query = self._split_heads(self.query(hidden_states)).expand(representation.shape[0], -1, -1, -1)
        key = self._split_heads(self.key(representation))
        value = self._split_heads(self.value(representation))
        attended = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout.p if self.training else 0.0
        )
        attended = self.dropout(self.attention_output(attended.transpose(1, 2).flatten(2)))
        hidden_states = self.attention_norm(attended + hidden_states)
        expanded = F.gelu(self.intermediate(hidden_states))
        return self.feed_forward_norm(self.dropout(self.feed_forward_output(expanded)) + hidden_states)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class TaggingHead(nn.Module):
    """RAM's tagging head (paper section 3.3, "image recognition decoder").

    Args:
        num_tags: number of tags T.
        representation_dim: channels D of the representation, and of the tags' label embeddings.
        hidden_size: width H of the layers.
        num_heads: attention heads; divides `hidden_size`.
        intermediate_size: width of the feed-forward networks.
        num_layers: number of layers.
        dropout: dropout of attention weights and of both outputs of a layer, while training.
    """

    _gradient_checkpointing_func: Callable[..., torch.Tensor]  # set by `ModelMixin.enable_gradient_checkpointing`

    def __init__(
        self,
        num_tags: int,
        representation_dim: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        num_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        # The official label embeddings come from CLIP's text encoder; the small initialisation is for training anew.
        self.label_embed = nn.Parameter(0.02 * torch.randn(num_tags, representation_dim))
        self.label_proj = nn.Linear(representation_dim, hidden_size)
        self.layers = nn.ModuleList(
            TaggingHeadLayer(hidden_size, num_heads, intermediate_size, representation_dim, dropout)
            for _ in range(num_layers)
        )
        self.classifier = nn.Linear(hidden_size, 1)
        self.gradient_checkpointing = False

    def forward(self, representation: torch.Tensor) -> torch.Tensor:
        """Compute the logits [B, T] of all tags for `representation` [B, L, D]."""
        hidden_states = F.relu(self.label_proj(self.label_embed)).unsqueeze(0)
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden_states = self._gradient_checkpointing_func(layer, hidden_states, representation)
            else:
                hidden_states = layer(hidden_states, representation)
        return self.classifier(hidden_states).squeeze(-1)
