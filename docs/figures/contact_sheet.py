"""docs/images/contact-sheet.png: digits by guidance and steps, with a score below each cell.

    ddpm train-classifier --data mnist-train.zip --out digits.safetensors
    python docs/figures/contact_sheet.py --run runs/mnist-train-28 --real mnist-test.zip \
        --features digits.safetensors

The run is that of `ddpm train --data mnist:train --preset mnist --minutes 8` on two CPU cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from drawing import ddpm, options, reduce

OUTPUTS = ("contact-sheet.png",)


def main() -> None:
    """One command of docs/sampling.md."""
    chosen = options(
        __doc__,
        run="a run of MNIST",
        real="test images of MNIST",
        features="a classifier's weights",
    )
    path = chosen.out / OUTPUTS[0]
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / OUTPUTS[0]
        cells = ("--guidance", "1,2,4,8", "--steps", "5,20", "-n", 500)
        score = ("--score", chosen.real, "--score-features", chosen.features)
        ddpm("sample", chosen.run, *cells, *score, "--out", drawn)
        path.write_bytes(drawn.read_bytes())
    reduce(path)


if __name__ == "__main__":
    main()
