"""The kernel that finds the most similar key, beside the search by chunks."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from diffusers_sr.coser import one_hot
from diffusers_sr.coser.one_hot import Similarity, best_keys, best_keys_by_chunks, one_hot_attention
from tests.coser.one_hot_tokens import SIMILARITIES, each, needs_gpu, plain, tokens

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

KERNEL = """
import torch
from diffusers_sr.coser.one_hot import best_keys_by_chunks
from diffusers_sr.coser.one_hot_triton import best_keys_by_kernel

torch.manual_seed(0)
# The interpreter multiplies bfloat16 as if it were whole numbers, so it is left to the test on a GPU.
for dtype in (torch.float32, torch.float16):
    for shape in ((2, 70, 133, 3, 8), (1, 64, 128, 2, 64), (1, 5, 200, 2, 40), (2, 66, 3, 1, 128)):
        batch, queries, keys, heads, width = shape
        # Small whole numbers: exact in every type and order of summation, and with many ties.
        query, key = (
            torch.randint(-2, 3, (batch, heads, number, width)).to(dtype).transpose(1, 2) for number in (queries, keys)
        )
        expected = best_keys_by_chunks(query, key)
        assert expected.unique().numel() > 2
        assert torch.equal(best_keys_by_kernel(query, key), expected), (dtype, shape)
        # All scores negative: what lies beyond the last key scores 0 and may not be taken.
        query, key = query.abs() + 1, -key.abs() - 1
        assert torch.equal(best_keys_by_kernel(query, key), best_keys_by_chunks(query, key))

query, key = torch.randn(1, 70, 2, 64), torch.randn(1, 150, 2, 64)
assert (best_keys_by_kernel(query, key) == best_keys_by_chunks(query, key)).float().mean() > 0.99
query[0, 3] = torch.nan
assert best_keys_by_kernel(query, key)[0, 3].tolist() == [0, 0]
print("the same")
"""


@needs_triton
def test_kernel_finds_what_the_chunks_find() -> None:
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KERNEL],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "the same"


@pytest.mark.gpu
@needs_triton
@needs_gpu
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu(similarity: Similarity, dtype: torch.dtype) -> None:
    inputs = each(lambda tensor: tensor.to("cuda").requires_grad_(), tokens(500, 700, dtype))
    with patch.object(one_hot, "best_keys_by_chunks", side_effect=AssertionError("not the kernel")):
        result = one_hot_attention(*inputs, similarity)
    wide = each(lambda tensor: tensor.detach().cpu().float().requires_grad_(), inputs)
    expected = plain(*wide, similarity)
    torch.testing.assert_close(result.cpu(), expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    gradients = torch.autograd.grad(result.float().square().sum(), inputs)
    for gradient, plain_gradient in zip(gradients, torch.autograd.grad(expected.square().sum(), wide), strict=True):
        assert (gradient.cpu().float() - plain_gradient).norm() < 16 * torch.finfo(dtype).eps * plain_gradient.norm()

    integers = [torch.randint(-2, 3, tensor.shape, device="cuda").to(dtype) for tensor in inputs]
    found = best_keys(*integers[:2])
    assert torch.equal(found.cpu(), best_keys_by_chunks(*(tensor.cpu() for tensor in integers[:2])))
