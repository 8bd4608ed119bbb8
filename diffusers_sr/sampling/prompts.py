"""Prompts and their embeddings, in pairs of a positive and a negative one."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from diffusers.loaders import TextualInversionLoaderMixin

from ..texts import as_texts, encode_texts


class EncodeOptions(TypedDict, total=False):
    """The arguments of every method's `encode_prompt` besides its texts; see `PromptEncoder.encode_prompt`."""

    do_classifier_free_guidance: bool
    prompt_embeds: torch.Tensor | None
    negative_prompt_embeds: torch.Tensor | None
    lora_scale: float | None


class PromptEncoder(TextualInversionLoaderMixin):
    """The part of a pipeline that encodes its prompts."""

    text_encoder: Any
    tokenizer: Any
    config: Any
    _execution_device: torch.device

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        *,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode both prompts in one call of the text encoder.

        Texts and embeddings are as in `__call__`; without a `prompt` it is empty, and `negative_prompt` has a default.
        `lora_scale` is the weight of a LoRA in the text encoder.

        Returns:
            Embeddings of the prompts and of the negative prompts, `[texts, tokens, channels]`. The second are None
            without classifier-free guidance.

        Raises:
            ValueError: if embeddings are missing and there is no text encoder, or if the two do not have the same
                tokens and channels.
        """
        return self._encode_pair(
            "prompt",
            (prompt, negative_prompt if do_classifier_free_guidance else ""),
            (prompt_embeds, negative_prompt_embeds),
            do_classifier_free_guidance,
            lora_scale,
        )

    def _encode_pair(
        self,
        name: str,
        texts: tuple[str | list[str] | None, str | list[str] | None],
        embeds: tuple[torch.Tensor | None, torch.Tensor | None],
        has_negative: bool,
        lora_scale: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Do `encode_prompt` for the arguments `{name}` and `negative_{name}`; the second has a default."""
        positive, negative = embeds[0], embeds[1] if has_negative else None
        positive_texts = [] if positive is not None else as_texts(texts[0] or "")
        negative_texts = []
        if has_negative and negative is None:
            default = self.config.call_defaults[f"negative_{name}"]
            negative_texts = as_texts(default if texts[1] is None else texts[1])
        if positive_texts or negative_texts:
            self._check_text_encoder(name)
            all_texts = self.maybe_convert_prompt([*positive_texts, *negative_texts], self.tokenizer)
            encoded = encode_texts(all_texts, self.tokenizer, self.text_encoder, self._execution_device, lora_scale)
            if positive_texts:
                positive = encoded[: len(positive_texts)]
            if negative_texts:
                negative = encoded[len(positive_texts) :]
        assert positive is not None
        if negative is not None and negative.shape[1:] != positive.shape[1:]:
            raise ValueError(
                f"The embeddings of `{name}`, {list(positive.shape)}, and of `negative_{name}`, "
                f"{list(negative.shape)}, differ in tokens or channels: encode both in the same way."
            )
        return positive, negative

    def _check_text_encoder(self, name: str) -> None:
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(
                f"The pipeline has no text encoder or no tokenizer: give `{name}_embeds`, and with a "
                f"`guidance_scale` above 1 `negative_{name}_embeds` too."
            )
