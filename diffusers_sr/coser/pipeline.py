"""`CoSeRPipeline`: cognitive super-resolution (CoSeR, https://arxiv.org/abs/2311.16512)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import logging
from transformers import CLIPTextModel, CLIPTokenizer

from ..controlled import ControlledPipeline
from ..image.pixels import BICUBIC, read_references
from ..publishing.paper import Paper
from ..sampling.autoencoder import decode_latents, fits_tile
from ..sampling.denoiser import StockDenoiser
from ..sampling.finite import Stage
from ..sampling.guidance import Guidance
from ..sampling.photo import Photo, Start, for_each_result
from .adapter import CoSeRAdapter
from .call import CoSeRCall
from .cfw import ControllableFeatureWrapping, autoencoder_to_join, has_layers_to_join
from .cfw_bands import restore_in_bands
from .cognition import CognitiveEncoder
from .controlnet import LatentControlNetModel
from .denoiser import CoSeRControl, CoSeRDenoiser
from .script import SCRIPT

if TYPE_CHECKING:
    from ..sampling.call import Generators

logger = logging.get_logger(__name__)


class CoSeRPipeline(ControlledPipeline[CoSeRCall]):
    """CoSeR: what the image shows is read as an embedding, which generates references to take textures from.

    The cognitive embedding follows the words of the prompt, not those of the negative prompt. Each reference is made
    by stock Stable Diffusion, the first from the same latents as the result, and is not decoded. A step then runs the
    ControlNet on the image's latents and on the references', once for both halves of the guidance, and the UNet
    attends to what it finds there.

    Defaults are those of the official code: 50 steps, guidance 3, one reference, no colour fix, tiles of 64 × 64
    latents that overlap by half. Its tiled script has no reference; here a reference is generated tile by tile too.
    `controlnet_conditioning_scale` has next to no effect: what it scales is normalised before it is used.

    The image is enlarged with the bicubic filter that the weights were trained with, which the adapter's configuration
    names (`bicubic`): torch's for the official weights, Pillow's for those that this package trained.

    `official_preprocessing=True` does what the official scripts do (`diffusers_sr.coser.script`). Without
    `reference_images` it is `inference.py`, and there are by default no `process_size` and no tiles; with them it is
    `inference_tile.py`, whose reference is a grey image.

    The `paper_settings` are 200 steps (paper; the official code's default is 50), `color_fix="adain"` ("used in
    paper", says the help of the official code's option, whose default is none), and `official_preprocessing=True`.
    Guidance of 3 is the paper's too. It recommends two references (`num_references=2`); that its tables have them
    could not be found out, so that there is one.

    Args:
        controlnet: sees latents, of the image and of the references.
        cognitive_encoder: may be None, if that is given explicitly, for calls with `cognitive_embedding`. A model
            whose `call_defaults` have `cognition=False` is loaded without it.
        cfw: decodes with features of the image; without it the VAE decodes alone.

    The other arguments are those of `ControlledPipeline`.

    Example::

        pipeline = CoSeRPipeline.from_pretrained("path/to/converted/coser", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4).images[0]
    """

    call_class = CoSeRCall
    denoiser_class = CoSeRDenoiser
    model_cpu_offload_seq = "cognitive_encoder->text_encoder->unet->vae"
    _optional_components: ClassVar[list[str]] = ["cfw"]
    paper: ClassVar[Paper] = Paper("CoSeR", "2311.16512")
    official_script = SCRIPT
    paper_settings: ClassVar[Mapping[str, Any]] = {
        "official_preprocessing": True,
        "num_inference_steps": 200,
        "color_fix": "adain",
    }
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
        "strength": 1.0,
        "tile_size": 512,
        "tile_overlap": 256,
        "process_size": 512,
        "color_fix": None,
        "num_references": 1,
        "reference_guidance_scale": 3.0,
        "cognition": True,
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

    @classmethod
    def components_left_out(cls, call_defaults: Mapping[str, Any]) -> set[str]:
        """Name the cognitive encoder if there is no cognition. See `PublishablePipeline.components_left_out`."""
        return set() if call_defaults.get("cognition", True) else {"cognitive_encoder"}

    def check_components(self, call: CoSeRCall) -> None:
        """Check also what the cognitive embedding and the `cfw_weight` need.

        Raises:
            ValueError: if there is neither a cognitive encoder nor an embedding, or there are reference images for an
                adapter that does not attend to them.
            TypeError: if a `cfw_weight` above 0 is given and the VAE is not of the kind that the `cfw` joins.
        """
        super().check_components(call)
        if call.cognition and call.cognitive_embedding is None and self.cognitive_encoder is None:
            raise ValueError(
                "The pipeline has no cognitive encoder: load one (`cognitive_encoder=...`), or give "
                "`cognitive_embedding=`."
            )
        if call.reference_images is not None and not self.adapter.attends_to_references:
            raise ValueError(
                "There are `reference_images`, but the adapter was trained without attention to references: leave "
                "them out."
            )
        if self.cfw is not None and call.cfw_weight:
            autoencoder_to_join(self.vae)

    def enlarge(self, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Enlarge images with the bicubic filter that the adapter names. See `SuperResolutionPipeline.enlarge`."""
        return BICUBIC[self.adapter.config.bicubic](image, size)

    def describe(self, image: torch.Tensor, call: CoSeRCall) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Encode the images to cognitive embeddings, unless the call has them or there is no cognition."""
        embedding = call.cognitive_embedding
        if embedding is None and call.cognition:
            encoder = self.cognitive_encoder
            embedding = Stage("encoding the cognitive embedding", encoder).run(lambda: encoder(image).embedding)
        return {"cognitive_embedding": embedding}, {}

    def prepare_guidance(self, call: CoSeRCall, texts: dict[str, Any], num_images: int) -> Guidance:
        """Encode the prompts; the cognitive embedding follows the tokens of the prompt, also of `prompt_embeds`."""
        guidance = super().prepare_guidance(call, {}, num_images)
        if not call.cognition:
            return guidance
        embedding = for_each_result(
            texts["cognitive_embedding"], "cognitive_embedding", num_images, call.num_images_per_prompt
        )
        guidance.prompt_embeds = torch.cat([guidance.prompt_embeds, embedding.to(guidance.prompt_embeds)], dim=1)
        return guidance

    def draw_latents(self, posterior: DiagonalGaussianDistribution, generator: Generators = None) -> torch.Tensor:
        """Take the mode of the posterior, as in the official code: nothing is drawn."""
        return posterior.mode()

    def prepare_control(
        self, call: CoSeRCall, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> CoSeRControl:
        """Encode the image, and encode or generate its references (paper, section 3.3)."""
        lr = start.image_latents
        if lr is None:
            lr = self.encode_image(call, photo.padded, call.num_images_per_prompt)
        if call.reference_images is not None:
            window = self.windows(call, start.noise)[0]
            size = (window.height * self.vae_scale_factor, window.width * self.vae_scale_factor)
            encoded = self.encode_image(call, read_references(call.reference_images, size).to(lr.device))
            return CoSeRControl(lr, [one.repeat(len(lr), 1, 1, 1) for one in encoded.split(1)])
        numbers = range(call.num_references if self.adapter.attends_to_references else 0)
        return CoSeRControl(lr, [self.generate_reference(call, photo, guidance, start, number) for number in numbers])

    def generate_reference(
        self, call: CoSeRCall, photo: Photo, guidance: Guidance, start: Start, number: int
    ) -> torch.Tensor:
        """Sample a reference with stock Stable Diffusion from the cognitive embedding, `[B, channels, h, w]`.

        The first starts from the same noise as the result, further ones from noise of their own.
        """
        if number > 0:
            start = start._replace(noise=self.draw_noise(call, photo))
        denoiser = StockDenoiser(self.unet, call.cross_attention_kwargs)
        reference_guidance = replace(guidance, scale=call.reference_guidance_scale)
        return self.sample_reference(call, denoiser, None, reference_guidance, start)

    def decode(self, call: CoSeRCall, photo: Photo, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents, with features of the image where there is a `cfw`.

        See `SuperResolutionPipeline.decode`.
        """
        weight = call.cfw_weight
        if weight is None:
            weight = call.default_cfw_weight(self.config.call_defaults["cfw_weight"])
            if self.cfw is not None and not has_layers_to_join(self.vae):
                kind = type(self.vae).__name__
                logger.warning(f"`cfw` joins the layers of an AutoencoderKL; {kind} decodes without it.")
                weight = 0
        if self.cfw is None or weight == 0:
            return super().decode(call, photo, latents)
        images = (2 * photo.padded - 1).to(self.vae.dtype)
        copies = len(latents) // len(images)

        def decode(unscaled: torch.Tensor, tile_size: int) -> torch.Tensor:
            if not fits_tile(images, tile_size):
                return restore_in_bands(self.cfw, self.vae, images, unscaled, weight, tile_size)
            _, features = self.cfw.encode(self.vae, images)
            features = [feature.repeat_interleave(copies, dim=0) for feature in features]
            return self.cfw.decode(self.vae, unscaled, features, weight)

        return decode_latents(self.vae, latents, call.vae_tile_size, self.vae_scale_factor, decode, self.cfw)
