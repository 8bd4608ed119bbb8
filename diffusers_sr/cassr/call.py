"""The arguments of a call of CasSR's pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from ..sampling.call import Call, argument, model_argument
from ..sampling.checks import check_count, check_number
from ..sampling.fidelity import between, sampling_meaning, sampling_values

if TYPE_CHECKING:
    import PIL.Image
    from diffusers import ControlNetModel

    from ..image.pixels import ImageInput
    from .activation import SCEditAdapter

    ActivationModel: TypeAlias = SCEditAdapter | ControlNetModel
    Activation: TypeAlias = ActivationModel | Callable[[PIL.Image.Image], ImageInput] | Literal["lr"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CasSRCall(Call):
    """The arguments of every method, and those of the reference and the activation that makes it."""

    fidelity_meaning: ClassVar[str] = (
        sampling_meaning("0.6 of the model's `strength`")
        + " Above 0.5 `reference_conditioning_scale` decreases too, to half of the model's (1)."
    )

    reference_images: ImageInput | Sequence[ImageInput] | None = argument(
        "references to use instead of activated ones, one for all images or one for each. They show the same as the "
        "image, and are resized to the size it is enlarged to."
    )
    activation: Activation | None = model_argument(
        "what makes the references, in place of the pipeline's component. An `SCEditAdapter` or a `ControlNetModel`, "
        "on the pipeline's device, steers stock Stable Diffusion, which is sampled as the result is. A function gets "
        "each image as a PIL image, as it was given to the pipeline and not enlarged, and returns one of any size and "
        'of any kind that `read_images` reads. With "lr" the enlarged image is its own reference (paper, Table 2).',
        option={"choices": ("lr",), "help": "lr: the enlarged photo is its own reference (by default the model's)"},
    )
    activation_steps: int | None = model_argument(
        "denoising steps of the activation; `num_inference_steps` by default."
    )
    activation_guidance_scale: float = model_argument(
        "guidance scale of the activation. If the result has no guidance, the activation has none either."
    )
    reference_conditioning_scale: float = model_argument(
        "weight of the reference: of its residuals, and of what the attention to it adds. With 0 no reference is made "
        "or used."
    )

    @classmethod
    def fidelity_values(cls, fidelity: float, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Call.fidelity_values` and `fidelity_meaning`."""
        scale = values["reference_conditioning_scale"]
        return {
            **sampling_values(fidelity, values),
            "reference_conditioning_scale": between(fidelity, scale, scale, 0.5 * scale),
        }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_images is not None and self.activation is not None:
            raise ValueError("Both `reference_images` and `activation` are given: give one of them.")
        check_number("reference_conditioning_scale", self.reference_conditioning_scale)
        check_number("activation_guidance_scale", self.activation_guidance_scale)
        if self.activation_steps is not None:
            check_count("activation_steps", self.activation_steps)
