"""The memory that is free."""

from __future__ import annotations

import resource

import psutil
import pytest
import torch

from diffusers_sr.sampling import free_memory as memory


def group(folder, names, limit, usage, reclaimable):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, usage, f"anon 5\n{names[2]} {reclaimable}"), strict=True):
        (folder / (name if name != names[2] else "memory.stat")).write_text(f"{value}\n")


def test_cgroups_of_the_second_version(tmp_path):
    names = ("memory.max", "memory.current", "inactive_file")
    group(tmp_path / "user/session", names, "max", 100, 10)
    group(tmp_path / "user", names, 5000, 1200, 200)
    group(tmp_path, names, 9000, 3000, 0)
    (tmp_path / "own").write_text("0::/user/session\n")
    assert memory._left_in_cgroups(tmp_path, tmp_path / "own") == [4000, 6000]


def test_cgroups_of_the_first_version_in_a_container(tmp_path):
    """The path is that of the host: only the container's own group is there."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    group(tmp_path / "memory", names, 7000, 2000, 500)
    (tmp_path / "own").write_text("9:name=systemd:/\n8:cpu,memory:/docker/1a2b\n3:cpuset:/\n0::/\n")
    assert memory._left_in_cgroups(tmp_path, tmp_path / "own") == [5500]
    (tmp_path / "memory" / names[0]).write_text("9223372036854771712\n")
    assert memory._left_in_cgroups(tmp_path, tmp_path / "own") == []


def test_no_cgroups(tmp_path):
    assert memory._left_in_cgroups(tmp_path, tmp_path / "own") == []


def test_the_limit_of_the_process_counts(monkeypatch):
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 300_000_000, resource.RLIM_INFINITY))
    assert memory.free_memory(torch.device("cpu")) == pytest.approx(300_000_000, abs=200_000_000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, resource.RLIM_INFINITY))
    assert memory.free_memory(torch.device("cpu")) == 0


def test_the_peak_of_this_process():
    peak = memory.peak_memory(torch.device("cpu"))
    assert peak >= psutil.Process().memory_info().rss * 0.9
    assert peak < 64 * 2**30
