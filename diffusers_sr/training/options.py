"""The options of a run as they are written down, and those of a run that is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from torch.optim.lr_scheduler import LambdaLR

from ..publishing.shareable import masked
from .arguments import TrainingArguments


def recorded(arguments: TrainingArguments) -> dict[str, Any]:
    """Give the options as files and trackers get them: credentials in them are replaced by asterisks."""
    return {name: masked(value) for name, value in vars(arguments).items()}


def check_trackers(arguments: TrainingArguments) -> None:
    """Raise ValueError if a tracker would show credentials that are in the options."""
    secret = [f"--{name}" for name, value in recorded(arguments).items() if value != getattr(arguments, name)]
    if secret and {"wandb", "all"} & set(arguments.report_to):
        raise ValueError(
            f"--report_to wandb would show the credentials in {', '.join(secret)}, as Weights & Biases keeps the "
            "command line: log in by environment variables or `hf auth login` instead."
        )


def adamw_options(arguments: TrainingArguments) -> dict[str, Any]:
    """Give the arguments of AdamW."""
    return {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "weight_decay": arguments.adam_weight_decay,
        "eps": arguments.adam_epsilon,
    }


def take_over(optimizer: AcceleratedOptimizer, schedule: AcceleratedScheduler, arguments: TrainingArguments) -> None:
    """Let a run that was resumed go on with its own options, where a checkpoint brings those of the earlier run."""
    inner = schedule.scheduler
    if not isinstance(inner, LambdaLR) or not isinstance(optimizer.optimizer, torch.optim.Optimizer):
        return  # DeepSpeed has its own of both
    options = adamw_options(arguments)
    inner.base_lrs = [options["lr"]] * len(optimizer.param_groups)
    # As the schedule itself computes them, so that equal options give equal bits.
    rates = [rate * factor(inner.last_epoch) for rate, factor in zip(inner.base_lrs, inner.lr_lambdas, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group.update(options, initial_lr=options["lr"], lr=rate)
    inner._last_lr = rates


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """List the options that are not as before, in words; options that only one of the two has are left out."""
    return ", ".join(
        f"{name}={now[name]!r} (was {before[name]!r})"
        for name in now
        if name in before and name != "resume_from_checkpoint" and before[name] != now[name]
    )
