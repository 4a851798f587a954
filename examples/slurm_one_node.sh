#!/usr/bin/env bash
# All GPUs of one node of a SLURM cluster: sbatch examples/slurm_one_node.sh photos/
# One task starts a process for each GPU; if one of them dies, all resume from the newest snapshot.
#SBATCH --job-name=ddpm
#SBATCH --nodes=1 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue --open-mode=append
set -euo pipefail
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ddpm train --data "${1:?a folder or .zip of images}" --out "runs/$SLURM_JOB_NAME" \
    --nproc "${SLURM_GPUS_ON_NODE:-8}" --requeue
