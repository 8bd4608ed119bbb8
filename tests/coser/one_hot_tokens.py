"""Tokens for one-hot attention, and its plain form, which holds the whole matrix of scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from diffusers_sr.coser.one_hot import Similarity

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SIMILARITIES: tuple[Similarity, ...] = ("scaled", "normalized")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, similarity: Similarity) -> torch.Tensor:
    """The definition, in the type of the inputs."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if similarity == "normalized":
        query, key = (tensor / tensor.norm(dim=-1, keepdim=True) for tensor in (query, key))
    else:
        query = query / query.shape[-1] ** 0.5
    score, index = (query @ key.transpose(-1, -2)).max(-1, keepdim=True)
    return (value.gather(2, index.expand(*index.shape[:-1], value.shape[-1])) * score).transpose(1, 2)


def tokens(queries: int = 23, keys: int = 37, dtype: torch.dtype = torch.float32) -> Triple:
    """Query, key and value of two images and three heads of eight."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, number, 3, 8, generator=generator, dtype=torch.float64).to(dtype)
        for number in (queries, keys, keys)
    )
    return query, key, value


def each(change: Callable[[torch.Tensor], torch.Tensor], inputs: Triple) -> Triple:
    query, key, value = inputs
    return change(query), change(key), change(value)
