"""The comparisons of pictures and photographs that trainers add to their losses by weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .arguments import option
from .judgement import LatentGrid, Overshoot, ShiftTolerantDistance, WaveletSimilarity
from .ranges import Count, Weight


@dataclass(kw_only=True)
class ComparisonArguments:
    """The weights of the comparisons; with 0 they are left out."""

    stlpips_weight: Weight = option(0.0, "Weight of shift-tolerant LPIPS, which needs the package stlpips-pytorch.")
    stlpips_samples: Count | None = option(None, "Samples of a batch that it compares; by default all.")
    haarpsi_weight: Weight = option(0.0, "Weight of how far HaarPSI, a similarity of wavelets, is from 1.")
    grid_weight: Weight = option(0.0, "Weight of the error that repeats with the pitch of the latents, a weave.")
    overshoot_weight: Weight = option(0.0, "Weight of how far pixels leave the range of the target around them.")


def comparisons(arguments: ComparisonArguments, pitch: int) -> list[nn.Module]:
    """Make the comparisons whose weight is not 0.

    Args:
        arguments: the weights.
        pitch: pixels per latent.

    Raises:
        ModuleNotFoundError: if shift-tolerant LPIPS is asked for and its package is not installed.
    """
    made: list[nn.Module] = []
    if arguments.stlpips_weight:
        made.append(ShiftTolerantDistance(arguments.stlpips_weight, arguments.stlpips_samples))
    if arguments.haarpsi_weight:
        made.append(WaveletSimilarity(arguments.haarpsi_weight))
    if arguments.grid_weight:
        made.append(LatentGrid(arguments.grid_weight, pitch))
    if arguments.overshoot_weight:
        made.append(Overshoot(arguments.overshoot_weight))
    return made
