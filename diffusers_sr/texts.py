"""Texts and their embeddings."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.utils import logging, scale_lora_layers, unscale_lora_layers
from transformers import CLIPTextModel, CLIPTokenizer

logger = logging.get_logger(__name__)


def is_texts(value: Any) -> bool:
    """Whether `value` is a text, or a list of at least one text."""
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)


def as_texts(value: str | list[str]) -> list[str]:
    """The list of a single text; a list as it is."""
    return [value] if isinstance(value, str) else value


def token_ids(texts: list[str], tokenizer: CLIPTokenizer) -> torch.Tensor:
    """The tokens of texts, padded to as many as the text encoder reads, `[texts, tokens]`.

    What does not fit is left out, with a warning that says what.
    """
    length = tokenizer.model_max_length
    for text, untruncated in zip(texts, tokenizer(texts).input_ids, strict=True):
        if len(untruncated) > length:
            lost = tokenizer.decode(untruncated[length - 1 : -1])
            logger.warning(f"The text encoder reads {length} tokens: of {text!r} it does not read {lost!r}.")
    padded = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens: torch.Tensor = padded.input_ids
    return tokens


def encode_texts(
    texts: list[str],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    device: torch.device,
    lora_scale: float | None = None,
) -> torch.Tensor:
    """The last hidden states of the text encoder, `[texts, tokens, channels]`, from one call of it on `device`.

    `lora_scale` is the weight of a LoRA in it. See `token_ids` for texts that are too long.
    """
    tokens = token_ids(texts, tokenizer)
    if lora_scale is not None:
        scale_lora_layers(text_encoder, lora_scale)
    embeds: torch.Tensor = text_encoder(tokens.to(device))[0]
    if lora_scale is not None:
        unscale_lora_layers(text_encoder, lora_scale)
    return embeds
