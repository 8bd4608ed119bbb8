"""`CasSRPipeline`: image activation and multiple attention (CasSR, https://arxiv.org/abs/2403.11451)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeGuard

import PIL.Image
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils.torch_utils import unwrap_module
from transformers import CLIPTextModel, CLIPTokenizer

from ..attention.control_features import control_features
from ..attention.processors import repeat_to_batch
from ..image.pixels import ImageInput, pad_to_multiple, read_references
from ..image.tiling import Window, crop_tiles, tile_groups
from ..pipeline import Generators, SuperResolutionPipeline, embed_condition, for_each_result
from ..publishing.paper import Paper
from ..sampling.checks import check_count, check_number
from ..texts import as_texts
from .activation import SCEditAdapter
from .adapter import CasSRAdapter

GENERAL_PROMPT = "clean, high-resolution"

ActivationModel: TypeAlias = SCEditAdapter | ControlNetModel
Activation: TypeAlias = ActivationModel | Callable[[PIL.Image.Image], ImageInput] | Literal["lr"]


class CasSRControl(NamedTuple):
    """What the ControlNet is run on: images `[images or B, 3, H, W]` in [0, 1], or what it embeds of their tiles.

    The `reference` is None if its weight, `reference_scale`, is 0.
    """

    lr: torch.Tensor
    reference: torch.Tensor | None
    reference_scale: float


class ActivationControl(NamedTuple):
    """What a reference is sampled with: a model, and the images it sees, or what it embeds of their tiles."""

    model: ActivationModel
    seen: list[torch.Tensor]


class CasSRPipeline(SuperResolutionPipeline):
    """CasSR: the image is activated to a cleaner one of the same content, which then guides its own super-resolution.

    The first stage samples this reference with stock Stable Diffusion, steered by the enlarged image through the
    `activation`, and decodes it. The second samples the result: the ControlNet is run on the enlarged image and on the
    reference, and the UNet gets the weighted sum of both residuals and attends to each by itself. That happens once a
    step, with the positive prompt, and serves both halves of the guidance. Both stages start from the same latents,
    and nothing is read from the image but its pixels: the prompt is the paper's general one, after a user's own.

    No code was released. The paper states the general prompt, guidance, and the start from the image, which it takes
    from SeeSR; the other defaults fill in what it leaves open. The negative prompt is empty (its ablation calls it a
    null input), guidance 5.5 and 50 steps are SeeSR's, guidance 7.5 for the activation is SCEdit's. There is no colour
    fix, since none is mentioned. Tiles have 64 × 64 latents, the size of the training crops, and overlap by 16; a
    reference is cut into the same tiles as the image it shows.

    Args:
        controlnet: sees the enlarged image and the reference, in [0, 1].
        activation: makes the reference: SCEdit's adapter, or a ControlNet for degraded images. May be None, said
            explicitly, for calls with `reference_images`, another `activation`, or no reference.

    The others are those of `SuperResolutionPipeline`.

    Example::

        pipeline = CasSRPipeline.from_pretrained("path/to/cassr", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4).images[0]
    """

    paper: ClassVar[Paper] = Paper("CasSR", "2403.11451")
    converters: ClassVar[dict[str, str]] = {"scedit": "diffusers_sr.cassr.convert.convert"}
    _call_defaults: ClassVar[dict[str, Any]] = {
        "negative_prompt": "",
        "num_inference_steps": 50,
        "guidance_scale": 5.5,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "tile_size": 512,
        "tile_overlap": 128,
        "process_size": 512,
        "color_fix": None,
        "activation": None,
        "activation_steps": None,
        "activation_guidance_scale": 7.5,
        "reference_conditioning_scale": 1.0,
    }

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        adapter: CasSRAdapter,
        scheduler: KarrasDiffusionSchedulers,
        activation: SCEditAdapter | ControlNetModel | None,
        call_defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vae, text_encoder, tokenizer, unet, controlnet, adapter, scheduler, call_defaults)
        self.register_modules(activation=activation)

    def describe(  # type: ignore[override]  # every method has its own inputs here
        self, image: torch.Tensor
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Nothing: the prompt is a general one, and what the adapter reads changes from step to step."""
        return {}, {}

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode "`prompt`, clean, high-resolution", or without `prompt` what follows it, and the negative prompt.

        `prompt_embeds` replace the whole prompt. See `SuperResolutionPipeline.encode_prompt` for the rest.
        """
        if prompt_embeds is None:
            prompt = general_prompts(as_texts(prompt or ""))
        prompt_embeds, negative_prompt_embeds = super().encode_prompt(
            prompt, negative_prompt, do_classifier_free_guidance, prompt_embeds, negative_prompt_embeds, lora_scale
        )
        return prompt_embeds, negative_prompt_embeds

    def draw_latents(self, posterior: DiagonalGaussianDistribution, generator: Generators = None) -> torch.Tensor:
        """The mode of the posterior, nothing drawn: the image is to be found again, not varied."""
        return posterior.mode()

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
        reference_images: ImageInput | Sequence[ImageInput] | None = None,
        activation: Activation | None = None,
        activation_steps: int | None = None,
        activation_guidance_scale: float | None = None,
        reference_conditioning_scale: float | None = None,
    ) -> CasSRControl:
        """The image and its reference, which is given or made of it (paper, stage 1).

        `controlnet_conditioning_scale` is the weight of the image: of the residuals it gives, and of what the
        attention to it adds. If both weights are 0, the UNet is the stock one.

        Args:
            reference_images: references instead of activated ones, for all images or one for each. They show what the
                image shows, and are resized to the size it is enlarged to.
            activation: what makes the references instead of the pipeline's component. An `SCEditAdapter` or a
                `ControlNetModel`, on the pipeline's device: stock Stable Diffusion, sampled as the result is. A
                function: it is given each image as a PIL image, as the pipeline was given it and not enlarged, and
                returns one of any size, of those that `read_images` reads. "lr": the enlarged image is its own.
            activation_steps: denoising steps of the activation; `num_inference_steps` by default.
            activation_guidance_scale: of the activation. Where the result has no guidance, it has none.
            reference_conditioning_scale: weight of the reference: of its residuals, and of what the attention to it
                adds. With 0 there is no reference, and none is made.

        The others are those of `SuperResolutionPipeline.prepare_control`.

        Raises:
            ValueError: if a scale or number of steps is none, both `reference_images` and `activation` are given,
                `activation` is nothing of that kind, or there is none; or if there are neither one nor as many
                references as images.
        """
        scale = self._or_default("reference_conditioning_scale", reference_conditioning_scale)
        guidance_scale = self._or_default("activation_guidance_scale", activation_guidance_scale)
        steps = self._or_default("activation_steps", activation_steps)
        check_number("reference_conditioning_scale", scale)
        check_number("activation_guidance_scale", guidance_scale)
        if steps is not None:
            check_count("activation_steps", steps)
        if reference_images is not None and activation is not None:
            raise ValueError("Both `reference_images` and `activation` are given: give one of them.")
        activation = self._or_default("activation", activation)
        activation = self.activation if activation is None else activation

        if scale == 0:
            reference = None
        elif reference_images is not None:
            reference = self._read_references(reference_images, image, size)
        elif activation is None:
            raise ValueError(
                "The pipeline has no activation to make the reference with: load one (`activation=...`), or call it "
                "with `reference_images=`, with a function or 'lr' as `activation=`, or with "
                "`reference_conditioning_scale=0` for no reference."
            )
        elif _is_model(activation):
            if _is_scedit(activation):
                activation.attach(self.unet)
            else:
                self.adapter.attach(activation)  # for a ControlNet of images: it can then take one that is embedded
            latents = self.sample_reference(
                noise,
                image_latents,
                ActivationControl(activation, [image]),
                prompt_embeds,
                negative_prompt_embeds,
                guidance_scale,
                sampling,
                steps,
            )
            reference = self.decode(latents, image, sampling["tile_size"], sampling["tile_overlap"])
        elif callable(activation):
            seen = self.image_processor.postprocess(low_resolution, "pil")
            reference = self._read_references([activation(each) for each in seen], image, size)
        elif activation == "lr":
            reference = image
        else:
            raise ValueError(
                f"activation={activation!r}, expected an SCEditAdapter, a ControlNetModel, a function that is given "
                "and returns an image, or 'lr' for the image itself."
            )
        return CasSRControl(image, reference, scale)

    def control_tiles(
        self,
        control: CasSRControl | ActivationControl,
        num_results: int,
        windows: Sequence[Window],
        tile_batch_size: int,
    ) -> list[CasSRControl | ActivationControl]:
        """What the ControlNet, or the model of the activation, makes of each group of tiles before its first block."""

        def embed_tiles(model: ActivationModel, image: torch.Tensor) -> list[list[torch.Tensor]]:
            copies = num_results // len(image)
            groups = tile_groups(windows, tile_batch_size)
            tiles = (crop_tiles(image, group, self.vae_scale_factor) for group in groups)
            return [[one.repeat_interleave(copies, dim=0) for one in _embed(model, tile)] for tile in tiles]

        if isinstance(control, ActivationControl):
            return [ActivationControl(control.model, each) for each in embed_tiles(control.model, control.seen[0])]
        lr = [embedding for (embedding,) in embed_tiles(self.controlnet, control.lr)]
        reference: list[torch.Tensor | None] = [None] * len(lr)
        if control.reference is not None:
            reference = [embedding for (embedding,) in embed_tiles(self.controlnet, control.reference)]
        return [CasSRControl(*tiles, control.reference_scale) for tiles in zip(lr, reference, strict=True)]

    def predict_noise(
        self,
        latents: torch.Tensor,
        group: int,
        timestep: torch.Tensor,
        controls: list[CasSRControl | ActivationControl],
        texts: list[torch.Tensor],
        controlnet_conditioning_scale: float,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """The noise in a group of tiles of the result, or of a reference.

        The ControlNet takes both images in one call, with the positive text; what it finds serves both halves of the
        guidance. Steered by a ControlNet, a reference is sampled as diffusers' own pipeline does it: with both texts.

        See `SuperResolutionPipeline.predict_noise`.
        """
        control = controls[group]
        tiles = len(latents) // len(texts[0])
        texts = [text.repeat(tiles, 1, 1) for text in texts]
        predict = partial(self._predict, latents, timestep, texts, cross_attention_kwargs)
        if isinstance(control, ActivationControl):
            if _is_scedit(control.model):
                with control.model.conditioning(hints=control.seen, scale=controlnet_conditioning_scale):
                    return predict()
            both, condition = latents.repeat(len(texts), 1, 1, 1), control.seen[0].repeat(len(texts), 1, 1, 1)
            return predict(control_features(control.model, both, timestep, torch.cat(texts), condition))

        weights = {"lr": controlnet_conditioning_scale, "reference": control.reference_scale}
        weights = {name: weight for name, weight in weights.items() if weight != 0}
        if not weights:
            return predict()
        features = control_features(
            self.controlnet,
            latents.repeat(len(weights), 1, 1, 1),
            timestep,
            texts[-1].repeat(len(weights), 1, 1),
            torch.cat([getattr(control, name) for name in weights]),
        )
        each = [feature.chunk(len(weights)) for feature in features]
        seen = {name: [parts[index] for parts in each] for index, name in enumerate(weights)}
        scaled = [[weight * feature for feature in seen[name]] for name, weight in weights.items()]
        residuals = [sum(rest, first) for first, *rest in zip(*scaled, strict=True)]
        with self.adapter.conditioning(**seen, **{f"{name}_scale": weight for name, weight in weights.items()}):
            return predict(residuals)

    def _predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        texts: list[torch.Tensor],
        cross_attention_kwargs: dict[str, Any] | None,
        residuals: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The noise by the UNet; the residuals of a ControlNet are for one half of the guidance or for both."""
        down, middle = None, None
        if residuals is not None:
            batch = len(texts) * len(latents)
            *down, middle = (repeat_to_batch(residual, batch) for residual in residuals)
        noise_pred = self.unet(
            latents.repeat(len(texts), 1, 1, 1),
            timestep,
            encoder_hidden_states=torch.cat(texts),
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            cross_attention_kwargs=cross_attention_kwargs,
            return_dict=False,
        )[0]
        return self.guide(noise_pred.chunk(len(texts)))

    def _read_references(
        self, images: ImageInput | Sequence[ImageInput], image: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """References `[images, 3, H, W]` that lie on `image` as the photo they show does, which fills `size` of it."""
        references = pad_to_multiple(read_references(images, size).to(image.device), self.vae_scale_factor)
        return for_each_result(references, "reference_images", len(image), 1)


def general_prompts(prompts: list[str]) -> list[str]:
    """The texts CasSR is prompted with: the general one, after the prompt where there is one."""
    return [f"{prompt}, {GENERAL_PROMPT}" if prompt else GENERAL_PROMPT for prompt in prompts]


def _is_model(activation: Any) -> TypeGuard[ActivationModel]:
    return isinstance(unwrap_module(activation), (SCEditAdapter, ControlNetModel))


def _is_scedit(model: ActivationModel) -> TypeGuard[SCEditAdapter]:
    return isinstance(unwrap_module(model), SCEditAdapter)


def _embed(model: ActivationModel, image: torch.Tensor) -> list[torch.Tensor]:
    """What does not change from step to step, nor with the prompt: SCEdit's hints, or a ControlNet's embedding."""
    return model.embed(image) if _is_scedit(model) else [embed_condition(model, image)]
