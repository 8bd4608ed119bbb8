"""`SuperResolutionPipeline`: what the methods of this package share, step by step in the order of `__call__`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

import torch
from diffusers import AutoencoderKL, ImagePipelineOutput, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .image.color import COLOR_FIXES
from .image.pixels import resize
from .image.tiling import Window, tile_windows
from .publishing.pipeline import PublishablePipeline
from .sampling.autoencoder import decode_latents, encode_image
from .sampling.call import Call, CallT, read_call, with_arguments_of
from .sampling.callback import callback_after_step
from .sampling.checks import check_multiple, check_overlap
from .sampling.denoiser import Denoiser
from .sampling.finite import check_finite
from .sampling.fit import with_fitting_tiles
from .sampling.guidance import Guidance
from .sampling.loop import AfterStep, PredictNoise, sample
from .sampling.official import OfficialScript
from .sampling.photo import Photo, Start, check_against_photo, for_each_result, latents_shape, read_photo
from .sampling.placement import Placement, model_dtype
from .sampling.prediction import GuidedPrediction
from .sampling.prompts import PromptEncoder
from .sampling.schedule import start_later, timesteps_to_take
from .sampling.state import CallState
from .sampling.turns import turn_on

if TYPE_CHECKING:
    from .sampling.call import Generators


class SuperResolutionPipeline(
    CallState,
    Placement,
    PromptEncoder,
    PublishablePipeline,
    StableDiffusionMixin,
    StableDiffusionLoraLoaderMixin,
    Generic[CallT],
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
    official_script: ClassVar[OfficialScript | None] = None
    """What the official script does with images before and after the models; None if there is no official code."""
    converters: ClassVar[dict[str, str]] = {}
    """The converters of official checkpoints, by their names in `diffusers-sr convert`."""
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "noise_pred", "prompt_embeds", "negative_prompt_embeds"]
    _call_defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "call_class" in cls.__dict__:
            cls.__call__ = with_arguments_of(cls.call_class)(cls.__call__.__wrapped__)  # type: ignore[method-assign,attr-defined]

    def __init__(
        self,
        vae: AutoencoderKL,
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

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

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

    def prepare_image(self, call: CallT) -> Photo:
        """Read the images and resize them to the size the models work at.

        Raises:
            TypeError: if an image is of an unknown kind.
            ValueError: if an image cannot be used, or other arguments do not match the images' number or size.
        """
        if call.official_preprocessing:
            photo = self._official_script().read(call, self.vae_scale_factor, self._execution_device)
        else:
            photo = read_photo(call, self.vae_scale_factor, self._execution_device, self.enlarge)
        check_against_photo(call, photo, self.unet.config.in_channels, self.vae_scale_factor)
        return photo

    def enlarge(self, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Enlarge images `[images, 3, height, width]` in [0, 1] to `size` as those of the training were enlarged."""
        return resize(image, size)

    def shown(self, photo: Photo) -> torch.Tensor:
        """Choose the images that `describe` looks at: those that were given, not enlarged."""
        return photo.low_resolution

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

        def for_results(embeds: torch.Tensor, name: str) -> torch.Tensor:
            embeds = for_each_result(embeds, name, num_images, call.num_images_per_prompt)
            return embeds.to(self._execution_device, self.sampling_dtype)

        if negative_prompt_embeds is not None:
            negative_prompt_embeds = for_results(negative_prompt_embeds, "negative_prompt")
        return Guidance(for_results(prompt_embeds, "prompt"), negative_prompt_embeds, call.guidance_scale)

    def prepare_start(self, call: CallT, photo: Photo) -> Start:
        """Draw the noise, or take the call's own, and encode the image if sampling starts from it."""
        noise = call.latents
        if noise is None:
            noise = self.draw_noise(call, photo)
        noise = noise.to(photo.padded.device, self.sampling_dtype)
        if call.start_point != "lr":
            return Start(noise, None)
        return Start(noise, self.encode_image(call, photo.padded, call.num_images_per_prompt))

    def draw_noise(self, call: CallT, photo: Photo) -> torch.Tensor:
        """Draw unit noise for the latents of every result."""
        shape = latents_shape(call, photo, self.unet.config.in_channels, self.vae_scale_factor)
        return randn_tensor(shape, generator=call.generator, device=photo.padded.device, dtype=self.sampling_dtype)

    def encode_image(self, call: CallT, image: torch.Tensor, num_images_per_prompt: int = 1) -> torch.Tensor:
        """Encode `image` `[B, 3, H, W]` in [0, 1] to scaled latents from the VAE's posterior (`draw_latents`).

        Each image is encoded once; each of its `num_images_per_prompt` results has its own draw.
        """
        latents = encode_image(self.vae, image, call.vae_tile_size, self.vae_scale_factor).to(self.sampling_dtype)
        latents = latents.repeat_interleave(num_images_per_prompt, dim=0)
        if latents.shape[1] == 2 * self.unet.config.in_channels:
            latents = self.draw_latents(DiagonalGaussianDistribution(latents), call.generator)
        return latents * self.vae.config.scaling_factor

    def draw_latents(self, posterior: DiagonalGaussianDistribution, generator: Generators = None) -> torch.Tensor:
        """Draw latents `[B, channels, H, W]` of an image from the VAE's posterior."""
        return posterior.sample(generator)

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

    def prepare_scheduler(self, num_inference_steps: int, strength: float = 1.0) -> Any:
        """Copy the scheduler for one sampling run and set its timesteps: a scheduler remembers what it has done."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        start_later(scheduler, num_inference_steps, strength)
        return scheduler

    def prepare_latents(self, call: CallT, start: Start, scheduler: Any) -> torch.Tensor:
        """Make latents at the first timestep: noise alone, or noise on the latents of the image.

        As in the official code, the image gets the noise of the last *training* timestep, although the first step may
        be at an earlier one. Schedulers that count in sigmas have none for it: there it is that of the first step, as
        it is if sampling starts part-way (`strength`).
        """
        if start.image_latents is None:
            return start.noise * scheduler.init_noise_sigma
        if hasattr(scheduler, "sigmas") or call.strength < 1:
            timestep = timesteps_to_take(scheduler)[:1]
        else:
            timestep = torch.tensor([scheduler.config.num_train_timesteps - 1], device=start.noise.device)
        latents: torch.Tensor = scheduler.add_noise(start.image_latents, start.noise, timestep)
        return latents

    def denoise(
        self,
        call: CallT,
        denoiser: Denoiser,
        control: Any,
        guidance: Guidance,
        latents: torch.Tensor,
        scheduler: Any,
        after_step: AfterStep | None = None,
    ) -> torch.Tensor:
        """Denoise latents `[B, channels, h, w]` from the scheduler's first timestep on, tile by tile in every step."""
        windows, unit = self.windows(call, latents), self.vae_scale_factor
        prediction = GuidedPrediction(
            denoiser, guidance, windows, call.tile_batch_size, unit, call.tile_overlap // unit
        )
        prediction.show(control, len(latents))
        latents = sample(
            self._told_timestep(self.predictor(call, prediction, control, scheduler)),
            latents,
            scheduler,
            generator=call.generator,
            is_interrupted=lambda: self.interrupt,
            after_step=after_step,
            progress_bar=self.progress_bar,
        )
        self._current_timestep = None
        check_finite("denoising", latents)
        return latents

    def predictor(self, call: CallT, prediction: GuidedPrediction, control: Any, scheduler: Any) -> PredictNoise:
        """Give the function that predicts the noise in each step; it may show the denoiser another control."""
        return prediction

    def sample_reference(
        self,
        call: CallT,
        denoiser: Denoiser,
        control: Any,
        guidance: Guidance,
        start: Start,
        num_inference_steps: int | None = None,
    ) -> torch.Tensor:
        """Sample the latents `[B, channels, h, w]` of a reference in the way the result is sampled after it.

        Callbacks are not called. A stop ends it, and everything after it. It takes the whole schedule, whatever the
        call's `strength`.

        Args:
            num_inference_steps: denoising steps; None for as many as the result takes.
        """
        call = replace(call, strength=1.0)
        scheduler = self.prepare_scheduler(num_inference_steps or call.num_inference_steps)
        return self.denoise(call, denoiser, control, guidance, self.prepare_latents(call, start, scheduler), scheduler)

    def decode(self, call: CallT, photo: Photo, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents to images `[B, 3, H, W]`, float32 in [0, 1], which the decoder may overshoot.

        Args:
            photo: the images, for a method whose decoder looks at them.
        """
        return decode_latents(self.vae, latents, call.vae_tile_size, self.vae_scale_factor)

    def finish(self, call: CallT, photo: Photo, images: torch.Tensor) -> Any:
        """Remove the padding, match the colours, and convert to the size and type that were asked for."""
        if call.official_preprocessing:
            images = self._official_script().finish(call, photo, images)
            return self.image_processor.postprocess(images, call.output_type)
        images = images[..., : photo.size[0], : photo.size[1]].clamp_(0, 1)
        if call.color_fix is not None:
            enlarged = photo.enlarged.repeat_interleave(call.num_images_per_prompt, dim=0)
            images = COLOR_FIXES[call.color_fix](images, enlarged)
            check_finite("the colour fix", images)
        return self.image_processor.postprocess(resize(images, photo.final_size), call.output_type)

    def windows(self, call: CallT, latents: torch.Tensor) -> list[Window]:
        """List the tiles of latents that the denoiser takes."""
        unit = self.vae_scale_factor
        height, width = latents.shape[-2:]
        return tile_windows(height, width, call.tile_size // unit, call.tile_overlap // unit)

    def _official_script(self) -> OfficialScript:
        if self.official_script is None:
            raise ValueError(
                f"There is no official code of {self.paper.name} whose preprocessing a {type(self).__name__} could "
                "repeat: leave out official_preprocessing."
            )
        return self.official_script

    def _for_each_result(self, call: CallT, value: torch.Tensor, name: str, photo: Photo) -> torch.Tensor:
        value = for_each_result(value, name, len(photo.low_resolution), call.num_images_per_prompt)
        return value.to(photo.padded.device)
