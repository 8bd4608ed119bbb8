"""What a call of CasSR's pipeline takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..sampling.call import Call, argument, model_argument
from ..sampling.checks import check_count, check_number

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

    reference_images: ImageInput | Sequence[ImageInput] | None = argument(
        "references instead of activated ones, for all images or one for each. They show what the image shows, and "
        "are resized to the size it is enlarged to."
    )
    activation: Activation | None = model_argument(
        "what makes the references instead of the pipeline's component. An `SCEditAdapter` or a `ControlNetModel`, on "
        "the pipeline's device: stock Stable Diffusion, sampled as the result is. A function: it is given each image "
        "as a PIL image, as the pipeline was given it and not enlarged, and returns one of any size, of the kinds "
        'that `read_images` reads. "lr": the enlarged image is its own.'
    )
    activation_steps: int | None = model_argument(
        "denoising steps of the activation; `num_inference_steps` by default."
    )
    activation_guidance_scale: float = model_argument(
        "guidance of the activation. Where the result has no guidance, it has none."
    )
    reference_conditioning_scale: float = model_argument(
        "weight of the reference: of its residuals, and of what the attention to it adds. With 0 there is no "
        "reference, and none is made."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_images is not None and self.activation is not None:
            raise ValueError("Both `reference_images` and `activation` are given: give one of them.")
        check_number("reference_conditioning_scale", self.reference_conditioning_scale)
        check_number("activation_guidance_scale", self.activation_guidance_scale)
        if self.activation_steps is not None:
            check_count("activation_steps", self.activation_steps)
