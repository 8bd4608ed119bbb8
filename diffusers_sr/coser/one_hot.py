"""One-hot attention: each query takes the value of the one key most similar to it. No matrix of scores is held."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch.nn import functional as F

Similarity = Literal["scaled", "normalized"]

# Measured with benchmarks/one_hot_attention.py: this many scores stay in a processor's cache between the product and
# the search for the largest. A GPU (without Triton) needs more of them to keep busy: 64 MB in float32.
_MOST_SCORES_ON_CPU = 2**20
_MOST_SCORES = 2**24

_HAS_TRITON = find_spec("triton") is not None


def one_hot_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, similarity: Similarity = "scaled"
) -> torch.Tensor:
    """Compute CoSeR's one-hot attention, in memory linear in the tokens, with and without gradients.

    In every head, a query's output is `value[a] * score[a]`, where `a` is the key with the largest score, the first in
    a tie. Gradients flow through the score to `query` and `key`, and to the `value` that was taken; the choice of the
    key has none. Scores and sums are computed in float32 for half-precision inputs, also under autocast, and in
    float64 for float64.

    Args:
        query: `[B, N, heads, head_dim]`.
        key: `[B, M, heads, head_dim]`, of the same type as `query`.
        value: `[B, M, heads, head_dim]`.
        similarity: `"scaled"`, that of the official code, which the released weights need: `q · k / sqrt(head_dim)`,
            any real number. `"normalized"`, Eq. 5 of the paper, which the official code does not follow: the cosine
            similarity, between -1 and 1; 0 for a zero vector.

    Returns:
        `[B, N, heads, head_dim]`, of the type of `value`.

    Raises:
        ValueError: if `similarity` is neither of them.
    """
    if similarity not in get_args(Similarity):
        raise ValueError(f"similarity is {similarity!r}: give one of {', '.join(map(repr, get_args(Similarity)))}.")
    wide = torch.promote_types(query.dtype, torch.float32)
    if similarity == "normalized":
        query, key = (F.normalize(tensor.to(wide), dim=-1) for tensor in (query, key))
    with torch.no_grad():
        rows = _row_numbers(best_keys(query, key), key.shape[1])
    # Converted before they are taken: the gradients of a key that many queries share are then summed in float32.
    best_key, best_value = (
        tensor.to(wide).flatten(0, 2).index_select(0, rows).view_as(query) for tensor in (key, value)
    )
    score = (query.to(wide) * best_key).sum(-1, keepdim=True)
    if similarity == "scaled":
        score = score * query.shape[-1] ** -0.5
    return (best_value * score).to(value.dtype)


def _row_numbers(index: torch.Tensor, keys: int) -> torch.Tensor:
    """Find where the `index`-th of `keys` tokens is, `[B, N, heads]`, in the rows of `[B * keys * heads, head_dim]`.

    On a CPU, taking whole rows is several times faster than gathering along an axis, also in the backward pass.
    """
    batch, _, heads = index.shape
    first = torch.arange(batch, device=index.device)[:, None, None] * keys
    return ((first + index) * heads + torch.arange(heads, device=index.device)).flatten()


@torch.library.custom_op("diffusers_sr::best_keys", mutates_args=())
def best_keys(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Find the index of the key with the largest inner product with each query, the first in a tie.

    It is one operation to `torch.compile`, without gradients. A Triton kernel does it where there is one for the
    device and the type; everywhere else it is done in chunks.

    Args:
        query: `[B, N, heads, head_dim]`.
        key: `[B, M, heads, head_dim]`, of the same type.

    Returns:
        `[B, N, heads]`, int64.
    """
    if _HAS_TRITON and query.is_cuda:
        from .one_hot_triton import WIDEST_HEAD, best_keys_by_kernel

        # Triton supports compute capabilities from 8.0.
        capable = torch.cuda.get_device_capability(query.device) >= (8, 0)
        if capable and query.dtype != torch.float64 and query.shape[-1] <= WIDEST_HEAD:
            return best_keys_by_kernel(query, key)
    return best_keys_by_chunks(query, key)


@best_keys.register_fake
def _(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query.new_empty(query.shape[:-1], dtype=torch.int64)


def best_keys_by_chunks(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Find `best_keys` with PyTorch alone: the scores of a few heads or queries at a time, in memory that is reused.

    A matrix product of half-precision inputs would round the scores and so change which is largest: they are converted
    to float32 first.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    rows, columns = (tensor.to(wide).transpose(1, 2).flatten(0, 1) for tensor in (query, key))
    columns = columns.transpose(1, 2)
    (all_heads, queries), keys = rows.shape[:2], key.shape[1]
    most = _MOST_SCORES_ON_CPU if query.device.type == "cpu" else _MOST_SCORES
    heads = min(all_heads, max(1, most // (queries * keys)))
    chunk = min(queries, max(1, most // (heads * keys)))

    index = torch.empty((all_heads, queries), dtype=torch.int64, device=query.device)
    memory = rows.new_empty(heads * chunk * keys)
    for head in range(0, all_heads, heads):
        for start in range(0, queries, chunk):
            part = (slice(head, head + heads), slice(start, start + chunk))
            scores = memory[: index[part].numel() * keys].view(*index[part].shape, keys)
            torch.bmm(rows[part], columns[part[0]], out=scores)  # with `out`, autocast leaves it in float32
            torch.argmax(scores, dim=-1, out=index[part])
    return index.unflatten(0, (-1, query.shape[2])).transpose(1, 2).contiguous()
