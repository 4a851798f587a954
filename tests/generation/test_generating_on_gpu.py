"""Sampling and features on a GPU: those of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.model import load_model
from ddpm_cli.core.metrics.networks.extraction import load_extractor
from ddpm_cli.core.metrics.networks.protocols import PYTORCH_FID
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.inception_standin import standin_weights

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(steps=10, eta=0.0),
        Sampling(steps=10, eta=1.0, guidance=3.0),
        Sampling(sampler="heun", steps=5),
        Sampling(sampler="dpmpp-2m", steps=5),
    ],
    ids=lambda sampling: f"{sampling.sampler}-{sampling.eta}-{sampling.guidance}",
)
def test_images_are_those_of_the_cpu(
    gpu: torch.device, tiny_run: Callable[..., Path], sampling: Sampling
) -> None:
    tiny_run("run", "--device", "cpu")
    both = []
    for device in (CPU, gpu):
        model = load_model(Path("run/model.safetensors"), device, torch.float32)
        request = generate.resolve_request(model, 6, 0, ConditionRequest(()), sampling, Silent())
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            batches = generate.sample_batches(model, request, range(6), 4, Silent())
            both.append(np.concatenate([images for _, images in batches]).astype(int))
    # Rounding of float32 moves a value across the border between two of 256 levels, rarely.
    assert np.abs(both[0] - both[1]).max() <= 1
    assert (both[0] != both[1]).mean() < 0.01


def test_features_are_those_of_the_cpu(gpu: torch.device, tmp_path: Path) -> None:
    path = tmp_path / "standin.pth"
    torch.save(standin_weights(), path)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    cpu, other = (
        next(load_extractor(path, PYTORCH_FID, device, 4, Silent()).features([images]))
        for device in (CPU, gpu)
    )
    # what the protocol promises of the same features computed by others (docs/metrics.md)
    assert (cpu.pool - other.pool.cpu()).abs().max() <= 1e-4 * cpu.pool.abs().max()
    assert (cpu.logits - other.logits.cpu()).abs().max() <= 1e-4 * cpu.logits.abs().max()
