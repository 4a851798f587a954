"""How a model's scores change while it is trained, as `ddpm fid --each-snapshot --plot` draws it.

    ddpm train --data mnist-train.zip --minutes 4 --holdout 1000 --snapshot-every 3000 --keep 20 \
        --out runs/digits-28
    ddpm train-classifier --data mnist-train.zip --epochs 1 --out digits.safetensors
    python docs/figures/score_snapshots.py --real mnist-test.zip --run runs/digits-28 \
        --classifier digits.safetensors

- score-snapshots.png: the distance by images seen, and precision against recall.

The table is printed as well.
"""

from __future__ import annotations

from drawing import ddpm, options, reduce

OUTPUTS = ("score-snapshots.png",)

COUNT = 200  # samples of each snapshot
SAMPLING = ("--steps", 10, "--sampler", "ipndm", "--guidance", 1.5)


def main() -> None:
    """Draw the picture."""
    chosen = options(
        __doc__,
        real="the real images",
        run="a run with snapshots",
        classifier="a file of ddpm train-classifier",
    )
    path = chosen.out / OUTPUTS[0]
    inputs = (chosen.real, chosen.run, "--each-snapshot", "-n", COUNT, *SAMPLING)
    drawn = ("--features", chosen.classifier, "--plot", path, "--overwrite")
    print(ddpm("fid", *inputs, *drawn))
    reduce(path)


if __name__ == "__main__":
    main()
