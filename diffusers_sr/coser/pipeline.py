"""`CoSeRPipeline`: cognitive super-resolution (CoSeR, https://arxiv.org/abs/2311.16512)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import logging
from transformers import CLIPTextModel, CLIPTokenizer

from ..attention.control_features import control_features
from ..image.pixels import ImageInput, read_references
from ..image.tiling import Window, crop_tiles, tile_groups
from ..pipeline import Generators, SuperResolutionPipeline
from ..publishing.paper import Paper
from ..sampling.checks import check_count
from .adapter import CoSeRAdapter
from .cfw import ControllableFeatureWrapping, has_layers_to_join
from .cognition import CognitiveEncoder
from .controlnet import LatentControlNetModel

logger = logging.get_logger(__name__)


class CoSeRControl(NamedTuple):
    """What the ControlNet is run on: latents of the image and of its references, `[B, channels, H, W]`.

    References of the image's size are cut into the same tiles: they were generated for it, or there is one tile.
    Others are those of a user, and have the size of a tile: every tile sees them as a whole.
    """

    lr: torch.Tensor
    references: list[torch.Tensor]

    def tiles(self, group: Sequence[Window]) -> CoSeRControl:
        """Those of a group of tiles, `[tiles * B, channels, h, w]`."""

        def crop(latents: torch.Tensor) -> torch.Tensor:
            if latents.shape[-2:] == self.lr.shape[-2:]:
                return crop_tiles(latents, group)
            return latents.repeat(len(group), 1, 1, 1)

        return CoSeRControl(crop(self.lr), [crop(reference) for reference in self.references])


class CoSeRPipeline(SuperResolutionPipeline):
    """CoSeR: what the image shows is read as an embedding, from which references are generated to take textures from.

    The cognitive embedding follows the words of the prompt, not those of the negative prompt. Each reference is made
    by stock Stable Diffusion from the same latents as the result, and stays in latents. A step then runs the
    ControlNet on the image's latents and on the references', once for both halves of the guidance, and the UNet
    attends to what it finds there.

    Defaults are those of the official code: 50 steps, guidance 3, one reference, no colour fix, tiles of 64 × 64
    latents that overlap by half. Its tiled script has no reference; here a reference is generated tile by tile too.
    `controlnet_conditioning_scale` has next to no effect: what it scales is normalised before it is used.

    Args:
        controlnet: sees latents, of the image and of the references.
        cognitive_encoder: may be None, said explicitly, for calls with `cognitive_embedding`.
        cfw: decodes with features of the image; without it the VAE decodes alone.

    The others are those of `SuperResolutionPipeline`.

    Example::

        pipeline = CoSeRPipeline.from_pretrained("path/to/converted/coser", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4).images[0]
    """

    model_cpu_offload_seq = "cognitive_encoder->text_encoder->unet->vae"
    _optional_components: ClassVar[list[str]] = ["cfw"]
    paper: ClassVar[Paper] = Paper("CoSeR", "2311.16512")
    converters: ClassVar[dict[str, str]] = {"coser": "diffusers_sr.coser.convert.convert"}
    _call_defaults: ClassVar[dict[str, Any]] = {
        "negative_prompt": (
            "worst quality, normal quality, low quality, low res, blurry, text, watermark, logo, banner, extra "
            "digits, cropped, jpeg artifacts, signature, username, error, sketch ,duplicate, ugly, monochrome, "
            "horror, geometry, mutation, disgusting"
        ),
        "num_inference_steps": 50,
        "guidance_scale": 3.0,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "tile_size": 512,
        "tile_overlap": 256,
        "process_size": 512,
        "color_fix": None,
        "num_references": 1,
        "reference_guidance_scale": 3.0,
        "cfw_weight": 0.5,
    }

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: LatentControlNetModel,
        adapter: CoSeRAdapter,
        scheduler: KarrasDiffusionSchedulers,
        cognitive_encoder: CognitiveEncoder | None,
        cfw: ControllableFeatureWrapping | None = None,
        call_defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vae, text_encoder, tokenizer, unet, controlnet, adapter, scheduler, call_defaults)
        self.register_modules(cognitive_encoder=cognitive_encoder, cfw=cfw)

    def describe(  # type: ignore[override]  # every method has its own inputs here
        self, image: torch.Tensor, cognitive_embedding: torch.Tensor | None = None
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The cognitive embedding of the images.

        Args:
            image: `[B, 3, H, W]` in [0, 1], not enlarged.
            cognitive_embedding: instead of the encoder's, `[1 or B, tokens, channels]`.

        Raises:
            ValueError: if there is neither an encoder nor an embedding.
        """
        if cognitive_embedding is None:
            if self.cognitive_encoder is None:
                raise ValueError(
                    "The pipeline has no cognitive encoder: load one (`cognitive_encoder=...`), or give "
                    "`cognitive_embedding=`."
                )
            cognitive_embedding = self.cognitive_encoder(image).embedding
        return {"cognitive_embedding": cognitive_embedding}, {}

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        cognitive_embedding: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode both prompts; the cognitive embedding follows the tokens of the prompt, also of `prompt_embeds`.

        See `SuperResolutionPipeline.encode_prompt` for the rest.

        Raises:
            ValueError: if there are several prompts and embeddings, and not as many of each.
        """
        prompt_embeds, negative_prompt_embeds = super().encode_prompt(
            prompt,
            negative_prompt,
            do_classifier_free_guidance,
            prompt_embeds,
            negative_prompt_embeds,
            lora_scale,
        )
        if cognitive_embedding is not None:
            count = max(len(prompt_embeds), len(cognitive_embedding))
            if not {len(prompt_embeds), len(cognitive_embedding)} <= {1, count}:
                raise ValueError(
                    f"There are {len(prompt_embeds)} prompts for {len(cognitive_embedding)} images: give one for all, "
                    "or for each."
                )
            parts = (prompt_embeds, cognitive_embedding.to(prompt_embeds))
            prompt_embeds = torch.cat([part.expand(count, -1, -1) for part in parts], dim=1)
        return prompt_embeds, negative_prompt_embeds

    def draw_latents(self, posterior: DiagonalGaussianDistribution, generator: Generators = None) -> torch.Tensor:
        """As in the official code the mode of the posterior, nothing drawn."""
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
        num_references: int | None = None,
        reference_guidance_scale: float | None = None,
    ) -> CoSeRControl:
        """Latents of the image, and of its references (paper, section 3.3).

        Args:
            reference_images: references instead of generated ones, for all images. Each is stretched to the size of
                the result, or of a tile where there are several.
            num_references: how many to generate.
            reference_guidance_scale: of their generation, which is that of stock Stable Diffusion.

        The others are those of `SuperResolutionPipeline.prepare_control`.

        Raises:
            ValueError: if `num_references` is no number from 1 on.
        """
        tiles = {"tile_size": sampling["tile_size"], "tile_overlap": sampling["tile_overlap"]}
        copies = len(noise) // len(image)
        lr = image_latents
        if lr is None:
            lr = self.encode_image(image, **tiles, num_images_per_prompt=copies)
        if reference_images is not None:
            window = self._windows(noise, 1, **tiles)[0]
            size = (window.height * self.vae_scale_factor, window.width * self.vae_scale_factor)
            encoded = self.encode_image(read_references(reference_images, size).to(image.device), **tiles)
            return CoSeRControl(lr, [one.repeat(len(noise), 1, 1, 1) for one in encoded.split(1)])

        count = self._or_default("num_references", num_references)
        check_count("num_references", count)
        references: list[torch.Tensor] = []
        for number in range(count):
            if number > 0:
                noise = self.prepare_noise(image, copies, sampling["generator"])
            references.append(
                self.sample_reference(
                    noise,
                    image_latents,
                    None,
                    prompt_embeds,
                    negative_prompt_embeds,
                    guidance_scale=self._or_default("reference_guidance_scale", reference_guidance_scale),
                    sampling=sampling,
                )
            )
        return CoSeRControl(lr, references)

    def control_tiles(
        self, control: CoSeRControl | None, num_results: int, windows: Sequence[Window], tile_batch_size: int
    ) -> list[CoSeRControl | None]:
        """The latents of each group of tiles; None for each, if a reference is to be generated."""
        groups = tile_groups(windows, tile_batch_size)
        return [None if control is None else control.tiles(group) for group in groups]

    def predict_noise(
        self,
        latents: torch.Tensor,
        group: int,
        timestep: torch.Tensor,
        controls: list[CoSeRControl | None],
        texts: list[torch.Tensor],
        controlnet_conditioning_scale: float,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """The noise in a group of tiles; by the stock UNet alone for a reference.

        As in the official code the ControlNet gets the positive text, and what it finds serves both halves of the
        guidance. The halves are two calls of the UNet: their texts differ in length, by the cognitive embedding.

        See `SuperResolutionPipeline.predict_noise`.
        """
        tiles = len(latents) // len(texts[0])
        texts = [text.repeat(tiles, 1, 1) for text in texts]

        def predict() -> torch.Tensor:
            return self.guide(
                [
                    self.unet(
                        latents,
                        timestep,
                        encoder_hidden_states=text,
                        cross_attention_kwargs=cross_attention_kwargs,
                        return_dict=False,
                    )[0]
                    for text in texts
                ]
            )

        control = controls[group]
        if control is None:
            return predict()
        features = {
            name: control_features(
                self.controlnet, latents, timestep, texts[-1], condition, controlnet_conditioning_scale
            )
            for name, condition in (("lr", control.lr), ("reference", torch.cat(control.references, dim=-1)))
        }
        with self.adapter.conditioning(**features):
            return predict()

    def decode(
        self,
        latents: torch.Tensor,
        image: torch.Tensor,
        tile_size: int,
        tile_overlap: int,
        cfw_weight: float | None = None,
    ) -> torch.Tensor:
        """Images from scaled latents, with features of `image` where there is a `cfw`.

        Args:
            cfw_weight: how much of them, from 0, which leaves them out, to 1. The default leaves them out, with a
                warning, if the VAE is not of the kind they join.

        See `SuperResolutionPipeline.decode`.

        Raises:
            TypeError: if there is a `cfw_weight` and the VAE is no `AutoencoderKL`.
        """
        if cfw_weight is None and self.cfw is not None and not has_layers_to_join(self.vae):
            logger.warning(f"`cfw` joins the layers of an AutoencoderKL; {type(self.vae).__name__} decodes without.")
            cfw_weight = 0
        weight = self._or_default("cfw_weight", cfw_weight)
        if self.cfw is None or weight == 0:
            return super().decode(latents, image, tile_size, tile_overlap)
        windows = self._windows(latents, 1, tile_size, tile_overlap)
        copies = len(latents) // len(image)

        def decode_tile(tile: torch.Tensor, index: int) -> torch.Tensor:
            seen = windows[index].crop(2 * image - 1, self.vae_scale_factor).to(self.vae.dtype)
            _, features = self.cfw.encode(self.vae, seen)
            features = [feature.repeat_interleave(copies, dim=0) for feature in features]
            return self.cfw.decode(self.vae, tile, features, weight)

        return self.decode_tiles(latents, windows, decode_tile)
