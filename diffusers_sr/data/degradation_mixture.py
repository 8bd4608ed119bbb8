"""A mixture of degradations, from the mild ones of ordinary photos to the second-order recipe; all by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from .degradation_settings import (
    COSER,
    OSEDIFF,
    PISA,
    REAL_ESRGAN,
    DegradationConfig,
    DegradationOrder,
    ShuffledDegradation,
)


@dataclass(frozen=True)
class DegradationMixture:
    """Degradations of which each photo has one, drawn by chance.

    A `DegradationOrder` among them is a single order: blur, antialiased reduction to the final size, noise, JPEG.

    Raises:
        ValueError: if there is not one probability for each part, or they do not sum to 1.
    """

    parts: tuple[DegradationConfig | DegradationOrder, ...]
    """The degradations."""
    probabilities: tuple[float, ...]
    """The chance of each of them."""

    def __post_init__(self) -> None:
        chances = self.probabilities
        if len(chances) != len(self.parts) or min(chances, default=-1) < 0 or abs(sum(chances) - 1) > 1e-6:
            raise ValueError(
                f"probabilities={chances!r}: it has to hold {len(self.parts)} probabilities that sum to 1, one for "
                "each part."
            )


Degradation: TypeAlias = DegradationConfig | DegradationOrder | DegradationMixture | ShuffledDegradation
"""Two orders, a single one, a mixture of these, or shuffled steps."""

MILD = DegradationOrder(
    blur_probability=0.5,
    kernel_sizes=(21,),
    sinc_probability=0.0,
    kernel_probabilities=(0.5, 0.25, 0.0, 0.0, 0.25, 0.0),
    sigma=(0.2, 2.0),
    gaussian_noise_probability=1.0,
    gaussian_noise_sigma=(0.0, 5.0),
    jpeg_quality=(70.0, 98.0),
)
"""A photo that was made smaller and saved: half of the time a lens's blur, noise of at most 5/255, JPEG 70 to 98.

Gaussians stand for the blur of a lens and of the sensor's filter, plateaus for one that is out of focus.
"""

MEDIUM = DegradationOrder(
    blur_probability=0.8,
    kernel_sizes=(21,),
    sinc_probability=0.0,
    kernel_probabilities=MILD.kernel_probabilities,
    sigma=(0.2, 4.0),
    gaussian_noise_sigma=(1.0, 15.0),
    poisson_noise_scale=(0.05, 1.5),
    jpeg_quality=(40.0, 90.0),
)
"""As `MILD`, but visibly blurred, noisy or compressed."""

EVERYDAY = DegradationMixture(parts=(MILD, MEDIUM, DegradationConfig()), probabilities=(0.4, 0.3, 0.3))
"""What people's photos have: mild and medium damage, and the second-order recipe with SeeSR's settings."""

DEGRADATIONS: dict[str, Degradation] = {
    "seesr": DegradationConfig(),
    "real_esrgan": REAL_ESRGAN,
    "osediff": OSEDIFF,
    "pisa": PISA,
    "bsrgan": ShuffledDegradation(),
    "coser": COSER,
    "everyday": EVERYDAY,
}
"""The degradations that trainers know by name.

`osediff` and `pisa` give images as large as the originals, which the trainers of one-step models expect;
`at_low_resolution` makes of them what the other trainers do.
"""


def at_low_resolution(degradation: Degradation) -> Degradation:
    """Give a degradation whose results are not enlarged."""
    return replace(degradation, enlarges=False) if isinstance(degradation, DegradationConfig) else degradation
