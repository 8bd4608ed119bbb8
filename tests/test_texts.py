"""Texts that are too long for the text encoder, and texts of which one serves several images."""

from __future__ import annotations

import pytest

from diffusers_sr.texts import pair_texts, shorten_before


def count_words(text: str) -> int:
    """The words of a text, and one for its start and its end each."""
    return len(text.split()) + 2


def count_characters(text: str) -> int:
    return len(text.replace(" ", "")) + 2


def test_what_fits_stays(caplog: pytest.LogCaptureFixture) -> None:
    assert shorten_before("one two three", "four five", count_words, 7) == "one two three four five"
    assert shorten_before("", "four five", count_words, 4) == "four five"
    assert shorten_before("one", "", count_words, 3) == "one"


@pytest.mark.parametrize("limit", range(4, 10))
def test_the_ending_stays_whole(limit: int) -> None:
    text = "one two three four five six"
    words = text.split()[: limit - 4]
    assert shorten_before(text, "clean, sharp", count_words, limit) == " ".join([*words, "clean, sharp"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a great wave at the shore", "a great wave sharp"),
        ("a great wave, at the shore", "a great wave, sharp"),
        ("a  great\nwave at the shore", "a  great\nwave sharp"),
        ("incomprehensibilities", "incomprehen sharp"),
        ("あの大きな波があの海岸に打ち寄せる", "あの大きな波があの海岸 sharp"),
    ],
)
def test_a_text_ends_with_a_word_if_it_has_several(text: str, expected: str) -> None:
    shortened = shorten_before(text, "sharp", count_characters, 18)
    assert count_characters(shortened) <= 20
    assert shortened == expected


def test_an_ending_that_does_not_fit_stays_as_it_is() -> None:
    assert shorten_before("one two", "three four five", count_words, 4) == "three four five"


def test_one_text_serves_all_of_the_others() -> None:
    assert pair_texts(["a"], ["x", "y"]) == [("a", "x"), ("a", "y")]
    assert pair_texts(["a", "b"], ["x"]) == [("a", "x"), ("b", "x")]
    assert pair_texts(["a", "b"], ["x", "y"]) == [("a", "x"), ("b", "y")]
    with pytest.raises(ValueError, match="There are 2 prompts for 3 images: give one for all, or for each"):
        pair_texts(["a", "b"], ["x", "y", "z"])
