"""The arguments of a call of the one-step pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..sampling.call import Call, argument
from ..sampling.checks import check_number, check_texts


@dataclass(frozen=True, kw_only=True, eq=False)
class OneStepCall(Call):
    """The arguments of every method but those of guidance, steps and ControlNet, and the dials of PiSA-SR."""

    fixed: ClassVar[Mapping[str, Any]] = {
        "negative_prompt": None,
        "negative_prompt_embeds": None,
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        "controlnet_conditioning_scale": 0.0,
        "start_point": "lr",
    }

    tags: str | list[str] | None = argument(
        "tags instead of the tagger's, comma-separated: one text for all images or one for each.", per_image=True
    )
    pixel_scale: float = argument(
        "weight of what the pixel LoRA predicts (PiSA-SR): with more of it damage is removed more strongly.",
        1.0,
        option={"type": float, "help": "PiSA-SR: how strongly damage is removed (1)"},
    )
    semantic_scale: float = argument(
        "weight of what the semantic LoRA adds to that (PiSA-SR): with more of it there is more detail, which may be "
        "made up. If both weights are equal, or this one is 0, the UNet runs once, otherwise twice.",
        1.0,
        option={"type": float, "help": "PiSA-SR: how much detail is made up (1)"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts("tags", self.tags)
        check_number("pixel_scale", self.pixel_scale)
        check_number("semantic_scale", self.semantic_scale)
