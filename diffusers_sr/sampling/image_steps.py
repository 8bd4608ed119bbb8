"""The steps of a call between images and latents: how images are read and encoded, decoded and finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from ..image.color import COLOR_FIXES
from ..image.pixels import resize
from ..publishing.paper import Paper
from .autoencoder import decode_latents, encode_image, pixels_per_latent
from .call import CallT
from .finite import check_finite
from .official import OfficialScript
from .photo import Photo, check_against_photo, read_photo
from .placement import Placement

if TYPE_CHECKING:
    from .call import Generators


class ImageSteps(Placement, Generic[CallT]):
    """The part of a pipeline that brings images to the models, and results back to the size that was asked for."""

    official_script: ClassVar[OfficialScript | None] = None
    """What the official script does with images before and after the models; None if there is no official code."""
    paper: ClassVar[Paper]
    vae: Any
    image_processor: Any

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along each side."""
        return pixels_per_latent(self.vae)

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

    def _official_script(self) -> OfficialScript:
        if self.official_script is None:
            raise ValueError(
                f"There is no official code of {self.paper.name} whose preprocessing a {type(self).__name__} could "
                "repeat: leave out official_preprocessing."
            )
        return self.official_script
