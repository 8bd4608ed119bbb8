"""The state of a call that diffusers reads on its pipeline, and lets callbacks set there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .call import Call
    from .loop import PredictNoise


class CallState:
    """The part of a pipeline that remembers its last call, as far as diffusers' contract asks for it.

    The steps of a call read only `interrupt`, and after a callback the `guidance_scale` that it may have set.
    """

    _guidance_scale: float = 1.0
    _cross_attention_kwargs: dict[str, Any] | None = None
    _num_timesteps: int = 0
    _current_timestep: torch.Tensor | None = None
    _interrupt: bool = False

    @property
    def guidance_scale(self) -> float:
        """Weight of the prompt against the negative prompt."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether there is classifier-free guidance."""
        return self._guidance_scale > 1

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """The arguments that the call passes to the UNet."""
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self) -> int:
        """Number of steps that the result takes; 0 until it is sampled."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> torch.Tensor | None:
        """The timestep of the step that is being taken, which hooks of diffusers ask for; None outside sampling."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether a callback has stopped the call."""
        return self._interrupt

    def _start_call(self, call: Call) -> None:
        """Set what diffusers' callbacks read, and may set, on a pipeline."""
        self._guidance_scale = call.guidance_scale
        self._cross_attention_kwargs = call.cross_attention_kwargs
        self._num_timesteps = 0
        self._current_timestep = None
        self._interrupt = False

    def _told_timestep(self, predict_noise: PredictNoise) -> PredictNoise:
        """Set `current_timestep` before each prediction."""

        def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            self._current_timestep = timestep
            return predict_noise(latents, timestep)

        return predict
