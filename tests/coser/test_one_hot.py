"""One-hot attention beside the plain form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_sr.coser import one_hot
from diffusers_sr.coser.one_hot import Similarity, best_keys, one_hot_attention
from tests.coser.one_hot_tokens import SIMILARITIES, each, needs_gpu, plain, tokens


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
    """All that is kept for the backward pass, and every tensor of both passes but a chunk's scores, counted above."""

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
