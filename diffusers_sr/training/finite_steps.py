"""Optimiser steps whose loss and gradient are finite: the others are left out, or end the run."""

from __future__ import annotations

import logging
import math

import torch
from accelerate import Accelerator
from torch import Tensor

from .processes import any_process

logger = logging.getLogger(__name__)


class FiniteSteps:
    """Decides which optimiser steps are taken, on all processes alike.

    Args:
        accelerator: its processes decide together. With fp16, whose scale of gradients is found by trial, gradients
            that are not finite are part of the search, and only losses are looked at.
        most: number of steps that may be left out. What they would have seen counts as seen.
    """

    def __init__(self, accelerator: Accelerator, most: int) -> None:
        self.accelerator = accelerator
        self.most = most
        self.left_out = 0
        self._loss = 0.0

    def add(self, loss: Tensor) -> bool:
        """Note the loss of a batch, which is part of the next step, and say whether it is finite."""
        value = loss.item()
        if math.isfinite(self._loss):
            self._loss = value
        return math.isfinite(value)

    def is_taken(self, step: int, norm: Tensor) -> bool:
        """Whether the optimiser has to make step `step`, from a gradient with this norm.

        Raises:
            RuntimeError: if it is not finite, and no further step may be left out.
        """
        loss, self._loss = self._loss, 0.0
        is_scaled = self.accelerator.scaler is not None
        is_finite = math.isfinite(loss) and (is_scaled or bool(torch.isfinite(norm)))
        if not any_process(self.accelerator, not is_finite):
            return True
        if math.isfinite(loss):
            found = f"gradient's norm in step {step} is {float(norm)}"
        else:
            found = f"loss of step {step} is {loss}"
        if self.left_out == self.most:
            used = f", and {self.most} have been left out before" if self.most else ""
            raise RuntimeError(
                f"The {found}{used}; the last checkpoint is kept. --skip_nonfinite leaves out a number of such steps."
            )
        self.left_out += 1
        if self.accelerator.is_main_process:
            logger.warning("Left out: the %s. That is %d of %d steps that may be.", found, self.left_out, self.most)
        return is_scaled  # the scaler makes no step from such a gradient, but has to learn of it
