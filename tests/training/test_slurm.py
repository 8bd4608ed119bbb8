"""The SLURM script, with stand-ins for SLURM's commands: what each process gets, and what follows its end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.training.runs import TRAINING

COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo one; echo two; else echo "$@" >> requeued; fi',
    "srun": 'shift; for SLURM_PROCID in 0 1; do export SLURM_PROCID SLURM_LOCALID=$SLURM_PROCID; "$@"; done',
    "python": 'echo "$RANK $LOCAL_RANK of $WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT runs $*"; exit $STATUS',
}


@pytest.mark.parametrize("status", [0, 1, 143])
def test_every_process_knows_its_place_and_sigterm_queues_the_job_again(tmp_path: Path, status: int) -> None:
    for name, command in COMMANDS.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{command}\n")
        path.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "STATUS": str(status),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "[one-two]",
        "SLURM_NTASKS": "2",
    }
    script = TRAINING / "accelerate" / "slurm.sh"
    done = subprocess.run(
        ["bash", script, "train.py", "--seed", "a b"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines() == [
        f"{rank} {rank} of 2 at one:29500 runs train.py --seed a b --resume_from_checkpoint latest" for rank in (0, 1)
    ]
    requeued = tmp_path / "requeued"
    assert (requeued.read_text() if requeued.exists() else "") == ("requeue 7\n" if status == 143 else "")
