"""`copy.deepcopy` of a pipeline: a second pipeline that shares nothing that changes with the first."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from diffusers_sr.pipeline import SuperResolutionPipeline
from tests.pipeline.tiny import build, difference, run


@pytest.fixture
def pair(method: str) -> tuple[Any, Any]:
    """A pipeline that has been called, so that everything is attached, and its copy."""
    original = build(method)
    run(original, method)
    return original, copy.deepcopy(original)


def modules(pipeline: SuperResolutionPipeline) -> set[int]:
    models = [model for model in pipeline.components.values() if isinstance(model, nn.Module)]
    return {id(module) for model in models for module in model.modules()}


def reachable(start: Any) -> Iterator[Any]:
    """Everything that can be reached from an object: attributes, items, arguments of partials, closures, methods."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (type, str, bytes, int, float, torch.dtype)):
            continue
        seen.add(id(item))
        yield item
        waiting.extend(getattr(item, "__dict__", {}).values())
        if isinstance(item, dict):
            waiting.extend([*item.keys(), *item.values()])
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting.extend(item)
        elif isinstance(item, functools.partial):
            waiting.extend([item.func, *item.args, *item.keywords.values()])
        waiting.extend(cell.cell_contents for cell in getattr(item, "__closure__", None) or () if _is_filled(cell))
        if (owner := getattr(item, "__self__", None)) is not None:
            waiting.append(owner)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def test_a_copy_gives_what_the_original_gives(method: str, pair: tuple[Any, Any]) -> None:
    original, copied = pair
    assert type(copied) is type(original)
    assert dict(copied.config) == dict(original.config)
    assert torch.equal(run(copied, method), run(original, method))


def test_a_pipeline_that_was_called_can_be_pickled(method: str) -> None:
    original = build(method)
    expected = run(original, method)
    restored = pickle.loads(pickle.dumps(original))
    assert torch.equal(run(restored, method), expected)
    assert restored.adapter.is_attached(restored.unet)
    restored.adapter.detach()
    assert not restored.adapter.is_attached(restored.unet) and original.adapter.is_attached(original.unet)
    assert isinstance(pickle.loads(pickle.dumps(original.unet)), type(original.unet))


def test_no_module_of_the_original_can_be_reached_from_a_copy(pair: tuple[Any, Any]) -> None:
    original, copied = pair
    assert not modules(original) & modules(copied)
    for one, other in (pair, pair[::-1]):
        own = modules(one)
        assert [type(item).__name__ for item in reachable(other.__dict__) if id(item) in own] == []
    assert copied.adapter.is_attached(copied.unet) and copied.adapter.is_attached(copied.controlnet)
    assert original.adapter.is_attached(original.unet) and original.adapter.is_attached(original.controlnet)
    assert not original.adapter.is_attached(copied.unet)


def test_a_copy_has_its_own_weights(method: str, pair: tuple[Any, Any]) -> None:
    original, copied = pair
    expected = run(original, method)
    before = expected
    for name, part in copied.components.items():
        if not isinstance(part, nn.Module):
            continue
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.mul_(1.5).add_(0.01)
        after = run(copied, method)
        assert difference(after, before) > 1e-6, name
        before = after
    assert torch.equal(run(original, method), expected)


def test_hooks_of_a_copy_are_of_its_adapter(method: str, pair: tuple[Any, Any]) -> None:
    """Also without the original's: taken off the one, they stay on the other, and are there once."""
    original, copied = pair
    expected = run(original, method)
    hooks = [len(module._diffusers_hook.hooks) for module in hooked(original)]
    assert [len(module._diffusers_hook.hooks) for module in hooked(copied)] == hooks
    run(copied, method)
    assert [len(module._diffusers_hook.hooks) for module in hooked(copied)] == hooks
    original.adapter.detach()
    assert copied.adapter.is_attached(copied.unet)
    assert torch.equal(run(copied, method), expected)
    assert torch.equal(run(original, method), expected)
    copied.adapter.detach()
    assert not copied.adapter.is_attached(copied.unet), "without being given its hosts"
    assert original.adapter.is_attached(original.unet)


def hooked(pipeline: Any) -> list[Any]:
    models = (pipeline.unet, pipeline.controlnet)
    return [module for model in models for module in model.modules() if hasattr(module, "_diffusers_hook")]


def test_a_copy_of_a_copy(method: str, pair: tuple[Any, Any]) -> None:
    original, copied = pair
    again = copy.deepcopy(copied)
    assert not modules(again) & (modules(original) | modules(copied))
    assert again.adapter.is_attached(again.unet)
    own = modules(again)
    assert not [item for one in pair for item in reachable(one.__dict__) if id(item) in own]
    assert torch.equal(run(again, method), run(original, method))


def test_a_copy_before_the_first_call(method: str) -> None:
    original = build(method)
    copied = copy.deepcopy(original)
    assert torch.equal(run(copied, method), run(original, method))


def test_original_and_copy_take_turns(method: str, pair: tuple[Any, Any]) -> None:
    _, copied = pair
    with torch.no_grad():
        for parameter in copied.adapter.parameters():
            parameter.mul_(1.5)
    alone = [[run(pipeline, method, seed) for seed in range(2)] for pipeline in pair]
    assert difference(alone[0][0], alone[1][0]) > 1e-6
    for seed in range(2):
        for pipeline, expected in zip(pair, alone, strict=True):
            assert torch.equal(run(pipeline, method, seed), expected[seed])


def test_original_and_copy_run_in_two_threads(method: str, pair: tuple[Any, Any]) -> None:
    _, copied = pair
    with torch.no_grad():
        for parameter in copied.adapter.parameters():
            parameter.mul_(1.5)
    alone = [[run(pipeline, method, seed) for seed in range(3)] for pipeline in pair]
    found: list[list[torch.Tensor]] = [[], []]

    def work(number: int) -> None:
        for seed in range(3):
            found[number].append(run(pair[number], method, seed))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for images, expected in zip(found, alone, strict=True):
        assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))
