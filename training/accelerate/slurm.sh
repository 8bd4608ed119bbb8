#!/bin/bash
# A training on several machines under SLURM, one process for each GPU:
#
#     sbatch training/accelerate/slurm.sh training/train_seesr.py --config training/recipes/seesr_paper.yaml ...
#
# SLURM starts the processes itself, without `accelerate launch`: SIGTERM reaches them at once, and nothing ends them
# 30 seconds later, as torchrun does. Ten minutes before the time is over they write a checkpoint and end with status
# 143; the job then queues itself again, and continues from the checkpoint.
# Tested with stand-ins for SLURM's commands (tests/training/test_slurm.py), not on a cluster.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=29500 WORLD_SIZE=$SLURM_NTASKS
srun --kill-on-bad-exit=0 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python "$@"' -- \
    "$@" --resume_from_checkpoint latest
status=$?
if [ $status -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
