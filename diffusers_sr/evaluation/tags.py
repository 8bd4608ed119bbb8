"""How well a tagger names what is in images (SeeSR, https://arxiv.org/abs/2311.16518, Eq. 3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def overall_precision_and_recall(
    predicted: Sequence[Collection[str]], annotated: Sequence[Collection[str]]
) -> tuple[float, float]:
    """Compute overall precision (OP) and overall recall (OR), which count the tags of all images together.

    OP is the share of the predicted tags that are annotated, OR the share of the annotated tags that are predicted; 0
    if there are none.

    Args:
        predicted, annotated: the tags of each image, in the same order.

    Raises:
        ValueError: if they are not of the same number of images.
    """
    correct = sum(len({*ours} & {*theirs}) for ours, theirs in zip(predicted, annotated, strict=True))
    counts = [sum(len({*tags}) for tags in each) for each in (predicted, annotated)]
    precision, recall = (correct / count if count else 0.0 for count in counts)
    return precision, recall
