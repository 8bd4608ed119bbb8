"""How much memory is free on a device, and how much a process has used at most."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # comes with accelerate
import torch

CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
"""Limits above this, of the first version of cgroups, mean that there is none."""


def free_memory(device: torch.device) -> int:
    """Read how many bytes can still be used on a device."""
    if device.type == "cpu":
        return free_main_memory()
    if device.type == "mps":  # it shares the main memory, of which it may use a part
        allowed: int = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return max(min(allowed, free_main_memory()), 0)
    module: Any = torch.get_device_module(device)
    unused: int = module.memory_reserved(device) - module.memory_allocated(device)  # that torch keeps for later
    free: int = module.mem_get_info(device)[0]
    return free + unused


def free_main_memory() -> int:
    """Read how many bytes of main memory this process can still use: of the machine, its container, and its limit."""
    free = [psutil.virtual_memory().available, *_left_in_cgroups()]
    with suppress(ImportError):  # Windows has no such limit
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            free.append(limit - psutil.Process().memory_info().vms)
    return max(min(free), 0)


def peak_memory(device: torch.device) -> int:
    """Read the most bytes used so far: by tensors on an accelerator, by this process in main memory."""
    if device.type not in ("cpu", "mps"):
        peak: int = torch.get_device_module(device).max_memory_allocated(device)
        return peak
    try:
        import resource
    except ImportError:
        return int(psutil.Process().memory_info().peak_wset)  # Windows
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else 1024 * usage


def _left_in_cgroups(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """List what is left in the cgroups that this process is in, of those that have a limit.

    Args:
        root: where the cgroups are mounted.
        own: the file that names those of the process.
    """
    left = []
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            names = _FIRST_VERSION if controllers else _SECOND_VERSION
            top = root / "memory" if controllers else root
            group = top / path.lstrip("/")
            # In a container the path may be that of the host, which is not mounted; its own group is then the top.
            groups = [each for each in (group, *group.parents) if each == top or top in each.parents]
            left += [value for each in groups if (value := _left(each, *names)) is not None]
    return left


_FIRST_VERSION = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND_VERSION = ("memory.max", "memory.current", "inactive_file")


def _left(group: Path, limit_name: str, usage_name: str, reclaimable_name: str) -> int | None:
    try:
        limit, usage = (group / limit_name).read_text().strip(), int((group / usage_name).read_text())
        numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max" or int(limit) > _UNLIMITED:
        return None
    return int(limit) - usage + int(numbers.get(reclaimable_name, 0))  # pages of files give way
