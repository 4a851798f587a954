#!/usr/bin/env bash
# Everything worth measuring on one GPU, in at most nine minutes: one table, in Markdown and JSON.
#
#     bash tests/benchmarks/gpu_day.sh [--seconds 540] [--data data] [--out FOLDER] [--parts NAME ...] [--dry]
#
# Nothing comes from the network. Of --data (ignored by git) it reads cifar10-train.zip, else it trains on
# random images, and peers/*.whl: pure-Python wheels of what is not installed. --dry runs every part on the
# CPU, with tiny sizes. Results are in --out, by default $OUT or build/gpu-day. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m tests.benchmarks.gpu_day "$@"
