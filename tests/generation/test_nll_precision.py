"""A likelihood is computed in fp32, unless --precision says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cli.core.runtime import devices

Run = Callable[..., Any]


@pytest.mark.parametrize(("options", "expected"), [((), "fp32"), (("--precision", "auto"), "auto")])
def test_the_default_is_fp32(
    ddpm: Run,
    tiny_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    expected: str,
) -> None:
    tiny_run("run", "--images", 8, "--timesteps", 2)
    requested: list[str] = []

    def choose(name: str, device: torch.device) -> torch.dtype:
        requested.append(name)
        return torch.float32

    monkeypatch.setattr(devices, "choose_precision", choose)
    document = ddpm("nll", Path("run"), "-n", 2, *options, "--json").json()
    assert requested == [expected]
    assert document["precision"] == "fp32"  # the one that was chosen
