"""Images per second of feature extraction, compared with pytorch-fid on the same images.

    python tests/benchmarks/inception_speed.py [--images 64] [--batch 16] [--pairs 5] [--threads 1]

Both have the same stand-in weights and get the same uint8 images of 32x32. A pair is one timing of
each, back to back, in alternating order; each pair's ratio and the median are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.metrics.networks.extraction import load_extractor
from ddpm_cli.core.metrics.networks.protocols import PYTORCH_FID
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.inception_standin import standin_weights

Extract = Callable[[torch.Tensor], object]


def extractors(batch: int, device: torch.device, *, peer: bool = True) -> dict[str, Extract]:
    """Ours and, with `peer`, pytorch-fid's, by name: uint8 images (n, 3, H, W) -> features."""
    state = standin_weights()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standin.pth"
        torch.save(state, path)
        extractor = load_extractor(path, PYTORCH_FID, device, batch, Silent())
    both: dict[str, Extract] = {"ddpm": lambda images: list(extractor.features([images]))}
    if peer:
        both["pytorch-fid"] = pytorch_fid(state, batch, device)
    return both


def pytorch_fid(state: dict[str, torch.Tensor], batch: int, device: torch.device) -> Extract:
    """pytorch-fid's loop over batches, without decoding files."""
    from pytorch_fid import inception

    inception.load_state_dict_from_url = lambda *_, **__: state
    network = inception.InceptionV3().eval().to(device)

    def run(images: torch.Tensor) -> None:
        with torch.no_grad():
            for part in images.split(batch):
                network(part.to(device) / 255)[0].squeeze(3).squeeze(2).cpu().numpy()

    return run


def seconds(work: Extract, images: torch.Tensor) -> float:
    started = time.perf_counter()
    work(images)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("images", 64), ("batch", 16), ("pairs", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    both = extractors(options.batch, torch.device("cpu"))
    images = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8)
    for work in both.values():
        work(images[: options.batch])
    ratios = []
    for pair in range(options.pairs):
        names = list(both) if pair % 2 == 0 else list(both)[::-1]
        took = {name: seconds(both[name], images) for name in names}
        ratios.append(took["pytorch-fid"] / took["ddpm"])
        rates = ", ".join(f"{name} {options.images / took[name]:.2f} images/s" for name in both)
        print(f"pair {pair + 1}: {rates}, ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f} ({options.threads} threads)")


if __name__ == "__main__":
    main()
