"""The adapters' feed-forward: diffusers', in parts that bound its widest activation."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from diffusers.models.attention import FeedForward

from diffusers_sr.attention import feed_forward
from diffusers_sr.attention.feed_forward import ChunkedFeedForward


@pytest.mark.parametrize(("tokens", "parts"), [(16, 1), (17, 2), (50, 4), (3, 1)])
def test_takes_the_tokens_in_parts_and_gives_the_whole(tokens: int, parts: int) -> None:
    torch.manual_seed(0)
    stock, chunked = (FeedForward(8, activation_fn="geglu") for FeedForward in (FeedForward, ChunkedFeedForward))
    chunked.load_state_dict(stock.state_dict())
    hidden_states = torch.randn(2, tokens, 8)
    widths: list[int] = []
    chunked.net[0].register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape[1]))
    with patch.object(feed_forward, "_MOST_ELEMENTS", 2 * 16 * 64):
        result = chunked(hidden_states)
    assert len(widths) == parts and max(widths) <= 16
    torch.testing.assert_close(result, stock(hidden_states))
    assert not torch.equal(result, hidden_states)
