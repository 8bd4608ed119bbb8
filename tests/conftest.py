"""Settings every test runs under, made before torch is imported."""

import gc
import os
import tempfile
from typing import Any

# Waiting threads that spin make two threads on a busy machine slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # there is one for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing in the tests may depend on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# diffusers copies the code of the pipelines it loads.
_modules = tempfile.TemporaryDirectory(prefix="hf_modules-")
os.environ["HF_MODULES_CACHE"] = _modules.name
# With torch and diffusers in memory, looking for garbage took a sixth of all the time.
gc.set_threshold(50_000, 10, 10)


def pytest_collection_finish() -> None:
    """Leave everything that was imported out of later searches for garbage."""
    gc.collect()
    gc.freeze()


LONGEST = (
    "tests/test_embedded.py",
    "tests/training/test_stages.py",
    "tests/released/test_released.py",
    "tests/attention/test_adapter_execution.py",
    "tests/publishing/test_publishing.py",
    "tests/training/test_scripts.py",
    "tests/training/test_one_step_scripts.py",
    "tests/cli/test_processes.py",
    "tests/training/test_distributed.py",
    "tests/training/test_ending.py",
    "tests/test_readme.py",
    "tests/training/test_interruption.py",
)
"""The files that take longest, and of which pytest-xdist gives each to one process."""


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Begin with those that take longest, so that no process is left with one of them at the end."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))
