"""The processes of a run, and what they do together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration, broadcast_object_list
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from .arguments import TrainingArguments


def new_accelerator(arguments: TrainingArguments) -> Accelerator:
    """Set up the processes.

    Raises:
        ImportError: if a tracker is not installed.
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
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed has to know the batch size before there is a data loader.
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = arguments.train_batch_size
    return accelerator


def gathered(accelerator: Accelerator, prepared: nn.Module) -> AbstractContextManager[None]:
    """Inside the `with` block, give the main process the whole weights; FSDP leaves each process only a part."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return FullyShardedDataParallel.summon_full_params(
            prepared, rank0_only=True, writeback=False, offload_to_cpu=True
        )
    return nullcontext()


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
