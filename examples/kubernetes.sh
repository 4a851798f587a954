#!/usr/bin/env bash
# The command of each pod of a Kubernetes job whose operator sets MASTER_ADDR, MASTER_PORT, and
# WORLD_SIZE and RANK of pods (as Kubeflow's PyTorchJob does). OUT is on a shared volume.
# A pod that is evicted gets SIGTERM: give it terminationGracePeriodSeconds of 150 or more, and
# restartPolicy: OnFailure, so that it resumes after its exit code 75.
set -euo pipefail
pods=$WORLD_SIZE pod=$RANK
unset WORLD_SIZE RANK # to ddpm they would be those of processes
exec ddpm train --data "${DATA:?a folder or .zip of images}" --out "${OUT:?the run directory}" \
    --nproc "${GPUS:-1}" --nnodes "$pods" --node-rank "$pod" \
    --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT"
