"""Peak memory of `ddpm train` on a CPU, against what its dry run says: each in its own process.

    python tests/benchmarks/training_memory.py ["OPTIONS OF ddpm train" ...]

Some steps with a snapshot in between, on the built-in shapes where no other --data is given. The
second ratio is of what the training adds to a process of Python and torch.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile

from memory import peak  # beside this file

CASES = (
    "--batch 64",
    "--batch 512",
    "--batch 256 --microbatch 64",
    "--batch 64 --precision bf16",
    "--preset mnist --size 28 --channels 1 --batch 64",
    "--preset small --size 64 --batch 32",
    "--preset small --size 32 --batch 32 --caption 'a {class}'",
    "--preset cifar10 --batch 4 --preview 0",
    "--preset cifar10 --batch 16 --microbatch 4 --preview 0",
    "--preset cifar10 --batch 8 --precision bf16 --preview 0",
    "--preset cifar10 --batch 8 --preview 0",
    "--preset cifar10 --batch 8 --checkpoint-activations --preview 0",
    "--preset cifar10 --batch 16 --checkpoint-activations --preview 0",
)


def estimate(command: list[str]) -> dict[str, int]:
    """The fields memory_bytes of a dry run."""
    done = subprocess.run(
        [sys.executable, "-m", "ddpm_cli", *command, "--dry-run", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    needed: dict[str, int] = json.loads(done.stdout)["memory_bytes"]
    return needed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="OPTIONS")
    for case in parser.parse_args().cases:
        options = shlex.split(case)
        batch = int(options[options.index("--batch") + 1])
        command = ["train", "--device", "cpu", *options]
        command += ["--images", str(6 * batch), "--snapshot-every", str(2 * batch)]
        with tempfile.TemporaryDirectory() as folder:
            command += ["--out", f"{folder}/run"]
            needed, measured = estimate(command), peak(command)
        total, process = (needed[part] / 2**20 for part in ("total", "process"))
        print(
            f"{case}: estimated {total:,.0f} MiB, measured {measured:,.0f}: "
            f"{total / measured:.2f}; added {(total - process) / (measured - process):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
