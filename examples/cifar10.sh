#!/usr/bin/env bash
# The CIFAR-10 experiment of Ho et al. (2020) on the GPUs of one machine, and its FID.
# Downloads CIFAR-10 (170 MB) the first time.
# Run it again after an interruption: every command resumes where it stopped.
set -euo pipefail
gpus=${1:-1}
ddpm train --data cifar10 --preset cifar10 --nproc "$gpus" --out runs/cifar10
ddpm sample runs/cifar10 -n 50000 --steps 1000 --sampler ddpm --nproc "$gpus" --batch 500 --out runs/cifar10/fid
ddpm fid cifar10:train runs/cifar10/fid
