"""The arguments of a call of CoSeR's pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..sampling.call import Call, argument, model_argument
from ..sampling.checks import check_count, check_flag, check_fraction, check_number
from ..sampling.fidelity import between, guidance_scale

if TYPE_CHECKING:
    import torch

    from ..image.pixels import ImageInput

WHOLE = 8192
"""A tile of this size is an image of any size that the models can take whole."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CoSeRCall(Call):
    """The arguments of every method, and those of the cognitive embedding, the references and the decoder."""

    fidelity_meaning: ClassVar[str] = (
        "`cfw_weight` goes from 0 (0) to 1 (1), and `guidance_scale` from half as much again (0) to none (1)."
    )

    cognitive_embedding: torch.Tensor | None = argument(
        "embedding instead of the cognitive encoder's, `[1 or images, tokens, channels]`.", per_image=True
    )
    reference_images: ImageInput | Sequence[ImageInput] | None = argument(
        "references instead of generated ones, for all images. Each is stretched to the size of the result, or of a "
        "tile if there are several."
    )
    num_references: int = model_argument(
        "number of references to generate; with 0 nothing is taken from a reference, and a model that was trained "
        "without attention to references has none either.",
        option={"type": int, "help": "number of references to generate, from 0 (by default the model's)"},
    )
    reference_guidance_scale: float = model_argument(
        "guidance scale of the generated references, which stock Stable Diffusion makes."
    )
    cognition: bool = model_argument(
        "whether the cognitive embedding follows the words of the prompt; False is for models that were trained "
        "without it (the paper's ablation)."
    )
    cfw_weight: float | None = argument(
        "weight of the image's features in the decoder, from 0, which leaves them out, to 1. By default it "
        "is the one in `call_defaults`; if the VAE is not of the kind they join, they are then left out, with a "
        "warning.",
        option={"type": float, "help": "from 0, realism, to 1, fidelity to the image (by default the model's)"},
    )

    @classmethod
    def official_values(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Have no process size and no tiles, as the script that generates a reference; the other one has them."""
        return {} if given.get("reference_images") is not None else {"process_size": 0, "tile_size": WHOLE}

    @classmethod
    def fidelity_values(cls, fidelity: float, values: Mapping[str, Any]) -> dict[str, Any]:
        """Name the guidance; `default_cfw_weight` is the rest. See `Call.fidelity_values` and `fidelity_meaning`."""
        return {"guidance_scale": guidance_scale(fidelity, values["guidance_scale"])}

    def default_cfw_weight(self, default: float) -> float:
        """Give the `cfw_weight` of a call that names none.

        Args:
            default: the model's.
        """
        return default if self.fidelity is None else between(self.fidelity, 0.0, default, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cognitive_embedding is not None and not self.cognition:
            raise ValueError("There is a `cognitive_embedding`, but cognition=False leaves it out: give one of them.")
        check_count("num_references", self.num_references, least=0)
        check_flag("cognition", self.cognition)
        check_number("reference_guidance_scale", self.reference_guidance_scale)
        if self.cfw_weight is not None:
            check_fraction("cfw_weight", self.cfw_weight)
