"""XPSR's captioner: a multimodal language model that says what an image shows, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from .caption_names import PRACTICAL_MODEL
from .prompts import ImagePrompts

PAPER_MODEL = "llava-hf/llava-1.5-7b-hf"
"""LLaVA-1.5, which gives both prompts in the paper, and the high-level one in the official code."""

HIGH_LEVEL_INSTRUCTION = "Please provide a descriptive summary of the content of this image."
"""The instruction of the paper (section 3.2) and of the official code."""
LOW_LEVEL_INSTRUCTION = (
    "Please describe the quality of this image and evaluate it based on factors such as clarity, color, noise, and "
    "lighting"
)
"""The paper's instruction."""
OFFICIAL_LOW_LEVEL_INSTRUCTION = "Describe and evaluate the quality of the image."
"""The official code's instruction, for Q-Instruct (an InternLM-XComposer-VL), which transformers does not include."""
MAX_NEW_TOKENS = 170
"""Roughly what the official code's limit of 200 tokens leaves for LLaVA's answer."""


class Captioner:
    """Any image-text-to-text model of transformers that describes images, through its processor's chat template.

    The two prompts of an image are two conversations of one turn each. Generation takes the likeliest token at every
    step, so that the same image is always described in the same words. Line breaks become spaces, as in the official
    code. A prompt may be longer than a text encoder reads; the pipeline shortens it.

    The official code does not use LLaVA's chat template but a text that puts the image in another place, and its limit
    of 200 tokens includes the instruction; here only new tokens are counted.

    Args:
        model: an image-text-to-text model with `generate`.
        processor: its processor, with a chat template.
        high_level_instruction: the question that asks what the image shows.
        low_level_instruction: the question that asks how good it is.
        max_new_tokens: the most tokens of a prompt.
        batch_size: images described at a time.
        name: name of the model, by which prompts in a cache are told apart; by default that in its configuration.

    Raises:
        ValueError: if the processor has no chat template, or `max_new_tokens` or `batch_size` is below 1.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        high_level_instruction: str = HIGH_LEVEL_INSTRUCTION,
        low_level_instruction: str = LOW_LEVEL_INSTRUCTION,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 4,
        name: str | None = None,
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise ValueError(
                f"The {type(processor).__name__} has no chat template: give a model that was tuned to follow "
                f"instructions, such as {PRACTICAL_MODEL!r} or {PAPER_MODEL!r}."
            )
        for argument, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{argument}={value}, but has to be at least 1.")
        self.model = model.eval()
        self.processor = processor
        self.high_level_instruction = high_level_instruction
        self.low_level_instruction = low_level_instruction
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.name = name or model.config.name_or_path

    @classmethod
    def from_pretrained(
        cls,
        model: str = PRACTICAL_MODEL,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Captioner:
        """Load the model and its processor from a folder or the Hub.

        Models that see videos too (SmolVLM2, Qwen-VL, InternVL, LLaVA-OneVision) and Pixtral have processors that need
        torchvision. Those of SmolVLM, Idefics3, LLaVA-1.5, LLaVA-NeXT, PaliGemma and Gemma 3 do not.

        Args:
            model: folder or Hub id; `PAPER_MODEL` is the paper's.
            device: device to put the model on.
            dtype: floating-point type of its weights.
            options: further arguments of the constructor.

        Raises:
            OSError: if the model cannot be obtained, is not an image-text-to-text model, or needs a package that is
                not installed.
            ValueError: as the constructor does.
        """
        try:
            processor = AutoProcessor.from_pretrained(model)
            loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype)
        except Exception as error:  # transformers has no fixed set of errors for other models and missing packages
            raise OSError(
                f"No captioner could be loaded from {model!r}: give the Hub id of an image-text-to-text model, such "
                f"as {PRACTICAL_MODEL!r} or {PAPER_MODEL!r}, or a folder with the same files. Models that see videos "
                "too need torchvision, and SmolVLM2 num2words, which are not installed with this package. "
                f"({' '.join(str(error).split()) or type(error).__name__})"
            ) from error
        return cls(loaded.to(device), processor, **{"name": model, **options})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the prompts depend on, for `PromptCache`."""
        return captioner_settings(
            self.name, self.high_level_instruction, self.low_level_instruction, self.max_new_tokens
        )

    def __call__(self, images: list[Image.Image]) -> list[ImagePrompts]:
        """Describe images of any sizes, in the order they are given."""
        prompts: list[ImagePrompts] = []
        for start in range(0, len(images), self.batch_size):
            batch = [image.convert("RGB") for image in images[start : start + self.batch_size]]
            high_level = self.answer(batch, self.high_level_instruction)
            low_level = self.answer(batch, self.low_level_instruction)
            prompts += map(ImagePrompts, high_level, low_level)
        return prompts

    def _inputs(self, images: Sequence[Image.Image], instruction: str) -> Any:
        """Make the token ids and pixel values that ask the model the same question about each image."""
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": instruction}]}]
            for image in images
        ]
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            # One image may take more tokens than another. The answer has to follow the question, not its padding.
            processor_kwargs={"padding": True, "padding_side": "left", "return_tensors": "pt"},
        )

    @torch.no_grad()
    def answer(self, images: Sequence[Image.Image], instruction: str) -> list[str]:
        """Answer one question about each of some RGB images, all at once."""
        inputs = self._inputs(images, instruction).to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new_tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def captioner_settings(
    name: str,
    high_level_instruction: str = HIGH_LEVEL_INSTRUCTION,
    low_level_instruction: str = LOW_LEVEL_INSTRUCTION,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> dict[str, Any]:
    """Give the `Captioner.settings` of a model that need not be loaded; the arguments are those of `Captioner`."""
    return {
        "captioner": name,
        "high_level_instruction": high_level_instruction,
        "low_level_instruction": low_level_instruction,
        "max_new_tokens": max_new_tokens,
    }
