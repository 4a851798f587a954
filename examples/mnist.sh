#!/usr/bin/env bash
# MNIST in eight minutes on a laptop's CPU: train, sample every digit ten times, write a GIF.
# Downloads MNIST (11 MB) the first time; or pass a folder or .zip of digits as the first argument.
set -euo pipefail
data=${1:-mnist}
ddpm train --data "$data" --preset mnist --minutes 8 --out runs/mnist
ddpm sample runs/mnist -n 100 --steps 50 --guidance 2
ddpm gif runs/mnist -n 25 --guidance 2
