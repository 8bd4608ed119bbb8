"""One-hot attention beside the plain form, which holds the whole matrix of scores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_sr.coser import one_hot
from diffusers_sr.coser.one_hot import Similarity, best_keys, best_keys_by_chunks, one_hot_attention

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
ROOT = Path(__file__).resolve().parents[2]
SIMILARITIES: tuple[Similarity, ...] = ("scaled", "normalized")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
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


@contextmanager
def chunks_of(scores: int) -> Iterator[list[int]]:
    """At most that many scores at a time; gives the number of scores of every product that was taken."""
    sizes: list[int] = []
    product = torch.bmm

    def watched(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        sizes.append(out.numel())
        return product(left, right, out=out)

    with patch.object(one_hot, "_MOST_SCORES_ON_CPU", scores), patch.object(torch, "bmm", watched):
        yield sizes


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(
    ("scores", "products"),
    [
        (2**20, 1),
        (4 * 23 * 37 + 5, 2),  # four heads, then two
        (5 * 37 + 1, 6 * 5),  # one head, five queries at a time, three the last
        (1, 6 * 23),  # never less than one query
    ],
)
def test_chunks_give_the_plain_form(similarity: Similarity, scores: int, products: int) -> None:
    query, key, value = tokens(dtype=torch.float64)
    with chunks_of(scores) as sizes:
        result = one_hot_attention(query, key, value, similarity)
    assert len(sizes) == products and max(sizes) <= max(scores, 37)
    torch.testing.assert_close(result, plain(query, key, value, similarity), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 1), (1, 7), (40, 9)])
def test_any_numbers_of_tokens(similarity: Similarity, queries: int, keys: int) -> None:
    inputs = tokens(queries, keys)
    result = one_hot_attention(*inputs, similarity)
    assert result.shape == inputs[0].shape and result.dtype == torch.float32
    torch.testing.assert_close(result, plain(*inputs, similarity))


def test_any_strides() -> None:
    inputs = tokens()
    strided = each(lambda tensor: tensor.transpose(1, 2).contiguous().transpose(1, 2), inputs)
    assert not strided[0].is_contiguous()
    assert torch.equal(one_hot_attention(*strided), one_hot_attention(*inputs))


@pytest.mark.parametrize("scores", [2**20, 50])
def test_the_first_of_equal_keys_is_taken(scores: int) -> None:
    query, key, value = (tensor.round() for tensor in tokens())  # whole numbers: equal scores whatever is summed first
    with chunks_of(scores):
        index = best_keys(query, torch.cat([key, key], dim=1))
        result = one_hot_attention(query, torch.cat([key, key], dim=1), torch.cat([value, -value], dim=1))
    all_scores = torch.einsum("bnhd,bmhd->bnhm", query, key)
    equals = all_scores == all_scores.amax(-1, keepdim=True)
    assert (equals.sum(-1) > 1).sum() > 10
    assert torch.equal(index, equals.byte().argmax(-1))
    assert torch.equal(result, one_hot_attention(query, key, value))


def test_scaled_score_may_be_negative_and_has_no_bound() -> None:
    query = torch.full((1, 1, 1, 4), 10.0)
    key, value = -torch.tensor([3.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4), torch.eye(2, 4).view(1, 2, 1, 4)
    assert one_hot_attention(query, key, value).flatten().tolist() == [0, -40, 0, 0]
    torch.testing.assert_close(
        one_hot_attention(query, key, value, "normalized").flatten(), torch.tensor([-1.0, 0, 0, 0])
    )


def test_normalized_similarity_ignores_lengths_and_a_zero_vector() -> None:
    query, key, value = tokens()
    lengths = torch.rand(37)[None, :, None, None] + 0.5
    result = one_hot_attention(query, key, value, "normalized")
    torch.testing.assert_close(one_hot_attention(3 * query, lengths * key, value, "normalized"), result)
    assert not torch.allclose(one_hot_attention(query, lengths * key, value), one_hot_attention(query, key, value))
    query[:, 0] = 0
    result = one_hot_attention(query, key, value, "normalized")
    assert result.isfinite().all() and not result[:, 0].any() and result[:, 1].all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(similarity: Similarity, dtype: torch.dtype) -> None:
    inputs = tokens(50, 500, dtype)
    result = one_hot_attention(*inputs, similarity)
    assert result.dtype == dtype
    expected = plain(*each(torch.Tensor.float, inputs), similarity).to(dtype)
    torch.testing.assert_close(result, expected, rtol=torch.finfo(dtype).eps, atol=0)  # the last bit may differ
    if dtype == torch.bfloat16:  # scores rounded to it choose other keys
        assert not torch.allclose(plain(*inputs, similarity), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_autocast_changes_nothing(similarity: Similarity) -> None:
    inputs = tokens(50, 500)
    with torch.autocast("cpu", torch.bfloat16):
        result = one_hot_attention(*inputs, similarity)
    assert torch.equal(result, one_hot_attention(*inputs, similarity))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradients_are_the_plain_forms(similarity: Similarity) -> None:
    inputs = each(torch.Tensor.requires_grad_, tokens(dtype=torch.float64))
    weight = torch.randn(2, 23, 3, 8, dtype=torch.float64)
    with chunks_of(100):
        gradients = torch.autograd.grad((one_hot_attention(*inputs, similarity) * weight).sum(), inputs)
    expected = torch.autograd.grad((plain(*inputs, similarity) * weight).sum(), inputs)
    for gradient, plain_gradient in zip(gradients, expected, strict=True):
        assert plain_gradient.any()
        torch.testing.assert_close(gradient, plain_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def test_half_precision_sums_the_gradients_of_a_shared_key_in_float32(device: str) -> None:
    """In bfloat16 a sum of ones stays at 256. On a CPU PyTorch itself sees to it, on a GPU it does not."""
    query = torch.ones(1, 1000, 1, 16, dtype=torch.bfloat16, device=device)
    key, value = (torch.ones(1, 1, 1, 16, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in range(2))
    gradients = torch.autograd.grad(one_hot_attention(query, key, value).sum(), (key, value))
    assert [gradient.unique().item() for gradient in gradients] == [4000, 4000]


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gives, forward and backward."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in [result] if isinstance(result, torch.Tensor) else []:
            self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_is_linear_in_the_tokens(similarity: Similarity, dtype: torch.dtype) -> None:
    """What is kept for the backward pass, and every tensor of both passes but a chunk's scores, counted above."""

    def memory(attention: Callable[..., torch.Tensor], number: int) -> tuple[int, int]:
        inputs = each(torch.Tensor.requires_grad_, tokens(number, number, dtype))
        saved: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address comes twice

        def note(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            attention(*inputs, similarity).sum().backward()
        return sum(storage.nbytes() for storage in saved.values()), largest.elements

    saved, largest = memory(one_hot_attention, 400)
    elements = tokens(400)[0].numel()
    assert 0 < saved < 9 * 4 * elements and largest == elements
    assert memory(one_hot_attention, 800) == (2 * saved, 2 * largest)
    assert memory(plain, 400)[1] == 2 * 3 * 400 * 400


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_query_key_and_value_all_count(similarity: Similarity, changed: int) -> None:
    query, key, value = tokens()
    before = one_hot_attention(query, key, value, similarity)
    inputs = [query, key, value]
    inputs[changed] = inputs[changed].flip(-1)
    query, key, value = inputs
    assert (one_hot_attention(query, key, value, similarity) - before).norm() > 0.1 * before.norm()


def test_gradients_do_not_choose() -> None:
    inputs = tokens()
    with torch.no_grad():
        expected = one_hot_attention(*inputs)
    assert torch.equal(one_hot_attention(*each(torch.Tensor.requires_grad_, inputs)), expected)


def test_unknown_similarity() -> None:
    with pytest.raises(ValueError, match="similarity is 'cosine': give one of 'scaled', 'normalized'"):
        one_hot_attention(*tokens(), "cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_compiles_as_one_graph_with_gradients(similarity: Similarity) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(one_hot_attention, backend="aot_eager", fullgraph=True)
    for number in (23, 29):
        inputs = each(torch.Tensor.requires_grad_, tokens(number, 2 * number))
        expected = one_hot_attention(*inputs, similarity)
        result = compiled(*inputs, similarity)
        torch.testing.assert_close(result, expected)
        for gradient, eager in zip(
            torch.autograd.grad(result.square().sum(), inputs),
            torch.autograd.grad(expected.square().sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(gradient, eager)


def test_the_search_is_a_well_formed_operation() -> None:
    query, key, _ = tokens()
    torch.library.opcheck(best_keys, (query, key))


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
