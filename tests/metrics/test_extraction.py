"""Arithmetic of features: never TF32, bf16 under its own name; images decoded one batch ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.inputs.images import one_ahead
from ddpm_cli.core.metrics.networks.extraction import Extractor, ExtractorSettings
from ddpm_cli.core.metrics.networks.network import Features
from ddpm_cli.core.metrics.networks.protocols import PYTORCH_FID
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.scores.fid import Fid
from ddpm_cli.core.runtime import devices

CPU = torch.device("cpu")


def flags() -> tuple[bool, bool]:
    """Whether products and convolutions on a GPU may use TF32."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


class Recorder:
    """A feature network that records the flags it runs under."""

    width, classes = 2, 2

    def __init__(self) -> None:
        self.flags: list[tuple[bool, bool]] = []

    def __call__(self, x: Tensor) -> Features:
        self.flags.append(flags())
        pool = x.mean(dim=(2, 3))[:, :2]
        return Features(pool, pool)


@pytest.fixture(params=[True, False])
def allowed(request: pytest.FixtureRequest) -> Iterator[bool]:
    """What the user's program chose, which is restored after the test."""
    before = flags()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_tf32_is_off_for_features_and_then_as_it_was(allowed: bool) -> None:
    network = Recorder()
    extractor = Extractor(network, "0" * 64, PYTORCH_FID, CPU, batch=2)
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    for features in extractor.features([images]):
        assert flags() == (allowed, allowed)  # also between two batches
        assert features.pool.dtype == torch.float32
    assert network.flags == 2 * [(False, False)]


def test_out_of_memory_is_an_error_with_a_fix() -> None:
    class TooLarge(Recorder):
        def __call__(self, x: Tensor) -> Features:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has")

    extractor = Extractor(TooLarge(), "0" * 64, PYTORCH_FID, CPU)
    with pytest.raises(DdpmError, match=r"the GPU.s memory.*features of 64 images"):
        next(extractor.features([torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]))


@pytest.mark.parametrize(
    ("precision", "name"),
    [(torch.float32, "pytorch-fid"), (torch.bfloat16, "pytorch-fid-bf16")],
)
def test_bf16_has_a_protocol_name_of_its_own(precision: torch.dtype, name: str) -> None:
    extractor = Extractor(Recorder(), "0" * 64, PYTORCH_FID, CPU, precision=precision)
    report = Report(extractor.origin, 2, 2, "png 8x8", "png 8x8", (Fid(1.0),))
    assert report.document()["protocol"] == name
    assert report.lines().startswith(f"FID 1.0000  [{name}: ")


def test_the_batch_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    monkeypatch.setattr(
        "ddpm_cli.core.metrics.networks.extraction.load_extractor",
        lambda weights, protocol, device, batch, *rest: loaded.append(batch),
    )
    monkeypatch.setattr(devices, "choose_precision", lambda name, device: torch.float32)
    for batch, device in ((None, "cpu"), (None, "cuda"), (7, "cuda")):
        ExtractorSettings(batch=batch).load(torch.device(device), None)  # type: ignore[arg-type]
    assert loaded == [16, 256, 7]


def test_a_batch_is_decoded_while_the_one_before_is_used() -> None:
    decoded = threading.Event()

    def batches() -> Iterator[int]:
        yield 1
        decoded.set()
        yield 2

    ahead = one_ahead(batches())
    assert next(ahead) == 1
    assert decoded.wait(30)
    assert list(ahead) == [2]


def test_an_error_ahead_is_raised_in_its_turn() -> None:
    def batches() -> Iterator[int]:
        yield 1
        raise DdpmError("damaged")

    ahead = one_ahead(batches())
    assert next(ahead) == 1
    with pytest.raises(DdpmError, match="damaged"):
        next(ahead)
