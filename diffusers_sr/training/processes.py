"""The processes of a run, and what they do together."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration
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
