"""The arguments of a pipeline's call: one frozen, typed value, checked as it is made.

A method's arguments are the fields of its own subclass of `Call`, in `<method>/call.py`. The pipeline's signature and
help (`signature`) are read off the fields, and so are the options of the command line, which does not import torch for
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from typing_extensions import TypeVar  # typing's own has no default yet

from .checks import AUTO, check_choice, check_count, check_flag, check_number, check_texts, is_number

if TYPE_CHECKING:
    import torch
    from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

    from ..image.pixels import ImageInput

    Generators: TypeAlias = torch.Generator | list[torch.Generator] | None
    StepCallback: TypeAlias = Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks

START_POINTS = ("lr", "noise")
COLOR_FIXES = ("adain", "wavelet", None)
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MODELS_OWN = "default"
"""This `color_fix` stands for the model's own. None cannot, as it stands for no colour fix."""

CallT = TypeVar("CallT", bound="Call", default=Any)


def argument(help: str, default: Any = None, **metadata: Any) -> Any:
    """Make a field that is an argument of the call.

    Args:
        help: what it means, for the pipeline's documentation.
        default: its value if the caller does not give one.
        metadata: `per_image=True` if it is one value for all images, or a list or a first axis with one for each;
            `option`, how argparse adds it to the command line, for a method's argument that is an option there; and
            `annotation`, that of the signature, if a caller may give more than what the call then has.
    """
    return field(default=default, metadata={"help": help, **metadata})


def model_argument(help: str, **metadata: Any) -> Any:
    """Make an argument that may be None, and then takes its value from the pipeline's `call_defaults`."""
    return argument(help, from_model=True, **metadata)


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """The arguments that a call of any method may take.

    Attributes:
        fixed: the arguments that this method does not take, and the values that stand for them.
        fidelity_meaning: which arguments `fidelity` changes in this method, and how, for the pipeline's documentation.

    Raises:
        ValueError: if an argument has a value that is not allowed, or two do not go together.
    """

    fixed: ClassVar[Mapping[str, Any]] = {}
    fidelity_meaning: ClassVar[str] = "those that the method says."

    image: ImageInput | Sequence[ImageInput] = argument(
        "the image to enlarge, or several of the same size: paths, URLs, PIL images, arrays or tensors; see "
        "`read_images` of `diffusers_sr.image.pixels` for the kinds that are read."
    )
    prompt: str | list[str] | None = argument(
        "what is in the image, one text for all images or one for each; it is added to what the method itself says "
        "about the image.",
        per_image=True,
    )
    negative_prompt: str | list[str] | None = model_argument(
        "what the result should not look like, one text for all images or one for each.",
        per_image=True,
    )
    upscale: float = argument(
        "a factor above 0; the result has `round(width * upscale) × round(height * upscale)` pixels.", 4.0
    )
    num_inference_steps: int = model_argument("denoising steps.")
    guidance_scale: float = model_argument(
        "weight of the prompt against the negative prompt. At 1 or below there is no guidance, and the negative "
        "prompt is not used."
    )
    controlnet_conditioning_scale: float = model_argument("weight of the ControlNet's residuals.")
    start_point: str = model_argument(
        '"lr" starts from the enlarged image\'s latents with noise added, "noise" from noise alone.'
    )
    tile_size: int = model_argument(
        "side of a tile of the denoiser in pixels of the result, a multiple of `vae_scale_factor`. An image that has "
        f"no more pixels than a tile is not tiled. {AUTO!r} takes the model's own size, or the largest below it that "
        "fits into the memory that is free; the overlap shrinks with it.",
        annotation="int | Literal['auto']",
    )
    tile_overlap: int = model_argument(
        "pixels by which neighbouring tiles overlap, a multiple of `vae_scale_factor` too."
    )
    tile_batch_size: int = argument("tiles the denoiser takes in one call.", 1)
    vae_tile_size: int = argument(
        "an image with more pixels than a square of this side, a multiple of `vae_scale_factor`, is encoded and "
        "decoded in the memory that such a square needs. An `AutoencoderKL` gives the same result whatever the size; "
        "other autoencoders are tiled, and tiles that overlap by a quarter are blended. "
        f"{AUTO!r} takes 768, or the largest size below it that fits into the memory that is free.",
        768,
        annotation="int | Literal['auto']",
    )
    color_fix: str | None = argument(
        '"adain" or "wavelet" gives the result the colours of the image (`diffusers_sr.image.color`), None leaves it '
        'as decoded; "default" stands for the one in `call_defaults`.',
        MODELS_OWN,
    )
    process_size: int = model_argument(
        "images whose shorter side would be enlarged to fewer pixels than this are processed at this size, and the "
        "result is reduced to the size that was asked for."
    )
    generator: Generators = argument(
        "source of all noise; a list with one for each result makes each independent of the rest of the batch."
    )
    latents: torch.Tensor | None = argument(
        "noise to start from, `[results, channels, height, width]` at the size of the padded latents, instead of "
        "noise from `generator`."
    )
    prompt_embeds: torch.Tensor | None = argument(
        "`[1 or images, tokens, channels]`, instead of `prompt`.", per_image=True
    )
    negative_prompt_embeds: torch.Tensor | None = argument(
        "`[1 or images, tokens, channels]`, instead of `negative_prompt`.", per_image=True
    )
    num_images_per_prompt: int = argument("number of results for each image, next to each other in the output.", 1)
    output_type: str = argument(
        '"pil"; "np" (`[results, H, W, 3]`) or "pt" (`[results, 3, H, W]`), both float32 in [0, 1]; or "latent", the '
        "result's latents, still padded.",
        "pil",
    )
    return_dict: bool = argument("whether to return an `ImagePipelineOutput` rather than a tuple.", True)
    cross_attention_kwargs: dict[str, Any] | None = argument(
        'passed to the UNet; its "scale" is the weight of a LoRA, in the text encoder too.'
    )
    callback_on_step_end: StepCallback | None = argument(
        "called as `callback(pipeline, step, timestep, tensors)` after every step of the result; tensors that it "
        "returns replace those of the call."
    )
    callback_on_step_end_tensor_inputs: Sequence[str] = argument(
        "names of the tensors that it gets, out of the pipeline's `_callback_tensor_inputs`.", ("latents",)
    )
    official_preprocessing: bool = argument(
        "whether to do with the image, before and after the models, what the official script does with it, in its "
        "order and with its rounding, to reproduce published numbers; see `diffusers_sr.sampling.official`. Without "
        "it, images whose sides are not multiples of 8 are not stretched, and small ones are resized only once.",
        False,
    )
    strength: float = model_argument(
        'the share of the steps that is taken with `start_point="lr"`, above 0 and up to 1. With less than 1 the '
        "image gets less noise and sampling starts later, which keeps more of the image and takes less time."
    )
    fidelity: float | None = argument(
        "a dial from detailed (0) to faithful (1). At 0.5 every argument has the model's own value. Elsewhere these, "
        "unless they are given, have other values: "
    )

    def __post_init__(self) -> None:
        check_texts("prompt", self.prompt, self.prompt_embeds)
        check_texts("negative_prompt", self.negative_prompt, self.negative_prompt_embeds)
        if not is_number(self.upscale) or self.upscale <= 0:
            raise ValueError(f"upscale={self.upscale!r}, expected a factor above 0.")
        check_number("guidance_scale", self.guidance_scale)
        check_number("controlnet_conditioning_scale", self.controlnet_conditioning_scale)
        for name in ("num_inference_steps", "tile_batch_size", "num_images_per_prompt"):
            check_count(name, getattr(self, name))
        if self.vae_tile_size != AUTO:
            check_count("vae_tile_size", self.vae_tile_size)
        if not is_number(self.process_size) or self.process_size < 0:
            raise ValueError(f"process_size={self.process_size!r}, expected a number of pixels from 0 upwards.")
        check_choice("start_point", self.start_point, START_POINTS)
        if not is_number(self.strength) or not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength!r}, expected a number above 0, up to 1.")
        if self.strength < 1 and self.start_point == "noise":
            raise ValueError(
                f"strength={self.strength} starts from the image under less noise, but start_point='noise' from noise "
                "alone: give start_point='lr', or leave strength out."
            )
        check_choice("color_fix", self.color_fix, COLOR_FIXES)
        check_choice("output_type", self.output_type, OUTPUT_TYPES)
        check_flag("official_preprocessing", self.official_preprocessing)

    def counts_per_image(self) -> dict[str, int]:
        """Count the values of each argument that has one for all images, or one for each."""
        given = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.metadata.get("per_image") and getattr(self, each.name) is not None
        }
        return {name: 1 if isinstance(value, str) else len(value) for name, value in given.items()}

    @classmethod
    def official_values(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Name the values that the official script has for arguments that the model has defaults for.

        With `official_preprocessing` they take the place of the model's defaults.

        Args:
            given: the arguments of the call that were given.
        """
        return {}

    @classmethod
    def fidelity_values(cls, fidelity: float, values: Mapping[str, Any]) -> dict[str, Any]:
        """Name the values that a fidelity gives to arguments that the model has defaults for.

        They take the place of the model's defaults, which they are equal to at a fidelity of 0.5.

        Args:
            fidelity: from 0 to 1.
            values: those of the arguments that were given, and the model's of all others.
        """
        raise NotImplementedError

    @property
    def lora_scale(self) -> float | None:
        """The weight of a LoRA in the text encoder."""
        return (self.cross_attention_kwargs or {}).get("scale")

    @property
    def is_guided(self) -> bool:
        """Whether there is classifier-free guidance."""
        return self.guidance_scale > 1
