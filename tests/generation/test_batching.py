"""How many images are sampled at a time: by memory, halved where it runs out, or as given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation import batching, generate
from ddpm_cli.core.generation.batching import BatchSize
from ddpm_cli.core.generation.compilation import Compiler
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.outputs import output
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.seeds import ImageNoise, generator
from tests.support.cli import Result

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30
SIZE = (8, 8)
IMAGE = np.zeros((3, *SIZE), np.uint8)


class Said(Silent):
    """A reporter that keeps the notices."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


class LimitedNetwork(torch.nn.Module):
    """A convolution whose device has memory for a few images at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.most = most
        self.seen: list[int] = []

    def forward(self, x: Tensor, c_noise: Tensor, condition: object) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has")
        output: Tensor = self.layer(x)
        return output


def model_of(network: Any, precision: torch.dtype = torch.float32) -> Model:
    config = RunConfig(network=NetworkConfig(size=SIZE), diffusion=DiffusionConfig("cosine"))
    denoiser = Denoiser(network, schedules.from_config(config.diffusion), "x0")
    return Model(Path("run"), denoiser, config, 0, "", CPU, precision)


def sampled(model: Model, count: int, batch: Any, reporter: Any, eta: float = 1.0) -> Any:
    request = generate.resolve_request(
        model, count, 5, ConditionRequest(()), Sampling(3, eta=eta), Silent()
    )
    batches = list(generate.sample_batches(model, request, range(count), batch, reporter))
    assert [index for indices, _ in batches for index in indices] == list(range(count))
    return np.concatenate([images for _, images in batches])


@pytest.mark.parametrize(
    ("count", "each", "free", "expected"),
    [
        (10_000, GIB, 10 * GIB, 8),  # four fifths of the memory
        (9, GIB, 10 * GIB, 5),  # 5 + 4 rather than 8 + 1
        (10_000, GIB, GIB, 1),  # at least one is tried
        (1000, 1, 100 * GIB, 500),  # the most are 512: two parts
        (1500, 1, 100 * GIB, 500),
        (20, 1, 100 * GIB, 20),
    ],
)
def test_as_many_images_as_fit_in_equal_parts(
    count: int, each: int, free: int, expected: int
) -> None:
    assert batching.fitting(count, each, free) == expected


def test_a_gpus_memory_is_measured_by_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(device: torch.device, work: Callable[[], object]) -> int:
        work()
        return 8 * GIB

    tried: list[int] = []
    monkeypatch.setattr(batching, "taken", taken)
    monkeypatch.setattr(batching, "free", lambda device: 100 * GIB)
    assert batching.choose(None, 320, GPU, tried.append) == BatchSize(80, given=False)
    assert tried == [8]

    def too_much(images: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert batching.choose(None, 320, GPU, too_much) == BatchSize(4, given=False)


def test_nothing_is_measured_for_a_given_number_few_images_or_a_cpu() -> None:
    def trial(images: int) -> None:
        pytest.fail("a step was taken")

    assert batching.choose(7, 320, GPU, trial) == BatchSize(7, given=True)
    assert batching.choose(None, 8, GPU, trial) == BatchSize(64, given=False)
    assert batching.choose(None, 320, CPU, trial) == BatchSize(64, given=False)


def test_a_batch_that_does_not_fit_is_halved_and_no_image_changes() -> None:
    said, limited = Said(), LimitedNetwork(3)
    images = sampled(model_of(limited), 7, None, said)
    assert limited.seen == [7, 4, *3 * [2], *3 * [2], *3 * [2], *3 * [1]]
    assert said.lines == [
        "there is too little free memory for 7 images at a time: continuing with 4",
        "there is too little free memory for 4 images at a time: continuing with 2",
    ]
    assert np.array_equal(images, sampled(model_of(LimitedNetwork(9)), 7, 2, Silent()))
    assert len(np.unique(images)) > 50


@pytest.mark.parametrize(
    ("batch", "most", "fix"),
    [(7, 3, "use a smaller --batch, or --batch auto"), (None, 0, "use --device cpu")],
)
def test_where_no_smaller_number_may_be_tried(batch: int | None, most: int, fix: str) -> None:
    with pytest.raises(DdpmError, match=f"ran out of the GPU's memory .*; {fix}"):
        sampled(model_of(LimitedNetwork(most)), 7, batch, Silent())


@pytest.mark.parametrize("text", ["0", "-3", "many", "2.5", "1_000", "9" * 5000, "٣"])
def test_a_batch_is_auto_or_a_number(text: str) -> None:
    assert batching.parse_batch("auto") is None
    assert batching.parse_batch("12") == 12
    with pytest.raises(UsageError, match="--batch takes auto or a whole number of images from 1"):
        batching.parse_batch(text)


def test_noise_is_that_of_one_generator_per_image() -> None:
    noise = ImageNoise([3, 4], (3, 5, 7), CPU)
    sources = [generator(seed, "image") for seed in (3, 4)]
    for _ in range(2):
        expected = torch.stack([torch.randn(3, 5, 7, generator=source) for source in sources])
        assert torch.equal(noise(), expected)


def test_in_bf16_the_state_stays_fp32() -> None:
    model = model_of(LimitedNetwork(9), torch.bfloat16)
    outputs = []
    model.denoiser.network.register_forward_hook(  # type: ignore[union-attr]
        lambda module, inputs, output: outputs.append(output.dtype)
    )
    sampling = Sampling(3, sampler="heun", s_churn=1.0)
    request = generate.resolve_request(model, 2, 0, ConditionRequest(()), sampling, Silent())
    steps = list(generate.sample_steps(model, request, range(2)))
    assert {tensor.dtype for step in steps for tensor in (step.x, step.x0)} == {torch.float32}
    assert set(outputs) == {torch.bfloat16}


class Pngs:
    """As much of an output as writes images."""

    def tasks(self, indices: Sequence[int], images: Any) -> list[Callable[[], None]]:
        names = [Path(f"out/{index:06d}.png") for index in indices]
        return [partial(files.write_png, *each) for each in zip(names, images, strict=True)]


PNGS: Any = Pngs()


def test_images_are_written_while_the_next_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling_goes_on, write = threading.Event(), files.write_png

    def write_png(path: Path, image: Any) -> None:
        assert sampling_goes_on.wait(30)
        write(path, image)

    def batches() -> Iterator[tuple[Sequence[int], Any]]:
        yield [0, 1], [IMAGE, IMAGE]
        sampling_goes_on.set()
        yield [2], [IMAGE]

    monkeypatch.setattr(files, "write_png", write_png)
    output._write_images(PNGS, batches())
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"00000{i}.png" for i in range(3)
    ]


def test_what_was_sampled_is_written_where_sampling_fails() -> None:
    def batches() -> Iterator[tuple[Sequence[int], Any]]:
        yield [0, 1], [IMAGE, IMAGE]
        raise DdpmError("no more")

    with pytest.raises(DdpmError, match="no more"):
        output._write_images(PNGS, batches())
    assert len(list(Path("out").iterdir())) == 2


def test_an_image_that_cannot_be_written_is_an_error() -> None:
    Path("out").write_text("a file")
    with pytest.raises(DdpmError, match=r"cannot write out/000000\.png"):
        output._write_images(PNGS, [([0], [IMAGE])])  # type: ignore[list-item]


def test_the_speed_is_reported(ddpm: Callable[..., Result], tiny_run: Callable[..., Path]) -> None:
    tiny_run("run", "--images", 8)
    command = ("sample", "run", "-n", 3, "--steps", 3, "--sampler", "heun", "--out", "out")
    document = ddpm(*command, "--json").json()
    assert (document["nfe"], document["drawn"]) == (5, 3)
    assert 0 < document["images_per_second"] < 3 / 1e-9
    # both are rounded to three digits
    assert document["calls_per_second"] == pytest.approx(
        5 * document["images_per_second"], abs=4e-3
    )
    again = ddpm(*command, "--json").json()
    assert (again["images_per_second"], again["calls_per_second"]) == (None, None)
    line = ddpm(*command, "--seed", 1, "--overwrite", "--batch", 2).out.splitlines()[0]
    assert line.startswith("3 images in out, ")
    assert line.endswith(" network calls/s)")


class Compilable(LimitedNetwork):
    """A network that counts what a compiler would do; `compiled` runs in place of forward."""

    def __init__(self, compiled: Callable[..., Tensor] | None = None) -> None:
        super().__init__(99)
        self.compiled, self.ran = compiled, 0

    def compile(self, *, dynamic: bool, fullgraph: bool) -> None:  # type: ignore[override]
        def run(*inputs: Any) -> Tensor:
            self.ran += 1
            return self.forward(*inputs) if self.compiled is None else self.compiled(*inputs)

        assert not dynamic and not fullgraph
        self._compiled_call_impl = run  # type: ignore[assignment]


def test_where_compiling_fails_sampling_continues_without() -> None:
    def fail(*inputs: Any) -> Tensor:
        raise RuntimeError("no C compiler\nfound")

    said, network = Said(), Compilable(fail)
    model = model_of(network)
    request = generate.resolve_request(model, 3, 5, ConditionRequest(()), Sampling(3), Silent())
    batches = list(generate.sample_batches(model, request, range(3), 2, said, compiled=True))
    assert network.ran == 1
    assert said.lines == [
        "Compiling the network: this can take minutes.",
        "Compiling the network does not work here, so sampling continues without: no C compiler",
    ]
    images = np.concatenate([images for _, images in batches])
    assert np.array_equal(images, sampled(model_of(LimitedNetwork(9)), 3, 2, Silent(), eta=0.0))


def test_a_batch_of_another_size_is_not_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stances: list[str] = []
    set_stance = torch.compiler.set_stance

    def recorded(stance: str) -> Any:
        stances.append(stance)
        return set_stance(stance)

    monkeypatch.setattr(torch.compiler, "set_stance", recorded)
    network = Compilable()
    model = model_of(network)
    request = generate.resolve_request(model, 5, 5, ConditionRequest(()), Sampling(3), Silent())
    list(generate.sample_batches(model, request, range(5), 2, Silent(), compiled=True))
    assert stances == ["default", "force_eager"]


@pytest.mark.parametrize(
    ("asked", "device", "seconds", "compiles"),
    [
        (None, GPU, 600, True),
        (None, GPU, 599, False),
        (None, CPU, 6000, False),
        (False, GPU, 6000, False),
    ],
)
def test_a_long_sampling_on_a_gpu_is_compiled(
    asked: bool | None, device: torch.device, seconds: float, compiles: bool
) -> None:
    said, network = Said(), Compilable()
    compiler = Compiler([network], asked, device, said)
    assert compiler.run(2, lambda: network._compiled_call_impl is None)
    compiler.consider(seconds)
    assert compiler.run(2, lambda: network._compiled_call_impl is not None) == compiles
    assert len(said.lines) == compiles
