#!/usr/bin/env bash
# Several nodes of a SLURM cluster: sbatch examples/slurm_nodes.sh photos/
# One task per node starts a process for each of its GPUs; the rendezvous is on the first node. The
# run directory must be on a file system that all nodes share.
#SBATCH --job-name=ddpm
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue --open-mode=append
set -euo pipefail
export DATA=${1:?a folder or .zip of images}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export MEETING="$first:29500"
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'exec ddpm train --data "$DATA" --out "runs/$SLURM_JOB_NAME" --requeue \
    --nproc "${SLURM_GPUS_ON_NODE:-8}" --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" \
    --rdzv-endpoint "$MEETING"'
