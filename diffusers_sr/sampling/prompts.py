"""Prompts and their embeddings, in pairs of a positive and a negative one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers.loaders import TextualInversionLoaderMixin

from ..texts import as_texts, encode_texts
from .finite import Stage


class PromptEncoder(TextualInversionLoaderMixin):
    """The part of a pipeline that encodes its prompts."""

    text_encoder: Any
    tokenizer: Any
    config: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.unwrap(cls.encode_prompt) is PromptEncoder.encode_prompt:
            cls.encode_prompt = _with_arguments_of(cls.write_prompt, PromptEncoder.encode_prompt)  # type: ignore[method-assign]

    def write_prompt(self, prompt: str | list[str] | None) -> str | list[str] | None:
        """Write what the text encoder reads for a user's prompt; a method adds what it sees in the image itself."""
        return prompt

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        **written: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode the prompts that `write_prompt` writes, and the negative prompts, in one call of the text encoder.

        Texts and embeddings are as in `__call__`; no `prompt` is an empty one, and `negative_prompt` has a default.
        `prompt_embeds` take the place of the whole prompt.

        Args:
            lora_scale: weight of a LoRA in the text encoder.
            written: the further arguments of `write_prompt`.

        Returns:
            Embeddings of the prompts and of the negative prompts, `[texts, tokens, channels]`. The second are None
            without classifier-free guidance.

        Raises:
            ValueError: if embeddings are missing and there is no text encoder, or if the two do not have the same
                tokens and channels.
        """
        if prompt_embeds is None and self.tokenizer is not None:
            prompt = self.write_prompt(prompt, **written)
        prompt_embeds, negative_prompt_embeds = self._encode_pair(
            "prompt",
            (prompt, negative_prompt),
            (prompt_embeds, negative_prompt_embeds),
            do_classifier_free_guidance,
            lora_scale,
        )
        return prompt_embeds, negative_prompt_embeds

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
            default = self.config.call_defaults.get(f"negative_{name}", "")  # none where nothing is guided
            negative_texts = as_texts(default if texts[1] is None else texts[1])
        if positive_texts or negative_texts:
            self._check_text_encoder(name)
            all_texts = self.maybe_convert_prompt([*positive_texts, *negative_texts], self.tokenizer)
            encoded = Stage(f"encoding `{name}`", self.text_encoder).run(
                lambda: encode_texts(all_texts, self.tokenizer, self.text_encoder, self._execution_device, lora_scale)
            )
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


def _with_arguments_of(write_prompt: Callable[..., Any], encode_prompt: Callable[..., Any]) -> Callable[..., Any]:
    """Show the further arguments of `write_prompt` in the signature of `encode_prompt`."""

    @functools.wraps(encode_prompt)
    def encode(self: Any, *args: Any, **kwargs: Any) -> Any:
        return encode_prompt(self, *args, **kwargs)

    own = inspect.signature(encode_prompt)
    parameters = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    further = [each for each in inspect.signature(write_prompt).parameters.values() if each.name not in own.parameters]
    encode.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*parameters, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in further)]
    )
    return encode
