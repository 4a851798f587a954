"""A hub on this machine, and a run to push to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import DataConfig, OptimiserConfig, RunConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support.cli import Result
from tests.support.hub_standin import NAME, TOKEN, HubStandin, hub_standin

pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def standin() -> Iterator[HubStandin]:
    with hub_standin() as standin:
        yield standin


@pytest.fixture
def hub(standin: HubStandin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubStandin:
    """The stand-in, empty, in place of the hub that huggingface_hub read from HF_ENDPOINT."""
    from huggingface_hub import constants, hf_api

    standin.clear()
    monkeypatch.setattr(constants, "ENDPOINT", standin.address)
    template = f"{standin.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(hf_api.api, "endpoint", standin.address)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's attempts
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return standin


@pytest.fixture(scope="module")
def kept_files() -> dict[str, bytes]:
    return {}


@pytest.fixture
def on_the_hub(
    ddpm: Callable[..., Result],
    hub: HubStandin,
    make_run: Callable[..., Path],
    kept_files: dict[str, bytes],
) -> Path:
    """A run that is on the hub as NAME, as `push` uploads it; an earlier test may have done so."""
    run = make_run()
    if not kept_files:
        assert ddpm("push", run, NAME).code == 0
        kept_files |= hub.repositories[NAME].files("main")
    hub.add(NAME, kept_files)
    return run


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """A run of a network with random weights, as a training leaves it."""

    def make(
        path: str = "trained", *, preview: bool = True, source: str = "mnist", **network: Any
    ) -> Path:
        config = RunConfig(
            data=DataConfig(source=source),
            network=NetworkConfig(
                **{
                    "size": (8, 8),
                    "width": 16,
                    "multipliers": (1,),
                    "blocks": ("res",),
                    "groups": 4,
                    "dropout": 0.0,
                }
                | network
            ),
            diffusion=DiffusionConfig(schedule="cosine", parameterisation="v"),
            optimiser=OptimiserConfig(lr=1e-3),
        )
        run = RunDirectory(Path(path))
        run.path.mkdir()
        torch.manual_seed(0)
        unet = UNet(config.network)
        for parameter in unet.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        run.write_config(config)
        weights.save(run.weights, unet.state_dict(), config, images=640)
        with torch.no_grad():
            next(unet.parameters()).add_(1)
        weights.save(run.best, unet.state_dict(), config, images=320)
        run.append_row({"images": 640, "loss": 0.5})
        run.provenance.write_text(json.dumps({"preset": "mnist", "ddpm": "0.0.7"}) + "\n")
        if preview:
            files.write_png(run.preview(640), np.zeros((3, 16, 16), np.uint8))
        return run.path

    return make
