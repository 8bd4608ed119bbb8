"""Texts that are too long for the text encoder, and one text for several images."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig
from transformers import CLIPTokenizer

from diffusers_sr.texts import as_texts, encode_texts, is_texts, pair_texts, shorten_before, token_ids
from tests.components import TEXT_DIM, tiny_text_encoder, tiny_tokenizer


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    diffusers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING, "diffusers_sr"):
        yield caplog
    diffusers_logging.disable_propagation()


def said(warnings: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in warnings.records if record.name == "diffusers_sr.texts"]


def count_words(text: str) -> int:
    """The words of a text, and one for its start and its end each."""
    return len(text.split()) + 2


def count_characters(text: str) -> int:
    return len(text.replace(" ", "")) + 2


def test_what_fits_stays(warnings: pytest.LogCaptureFixture) -> None:
    assert shorten_before("one two three", "four five", count_words, 7) == "one two three four five"
    assert shorten_before("", "four five", count_words, 4) == "four five"
    assert shorten_before("one", "", count_words, 3) == "one"
    assert not said(warnings)


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


@pytest.mark.parametrize(
    "text", ["a great wave\nat the shore", "a great wave\n\nat the shore", "a great wave\u3000at it"]
)
@pytest.mark.parametrize("limit", [17, 18])
def test_a_word_that_fits_is_kept_before_any_white_space(text: str, limit: int) -> None:
    """The words "a great wave" and "sharp" are 17 tokens: neither 17 nor 18 have room for "at" as well."""
    tokenizer = tiny_tokenizer()

    def count_tokens(text: str) -> int:
        return len(tokenizer(text).input_ids)

    assert count_tokens("a great wave sharp") == 17
    assert shorten_before(text, "sharp", count_tokens, limit) == "a great wave sharp"
    # The same where line breaks count.
    assert shorten_before(text, "sharp", count_characters, limit) == "a great wave sharp"


def test_a_single_word_after_white_space_is_cut() -> None:
    assert shorten_before(" incomprehensibilities", "sharp", count_characters, 18) == "incomprehen sharp"


@pytest.mark.parametrize(
    ("text", "lost"),
    [("a great wave at the shore", "at the shore"), ("incomprehensibilities", "sibilities")],
)
def test_what_is_left_out_before_an_ending_is_said(warnings: pytest.LogCaptureFixture, text: str, lost: str) -> None:
    shorten_before(text, "sharp", count_characters, 18)
    assert said(warnings) == [
        f"The text encoder reads 18 tokens: it does not read {lost!r} of {text!r}, to leave room for 'sharp'."
    ]


def test_an_ending_that_does_not_fit_stays_as_it_is() -> None:
    assert shorten_before("one two", "three four five", count_words, 4) == "three four five"


@pytest.fixture
def tokenizer() -> CLIPTokenizer:
    """Six letters, a token each, between a start and an end."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 8
    return tokenizer


A, SPACE_AFTER, START, END = 64, 256, 512, 513  # "a" is 64, "a" at the end of a word 64 + 256


def test_tokens_of_a_text(tokenizer: CLIPTokenizer, warnings: pytest.LogCaptureFixture) -> None:
    b, c = A + 1, A + 2 + SPACE_AFTER
    assert token_ids(["abc", "abc abc"], tokenizer).tolist() == [
        [START, A, b, c, END, END, END, END],
        [START, A, b, c, A, b, c, END],
    ]
    assert not said(warnings)


@pytest.mark.parametrize(
    ("text", "lost"), [("abc defg", "g"), ("abc defghi", "ghi"), ("abc def ghi", "ghi"), ("abc de fghi", "ghi")]
)
def test_unread_words_are_said(
    tokenizer: CLIPTokenizer, warnings: pytest.LogCaptureFixture, text: str, lost: str
) -> None:
    (tokens,) = token_ids([text], tokenizer).tolist()
    assert len(tokens) == 8 and tokens[-1] == END
    assert said(warnings) == [f"The text encoder reads 8 tokens: it does not read {lost!r} of {text!r}."]


def test_embeddings_are_the_last_hidden_states_and_a_lora_is_weighed_once(tokenizer: CLIPTokenizer) -> None:
    torch.manual_seed(0)
    tokenizer.model_max_length = 77
    encoder = tiny_text_encoder(tokenizer).eval()
    device = torch.device("cpu")

    def encode(lora_scale: float | None = None) -> torch.Tensor:
        with torch.no_grad():
            return encode_texts(["abc", "def"], tokenizer, encoder, device, lora_scale)

    plain = encode()
    assert plain.shape == (2, 77, TEXT_DIM)
    assert torch.equal(plain, encoder(token_ids(["abc", "def"], tokenizer)).last_hidden_state)
    encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    whole = encode()
    assert (whole - plain).abs().max() > 1e-2
    torch.testing.assert_close(encode(0.0), plain, atol=1e-5, rtol=0)
    half = encode(0.5)
    assert (half - plain).abs().max() > 1e-3 and (half - whole).abs().max() > 1e-3
    torch.testing.assert_close(encode(), whole, atol=0, rtol=0)


def test_a_text_or_a_list_of_texts() -> None:
    assert [is_texts(value) for value in ("a", ["a", "b"], [], ["a", 1], ("a",), None)] == [True, True, *[False] * 4]
    assert as_texts("a") == ["a"]
    assert as_texts(["a", "b"]) == ["a", "b"]


def test_one_text_serves_all_of_the_others() -> None:
    assert pair_texts(["a"], ["x", "y"]) == [("a", "x"), ("a", "y")]
    assert pair_texts(["a", "b"], ["x"]) == [("a", "x"), ("b", "x")]
    assert pair_texts(["a", "b"], ["x", "y"]) == [("a", "x"), ("b", "y")]
    with pytest.raises(ValueError, match="There are 2 prompts for 3 images: give one for all, or one for each"):
        pair_texts(["a", "b"], ["x", "y", "z"])
