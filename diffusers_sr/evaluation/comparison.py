"""Whether one folder of results is better than another, from the differences on each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .bootstrap import paired_interval
from .protocols import Measure
from .scoring import Scores


class Difference(NamedTuple):
    """How much higher a measure of the results is than that of others, and its interval of 95 %."""

    measure: Measure
    mean: float
    interval: tuple[float, float] | None
    """None for a measure of whole folders."""

    @property
    def verdict(self) -> str:
        """In words, which is better: "better", "worse", or "not clear" if the interval has 0 in it or is unknown."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "not clear"
        return "better" if (self.mean > 0) == self.measure.higher_is_better else "worse"


def differences(measures: Sequence[Measure], results: Scores, others: Scores) -> list[Difference]:
    """Compare two folders of results of the same originals, by what was measured of both."""
    found = []
    for measure in measures:
        heading = measure.heading
        if heading in results.each:
            pairs = zip(results.each[heading], others.each[heading], strict=True)
            mean, low, high = paired_interval([result - other for result, other in pairs])
            found.append(Difference(measure, mean, (low, high)))
        elif heading in results.whole:
            found.append(Difference(measure, results.whole[heading] - others.whole[heading], None))
    return found
