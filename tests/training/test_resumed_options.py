"""Runs that are resumed with other options, and credentials in options."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from diffusers_sr.training.arguments import TrainingArguments
from diffusers_sr.training.checkpointing import resume
from diffusers_sr.training.script import log_without_credentials, run_script
from tests.training.interruptions import assert_same
from tests.training.runs import fit, reset_accelerate

RESUME: dict[str, Any] = {"resume_from_checkpoint": "latest"}
SECRETS: dict[str, Any] = {
    "dataset_name": "https://somebody:hidden1@host/photos?token=hidden2",
    "caption_column": "hf_hidden3hidden3hidden3",
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"learning_rate": 0.005}, 0.005),
        ({"learning_rate": 0.005, "lr_scheduler": "linear"}, 0.001875),  # (8 - 5) / 8
        ({"learning_rate": 0.04, "lr_scheduler": "linear"}, 0.015),
        ({"learning_rate": 0.032, "lr_scheduler": "linear", "max_train_steps": 16}, 0.022),  # (16 - 5) / 16
    ],
)
def test_the_learning_rate_is_that_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], expected: float
) -> None:
    fit(tmp_path, max_train_steps=4)
    capsys.readouterr()
    fit(tmp_path, log_every=1, **options, **RESUME)
    log = capsys.readouterr().out
    after_step_5 = next(line for line in log.splitlines() if line.startswith("step 5 "))
    assert f" lr {expected:.2e} " in after_step_5
    last = f"checkpoint-{options.get('max_train_steps', 8)}"
    (group,) = torch.load(tmp_path / last / "optimizer.bin", weights_only=True)["param_groups"]
    assert group["initial_lr"] == options["learning_rate"]


def test_other_options_of_the_optimiser_are_those_of_the_command(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "adam_weight_decay": 0.5,
        "adam_epsilon": 1e-6,
        "ema_decay": 0.5,
    }
    fit(tmp_path, max_train_steps=4, ema_decay=0.9)
    fit(tmp_path, **options, **RESUME)
    (group,) = torch.load(tmp_path / "checkpoint-8" / "optimizer.bin", weights_only=True)["param_groups"]
    assert (*group["betas"], group["weight_decay"], group["eps"]) == (0.8, 0.9, 0.5, 1e-6)
    assert torch.load(tmp_path / "checkpoint-8" / "custom_checkpoint_0.pkl", weights_only=True)["decay"] == 0.5


@pytest.mark.parametrize("schedule", ["constant", "cosine", "polynomial", "constant_with_warmup"])
def test_equal_options_give_equal_bits(tmp_path: Path, schedule: str) -> None:
    options: dict[str, Any] = {
        "lr_scheduler": schedule,
        "lr_warmup_steps": 3 if "warmup" in schedule else 0,
        "ema_decay": 0.9,
    }
    whole = fit(tmp_path / "whole", **options)
    fit(tmp_path / "parts", **options)
    shutil.rmtree(tmp_path / "parts" / "checkpoint-8")
    assert_same(whole.state_dict(), fit(tmp_path / "parts", **options, **RESUME).state_dict())


def test_what_is_different_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, max_train_steps=4, **SECRETS)
    caplog.clear()
    fit(tmp_path, max_train_steps=6, learning_rate=0.01, train_batch_size=2, **SECRETS, **RESUME)
    (message,) = [record.getMessage() for record in caplog.records if "other options" in record.getMessage()]
    expected = "max_train_steps=6 (was 4), learning_rate=0.01 (was 0.05)"
    assert message == (
        "The run continues from checkpoint-4 with other options: train_batch_size=2 (was 4), " + expected + "."
    )
    caplog.clear()
    fit(tmp_path, max_train_steps=6, learning_rate=0.01, train_batch_size=2, **SECRETS, **RESUME)
    assert not [record for record in caplog.records if "other options" in record.getMessage()]


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ({"ema_decay": 0.9}, {}, "holds an average of the weights, and --ema_decay is 0.0: give a decay above 0"),
        ({}, {"ema_decay": 0.9}, "holds no average of the weights, and --ema_decay is 0.9: give --ema_decay 0"),
        ({}, {"max_train_steps": 3}, "is that of step 4, and --max_train_steps is only 3: raise it"),
    ],
)
def test_options_that_a_checkpoint_does_not_fit(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], problem: str
) -> None:
    fit(tmp_path, max_train_steps=4, **before)
    with pytest.raises(ValueError, match=problem):
        fit(tmp_path, **after, **RESUME)


def test_float16_needs_the_scale_of_gradients(tmp_path: Path) -> None:
    fit(tmp_path, max_train_steps=4)
    reset_accelerate()
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu")  # as there is with fp16 on a GPU
    arguments = TrainingArguments(output_dir=str(tmp_path), max_train_steps=8, **RESUME)
    with pytest.raises(ValueError, match="was written without --mixed_precision fp16"):
        resume(accelerator, tmp_path, arguments)


def test_checkpoints_of_earlier_versions_have_no_options(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, max_train_steps=4)
    manifest = tmp_path / "checkpoint-4" / "manifest.json"
    content = json.loads(manifest.read_text())
    assert content.pop("arguments")["learning_rate"] == 0.05
    manifest.write_text(json.dumps(content))
    assert len(fit(tmp_path, learning_rate=0.01, **RESUME).batches) == 4


def test_no_file_of_a_run_holds_credentials(tmp_path: Path) -> None:
    fit(tmp_path, max_train_steps=4, report_to=["tensorboard"], **SECRETS)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name.startswith("events.out") for path in files)
    for path in files:
        assert b"hidden" not in path.read_bytes(), path
    saved = json.loads((tmp_path / "training_arguments.json").read_text())
    assert saved["dataset_name"] == "https://***@host/photos?token=***"
    assert saved["caption_column"] == "hf_***"


def test_a_tracker_that_keeps_the_command_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="credentials in --dataset_name, --caption_column"):
        fit(tmp_path, report_to=["wandb"], **SECRETS)


def test_no_message_shows_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError(f"{SECRETS['dataset_name']} does not answer to {SECRETS['caption_column']}")

    with pytest.raises(SystemExit) as exit:
        run_script(fail)
    assert exit.value.code == 1
    message = capsys.readouterr().err
    assert "RuntimeError: https://***@host/photos?token=*** does not answer to hf_***" in message
    assert "Traceback" in message and "hidden" not in message

    def fail_otherwise() -> None:
        raise RuntimeError("nothing to hide")

    with pytest.raises(RuntimeError, match="nothing to hide"):
        run_script(fail_otherwise)


def test_no_log_line_shows_credentials(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    log_without_credentials()
    try:
        raise ValueError(SECRETS["caption_column"])
    except ValueError:
        logging.getLogger("diffusers_sr").exception("Skipped: %s", SECRETS["dataset_name"])
    finally:
        root.setLevel(level)
    message = capsys.readouterr().err
    assert "Skipped: https://***@host/photos?token=***" in message and "ValueError: hf_***" in message
    assert "hidden" not in message
