"""A run with loader workers ends after an error, wherever it arises: in seconds, with it, and with no process left."""

from __future__ import annotations

import json
import signal
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.training import ending_runs
from tests.training.runs import Fit, fit

ENDS: dict[str, tuple[int, str]] = {
    "worker-1": (1, "row 40 is bad"),
    "worker-5": (1, "row 40 is bad"),
    "killed-2": (1, "is killed by signal: Killed"),
    "main-2": (1, "step 4 is bad"),
    "slow-6": (1, "step 7 is bad"),
    "stuck-1": (1, "step 7 is bad"),
    "interrupt-2": (-signal.SIGINT, "KeyboardInterrupt"),
    "photos-2": (1, "6 photos in a row cannot be used"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    done = programs.run(ending_runs.__file__, folder, *ENDS, environment={"ACCELERATE_USE_CPU": "true"}, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("case", ENDS)
def test_a_run_with_workers_ends_with_its_error(folder: Path, case: str) -> None:
    status, message = ENDS[case]
    end = json.loads((folder / case / "end").read_text())
    log = (folder / case / "log").read_text()
    assert end == {"code": status, "is_left": False}, log
    assert message in log


class Failing(Fit):
    """Fails in its second batch."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.batches:
            raise ValueError("the second batch is bad")
        return super().forward(batch)


def test_no_worker_outlives_an_error_that_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the second batch is bad") as caught:
        fit(tmp_path, Failing(), dataloader_num_workers=2)
    assert caught.value.__traceback__ is not None
    assert active_children() == []


def test_sigterm_to_the_workers_does_not_end_a_run(tmp_path: Path) -> None:
    def terminate(number: int) -> None:
        if number == 4:
            workers = active_children()
            assert len(workers) == 2
            for worker in workers:
                worker.terminate()

    module = fit(tmp_path, Fit(terminate), max_train_steps=30, dataloader_num_workers=2)
    assert len(module.batches) == 30
