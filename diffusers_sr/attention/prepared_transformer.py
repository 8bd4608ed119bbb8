"""The transformers that SeeSR and XPSR add to those of their hosts: diffusers' own, with prepared attention."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Transformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from .feed_forward import ChunkedFeedForward
from .processors import PreparedAttnProcessor, SelfAttnProcessor, keep_processor, keys_and_values

_OPTIONS = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "num_layers",
    "norm_num_groups",
    "use_linear_projection",
)


def transformer_options(transformer: Transformer2DModel) -> dict[str, Any]:
    """Read the options with which `prepared_transformer` makes another transformer of the same shape."""
    return {name: transformer.config[name] for name in _OPTIONS}


def prepared_transformer(cross_attention_dim: int, options: dict[str, Any]) -> Transformer2DModel:
    """Make a transformer whose `encoder_hidden_states` are keys and values: those of `transformer_keys_and_values`.

    Args:
        cross_attention_dim: channels of the tokens that keys and values are computed from.
        options: from `transformer_options`; any further ones are ignored.
    """
    transformer = Transformer2DModel(
        cross_attention_dim=cross_attention_dim, **{name: options[name] for name in _OPTIONS}
    )
    for block in transformer.transformer_blocks:
        block.ff = ChunkedFeedForward(transformer.inner_dim, activation_fn="geglu")
    return transformer


def transformer_keys_and_values(transformer: Transformer2DModel, tokens: torch.Tensor) -> torch.Tensor:
    """Compute the keys and values of all layers, `[B, L, channels] -> [B, L, num_layers * 2 * inner channels]`."""
    blocks: Any = transformer.transformer_blocks
    return torch.cat([keys_and_values(block.attn2, tokens) for block in blocks], dim=-1)


def run_prepared(transformer: Transformer2DModel, hidden_states: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
    """Run the transformer with prepared keys and values, `[B, C, H, W] -> [B, C, H, W]`, with its residual."""
    output: torch.Tensor = transformer(hidden_states, encoder_hidden_states=prepared, return_dict=False)[0]
    return output


def keep_transformer_processors(adapter: nn.Module) -> None:
    """Put the processors that prepared attention needs on every transformer of an adapter (`keep_processor`)."""
    for transformer in adapter.modules():
        if isinstance(transformer, Transformer2DModel):
            for layer, block in enumerate(transformer.transformer_blocks):
                keep_processor(block.attn1, SelfAttnProcessor())
                keep_processor(block.attn2, PreparedAttnProcessor(layer))


def with_hidden_states(output: Any, hidden_states: torch.Tensor) -> Any:
    """Return hidden states in the form of `output`, which is that of a transformer or a residual block."""
    if isinstance(output, torch.Tensor):
        return hidden_states
    return (hidden_states,) if isinstance(output, tuple) else Transformer2DModelOutput(sample=hidden_states)
