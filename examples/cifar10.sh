#!/usr/bin/env bash
# The CIFAR-10 experiment of Ho et al. (2020) on the GPUs of one machine, and its FID.
# Run it again after an interruption: every command resumes where it stopped.
set -euo pipefail
gpus=${1:-1}
train=${CIFAR10_TRAIN:?set it to a folder or .zip of the training images, to compare with}
ddpm train --data cifar10 --preset cifar10 --nproc "$gpus" --out runs/cifar10
ddpm sample runs/cifar10 -n 50000 --steps 1000 --sampler ddpm --nproc "$gpus" --batch 500 --out runs/cifar10/fid
ddpm fid "$train" runs/cifar10/fid
