"""The arguments of a call of XPSR's pipeline, and of PASD's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from typing_extensions import TypeVar

from ..sampling.call import Call, argument, model_argument
from ..sampling.checks import check_choice, check_flag, check_texts, check_timestep
from ..sampling.fidelity import sampling_meaning, sampling_values

if TYPE_CHECKING:
    import PIL.Image
    import torch

    from .prompts import ImagePrompts

    CaptionerLike: TypeAlias = Callable[[list[PIL.Image.Image]], list[ImagePrompts]] | Literal["measured"]


CAPTION_OVERFLOWS = ("shorten", "cut")

PASDCallT = TypeVar("PASDCallT", bound="PASDCall", default="PASDCall")


@dataclass(frozen=True, kw_only=True, eq=False)
class PASDCall(Call):
    """The arguments of every method, and those of the high-level prompt and the start.

    There is no `strength`: `added_noise_level` says how much of the image the start keeps.
    """

    fixed: ClassVar[Mapping[str, Any]] = {"strength": 1.0}
    fidelity_meaning: ClassVar[str] = sampling_meaning("half of the model's `added_noise_level`")

    high_level_prompt: str | list[str] | None = argument(
        "what the image shows, one text for all images or one for each.", per_image=True
    )
    captioner: CaptionerLike | None = model_argument(
        "a function that takes the images as PIL images, not enlarged, and returns the `ImagePrompts` of each, such "
        'as a `Captioner`. With "measured" the low-level prompt says what `describe_degradation` measures in the '
        "image, and there is no high-level prompt."
    )
    quality_prompt: str = model_argument("one text for all images, which follows the high-level prompt.")
    caption_overflow: str = model_argument(
        "what gives way if prompt, high-level prompt and quality prompt are longer than the text encoder reads: with "
        '"shorten" the words before the quality prompt, which is kept whole; with "cut" whatever comes last, as in '
        "the official code, which the published numbers were made with.",
        option={
            "choices": CAPTION_OVERFLOWS,
            "help": "what to leave out of a prompt that is too long: words of the caption (shorten), or the quality "
            "words after it, as the official code does (cut) (by default the model's)",
        },
    )
    added_noise_level: int = model_argument(
        "the second timestep of the training whose noise is added to the image at the start: the higher it is, the "
        "less of the image remains."
    )

    @classmethod
    def official_values(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Cut prompts that are too long."""
        return {"caption_overflow": "cut"}

    @classmethod
    def fidelity_values(cls, fidelity: float, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Call.fidelity_values` and `fidelity_meaning`."""
        dialled = sampling_values(fidelity, values, "added_noise_level", 0.5)
        level = dialled.get("added_noise_level", values["added_noise_level"])
        return {**dialled, "added_noise_level": round(level)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts("high_level_prompt", self.high_level_prompt)
        if not isinstance(self.quality_prompt, str):
            raise ValueError(f"quality_prompt={self.quality_prompt!r}, expected one text for all images.")
        if not (self.captioner is None or self.captioner == "measured" or callable(self.captioner)):
            raise ValueError(
                f"captioner={self.captioner!r}, expected a function that takes images and returns their prompts, "
                "such as a `Captioner`, or 'measured'."
            )
        check_choice("caption_overflow", self.caption_overflow, CAPTION_OVERFLOWS)
        check_timestep("added_noise_level", self.added_noise_level)


@dataclass(frozen=True, kw_only=True, eq=False)
class XPSRCall(PASDCall):
    """The arguments of PASD's call, and those of the low-level prompt."""

    low_level_prompt: str | list[str] | None = argument(
        "how good the image is, one text for all images or one for each.",
        per_image=True,
        option={"metavar": "TEXT", "help": "how good the image is, instead of what a captioner or file says"},
    )
    low_level_prompt_embeds: torch.Tensor | None = argument(
        "`[1 or images, tokens, channels]`, instead of `low_level_prompt`.", per_image=True
    )
    negative_low_level_prompt: str | list[str] | None = model_argument(
        "the negative of the low-level prompt, one text for all images or one for each.", per_image=True
    )
    negative_low_level_prompt_embeds: torch.Tensor | None = argument(
        "`[1 or images, tokens, channels]`, instead of `negative_low_level_prompt`.", per_image=True
    )
    guide_low_level: bool = model_argument(
        "whether guidance is between both prompts and both negative prompts, as in the official code; otherwise both "
        "halves of the guidance have the same low-level prompt (paper, Eq. 6)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts("low_level_prompt", self.low_level_prompt, self.low_level_prompt_embeds)
        check_texts("negative_low_level_prompt", self.negative_low_level_prompt, self.negative_low_level_prompt_embeds)
        check_flag("guide_low_level", self.guide_low_level)
