"""docs/images/film-training.png: the previews of a training, by the number of images seen.

ddpm train --data mnist:train --minutes 7 --preview 16 --snapshot-every 1500 --out runs/previews
python docs/figures/training.py --run runs/previews
"""

from __future__ import annotations

from drawing import ddpm, options, reduce

OUTPUTS = ("film-training.png",)


def main() -> None:
    """One command, which takes the previews from the run's folder samples/."""
    chosen = options(__doc__, run="a run with previews of 16 images")
    path = chosen.out / OUTPUTS[0]
    asked = ("--training", "--strip", "--frames", 4)
    ddpm("gif", chosen.run, *asked, "--out", path, "--overwrite")
    reduce(path)


if __name__ == "__main__":
    main()
