"""docs/images/prompts.png: combinations of words that were never seen in training.

python examples/prompts.py --place prompts
python docs/figures/prompts.py --run prompts/run --prompts prompts/prompts.txt
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import options, save, sheet

import ddpm_cli as ddpm

OUTPUTS = ("prompts.png",)

SHOWN, COLUMNS = 24, 6


def main() -> None:
    """Evenly spread over the prompts, the first seeds."""
    chosen = options(__doc__, run="a run of captions", prompts="a prompt a line, held out")
    lines = Path(chosen.prompts).read_text(encoding="utf-8").splitlines()
    prompts = [lines[round(i)] for i in np.linspace(0, len(lines) - 1, SHOWN)]
    images = ddpm.load(chosen.run).sample(SHOWN, prompts=prompts, guidance=4)
    save(chosen.out / OUTPUTS[0], sheet(images, COLUMNS, captions=prompts, width=700))


if __name__ == "__main__":
    main()
