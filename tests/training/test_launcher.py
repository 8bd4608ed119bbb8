"""SIGTERM to `accelerate launch` reaches the training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TRAINING = """
import signal, sys, time
from pathlib import Path
from diffusers_sr.training.launcher import end_with_launcher

def end(*_):
    Path(sys.argv[1], "checkpoint").touch()
    sys.exit(143)

end_with_launcher()
signal.signal(signal.SIGTERM, end)
Path(sys.argv[1], "started").touch()
time.sleep(60)
"""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_sigterm_to_the_launcher_reaches_the_training(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    launcher = subprocess.Popen(
        [*launch, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(tmp_path / "started")
    finally:
        launcher.terminate()
    assert launcher.wait(60) == -signal.SIGTERM
    wait_for(tmp_path / "checkpoint")
