"""docs/images/holdout.png: the losses on images held out and trained on, of 100 digits.

tests/benchmarks/few_images.py leaves the digits in runs/few-images/images-100. Then:

ddpm train --data runs/few-images/images-100 --preset mnist --size 16 --images 60000 --holdout 10 \
    --patience 3 --validate-every 2000 --out runs/few
python docs/figures/holdout.py --run runs/few
"""

from __future__ import annotations

from pathlib import Path

from drawing import options, reduce

from ddpm_cli.core.figures import holdout, plots
from ddpm_cli.core.runtime.run_directory import RunDirectory

OUTPUTS = ("holdout.png",)


def main() -> None:
    """The plot that the training draws, once more."""
    chosen = options(__doc__, run="a run with images held out")
    run, path = RunDirectory(Path(chosen.run)), chosen.out / OUTPUTS[0]
    holdout.curves(path, run.rows(), plots.loss_label(run.read_config()))
    reduce(path)


if __name__ == "__main__":
    main()
