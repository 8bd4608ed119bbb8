"""How sure a mean over some images is: intervals from the images drawn anew, with replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def paired_interval(
    differences: Sequence[float], *, confidence: float = 0.95, resamples: int = 10000, seed: int = 0
) -> tuple[float, float, float]:
    """Compute the mean of paired differences and its percentile bootstrap interval (Efron 1979).

    Each difference is that of two methods on one image, so that how hard the image is does not count. If the interval
    does not contain 0, the methods differ by more than the choice of the images explains.

    Args:
        differences: one for each image.
        confidence: share of the resampled means that lie in the interval.
        resamples: number of times that as many differences as there are are drawn, with replacement.
        seed: of the draws, so that the same differences always have the same interval.

    Returns:
        The mean, and the lower and the upper end of its interval.

    Raises:
        ValueError: if there is no difference, or one is not finite, such as that of the PSNR of two perfect results.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.size:
        raise ValueError("There is no difference to average: give at least one.")
    if not np.isfinite(values).all():
        raise ValueError(f"The differences hold {values[~np.isfinite(values)][0]}: leave out what is not finite.")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(values.size, size=values.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(values.mean()), float(low), float(high)
