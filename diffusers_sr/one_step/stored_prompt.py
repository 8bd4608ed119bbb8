"""`StoredPrompt`: the embedding of a prompt that never changes, in place of a text encoder."""

from __future__ import annotations

from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..texts import encode_texts


class StoredPrompt(ModelMixin, ConfigMixin):
    """The text encoder's embedding of one prompt, `embedding` `[1, tokens, channels]`.

    Models that were trained with one prompt alone, as PiSA-SR and OMGSR with the empty one, need no text encoder.

    Args:
        tokens, channels: of the embedding.
        prompt: the text that was encoded, for people who read the configuration.
    """

    @register_to_config
    def __init__(self, tokens: int, channels: int, prompt: str = "") -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, tokens, channels), requires_grad=False)

    @classmethod
    @torch.no_grad()
    def from_text(cls, tokenizer: Any, text_encoder: Any, prompt: str = "") -> Self:
        """Encode a prompt as the text encoder's own pipelines do, with the tokenizer's own padding."""
        embedding = encode_texts([prompt], tokenizer, text_encoder, text_encoder.device)
        model = cls(embedding.shape[1], embedding.shape[2], prompt)
        model.embedding = nn.Parameter(embedding, requires_grad=False)
        return model.eval()
