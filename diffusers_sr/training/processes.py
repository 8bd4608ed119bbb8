"""The processes of a run, and what they do together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration, broadcast_object_list

from .arguments import TrainingArguments

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def new_accelerator(arguments: TrainingArguments) -> Accelerator:
    """Set up the processes.

    Raises:
        ImportError: if a tracker is not installed.
        ValueError: if accelerate is configured to shard the models.
    """
    output_dir = Path(arguments.output_dir)
    accelerator = Accelerator(
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        mixed_precision=arguments.mixed_precision,
        log_with=arguments.report_to or None,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "logs")),
    )
    # accelerate silently leaves out trackers that are not installed.
    found = {str(tracker) for tracker in accelerator.log_with}
    if missing := sorted(set(arguments.report_to) - found - {"all"}):
        raise ImportError(f"--report_to {' '.join(missing)}: not installed; try pip install {' '.join(missing)}.")
    if accelerator.distributed_type in _SHARDED:
        raise ValueError(
            f"accelerate is configured for {accelerator.distributed_type.value}, which shards models. The trainers "
            "run with distributed data parallelism: use training/accelerate/ddp.yaml."
        )
    return accelerator


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is true in any of the processes."""
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)) > 0)


def from_main_process(accelerator: Accelerator, function: Callable[[], Any]) -> Any:
    """Call a function on the main process only, and give its result, or raise its ValueError, on all of them."""
    result: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            result = [function()]
        except ValueError as error:  # the other processes must not wait forever
            result = [error]
    (value,) = broadcast_object_list(result)
    if isinstance(value, ValueError):
        raise value
    return value
