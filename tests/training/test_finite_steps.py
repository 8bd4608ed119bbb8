"""Steps whose loss or gradient is not finite: an error, or left out if the user allows some."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.interruptions import assert_same, state
from tests.training.runs import Fit, fit


class Spoilt(Fit):
    """A run with some batches that spoil its loss by NaN, or its gradient only."""

    def __init__(self, loss: tuple[int, ...] = (), gradient: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.spoils_loss, self.spoils_gradient = loss, gradient

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        number = len(self.batches)
        losses = super().forward(batch)
        if number in self.spoils_loss:
            losses["mse"] = losses["mse"] * math.nan
        if number in self.spoils_gradient:  # the root of zero, whose slope is infinite
            losses["mse"] = losses["mse"] + (0 * self.layer.weight).square().sum().sqrt()
        return losses


@pytest.mark.parametrize(
    ("spoilt", "found"),
    [(Spoilt(loss=(5,)), "loss of step 2 is nan"), (Spoilt(gradient=(4,)), "gradient's norm in step 2 is nan")],
    ids=["loss", "gradient"],
)
def test_a_step_that_may_be_left_out_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], spoilt: Spoilt, found: str
) -> None:
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "ema_decay": 0.9, "checkpointing_steps": 1}
    module = fit(tmp_path, spoilt, skip_nonfinite=1, checkpoints_total_limit=8, log_every=1, **options)
    assert len(module.batches) == 16, "no batch is seen in its place"
    assert f"Left out: the {found}. That is 1 of 1 steps that may be." in caplog.text
    before, left_out, after = (state(tmp_path / f"checkpoint-{step}") for step in (2, 3, 4))
    weights, average = "trainable.safetensors", "custom_checkpoint_0.pkl"
    assert_same(left_out[weights], before[weights])
    assert_same(left_out[average], before[average])
    assert_same(left_out["optimizer.bin"]["state"], before["optimizer.bin"]["state"])
    assert not torch.equal(after[weights]["layer.weight"], before[weights]["layer.weight"])
    assert "nan" not in capsys.readouterr().out


def test_a_further_one_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="The loss of step 6 is nan, and 1 have been left out before"):
        fit(tmp_path, Spoilt(loss=(2, 6)), skip_nonfinite=1)
    assert (tmp_path / "checkpoint-4").is_dir()


def test_by_default_none_may_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="The loss of step 2 is nan; the last checkpoint is kept"):
        fit(tmp_path / "loss", Spoilt(loss=(2,)))
    with pytest.raises(RuntimeError, match="The gradient's norm in step 2 is nan; the last"):
        fit(tmp_path / "gradient", Spoilt(gradient=(2,)))
