"""`SuperResolutionPipeline`: what the methods of this package share, step by step in the order of `__call__`.

Those between images and latents are in `sampling.image_steps`, those between noise and latents in
`sampling.latent_steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from diffusers import AutoencoderDC, AutoencoderKL, ImagePipelineOutput, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import CLIPTextModel, CLIPTokenizer

from .image.pixels import keep_profiles
from .publishing.pipeline import PublishablePipeline
from .sampling.call import Call, CallT
from .sampling.callback import callback_after_step
from .sampling.checks import check_multiple, check_overlap
from .sampling.denoiser import Denoiser
from .sampling.fit import with_fitting_tiles
from .sampling.guidance import Guidance
from .sampling.latent_steps import LatentSteps
from .sampling.photo import Photo, Start, for_each_result
from .sampling.placement import model_dtype
from .sampling.prompts import PromptEncoder
from .sampling.schedule import timesteps_to_take
from .sampling.signature import read_call, with_arguments_of
from .sampling.turns import turn_on


class SuperResolutionPipeline(
    LatentSteps[CallT],
    PromptEncoder,
    PublishablePipeline,
    StableDiffusionMixin,
    StableDiffusionLoraLoaderMixin,
):
    """Super-resolution with Stable Diffusion.

    The base of the methods' pipelines. A method says what its call takes (`call_class`), what it reads from the image
    (`describe`), how that enters the text (`write_prompt`) and the denoiser (`prepare_control`), what predicts the
    noise (`denoiser`), and what its defaults are (`_call_defaults`).

    Args:
        vae, text_encoder, tokenizer, unet, scheduler: those of a Stable Diffusion model, or of a fine-tuned one.
            `text_encoder` and `tokenizer` may be None for calls with `prompt_embeds`.
        call_defaults: the values that `__call__` uses for arguments that are None, where they differ from the method's
            own. They are saved with the pipeline. Given to `from_pretrained`, they replace all that are saved, even
            those they do not name; to change one, call
            `pipeline.register_to_config(call_defaults={**pipeline.config.call_defaults, name: value})`.

    Raises:
        ValueError: if `call_defaults` names something that is not among the method's defaults, or gives one a value
            that is not allowed.
    """

    call_class: ClassVar[type[Call]] = Call
    model_cpu_offload_seq = "text_encoder->unet->vae"
    converters: ClassVar[dict[str, str]] = {}
    """The converters of official checkpoints, by their names in `diffusers-sr convert`."""
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "noise_pred", "prompt_embeds", "negative_prompt_embeds"]
    _call_defaults: ClassVar[dict[str, Any]] = {}
    paper_settings: ClassVar[Mapping[str, Any]] = {}
    """The arguments of a call with which the paper's results were made, where they differ from the model's defaults.

    `pipeline(image, **pipeline.paper_settings)` takes them; `diffusers-sr upscale --paper` and `evaluate --paper` do
    too. The class's own documentation says where each comes from.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "call_class" in cls.__dict__:
            cls.__call__ = with_arguments_of(cls.call_class)(cls.__call__.__wrapped__)  # type: ignore[method-assign,attr-defined]

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderDC,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        call_defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        call_defaults = {} if call_defaults is None else call_defaults
        self.check_options({"call_defaults": call_defaults})
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
        )
        self.register_to_config(call_defaults={**self._call_defaults, **call_defaults})
        self.image_processor = VaeImageProcessor(do_normalize=False)

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Raise ValueError if `call_defaults` has a name or a value that is not allowed."""
        defaults = options.get("call_defaults")
        if defaults is None:
            return
        if not isinstance(defaults, Mapping):
            raise ValueError(f"`call_defaults` is {defaults!r:.60}, expected names of arguments with their values.")
        if unknown := sorted(defaults.keys() - cls._call_defaults.keys()):
            raise ValueError(f"`call_defaults` has {unknown}, but can have only {sorted(cls._call_defaults)}.")
        try:
            call = read_call(cls.call_class, (), {}, {**cls._call_defaults, **defaults}, cls.__name__)
            check_overlap(call.tile_overlap, call.tile_size)
        except ValueError as error:
            raise ValueError(f"`call_defaults` has a value that is not allowed: {error}") from error

    @with_arguments_of(Call)
    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Enlarge images; `with_arguments_of` replaces this by the whole documentation."""
        if not args and "image" not in kwargs:
            raise TypeError(f"{type(self).__name__} was called without `image`: give the image to enlarge.")
        call = self.check_inputs(*args, **kwargs)
        with turn_on(self.unet, self):
            self._start_call(call)
            photo = self.prepare_image(call)
            texts, seen = self.describe(self.shown(photo), call)
            guidance = self.prepare_guidance(call, texts, len(photo.low_resolution))
            seen = {name: self._for_each_result(call, value, name, photo) for name, value in seen.items()}
            start = self.prepare_start(call, photo)
            control = self.prepare_control(call, photo, seen, guidance, start)
            scheduler = self.prepare_scheduler(call.num_inference_steps, call.strength)
            latents = self.prepare_latents(call, start, scheduler)
            self._num_timesteps = len(timesteps_to_take(scheduler))
            after_step = callback_after_step(self, call, guidance)
            latents = self.denoise(call, self.denoiser(call), control, guidance, latents, scheduler, after_step)
            images: Any = latents.to(model_dtype(self.unet))
            if call.output_type != "latent":
                images = self.finish(call, photo, self.decode(call, photo, latents))
                images = keep_profiles(images, photo.profiles, call.num_images_per_prompt)
            self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if call.return_dict else (images,)

    def check_inputs(self, *args: Any, **kwargs: Any) -> CallT:
        """Check the arguments of `__call__` before any model runs.

        `image` may be left out, to check the others before there is one.

        Returns:
            The call, completed with the model's defaults: a frozen `call_class`.

        Raises:
            TypeError: if an argument is unknown, or given twice.
            ValueError: if an argument has a value that is not allowed, or does not suit the pipeline's components.
        """
        kind = cast(type[CallT], self.call_class)  # a class variable cannot have a type variable
        call = read_call(kind, args, kwargs, self.config.call_defaults, type(self).__name__)
        call = with_fitting_tiles(self, call)
        self.check_components(call)
        return call

    def check_components(self, call: CallT) -> None:
        """Raise ValueError if the components cannot do what a call asks for."""
        for name in ("tile_size", "tile_overlap", "vae_tile_size"):
            check_multiple(name, getattr(call, name), self.vae_scale_factor)
        check_overlap(call.tile_overlap, call.tile_size)
        names = self._callback_tensor_inputs
        if unknown := [name for name in call.callback_on_step_end_tensor_inputs if name not in names]:
            raise ValueError(f"callback_on_step_end_tensor_inputs has {unknown}, but a callback can get {names}.")
        if call.official_preprocessing:
            self._official_script().check(call)
        if call.prompt_embeds is None or (call.is_guided and call.negative_prompt_embeds is None):
            self._check_text_encoder("prompt")

    def describe(self, image: torch.Tensor, call: CallT) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Look at the images once: tag them, embed them, or have them described.

        Args:
            image: the images as `shown` gives them, `[images, 3, height, width]` in [0, 1].
            call: the call, with what the caller already knows about the images.

        Returns:
            The arguments of `write_prompt` besides the prompt, and the tensors for `prepare_control`, whose first
            axis is 1 or the number of images.
        """
        raise NotImplementedError

    def prepare_guidance(self, call: CallT, texts: dict[str, Any], num_images: int) -> Guidance:
        """Encode the prompts, one for each result.

        Args:
            texts: the first of what `describe` returns.
        """
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            call.prompt,
            call.negative_prompt,
            do_classifier_free_guidance=call.is_guided,
            prompt_embeds=call.prompt_embeds,
            negative_prompt_embeds=call.negative_prompt_embeds,
            lora_scale=call.lora_scale,
            **texts,
        )
        device = self._execution_device

        def for_results(embeds: torch.Tensor, name: str) -> torch.Tensor:
            embeds = for_each_result(embeds, name, num_images, call.num_images_per_prompt)
            return embeds.to(device, self.sampling_dtype)

        if negative_prompt_embeds is not None:
            negative_prompt_embeds = for_results(negative_prompt_embeds, "negative_prompt")
        return Guidance(for_results(prompt_embeds, "prompt"), negative_prompt_embeds, call.guidance_scale)

    def denoiser(self, call: CallT) -> Denoiser:
        """Make the method's denoiser as a call asks for it."""
        raise NotImplementedError

    def prepare_control(
        self, call: CallT, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> Any:
        """Prepare what the denoiser is shown of the whole image, for `Denoiser.control_tiles`.

        Args:
            seen: the second of what `describe` returns, with one entry for each result.
            guidance, start: those of the result, for methods that sample a reference first.
        """
        raise NotImplementedError

    def _for_each_result(self, call: CallT, value: torch.Tensor, name: str, photo: Photo) -> torch.Tensor:
        value = for_each_result(value, name, len(photo.low_resolution), call.num_images_per_prompt)
        return value.to(photo.padded.device)
