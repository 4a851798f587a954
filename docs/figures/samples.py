"""What runs draw, from the first seeds on.

    python docs/figures/samples.py --shapes runs/shapes-32 --digits runs/mnist-train-28 \
        --colours runs/cifar10-train-32

The runs are those of tests/benchmarks/quality.py with --out, seed 0: 50,000 shapes, 88,000 digits
and 114,000 pictures of CIFAR-10 (docs/performance.md, Presets as shipped).

- grid.png: shapes, a class a row, as `ddpm sample` draws them;
- digits.png and cifar10.png: all classes in turn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from drawing import ddpm, options, reduce, save, sheet

import ddpm_cli

OUTPUTS = ("grid.png", "digits.png", "cifar10.png")

EACH = 4  # of a class


def main() -> None:
    """Draw all three."""
    runs = {"shapes": "a run of shapes", "digits": "a run of MNIST", "colours": "one of CIFAR-10"}
    chosen = options(__doc__, **runs)
    with tempfile.TemporaryDirectory() as folder:
        asked = ("-n", 36, "--guidance", 2, "--grid-by", "class")
        ddpm("sample", chosen.shapes, *asked, "--out", Path(folder) / "shapes")
        grid = chosen.out / "grid.png"
        grid.write_bytes((Path(folder) / "shapes" / "grid.png").read_bytes())
    reduce(grid)
    for name, run, guidance in (("digits", chosen.digits, 1), ("cifar10", chosen.colours, 1.5)):
        model = ddpm_cli.load(run)
        images = model.sample(EACH * len(model.classes), guidance=guidance)
        titles = [name.replace("automobile", "auto-mobile") for name in model.classes]
        save(chosen.out / f"{name}.png", sheet(images, len(titles), titles=titles))


if __name__ == "__main__":
    main()
