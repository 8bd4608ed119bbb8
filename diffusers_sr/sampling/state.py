"""What diffusers reads of a call on its pipeline, and lets callbacks set there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .call import Call


class CallState:
    """The part of a pipeline that remembers its last call, as far as diffusers' contract asks for it.

    Of these no step of a call reads any but `interrupt`, and what a callback has set after its step.
    """

    _guidance_scale: float = 1.0
    _cross_attention_kwargs: dict[str, Any] | None = None
    _num_timesteps: int = 0
    _interrupt: bool = False

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

    def _start_call(self, call: Call) -> None:
        """Set what diffusers' callbacks read, and may set, on a pipeline; no step of ours reads it but the stop."""
        self._guidance_scale = call.guidance_scale
        self._cross_attention_kwargs = call.cross_attention_kwargs
        self._num_timesteps = 0
        self._interrupt = False
