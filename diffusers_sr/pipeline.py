"""`SuperResolutionPipeline`: what the methods of this package share, step by step in the order of `__call__`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from diffusers import AutoencoderKL, ControlNetModel, ImagePipelineOutput, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .attention.adapter import AttentionAdapter
from .image.color import COLOR_FIXES
from .image.pixels import ImageInput, output_size, pad_to_multiple, read_images, resize, working_size
from .image.tiling import Window, crop_tiles, tile_groups, tile_windows, tiled_map
from .publishing.pipeline import PublishablePipeline
from .sampling.checks import check_inputs, split_inputs
from .texts import as_texts, encode_texts

Generators: TypeAlias = torch.Generator | list[torch.Generator] | None
StepCallback: TypeAlias = Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks


class SuperResolutionPipeline(
    PublishablePipeline, StableDiffusionMixin, TextualInversionLoaderMixin, StableDiffusionLoraLoaderMixin
):
    """Super-resolution by Stable Diffusion with a ControlNet and an attention adapter on both.

    The base of the methods' pipelines. A method says what it reads from the image (`describe`), how that enters the
    text (`encode_prompt`) and the adapter, and what its defaults are (`_call_defaults`). What it takes in a call
    beside the common arguments are parameters of the steps that need them: of `describe`, `prepare_latents`,
    `prepare_control`, `decode`.

    Args:
        vae, text_encoder, tokenizer, unet, scheduler: of a Stable Diffusion model, or of any fine-tune of its shape.
            `text_encoder` and `tokenizer` may be None for calls with `prompt_embeds`.
        controlnet: sees the enlarged image, in [0, 1].
        adapter: the method's new attention. It is attached to `unet` and `controlnet` by the first call and stays
            attached; outside a call it has no effect on them.
        call_defaults: what `__call__` uses for arguments that are None, where it differs from the method's own. It is
            saved with the pipeline. Given to `from_pretrained`, it replaces all that are saved, also those it does not
            name; to change one, call
            `pipeline.register_to_config(call_defaults={**pipeline.config.call_defaults, name: value})`.

    Raises:
        ValueError: if `call_defaults` names something that has no such default.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    converters: ClassVar[dict[str, str]] = {}
    """The converters of official checkpoints, by the names `diffusers-sr convert` has for them."""
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "noise_pred", "prompt_embeds", "negative_prompt_embeds"]
    _call_defaults: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        adapter: AttentionAdapter,
        scheduler: KarrasDiffusionSchedulers,
        call_defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        call_defaults = call_defaults or {}
        if unknown := sorted(call_defaults.keys() - self._call_defaults.keys()):
            raise ValueError(f"`call_defaults` has {unknown}, but can have {sorted(self._call_defaults)}.")
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            adapter=adapter,
            scheduler=scheduler,
        )
        self.register_to_config(call_defaults={**self._call_defaults, **call_defaults})
        self.image_processor = VaeImageProcessor(do_normalize=False)
        self._guidance_scale = 1.0
        self._cross_attention_kwargs: dict[str, Any] | None = None
        self._num_timesteps = 0
        self._interrupt = False

    @property
    def vae_scale_factor(self) -> int:
        """Pixels to one latent along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        upscale: float = 4.0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        controlnet_conditioning_scale: float | None = None,
        start_point: str | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        tile_batch_size: int = 1,
        color_fix: str | None = "default",
        process_size: int | None = None,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        num_images_per_prompt: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
        **method_inputs: Any,
    ) -> ImagePipelineOutput | Any:
        """Enlarge one image, or several of one size.

        For the arguments whose default is None, `pipeline.config.call_defaults` holds what is used.

        Args:
            image: what to enlarge; see `diffusers_sr.image.pixels.read_images` for the kinds that are read.
            prompt: what is in the image, for all images or one for each; it is added to what the method says itself.
            negative_prompt: what the result should not look like, for all images or one for each.
            upscale: any factor above 0; the result has `round(width * upscale) × round(height * upscale)` pixels.
            num_inference_steps: denoising steps.
            guidance_scale: weight of the prompt against the negative prompt. Up to 1 there is no guidance, and the
                negative prompt is not used.
            controlnet_conditioning_scale: weight of the ControlNet's residuals.
            start_point: "lr" starts from the enlarged image's latents under the noise of the last training timestep,
                "noise" from noise alone.
            tile_size: side of a tile in pixels of the result, a multiple of `vae_scale_factor`, for the VAE and the
                denoiser. What has no more pixels than a tile is not tiled.
            tile_overlap: pixels by which neighbouring tiles overlap, a multiple of `vae_scale_factor` too.
            tile_batch_size: tiles the denoiser takes at once. The VAE, which needs more memory for a tile than the
                denoiser, takes one.
            color_fix: "adain" or "wavelet" gives the result the colours of the image (`diffusers_sr.image.color`),
                None leaves it as it is decoded; "default" is what `pipeline.config.call_defaults` has.
            process_size: images whose shorter side would be below this many pixels are processed at this size, and
                the result is reduced to what was asked for.
            generator: for all noise; a list of one for each result makes each independent of the others in the batch.
            latents: noise to start from, `[results, channels, height, width]` at the size of the padded latents,
                instead of what `generator` gives.
            prompt_embeds, negative_prompt_embeds: `[1 or images, tokens, channels]`, instead of texts.
            num_images_per_prompt: results for each image, next to each other in the output.
            output_type: "pil", "np" (`[results, H, W, 3]`), "pt" (`[results, 3, H, W]`), both float32 in [0, 1], or
                "latent", of the padded image.
            return_dict: whether to return an `ImagePipelineOutput` or a tuple.
            cross_attention_kwargs: handed to the UNet; its "scale" is the weight of a LoRA, in the text encoder too.
            callback_on_step_end: called as `callback(pipeline, step, timestep, tensors)` after every step; tensors it
                returns replace those of the call.
            callback_on_step_end_tensor_inputs: which tensors it gets, of `_callback_tensor_inputs`.
            method_inputs: of the method; see its `describe`, `prepare_latents`, `prepare_control` and `decode`.

        Returns:
            The images, as an `ImagePipelineOutput` or the only element of a tuple.

        Raises:
            ValueError: if an argument has a value that is not allowed, or two do not fit each other.
            TypeError: if an image is of an unknown kind, or there is no such argument.
        """
        num_inference_steps = self._or_default("num_inference_steps", num_inference_steps)
        guidance_scale = self._or_default("guidance_scale", guidance_scale)
        controlnet_conditioning_scale = self._or_default(
            "controlnet_conditioning_scale", controlnet_conditioning_scale
        )
        start_point = self._or_default("start_point", start_point)
        tile_size = self._or_default("tile_size", tile_size)
        tile_overlap = self._or_default("tile_overlap", tile_overlap)
        process_size = self._or_default("process_size", process_size)
        if color_fix == "default":  # None says that there is to be none
            color_fix = self.config.call_defaults["color_fix"]
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs

        # 1. Check what can be checked without the image
        describe_inputs, latents_inputs, control_inputs, decode_inputs = split_inputs(
            method_inputs, self.describe, self.prepare_latents, self.prepare_control, self.decode
        )
        self.check_inputs(
            prompt=prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt=negative_prompt,
            negative_prompt_embeds=negative_prompt_embeds,
            upscale=upscale,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            start_point=start_point,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            tile_batch_size=tile_batch_size,
            color_fix=color_fix,
            process_size=process_size,
            num_images_per_prompt=num_images_per_prompt,
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        self._guidance_scale = guidance_scale
        self._cross_attention_kwargs = cross_attention_kwargs
        device = self._execution_device

        # 2. Read the image and enlarge it to the size the models work at
        low_resolution = read_images(image).to(device)
        height, width = low_resolution.shape[-2:]
        final_size = output_size(height, width, upscale)
        enlarged = resize(low_resolution, working_size(height, width, upscale, process_size))
        control_image = pad_to_multiple(enlarged, self.vae_scale_factor)
        num_images = len(low_resolution)

        # 3. Describe it, in words and for the adapter
        description, conditioning = self.describe(low_resolution, **describe_inputs)
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt,
            negative_prompt,
            do_classifier_free_guidance=self.do_classifier_free_guidance,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=(cross_attention_kwargs or {}).get("scale"),
            **description,
        )
        each = partial(for_each_result, num_images=num_images, num_images_per_prompt=num_images_per_prompt)
        prompt_embeds = each(prompt_embeds, "prompt")
        if negative_prompt_embeds is not None:
            negative_prompt_embeds = each(negative_prompt_embeds, "negative_prompt")
        conditioning = {name: each(value, name) for name, value in conditioning.items()}

        # 4. Start latents
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        noise = self.prepare_noise(control_image, num_images_per_prompt, generator, latents)
        image_latents = None
        if start_point == "lr":
            image_latents = self.encode_image(control_image, tile_size, tile_overlap, num_images_per_prompt, generator)
        latents = self.prepare_latents(noise, image_latents, **latents_inputs)

        # 5. Denoise
        sampling: dict[str, Any] = {
            "tile_size": tile_size,
            "tile_overlap": tile_overlap,
            "tile_batch_size": tile_batch_size,
            "generator": generator,
            "cross_attention_kwargs": cross_attention_kwargs,
        }
        control = self.prepare_control(
            control_image,
            low_resolution,
            (enlarged.shape[-2], enlarged.shape[-1]),
            image_latents,
            noise,
            prompt_embeds,
            negative_prompt_embeds,
            sampling,
            **control_inputs,
        )
        latents = self.denoise(
            latents,
            control,
            prompt_embeds,
            negative_prompt_embeds,
            conditioning=conditioning,
            guidance_scale=guidance_scale,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            **sampling,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )

        # 6. Decode, take the padding off, match the colours, and give the size that was asked for
        images: Any = latents
        if output_type != "latent":
            images = self.decode(latents, control_image, tile_size, tile_overlap, **decode_inputs)
            images = images[..., : enlarged.shape[-2], : enlarged.shape[-1]]
            if color_fix is not None:
                images = COLOR_FIXES[color_fix](images, enlarged.repeat_interleave(num_images_per_prompt, dim=0))
            images = self.image_processor.postprocess(resize(images, final_size), output_type)

        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def check_inputs(self, **arguments: Any) -> None:
        """Raise ValueError for the first argument of `__call__` that is not allowed (`diffusers_sr.sampling.checks`).

        Arguments that are not given have their defaults, so that some can be checked before there is an image.
        """
        # A negative prompt may be given as embeddings instead, and a colour fix of None is one. What only this method
        # has is checked where it is used.
        common = inspect.signature(check_inputs).parameters.keys() - {"negative_prompt", "color_fix"}
        for name in self.config.call_defaults.keys() & common:
            arguments[name] = self._or_default(name, arguments.get(name))
        check_inputs(
            **arguments,
            vae_scale_factor=self.vae_scale_factor,
            callback_tensor_inputs=self._callback_tensor_inputs,
        )

    def describe(self, image: torch.Tensor, **method_inputs: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What the method sees in the images.

        Args:
            image: the images themselves, not enlarged, `[B, 3, H, W]` in [0, 1].
            method_inputs: what the caller of the pipeline knows already.

        Returns:
            What `encode_prompt` gets beside the prompts, and what the adapter is conditioned on: tensors with a first
            axis of 1 or of the number of images.
        """
        raise NotImplementedError

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode both prompts in one call of the text encoder.

        Texts and embeddings are as in `__call__`; no `prompt` is an empty one, and `negative_prompt` has a default.
        `lora_scale` is the weight of a LoRA in the text encoder.

        Returns:
            Embeddings of the prompts and of the negative prompts, `[texts, tokens, channels]`. The second are None
            without classifier-free guidance.

        Raises:
            ValueError: if there is no text encoder and embeddings are missing, or the two differ in shape.
        """
        return self._encode_pair(
            "prompt",
            prompt,
            negative_prompt,
            do_classifier_free_guidance,
            prompt_embeds,
            negative_prompt_embeds,
            lora_scale,
        )

    def prepare_noise(
        self,
        image: torch.Tensor,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Unit noise for the latents of `image` `[B, 3, H, W]`, or `latents` if given, which have to be of that shape.

        Raises:
            ValueError: if `latents` has another shape, or `generator` is a list of another length.
        """
        factor = self.vae_scale_factor
        height, width = image.shape[-2] // factor, image.shape[-1] // factor
        shape = (len(image) * num_images_per_prompt, self.unet.config.in_channels, height, width)
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"There are {len(generator)} generators for {shape[0]} results: give one for each.")
        if latents is None:
            return randn_tensor(shape, generator=generator, device=image.device, dtype=self.unet.dtype)
        if latents.shape != shape:
            raise ValueError(
                f"`latents` has shape {list(latents.shape)}, expected {list(shape)}: one latent for each {factor} × "
                f"{factor} pixels of the image at its working size, padded to {image.shape[-1]}×{image.shape[-2]}."
            )
        return latents.to(image.device, self.unet.dtype)

    def encode_image(
        self,
        image: torch.Tensor,
        tile_size: int,
        tile_overlap: int,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
    ) -> torch.Tensor:
        """Scaled latents of `image` `[B, 3, H, W]` in [0, 1] from the VAE's posterior (`draw_latents`), tile by tile.

        Each tile of each image is encoded once; every one of its `num_images_per_prompt` results has its own draw.
        """

        def moments(tiles: torch.Tensor, _: int) -> torch.Tensor:
            encoded = self.vae.encode(tiles)
            # An AutoencoderTiny has no posterior, and so no mean and variance, which are twice as many channels.
            return encoded.latent_dist.parameters if hasattr(encoded, "latent_dist") else encoded.latents

        windows = self._windows(image, self.vae_scale_factor, tile_size, tile_overlap)
        latents = tiled_map(moments, (2 * image - 1).to(self.vae.dtype), windows, input_scale=self.vae_scale_factor)
        latents = latents.repeat_interleave(num_images_per_prompt, dim=0)
        if latents.shape[1] == 2 * self.unet.config.in_channels:
            latents = self.draw_latents(DiagonalGaussianDistribution(latents), generator)
        return (latents * self.vae.config.scaling_factor).to(self.unet.dtype)

    def draw_latents(self, posterior: DiagonalGaussianDistribution, generator: Generators = None) -> torch.Tensor:
        """Latents `[B, channels, H, W]` of an image from the VAE's posterior: a sample of it."""
        return posterior.sample(generator)

    def prepare_latents(self, noise: torch.Tensor, image_latents: torch.Tensor | None = None) -> torch.Tensor:
        """Latents at the first timestep: noise alone, or noise on the latents of the image.

        As in the official code, the image lies under the noise of the last *training* timestep, though the first step
        may be an earlier one. Schedulers that count in sigmas have none for it; there it is that of the first step.
        """
        if image_latents is None:
            return noise * self.scheduler.init_noise_sigma
        if hasattr(self.scheduler, "sigmas"):
            timestep = self.scheduler.timesteps[:1]
        else:
            timestep = torch.tensor([self.scheduler.config.num_train_timesteps - 1], device=noise.device)
        return self.scheduler.add_noise(image_latents, noise, timestep)

    def prepare_control(
        self,
        image: torch.Tensor,
        low_resolution: torch.Tensor,
        size: tuple[int, int],
        image_latents: torch.Tensor | None,
        noise: torch.Tensor,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor | None,
        sampling: dict[str, Any],
    ) -> Any:
        """What `control_tiles` cuts into tiles: here the image itself.

        Args:
            image: enlarged and padded, `[images, 3, H * vae_scale_factor, W * vae_scale_factor]` in [0, 1].
            low_resolution: as it was given, `[images, 3, height, width]` in [0, 1].
            size: height and width of the enlarged image without its padding.
            image_latents: its latents `[B, channels, H, W]`, if sampling starts from them.
            noise: what sampling starts from beside them, `[B, channels, H, W]`.
            prompt_embeds, negative_prompt_embeds: as `denoise` gets them.
            sampling: tiles, generator and `cross_attention_kwargs` for `sample_reference`.
        """
        return image

    def sample_reference(
        self,
        noise: torch.Tensor,
        image_latents: torch.Tensor | None,
        control: Any,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor | None,
        guidance_scale: float,
        sampling: dict[str, Any],
        num_inference_steps: int | None = None,
    ) -> torch.Tensor:
        """Latents `[B, channels, H, W]` of a reference: a sampling like that of the result, before it.

        Callbacks see nothing of it, and the adapter has no conditioning but what `predict_noise` gives it.

        Args:
            control: what `control_tiles` gets.
            num_inference_steps: as many as the result takes, if None.

        The others are as `prepare_control` gets them, and `guidance_scale` as in `__call__`.
        """
        steps = self.scheduler.num_inference_steps
        if num_inference_steps is not None:
            self.scheduler.set_timesteps(num_inference_steps, device=noise.device)
        latents = self.denoise(
            self.prepare_latents(noise, image_latents),
            control,
            prompt_embeds,
            negative_prompt_embeds,
            conditioning={},
            guidance_scale=guidance_scale,
            **sampling,
        )
        # Back to the result's timesteps; and some schedulers remember what they have done.
        self.scheduler.set_timesteps(steps, device=noise.device)
        return latents

    def control_tiles(
        self, control: Any, num_results: int, windows: Sequence[Window], tile_batch_size: int
    ) -> list[Any]:
        """What `predict_noise` gets for each group of tiles, computed once for all steps.

        Here the embedding of the condition image, `[tiles * num_results, channels, h, w]`: what the ControlNet makes
        of the image does not change from step to step, nor with the prompt.
        """
        copies = num_results // len(control)
        tiles = (crop_tiles(control, group, self.vae_scale_factor) for group in tile_groups(windows, tile_batch_size))
        return [embed_condition(self.controlnet, tile).repeat_interleave(copies, dim=0) for tile in tiles]

    def denoise(
        self,
        latents: torch.Tensor,
        control: Any,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor | None = None,
        *,
        conditioning: dict[str, torch.Tensor],
        guidance_scale: float,
        tile_size: int,
        tile_overlap: int,
        controlnet_conditioning_scale: float = 1.0,
        tile_batch_size: int = 1,
        generator: Generators = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> torch.Tensor:
        """The loop over the scheduler's timesteps, which have to be set; tile by tile in every step.

        Args:
            latents: `[B, channels, H, W]`, of `prepare_latents`.
            control: what `prepare_control` returns, of one image for `B / images` latents next to each other.
            prompt_embeds, negative_prompt_embeds: `[B, tokens, channels]`; without the second, or with a
                `guidance_scale` up to 1, there is no guidance.
            conditioning: what the adapter is conditioned on in all steps, each with a first axis of `B`; with nothing
                it is left to `predict_noise`.

        The others are as in `__call__`.

        Returns:
            Denoised latents, `[B, channels, H, W]`.
        """
        dtype = self.unet.dtype
        prompt_embeds = prompt_embeds.to(latents.device, dtype)
        if negative_prompt_embeds is not None:
            negative_prompt_embeds = negative_prompt_embeds.to(latents.device, dtype)
        conditioning = {name: value.to(latents.device, self.adapter.dtype) for name, value in conditioning.items()}
        windows = self._windows(latents, 1, tile_size, tile_overlap)
        self.adapter.attach(self.unet).attach(self.controlnet)
        controls = self.control_tiles(control, len(latents), windows, tile_batch_size)
        timesteps = self.scheduler.timesteps
        step_accepts = inspect.signature(self.scheduler.step).parameters
        step_kwargs = {"generator": generator} if "generator" in step_accepts else {}
        self._guidance_scale = guidance_scale
        self._num_timesteps = len(timesteps)
        self._interrupt = False

        conditioned = self.adapter.conditioning(**conditioning) if conditioning else nullcontext()
        with conditioned, self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                texts = [prompt_embeds]
                if self.do_classifier_free_guidance and negative_prompt_embeds is not None:
                    texts = [negative_prompt_embeds, prompt_embeds]
                predict = partial(
                    self.predict_noise,
                    timestep=timestep,
                    controls=controls,
                    texts=texts,
                    controlnet_conditioning_scale=controlnet_conditioning_scale,
                    cross_attention_kwargs=cross_attention_kwargs,
                )
                model_input = self.scheduler.scale_model_input(latents, timestep)
                noise_pred = tiled_map(predict, model_input, windows, tile_batch_size)
                latents = self.scheduler.step(noise_pred, timestep, latents, **step_kwargs, return_dict=False)[0]

                if callback_on_step_end is not None:
                    tensors: dict[str, Any] = {
                        "latents": latents,
                        "noise_pred": noise_pred,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                    }
                    given = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    tensors |= callback_on_step_end(self, step, timestep, given)
                    latents = tensors["latents"]
                    prompt_embeds = tensors["prompt_embeds"]
                    negative_prompt_embeds = tensors["negative_prompt_embeds"]
                progress_bar.update()
        return latents

    def predict_noise(
        self,
        latents: torch.Tensor,
        group: int,
        timestep: torch.Tensor,
        controls: list[Any],
        texts: list[torch.Tensor],
        controlnet_conditioning_scale: float,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """The noise in a group of tiles, by ControlNet and UNet, with guidance if there are two texts.

        Args:
            latents: `[tiles * B, channels, h, w]`, scaled for the model.
            group: the index of the group.
            controls: of every group, from `control_tiles`.
            texts: embeddings `[B, tokens, channels]` of the prompt, or of negative prompt and prompt.
        """
        tiles = len(latents) // len(texts[0])
        # The order of a batch is [half of the guidance, tile, image], with the image as the fastest index.
        encoder_hidden_states = torch.cat([text.repeat(tiles, 1, 1) for text in texts])
        latents = latents.repeat(len(texts), 1, 1, 1)
        down_residuals, mid_residual = self.controlnet(
            latents,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            controlnet_cond=controls[group].repeat(len(texts), 1, 1, 1),
            conditioning_scale=controlnet_conditioning_scale,
            return_dict=False,
        )
        noise_pred = self.unet(
            latents,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            down_block_additional_residuals=down_residuals,
            mid_block_additional_residual=mid_residual,
            cross_attention_kwargs=cross_attention_kwargs,
            return_dict=False,
        )[0]
        return self.guide(noise_pred.chunk(len(texts)))

    def guide(self, noise_preds: Sequence[torch.Tensor]) -> torch.Tensor:
        """Classifier-free guidance, of the predictions for negative prompt and prompt; one alone is returned."""
        if len(noise_preds) == 1:
            return noise_preds[0]
        negative_noise_pred, noise_pred = noise_preds
        return negative_noise_pred + self.guidance_scale * (noise_pred - negative_noise_pred)

    def decode(self, latents: torch.Tensor, image: torch.Tensor, tile_size: int, tile_overlap: int) -> torch.Tensor:
        """Images `[B, 3, H, W]`, float32 in [0, 1], from scaled latents, tile by tile.

        `image` is what was enlarged, as `prepare_control` gets it, for a method whose decoder looks at it.
        """

        def decode_tile(tile: torch.Tensor, _: int) -> torch.Tensor:
            return self.vae.decode(tile, return_dict=False)[0]

        return self.decode_tiles(latents, self._windows(latents, 1, tile_size, tile_overlap), decode_tile)

    def decode_tiles(
        self,
        latents: torch.Tensor,
        windows: Sequence[Window],
        decode_tile: Callable[[torch.Tensor, int], torch.Tensor],
    ) -> torch.Tensor:
        """Images as `decode` returns them; `decode_tile` gets unscaled latents of a tile, and the tile's number."""
        latents = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        images = tiled_map(decode_tile, latents, windows, output_scale=self.vae_scale_factor)
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def _encode_pair(
        self,
        name: str,
        text: str | list[str] | None,
        negative_text: str | list[str] | None,
        has_negative: bool,
        embeds: torch.Tensor | None,
        negative_embeds: torch.Tensor | None,
        lora_scale: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`encode_prompt` of any two arguments `{name}` and `negative_{name}`, of which the second has a default."""
        if not has_negative:
            negative_embeds = None
        texts = [] if embeds is not None else as_texts(text or "")
        negative_texts = []
        if has_negative and negative_embeds is None:
            negative_texts = as_texts(self._or_default(f"negative_{name}", negative_text))
        if texts or negative_texts:
            if self.text_encoder is None or self.tokenizer is None:
                raise ValueError(
                    f"The pipeline has no text encoder or no tokenizer: give `{name}_embeds`, and with a "
                    f"`guidance_scale` above 1 `negative_{name}_embeds` too."
                )
            all_texts = self.maybe_convert_prompt([*texts, *negative_texts], self.tokenizer)
            encoded = encode_texts(all_texts, self.tokenizer, self.text_encoder, self._execution_device, lora_scale)
            if texts:
                embeds = encoded[: len(texts)]
            if negative_texts:
                negative_embeds = encoded[len(texts) :]
        assert embeds is not None
        if negative_embeds is not None and negative_embeds.shape[1:] != embeds.shape[1:]:
            raise ValueError(
                f"The embeddings of `{name}`, {list(embeds.shape)}, and of `negative_{name}`, "
                f"{list(negative_embeds.shape)}, differ in tokens or channels: encode both in the same way."
            )
        return embeds, negative_embeds

    def _or_default(self, name: str, value: Any) -> Any:
        return self.config.call_defaults[name] if value is None else value

    def _windows(self, image: torch.Tensor, scale: int, tile_size: int, tile_overlap: int) -> list[Window]:
        """The tiles, in latents, of an image with `scale` pixels to a latent; sizes are in pixels of the result."""
        height, width = image.shape[-2] // scale, image.shape[-1] // scale
        return tile_windows(height, width, tile_size // self.vae_scale_factor, tile_overlap // self.vae_scale_factor)


def for_each_result(value: torch.Tensor, name: str, num_images: int, num_images_per_prompt: int) -> torch.Tensor:
    """One entry for all images, or one for each, as one for each result.

    Raises:
        ValueError: if there is another number of entries.
    """
    if len(value) not in (1, num_images):
        raise ValueError(f"There are {len(value)} of `{name}` for {num_images} images: give one for all, or for each.")
    return value.expand(num_images, *value.shape[1:]).repeat_interleave(num_images_per_prompt, dim=0)


@apply_forward_hook
def embed_condition(controlnet: ControlNetModel, image: torch.Tensor) -> torch.Tensor:
    """What the ControlNet makes of the condition image before its first block, `[B, channels, h, w]`.

    Not being the ControlNet's `forward`, this has to see to offloading itself: the decorator brings a ControlNet of
    `enable_model_cpu_offload` to its device; one of group offloading is used where its weights are.
    """
    embedding = controlnet.controlnet_cond_embedding
    weight = embedding.conv_in.weight
    device = image.device if weight.is_meta else weight.device
    return embedding(image.to(device, controlnet.dtype)).to(image.device)
