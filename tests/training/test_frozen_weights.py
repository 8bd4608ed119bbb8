"""Frozen weights in bfloat16: half of the memory, and the same results to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from diffusers_sr.training.frozen_weights import store_in_bf16
from tests.training.interruptions import assert_same
from tests.training.runs import Fit, fit
from tests.training.stages import build


def frozen_bytes(module: nn.Module) -> int:
    return sum(each.nbytes for each in module.parameters() if not each.requires_grad)


def test_the_loss_is_the_same_to_the_last_bit() -> None:
    """On the published models nearly half is saved; tiny ones have more of the weights that stay."""
    stage = build("seesr")
    module, batch = stage.module.train(), stage.batch()
    trained = [each for each in module.parameters() if each.requires_grad]

    def losses_and_gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            losses = module(dict(batch))
        gradients = torch.autograd.grad(torch.stack([*losses.values()]).sum(), trained, allow_unused=True)
        return [*losses.values(), *(each for each in gradients if each is not None)]

    expected, before = losses_and_gradients(), frozen_bytes(module)
    originals = store_in_bf16(module)
    assert 1 - frozen_bytes(module) / before == pytest.approx(0.411, abs=0.001)
    found = losses_and_gradients()
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert all(each.dtype == torch.float32 for each in originals.values())


def test_they_are_saved_as_they_were(tmp_path: Path) -> None:
    module, start = Fit(), Fit()
    saved: list[torch.Tensor] = []
    fit(
        tmp_path / "half",
        module,
        save=lambda folder: saved.append(module.frozen.weight.data.clone()),
        mixed_precision="bf16",
        frozen_weights_dtype="bf16",
    )
    assert_same(saved, [start.frozen.weight.data])
    whole = fit(tmp_path / "whole", mixed_precision="bf16")
    assert_same(whole.state_dict(), module.state_dict())


def test_they_need_autocast(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs --mixed_precision bf16, and it is no"):
        fit(tmp_path, frozen_weights_dtype="bf16")
