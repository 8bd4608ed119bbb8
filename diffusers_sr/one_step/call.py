"""The arguments of a call of the one-step pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..sampling.call import Call, argument, model_argument
from ..sampling.checks import check_number, check_texts
from ..sampling.fidelity import between


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
        "strength": 1.0,
    }
    fidelity_meaning: ClassVar[str] = (
        "`semantic_scale` goes from 1.5 times the model's (0) to 0 (1), where the UNet runs once. If the model's is "
        "None, `pixel_scale` goes from 1.25 times the model's to half of it. Other models without PiSA-SR's two LoRA "
        "sets have only 0.5."
    )

    tags: str | list[str] | None = argument(
        "tags instead of the tagger's, comma-separated: one text for all images or one for each.",
        per_image=True,
        option={},  # SeeSR's
    )
    pixel_scale: float = model_argument(
        "weight of what the pixel LoRA predicts (PiSA-SR), or of all that a model predicts which was trained whole: "
        "with more of it damage is removed more strongly.",
        option={"type": float, "help": "PiSA-SR: how strongly damage is removed (by default the model's)"},
    )
    semantic_scale: float | None = model_argument(
        "weight of what the semantic LoRA adds to that (PiSA-SR): with more of it there is more detail, which may be "
        "made up. If both weights are equal, or this one is 0, the UNet runs once, otherwise twice. None is the "
        "default of a model that was trained whole and has no such LoRA.",
        option={"type": float, "help": "PiSA-SR: how much detail is made up (by default the model's)"},
    )

    @classmethod
    def fidelity_values(cls, fidelity: float, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Call.fidelity_values` and `fidelity_meaning`."""
        scale = values["semantic_scale"]
        if scale is None:
            pixel = values["pixel_scale"]
            return {"pixel_scale": between(fidelity, 1.25 * pixel, pixel, 0.5 * pixel)}
        return {"semantic_scale": between(fidelity, 1.5 * scale, scale, 0.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts("tags", self.tags)
        check_number("pixel_scale", self.pixel_scale)
        if self.semantic_scale is not None:
            check_number("semantic_scale", self.semantic_scale)
