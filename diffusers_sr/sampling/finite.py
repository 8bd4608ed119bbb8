"""See to it that every stage of a call gives finite values: a NaN or an overflow would end as a black picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers.utils import logging
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from .in_float32 import in_float32, is_in_half_precision
from .out_of_memory import is_out_of_memory

logger = logging.get_logger(__name__)

Result = TypeVar("Result")


class NotFiniteError(ValueError):
    """A stage of a call gave values that are NaN or infinite, so that there is no picture."""


class Stage:
    """A stage of a call, such as "decoding", whose result has to be finite.

    If it is not, and its models are in half precision, where sums end at 65,504 (float16), the stage is done again in
    float32, and everything that it runs after that is too.

    Args:
        name: what the warning and the error call the stage.
        models: those that it runs; None for one that is missing.
    """

    def __init__(self, name: str, *models: nn.Module | None) -> None:
        self.name = name
        self.models = [model for model in models if model is not None]
        self._float32_on: set[str] | None = None  # types of devices

    def run(self, compute: Callable[[], Result]) -> Result:
        """Run `compute`, and if need be once more: it may not change anything, nor draw random numbers.

        Returns:
            Its result, in float32 if it was computed in float32: whoever reads it casts it to the type of the model
            that it is for.

        Raises:
            NotFiniteError: if the result is not finite, or cannot be computed in float32.
        """
        if self._float32_on is not None:
            return self._run_in_float32(compute, self._float32_on)
        result = compute()
        if is_finite(result):
            return result
        devices = _devices(result)
        if not is_in_half_precision(self.models, devices):
            raise NotFiniteError(self._message("not finite"))
        logger.warning(
            f"The result of {self.name} is not finite in half precision: it is computed again in float32. If that "
            "happens often, load the pipeline in another type (bfloat16, float32)."
        )
        self._float32_on = devices
        return self._run_in_float32(compute, devices)

    def _run_in_float32(self, compute: Callable[[], Result], devices: set[str]) -> Result:
        try:
            with in_float32(devices):
                result = compute()
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            message = self._message("not finite in half precision")
            raise NotFiniteError(f"{message} It could not be computed in float32: {error}") from error
        if not is_finite(result):
            raise NotFiniteError(self._message("not finite, in float32 either"))
        return result

    def _message(self, what: str) -> str:
        names = ", ".join(type(model).__name__ for model in self.models)
        return f"The result of {self.name} is {what}: check the arguments of the call and the weights of {names}."


def check_finite(name: str, result: Any) -> None:
    """Raise NotFiniteError if the result of a stage that runs no model is not finite."""
    if not is_finite(result):
        raise NotFiniteError(f"The result of {name} is not finite: check the arguments of the call.")


def is_finite(value: Any) -> bool:
    """Whether all floating-point tensors in nested lists, tuples and dictionaries are free of NaN and infinity."""
    # The smallest and the largest value are found in one pass and without memory for a mask; both are NaN if one is.
    bounds = [bound.isfinite() for tensor in _tensors(value) for bound in tensor.aminmax()]
    return not bounds or bool(torch.stack(bounds).all())


def in_dtype(value: Result, dtype: torch.dtype) -> Result:
    """Cast all floating-point tensors in nested lists, tuples and dictionaries."""

    def cast(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    cast_value: Result = tree_map(cast, value)
    return cast_value


def _tensors(value: Any) -> list[torch.Tensor]:
    leaves = tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel()]


def _devices(value: Any) -> set[str]:
    return {tensor.device.type for tensor in _tensors(value)}
