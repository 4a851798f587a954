"""Named starting points: settings that were measured to work, or are a paper's."""

from __future__ import annotations

from typing import Any, NamedTuple

from ddpm_cli.core.errors import UsageError


class Preset(NamedTuple):
    """Settings over the defaults of config.RunConfig, nested like it."""

    about: str
    settings: dict[str, Any]
    unconditional: bool = False  # classes are left aside unless --conditional asks for them


# Measured on two CPU cores. There the number of images seen rules, so networks are narrow and see
# the picture folded; and predicting x0 gives clean pictures long before predicting noise does.
_NETWORK = {
    "width": 32,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_levels": [1],
    "time": "scale-shift",
    "patch": 2,
    "dropout": 0.0,
}
_LEARNING = {
    "batch": 64,
    "lr": 2e-3,
    "warmup": 5_000,
    "decay": 0.4,
    "betas": [0.9, 0.99],
    "ema_halflife": 20_000,
}

PRESETS: dict[str, Preset] = {
    "shapes": Preset(
        "for the built-in shapes: minutes on a laptop's CPU",
        {
            "network": _NETWORK
            | {"patch": 4, "multipliers": [1, 2, 4], "attention_levels": [0, 1, 2]},
            "diffusion": {"schedule": "cosine", "parameterisation": "x0"},
            "optimiser": _LEARNING,
            "data": {"flip": False},
            "budget": {"images": 48_000},
            "snapshot_every": 10_000,
            "preview": 36,
        },
    ),
    "mnist": Preset(
        "for small grey pictures such as MNIST's: minutes on a laptop's CPU",
        {
            "network": _NETWORK,
            "diffusion": {"schedule": "cosine", "parameterisation": "x0"},
            "optimiser": _LEARNING,
            "data": {"flip": False},
            "budget": {"images": 100_000},
            "snapshot_every": 20_000,
            "preview": 40,
        },
    ),
    "small": Preset(
        "for small pictures of anything: an hour on a laptop's CPU",
        {
            "network": _NETWORK
            | {"width": 64, "multipliers": [1, 2, 2], "attention_levels": [1, 2]},
            "diffusion": {"schedule": "cosine", "parameterisation": "v"},
            "optimiser": _LEARNING | {"lr": 1e-3, "ema_halflife": 50_000},
            "budget": {"images": 200_000},
            "snapshot_every": 20_000,
            "preview": 36,
        },
    ),
    "cifar10": Preset(
        "the CIFAR-10 network and training of Ho et al. (2020), 35,746,307 parameters, for a GPU",
        {},
        unconditional=True,
    ),
}

# What a schedule of continuous noise levels is trained with unless something else is asked for.
SYSTEMS: dict[str, dict[str, Any]] = {
    "edm": {
        "diffusion": {"parameterisation": "edm"},
        "objective": {"noise_levels": "log-normal"},
    },
    "flow": {"diffusion": {"parameterisation": "flow"}},
}


def preset(name: str) -> Preset:
    """The preset of that name."""
    if name not in PRESETS:
        raise UsageError(f"--preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def fitting(source: str, channels: int, size: tuple[int, int]) -> str:
    """The name of the preset to use for a source unless the user names one."""
    if source == "shapes":
        return "shapes"
    return "mnist" if channels == 1 and max(size) <= 32 else "small"
