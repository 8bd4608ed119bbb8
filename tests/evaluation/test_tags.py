"""How well tags are predicted, worked out by hand."""

import pytest

from diffusers_sr.evaluation.tags import overall_precision_and_recall


def test_tags_of_all_images_count_together() -> None:
    """Five are predicted and four annotated, two of them the same. The mean over images would be (0.5 + 1 + 0) / 3."""
    predicted = [["cat", "dog"], ["sky"], ["cat", "sea"]]
    annotated = [["cat"], ["sky", "sea"], ["dog"]]
    assert overall_precision_and_recall(predicted, annotated) == (2 / 5, 2 / 4)


def test_a_tag_counts_once_in_an_image() -> None:
    assert overall_precision_and_recall([["cat", "cat"]], [["cat"]]) == (1.0, 1.0)


def test_nothing_is_right_where_nothing_is_said() -> None:
    assert overall_precision_and_recall([[]], [["cat"]]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        overall_precision_and_recall([[]], [["cat"], ["dog"]])
