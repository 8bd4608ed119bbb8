"""The cost of one-hot attention without a matrix of scores, compared with the plain form that holds one.

    OMP_WAIT_POLICY=passive python benchmarks/one_hot_attention.py [--device cuda] [--dtype float16]

Five heads of 64: the level of CoSeR's UNet with the most tokens, one for every 8×8 pixels. The peak is the memory of
one call beyond its inputs, at 16,384 queries and keys (an output of 1024×1024 pixels with one reference); what the
plain form would need there is computed, not tried. The times are taken at 4,096, in one process, by turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

import torch

from diffusers_sr.coser.one_hot import one_hot_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, too, it finds its neighbours

from benchmarks.seesr_step import DTYPES, measure, peak_memory

HEADS, HEAD_DIM = 5, 64


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute `one_hot_attention` from the whole matrix of scores."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    score, index = (query * HEAD_DIM**-0.5 @ key.transpose(-1, -2)).max(-1, keepdim=True)
    return (value.gather(2, index.expand_as(query)) * score).transpose(1, 2)


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory-tokens", type=int, default=16384, help="queries and keys for measuring the memory")
    parser.add_argument("--time-tokens", type=int, default=4096, help="queries and keys for measuring the times")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--rounds", type=int, default=9, help="measured calls of each kind, after one to warm up")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)

    def tokens(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = (1, number, HEADS, HEAD_DIM)
        query, key, value = (torch.randn(shape, dtype=DTYPES[options.dtype], device=options.device) for _ in range(3))
        return query, key, value

    print(
        f"{HEADS} heads of {HEAD_DIM}, {options.dtype}, {options.device}, {torch.get_num_threads()} threads on a CPU"
    )
    few = tokens(options.time_tokens)
    kinds = {"one-hot attention": one_hot_attention, "plain form": plain}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(options.rounds + 1):
        for kind, attention in kinds.items():
            elapsed = measure(partial(attention, *few), options.device)
            if turn:
                seconds[kind].append(elapsed)

    many = tokens(options.memory_tokens)
    peak = peak_memory(lambda: one_hot_attention(*many), options.device)
    elapsed = measure(lambda: one_hot_attention(*many), options.device)
    scores = HEADS * options.memory_tokens**2 * many[0].element_size()
    print(f"{options.memory_tokens} × {options.memory_tokens} tokens: {elapsed:.2f} s")
    print(
        f"  peak extra memory {peak / 1e6:.0f} MB (at most 400); the plain form's scores alone {scores / 1e6:.0f} MB"
    )
    print(f"{options.time_tokens} × {options.time_tokens} tokens, median of {options.rounds}:")
    for kind in kinds:
        print(f"  {kind}: {1000 * statistics.median(seconds[kind]):.1f} ms")
    ratio = statistics.median(ours / naive for ours, naive in zip(*seconds.values(), strict=True))
    print(f"  time: {ratio:.3f} times the plain form's (at most 1.15)")


if __name__ == "__main__":
    main()
