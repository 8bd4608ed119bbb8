"""The steps of a call between noise and latents: where sampling starts, its timesteps, and the sampling itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from ..image.tiling import Window, tile_windows
from .call import CallT
from .denoiser import Denoiser
from .finite import check_finite
from .guidance import Guidance
from .image_steps import ImageSteps
from .loop import AfterStep, PredictNoise, sample
from .photo import Photo, Start, latents_shape
from .prediction import GuidedPrediction
from .schedule import start_later, timesteps_to_take
from .state import CallState


class LatentSteps(CallState, ImageSteps[CallT]):
    """The part of a pipeline that samples latents, those of the result and those of a reference."""

    scheduler: Any
    progress_bar: Any

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

    def windows(self, call: CallT, latents: torch.Tensor) -> list[Window]:
        """List the tiles of latents that the denoiser takes."""
        unit = self.vae_scale_factor
        height, width = latents.shape[-2:]
        return tile_windows(height, width, call.tile_size // unit, call.tile_overlap // unit)
