"""Where a model fails: which classes are bad, which samples, and which real images it never draws.

    ddpm train --data mnist-train.zip --minutes 4 --holdout 1000 --out runs/digits-28
    ddpm sample runs/digits-28 -n 1000 --steps 10 --sampler ipndm --guidance 1.5 --out samples
    ddpm train-classifier --data mnist-train.zip --epochs 1 --out digits.safetensors
    python docs/figures/score_failures.py --real mnist-test.zip --fake samples \
        --classifier digits.safetensors

- score-classes.png: the distance of each class;
- score-unlike-real.png: the fakes that are least like any real image;
- score-uncovered.png: real images that no fake is near to.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from drawing import ddpm, options, reduce

OUTPUTS = ("score-classes.png", "score-unlike-real.png", "score-uncovered.png")

SHOWN = 3  # images of each grid, and their neighbours


def main() -> None:
    """Draw all three."""
    chosen = options(
        __doc__,
        real="the real images, with classes",
        fake="a folder of samples",
        classifier="a file of ddpm train-classifier",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = (chosen.real, chosen.fake, "--features", chosen.classifier)
        scores = ("--metrics", "fid,kid,prdc,classes", "--plot", folder / OUTPUTS[0])
        worst = ("--worst", SHOWN, "--worst-out", folder / "worst")
        document = json.loads(ddpm("fid", *inputs, *scores, *worst, "--json"))
        worst_of = folder / "worst"
        drawn = (folder / OUTPUTS[0], worst_of / "unlike-real.png", worst_of / "uncovered.png")
        for path, output in zip(drawn, OUTPUTS, strict=True):
            path.rename(chosen.out / output)
            reduce(chosen.out / output)
    for key in ("fid", "fid_std", "kid", "precision", "recall", "coverage", "worst_class"):
        print(key, document[key])
    for found in document["classes"]:
        print(found)


if __name__ == "__main__":
    main()
