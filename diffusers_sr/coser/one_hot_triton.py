"""The search of one-hot attention as a Triton kernel. Import it only where Triton is installed.

A program serves a block of queries of one head. It goes over the keys block by block and keeps, for every query and
every position in a block, the best score so far and the block it was in: comparing in place is cheaper than reducing
each block. One reduction at the end finds the best position. Nothing but the indices is written to memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

WIDEST_HEAD = 128
"""A program holds whole heads; two blocks of wider ones do not fit into the shared memory of every GPU."""

_BLOCK = 64


def best_keys_by_kernel(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Find `best_keys` on a CUDA device, or on any with `TRITON_INTERPRET=1` set before this module is imported.

    Args:
        query: `[B, N, heads, head_dim]`, float16, bfloat16 or float32 (multiplied in float32, never in TF32), with
            `head_dim` at most `WIDEST_HEAD`; any strides.
        key: `[B, M, heads, head_dim]`, of the same type.

    Returns:
        `[B, N, heads]`, int64.
    """
    batch, queries, heads, width = query.shape
    index = torch.empty((batch, queries, heads), dtype=torch.int64, device=query.device)
    grid = (triton.cdiv(queries, _BLOCK), batch * heads)
    with torch.cuda.device_of(query):  # Triton launches on the current device
        _best_keys_kernel[grid](
            query,
            key,
            index,
            *query.stride(),
            *key.stride(),
            *index.stride(),
            queries,
            key.shape[1],
            heads,
            width,
            BLOCK_QUERIES=_BLOCK,
            BLOCK_KEYS=_BLOCK,
            BLOCK_WIDTH=max(16, triton.next_power_of_2(width)),  # `tl.dot` needs 16
            num_warps=8 if query.dtype == torch.float32 else 4,  # long code without tensor cores: shared by more
            num_stages=2,
        )
    return index


@triton.jit
def _best_keys_kernel(  # type: ignore[no-untyped-def]  # Triton compiles annotations too
    query,
    key,
    index,
    query_stride_batch,
    query_stride_token,
    query_stride_head,
    query_stride_channel,
    key_stride_batch,
    key_stride_token,
    key_stride_head,
    key_stride_channel,
    index_stride_batch,
    index_stride_token,
    index_stride_head,
    queries,
    keys,
    heads,
    width,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    batch = (tl.program_id(1) // heads).to(tl.int64)  # a large batch has more elements than 32 bits can count
    head = tl.program_id(1) % heads
    query += batch * query_stride_batch + head * query_stride_head
    key += batch * key_stride_batch + head * key_stride_head
    index += batch * index_stride_batch + head * index_stride_head

    rows = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    columns = tl.arange(0, BLOCK_KEYS)
    channels = tl.arange(0, BLOCK_WIDTH)
    query_block = tl.load(
        query + rows[:, None] * query_stride_token + channels[None, :] * query_stride_channel,
        mask=(rows[:, None] < queries) & (channels[None, :] < width),
        other=0.0,
    )

    best = tl.full((BLOCK_QUERIES, BLOCK_KEYS), float("-inf"), tl.float32)
    found = tl.zeros((BLOCK_QUERIES, BLOCK_KEYS), tl.int32)
    for start in range(0, keys, BLOCK_KEYS):
        present = start + columns < keys
        key_block = tl.load(
            key + channels[:, None] * key_stride_channel + (start + columns[None, :]) * key_stride_token,
            mask=(channels[:, None] < width) & present[None, :],
            other=0.0,
        )
        scores = tl.dot(query_block, key_block, input_precision="ieee")
        better = (scores > best) & present[None, :]  # strictly: of equal scores the first stays
        best = tl.where(better, scores, best)
        found = tl.where(better, start, found)

    # A score that is not a number is never better, so the index stays that of a key: 0 where no score is a number.
    found += columns[None, :]
    found = tl.where(best == tl.max(best, axis=1)[:, None], found, keys)
    tl.store(index + rows * index_stride_token, tl.min(found, axis=1).to(tl.int64), mask=rows < queries)
