"""CoSeR's noise prediction (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..attention.control_features import control_features
from ..attention.processors import repeat_to_batch
from ..image.tiling import Window, crop_tiles
from ..sampling.denoiser import ControlledDenoiser


class CoSeRControl(NamedTuple):
    """The ControlNet's inputs: latents of the image and of its references, `[B, channels, H, W]`.

    References of the image's size are cut into the same tiles: they were generated for it, or there is one tile.
    Others are a user's, and have the size of a tile: every tile sees them whole. There may be no reference at all.
    """

    lr: torch.Tensor
    references: list[torch.Tensor]

    def tiles(self, group: Sequence[Window]) -> CoSeRControl:
        """Cut out a group of tiles, `[tiles * B, channels, h, w]`."""

        def crop(latents: torch.Tensor) -> torch.Tensor:
            if latents.shape[-2:] == self.lr.shape[-2:]:
                return crop_tiles(latents, group)
            return latents.repeat(len(group), 1, 1, 1)

        return CoSeRControl(crop(self.lr), [crop(reference) for reference in self.references])


class CoSeRDenoiser(ControlledDenoiser):
    """The UNet attends to what one ControlNet finds in the image and in its references.

    As in the official code, the ControlNet gets the positive text, and what it finds serves both halves of the
    guidance. The halves are two calls of the UNet: their texts differ in length by the cognitive embedding.
    """

    def control_tiles(
        self, control: CoSeRControl, num_results: int, groups: Sequence[Sequence[Window]], unit: int
    ) -> list[CoSeRControl]:
        """Cut the latents into groups of tiles."""
        return [control.tiles(group) for group in groups]

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, texts: Sequence[torch.Tensor], control: CoSeRControl
    ) -> list[torch.Tensor]:
        """Predict the noise with two calls of the ControlNet, and one of the UNet for each text."""
        texts = [repeat_to_batch(text, len(latents)) for text in texts]
        conditions = {"lr": control.lr}
        if control.references:
            conditions["reference"] = torch.cat(control.references, dim=-1)
        features = {
            name: control_features(
                self.controlnet, latents, timestep, texts[-1], condition, self.controlnet_conditioning_scale
            )
            for name, condition in conditions.items()
        }
        with self.adapter.conditioning(**features):
            return [self.run_unet(latents, timestep, text) for text in texts]
