"""Documents of `ddpm fid --json`, for the tests of what is made of several."""

from __future__ import annotations

from typing import Any

from ddpm_cli.core.metrics.comparing import Result

BASE: dict[str, Any] = {
    "fid": 3.0, "fid_std": 0.1, "label": "FID", "protocol": "pytorch-fid", "features": "inception",
    "weights_sha256": "ab" * 32, "arithmetic": "fp32", "n_real": 50000, "n_fake": 10000,
    "real": "png 32x32", "fake": "png 32x32", "real_fingerprint": [0.5, 0.25, 0.125],
    "line": "pytorch-fid | sha256:ab | fp32 | n_real=50000 n_fake=10000 | real png, fake png",
}  # fmt: skip


def sampled(name: str, **settings: Any) -> Result:
    """A snapshot's, of run a; settings replace those that it was sampled with."""
    every = {"weights": f"runs/a/snapshots/{name}.pt", "weights_sha256": name, "images_seen": 1}
    every |= {"guidance": 1.0, "seed": 0, "steps": 50}
    return Result(name, BASE | {"sampled": every | settings})
