#!/usr/bin/env bash
# One GPU of a SLURM cluster: sbatch examples/slurm_one_gpu.sh photos/
# Five minutes before the end, or when preempted, it saves; the job is then requeued and resumes.
#SBATCH --job-name=ddpm
#SBATCH --ntasks=1 --gpus-per-task=1 --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue --open-mode=append
set -euo pipefail
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ddpm train --data "${1:?a folder or .zip of images}" --out "runs/$SLURM_JOB_NAME" --requeue
