"""Texts and their embeddings."""

from __future__ import annotations

import re
from collections.abc import Callable
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
    """Put a single text into a list; return a list as it is."""
    return [value] if isinstance(value, str) else value


def pair_texts(prompts: list[str], described: list[str]) -> list[tuple[str, str]]:
    """Pair each image's prompt with its description; a list of one entry serves every entry of the other.

    Raises:
        ValueError: if both have several entries and differ in length.
    """
    count = max(len(prompts), len(described))
    if not {len(prompts), len(described)} <= {1, count}:
        raise ValueError(
            f"There are {len(prompts)} prompts for {len(described)} images: give one for all, or one for each."
        )
    prompts, described = (texts * count if len(texts) == 1 else texts for texts in (prompts, described))
    return list(zip(prompts, described, strict=True))


def shorten_before(text: str, ending: str, count_tokens: Callable[[str], int], limit: int) -> str:
    """Join `text`, a space and `ending`, with `text` cut short so that the text encoder reads the whole ending.

    What does not fit before the ending is cut off the end of `text`, at the end of a word if there is one, with a
    warning that quotes it. An ending that is too long on its own stays as it is.

    Args:
        count_tokens: counts the tokens of a text, including those that mark its start and end.
        limit: how many tokens the text encoder reads.
    """
    if count_tokens(f"{text} {ending}") <= limit:
        return f"{text} {ending}".strip()
    # `start` characters fit, if the ending does; `end` characters do not.
    start, end = 0, len(text)
    while end - start > 1:
        middle = (start + end) // 2
        if count_tokens(f"{text[:middle]} {ending}") <= limit:
            start = middle
        else:
            end = middle
    kept = text[:start]
    if not text[start : start + 1].isspace():
        kept = re.sub(r"\S+\Z", "", kept).rstrip() or kept
    kept = kept.rstrip()
    logger.warning(
        f"The text encoder reads {limit} tokens: it does not read {text[len(kept) :].strip()!r} of {text!r}, to leave "
        f"room for {ending!r}."
    )
    return f"{kept} {ending}".strip()


def token_ids(texts: list[str], tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Turn texts into tokens, padded to as many as the text encoder reads, `[texts, tokens]`.

    What does not fit is left out, with a warning that quotes it.
    """
    length = tokenizer.model_max_length
    for text, untruncated in zip(texts, tokenizer(texts).input_ids, strict=True):
        if len(untruncated) > length:
            lost = tokenizer.decode(untruncated[length - 1 : -1])
            logger.warning(f"The text encoder reads {length} tokens: it does not read {lost!r} of {text!r}.")
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
    """Encode texts in one call on `device`: the text encoder's last hidden states, `[texts, tokens, channels]`.

    `lora_scale` is the weight of a LoRA in the text encoder. See `token_ids` for texts that are too long.
    """
    tokens = token_ids(texts, tokenizer)
    if lora_scale is not None:
        scale_lora_layers(text_encoder, lora_scale)
    embeds: torch.Tensor = text_encoder(tokens.to(device))[0]
    if lora_scale is not None:
        unscale_lora_layers(text_encoder, lora_scale)
    return embeds
