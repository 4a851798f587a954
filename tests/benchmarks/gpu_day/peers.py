"""Training loops of diffusers and denoising-diffusion-pytorch, at our size and precision."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ddpm_cli.core.data import files
from tests.benchmarks.gpu_day.day import Day, synchronised
from tests.benchmarks.gpu_day.training import VARIANTS, measured

WARM_UP, STEPS = 20, 60
IMAGES = 2_560  # that the peers load, as they load images


def run(day: Day) -> None:
    """Ours first, at the peers' settings, then each peer that is installed."""
    batch = 16 if day.dry else 128
    ours, _ = measured(day, "cifar10", batch, "bf16", VARIANTS["eager"])
    day.add(f"ddpm, eager, bf16, {batch}", ours, "images/s")
    for name, packages, measure in PEERS:
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            day.add(name, None, note=f"not installed: {', '.join(missing)}")
            continue
        try:
            day.need(15)
            speed, note = measure(day, batch)
            day.add(
                f"{name}, bf16, {batch}", speed, "images/s", f"{note}; ours {ours / speed:.2f} x"
            )
        except Exception as error:
            day.add(name, None, note=f"{type(error).__name__}: {str(error)[:200]}")


def diffusers_unet(day: Day) -> nn.Module:
    """UNet2DModel with the layout of google/ddpm-cifar10-32, which is that of preset cifar10."""
    from diffusers import UNet2DModel

    kinds = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    network: nn.Module = UNet2DModel(
        sample_size=8 if day.dry else 32,
        in_channels=3,
        out_channels=3,
        layers_per_block=1 if day.dry else 2,
        block_out_channels=(8, 8, 8, 8) if day.dry else (128, 256, 256, 256),
        down_block_types=kinds,
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        norm_num_groups=4 if day.dry else 32,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        dropout=0.1,
    )
    return network


def diffusers_loop(day: Day, batch: int) -> tuple[float, str]:
    """What `train_unconditional.py` does for each batch, with its defaults and bf16."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    network = diffusers_unet(day)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    ema = EMAModel(
        network.parameters(),
        decay=0.9999,
        use_ema_warmup=True,
        inv_gamma=1.0,
        power=0.75,
        model_cls=type(network),
        model_config=network.config,
    )
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, step / 500))
    side = 8 if day.dry else 32
    steps = 2 if day.dry else 10  # of an epoch
    images = torch.rand(steps * batch, 3, side, side) * 2 - 1
    loader = DataLoader(TensorDataset(images), batch, shuffle=True)
    prepared = Accelerated(day)
    network, optimiser, loader, rate = prepared.prepare(network, optimiser, loader, rate)
    ema.to(day.device)

    def epoch() -> None:
        for (images,) in loader:
            images = images.to(day.device, torch.bfloat16)
            noise = torch.randn(images.shape, dtype=torch.bfloat16, device=day.device)
            timesteps = torch.randint(0, 1000, (len(images),), device=day.device).long()
            noisy = scheduler.add_noise(images, noise, timesteps)
            with prepared.autocast():
                output = network(noisy, timesteps).sample
                loss = nn.functional.mse_loss(output.float(), noise.float())
            prepared.backward(loss)
            prepared.clip(network.parameters(), 1.0)
            optimiser.step()
            rate.step()
            optimiser.zero_grad()
            ema.step(network.parameters())
            loss.detach().item()  # for its progress bar

    epochs = (1, 1) if day.dry else (WARM_UP // steps, STEPS // steps)
    seconds = timed(epoch, *epochs)
    count = sum(p.numel() for p in network.parameters())
    return steps * batch * epochs[1] / seconds, f"{count:,} parameters, {prepared.note}"


class Accelerated:
    """accelerate's Accelerator where it is installed, as in the example, else the same by hand."""

    def __init__(self, day: Day) -> None:
        self._device = day.device
        self._accelerator: Any = None
        if importlib.util.find_spec("accelerate") is not None:
            from accelerate import Accelerator

            self._accelerator = Accelerator(mixed_precision="bf16", cpu=day.device.type == "cpu")
        self.note = "with accelerate" if self._accelerator else "accelerate's part by hand"

    def prepare(self, network: nn.Module, *others: Any) -> Any:
        if self._accelerator is not None:
            return self._accelerator.prepare(network, *others)
        return (network.to(self._device), *others)

    def autocast(self) -> AbstractContextManager[object]:
        if self._accelerator is not None:
            return nullcontext()  # the prepared network does it
        return torch.autocast(self._device.type, torch.bfloat16)

    def backward(self, loss: Tensor) -> None:
        if self._accelerator is not None:
            self._accelerator.backward(loss)
        else:
            loss.backward()

    def clip(self, parameters: Any, norm: float) -> None:
        if self._accelerator is not None:
            self._accelerator.clip_grad_norm_(parameters, norm)
        else:
            nn.utils.clip_grad_norm_(parameters, norm)


def denoising_diffusion_loop(day: Day, batch: int) -> tuple[float, str]:
    """The Trainer of denoising-diffusion-pytorch, on image files, without samples and scores."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    width = 8 if day.dry else 128
    network = Unet(width, dim_mults=(1, 2) if day.dry else (1, 2, 2, 2), flash_attn=not day.dry)
    side = 8 if day.dry else 32
    diffusion = GaussianDiffusion(network, image_size=side, timesteps=1000)
    first, steps = (2, 2) if day.dry else (WARM_UP, STEPS)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(128 if day.dry else IMAGES):
            pixels = rng.integers(0, 256, (3, side, side), dtype=np.uint8)
            files.write_png(Path(folder) / "images" / f"{i}.png", pixels)
        trainer = Trainer(
            diffusion,
            f"{folder}/images",
            train_batch_size=batch,
            train_lr=2e-4,
            train_num_steps=first,
            amp=True,
            mixed_precision_type="bf16",
            calculate_fid=False,
            save_and_sample_every=10**9,
            results_folder=f"{folder}/results",
        )
        trainer.train()
        started = synchronised()
        trainer.train_num_steps = first + steps
        trainer.train()
        seconds = synchronised() - started
    count = sum(p.numel() for p in network.parameters())
    return batch * steps / seconds, f"{count:,} parameters, Trainer"


def timed(epoch: Callable[[], None], first: int, epochs: int) -> float:
    """Seconds of so many calls, after the first ones."""
    for _ in range(first):
        epoch()
    started = synchronised()
    for _ in range(epochs):
        epoch()
    return synchronised() - started


PEERS = (
    ("diffusers train_unconditional", ("diffusers",), diffusers_loop),
    (
        "denoising-diffusion-pytorch",
        ("denoising_diffusion_pytorch", "accelerate", "einops", "ema_pytorch"),
        denoising_diffusion_loop,
    ),
)
