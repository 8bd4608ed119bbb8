"""The arguments of a call of SeeSR's pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..sampling.call import Call, argument
from ..sampling.checks import check_fraction, check_texts
from ..sampling.fidelity import sampling_meaning, sampling_values

if TYPE_CHECKING:
    import torch

DEFAULT_PSR_WEIGHT = 0.4
"""AddSR's: the official code always takes it, and the 0.5 of its command line never reaches the sampler."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SeeSRCall(Call):
    """The arguments of every method, those that replace what the tagger says about the image, and AddSR's."""

    fidelity_meaning: ClassVar[str] = sampling_meaning("0.6 of the model's `strength`")

    tags: str | list[str] | None = argument(
        "tags instead of the tagger's, comma-separated: one text for all images or one for each. With an empty text "
        "there is no hard prompt.",
        per_image=True,
        option={
            "metavar": "TEXT",
            "help": "tags instead of the tagger's; with '' there are none (SeeSR: no hard prompt)",
        },
    )
    representation: torch.Tensor | None = argument(
        "representation instead of the tagger's, `[1 or images, tokens, representation_dim]`.", per_image=True
    )
    psr_weight: float | None = argument(
        "for AddSR, which is a pipeline with a `FourStepScheduler`: weight, from 0 (off) to 1, of the image predicted "
        "so far in what the ControlNet and the tagger see in the next step, the rest being the photo's "
        "(prediction-based self-refinement, PSR); None for the official code's 0.4. A given `representation` stays.",
        option={"type": float, "help": "AddSR: weight of its self-refinement between two steps (0.4)"},
    )

    @classmethod
    def fidelity_values(cls, fidelity: float, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Call.fidelity_values` and `fidelity_meaning`."""
        return sampling_values(fidelity, values)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts("tags", self.tags)
        if self.psr_weight is not None:
            check_fraction("psr_weight", self.psr_weight)
