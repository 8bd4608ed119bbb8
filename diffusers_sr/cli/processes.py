"""The processes of one command that was started by `accelerate launch` or `torchrun`."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

Value = TypeVar("Value")

# They wait for each other only at the end, and one may have larger photos than another.
_PATIENCE = timedelta(days=30)


class Group(NamedTuple):
    """This process among those of its command."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.rank == 0


def join_group() -> Group:
    """Find the other processes of the command, by the variables that launchers set."""
    group = Group(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if group.size > 1:
        import torch.distributed

        torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    return group


def from_first(group: Group, value: Value) -> Value:
    """Give all processes the value that the first one has."""
    if group.size == 1:
        return value
    import torch.distributed

    values: list[Any] = [value]
    torch.distributed.broadcast_object_list(values)
    shared: Value = values[0]
    return shared


def from_all(group: Group, value: Value) -> list[Value]:
    """Give all processes the values of all, in their order."""
    if group.size == 1:
        return [value]
    import torch.distributed

    values: list[Any] = [None] * group.size
    torch.distributed.all_gather_object(values, value)
    return values


def own_device(name: str, group: Group) -> str:
    """Give the device of this process: with several processes, that of its number among those of the machine."""
    if group.size == 1 or name != "cuda":
        return name
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def leave_group(group: Group) -> None:
    """Wait until all processes have come this far."""
    if group.size > 1:
        import torch.distributed

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
