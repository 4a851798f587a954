"""Named starting points: settings that were measured, a paper's, or untuned, as each says."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

from ddpm_cli.core.config.diffusion import CONSISTENCY
from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import NetworkInputs
from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.config.serialisation import updated


class Preset(NamedTuple):
    """Settings over the defaults of config.RunConfig, nested like it."""

    purpose: str
    settings: dict[str, Any]
    unconditional: bool = False  # classes are not learned without --conditional


# Measured on two CPU cores (docs/performance.md, Quality). There quality is limited by the number
# of images seen, so networks are narrow and see the image in patches. Predicting x0 gives clean
# images long before predicting noise does, and the EDM form leaves noise. Small batches are worth
# their steps. The loss of every noise level is weighted by what it has come to, or that of high
# levels, most of it beyond any network's reach, drowns the gradient of the others. Muon learns most
# from few images, with a rate that falls from the first step to the last.
_NETWORK = {
    "width": 32,
    "multipliers": [1, 2],
    "blocks": ["res", "res,attn"],
    "modulation": "scale-shift",
    "patch": 2,
    "dropout": 0.0,
}
_OPTIMISER = {
    "batch": 32,
    "method": "muon",
    "lr": 2e-3,
    "warmup": 5_000,
    "decay": 1.0,
    "betas": [0.9, 0.99],
    "ema_halflife": 20_000,
}
_CLEAN = {
    "diffusion": {"schedule": "cosine", "parameterisation": "x0"},
    "objective": {"weighting": "learned"},
}

_TWO, _THREE, _FOUR = "res,attn,res,attn", "res,attn,res,attn,res,attn", "res,res,res,res"
_OPENAI = {"encoding": "cos-sin", "epsilon": 1e-5}  # where their networks differ from DDPM's

_TRANSFORMER = {"family": "transformer", "width": 384, "head_width": 64, "patch": 4, "dropout": 0.0}
_JIT = {  # prediction of x0 with the loss of the velocity (Li & He 2025, section 4.3)
    "diffusion": {"schedule": "flow", "parameterisation": "x0"},
    "objective": {
        "weighting": "velocity",
        "noise_levels": "logit-normal",
        "noise_mean": 0.8,  # of the noise's share t; JiT's t, -0.8, is the image's
        "noise_std": 0.8,
    },
}
_DIT = {
    "norm": "layer",
    "mlp": "gelu",
    "positions": "sin-cos",
    "qk_norm": False,
    "encoding": "cos-sin",
}
_FOR_A_GPU = {
    "budget": {"images": 20_000_000},
    "snapshot_every": 1_000_000,
    "validate_every": 1_000_000,
    "log_every": 25_000,
    "preview": 40,
}

PRESETS: dict[str, Preset] = {
    "shapes": Preset(
        "for the built-in shapes: minutes on a laptop's CPU",
        {
            # Coarser than the others: figures are global, and their edges few.
            "network": _NETWORK | {"patch": 4, "multipliers": [1, 2, 4], "blocks": ["res,attn"]},
            **_CLEAN,
            "optimiser": _OPTIMISER | {"batch": 64},
            "data": {"flip": False},
            "budget": {"images": 57_600},
            "snapshot_every": 10_000,
            "validate_every": 10_000,
            "log_every": 100,
            "preview": 36,
        },
    ),
    "mnist": Preset(
        "for small grey images such as MNIST's: minutes on a laptop's CPU",
        {
            **_CLEAN,
            "network": _NETWORK,
            "optimiser": _OPTIMISER,
            "data": {"flip": False},
            "budget": {"images": 100_000},
            "snapshot_every": 20_000,
            "validate_every": 20_000,
            "log_every": 200,
            "preview": 40,
        },
    ),
    "small": Preset(
        "for small images of anything: an hour on a laptop's CPU",
        {
            **_CLEAN,
            "network": _NETWORK,
            "optimiser": _OPTIMISER | {"ema_halflife": 50_000},
            "budget": {"images": 600_000},
            "snapshot_every": 20_000,
            "validate_every": 20_000,
            "log_every": 200,
            "preview": 36,
        },
    ),
    "small-64": Preset(
        "for photos at 64x64: an hour on a laptop's CPU (untuned)",
        {
            # At 64x64 the network sees a grid of 16x16 patches, as `mnist` does at 32x32.
            "network": _NETWORK | {"width": 64, "patch": 4, "head_width": 32},
            **_CLEAN,
            "optimiser": _OPTIMISER | {"lr": 1e-3, "ema_halflife": 50_000},
            "budget": {"images": 300_000},
            "snapshot_every": 20_000,
            "validate_every": 20_000,
            "log_every": 200,
            "preview": 36,
        },
    ),
    "cifar10": Preset(
        "the CIFAR-10 network and training of Ho et al. (2020), 35,746,307 parameters, for a GPU",
        {},
        unconditional=True,
    ),
    "cifar10-fast": Preset(
        "CIFAR-10 and its like in 10 to 40 minutes of an H100 or H200 (not measured)",
        # docs/networks.md has the reasons. The arithmetic is that of `cifar10`, so that its
        # published curve of FID against images seen is one to compare with.
        {
            "network": {
                "multipliers": [1, 2, 2],
                "blocks": ["res,res", _TWO, _TWO],
                "head_width": 64,
                "modulation": "scale-shift",
            },
            "diffusion": {"schedule": "edm", "parameterisation": "edm"},
            "objective": {"noise_levels": "log-normal"},
            "optimiser": {
                "batch": 512,
                "lr": 1e-3,
                "warmup": 250_000,
                "decay": 0.5,
                "betas": [0.9, 0.99],
                "ema_halflife": 500_000,
            },
            "budget": {"images": 20_000_000},
            "snapshot_every": 2_500_000,
            "validate_every": 2_500_000,
            "log_every": 25_000,
            "preview": 40,
        },
    ),
    "iddpm-cifar10": Preset(
        "those of Nichol & Dhariwal (2021), with learned variance, 52,546,438 parameters",
        {
            "network": {
                "blocks": ["res,res,res", _THREE, _THREE, "res,res,res"],
                "heads": 4,
                "modulation": "scale-shift",
                "dropout": 0.3,
                "learned_variance": True,
            }
            | _OPENAI
            | {"padding": "around"},
            "diffusion": {"schedule": "cosine", "timesteps": 4000, "time_scale": 0.25},
            "optimiser": {"lr": 1e-4, "warmup": 0, "clip": None},
            "budget": {"images": 64_000_000},
        },
        unconditional=True,
    ),
    "edm-cifar10": Preset(
        "the DDPM++ and training of Karras et al. (2022), 55,733,891 parameters",
        {
            "network": {
                "multipliers": [2, 2, 2],
                "blocks": [_FOUR, "res,attn," * 3 + "res,attn", _FOUR],
                "up_blocks": [f"{_FOUR},res", f"{_FOUR},res,attn", f"{_FOUR},res"],
                "resample": "res",
                "resample_skip": True,
                "skip_scale": 0.5**0.5,
                "dropout": 0.13,
            },
            "diffusion": {"schedule": "edm", "parameterisation": "edm"},
            "objective": {"noise_levels": "log-normal"},
            "optimiser": {
                "batch": 512,
                "lr": 1e-3,
                "warmup": 10_000_000,
                "ema_halflife": 500_000,
                "clip": None,
            },
            "data": {"augment": 0.12},
            "budget": {"images": 200_000_000},
        },
        unconditional=True,
    ),
    "adm-64": Preset(
        "the ImageNet-64 network of Dhariwal & Nichol (2021), 295,904,454 parameters for 1,000 "
        "classes, without a null class",
        {
            "network": {
                "width": 192,
                "multipliers": [1, 2, 3, 4],
                "blocks": ["res,res,res", _THREE, _THREE, _THREE],
                "head_width": 64,
                "modulation": "scale-shift",
                "resample": "res",
                "learned_variance": True,
                "null_class": False,
            }
            | _OPENAI,
            "diffusion": {"schedule": "cosine"},
            "optimiser": {"batch": 2048, "lr": 3e-4, "warmup": 0, "class_drop": 0, "clip": None},
            "budget": {"images": 1_100_000_000},
        },
    ),
    "celeba-64": Preset(
        "the network for CelebA at 64x64 of Song et al. (2021, DDIM), 78,700,803 parameters",
        {
            "network": {
                "multipliers": [1, 2, 2, 2, 4],
                "blocks": ["res,res", "res,res", "res,attn,res,attn", "res,res", "res,res"],
            },
            "budget": {"images": 64_000_000},
        },
        unconditional=True,
    ),
    "photos-64": Preset(
        "for folders of some ten thousand photos at 64x64, such as Animals-10, on a GPU (untuned)",
        {
            "network": {
                "multipliers": [1, 2, 3, 4],
                "blocks": ["res,res", "res,res", _TWO, _TWO],
                "head_width": 64,
                "modulation": "scale-shift",
                "resample": "res",
            },
            "diffusion": {"schedule": "cosine", "parameterisation": "v"},
            "optimiser": {"lr": 1e-4, "warmup": 500_000, "ema_halflife": 500_000},
            "budget": {"images": 10_000_000},
            "snapshot_every": 250_000,
            "validate_every": 250_000,
            "log_every": 2_500,
            "preview": 40,
        },
    ),
    "jit-s/4-32": Preset(
        "a transformer on 4x4 patches of small images, as JiT of Li & He (2025) but smaller, "
        "for a GPU (untuned, not measured)",
        {
            "network": _TRANSFORMER | {"bottleneck": 32},
            **_JIT,
            "optimiser": {
                "batch": 256,
                "lr": 2e-4,
                "warmup": 250_000,
                "betas": [0.9, 0.95],
                "ema_halflife": 500_000,
            },
            **_FOR_A_GPU,
        },
    ),
    "dit-s/4-32": Preset(
        "the transformer DiT-S/4 of Peebles & Xie (2023) on the pixels of small images, with "
        "learned variance, for a GPU (untuned, not measured)",
        {
            "network": _TRANSFORMER
            | _DIT
            | {"bottleneck": None, "context_tokens": 0, "learned_variance": True},
            "optimiser": {"batch": 256, "lr": 1e-4, "warmup": 0, "clip": None},
            **_FOR_A_GPU,
        },
    ),
}

# Defaults that follow from a schedule of continuous noise levels.
SCHEDULE_DEFAULTS: dict[str, dict[str, Any]] = {
    "edm": {
        "diffusion": {"parameterisation": "edm"},
        "objective": {"noise_levels": "log-normal"},
    },
    "flow": {"diffusion": {"parameterisation": "flow"}},
}

# Sizes with which a network of another family begins than that of the settings beneath.
FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "unet": {},
    "transformer": _TRANSFORMER | {"bottleneck": 32},
}


def preset(name: str) -> Preset:
    """The preset of that name."""
    one_of("--preset", name, PRESETS)
    return PRESETS[name]


def learning_rate(name: str) -> float:
    """The learning rate of the preset of that name; the default one for "" (no preset)."""
    settings = preset(name).settings if name else {}
    return merged(RunConfig(), settings).optimiser.lr


def merged(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """The config under these settings, some of which replace others that belong to them.

    A continuous schedule brings its own parameterisation and noise levels, another
    parameterisation, loss or weighting replaces the weighting with its details, one limit of the
    budget replaces all others, new blocks replace the decoder, which follows them, and another
    family of networks replaces all that is of the network, but not of the images.
    """
    parts = {name: part for name, part in settings.items() if isinstance(part, dict)}
    replaced = dict(SCHEDULE_DEFAULTS.get(str(parts.get("diffusion", {}).get("schedule")), {}))
    chosen = replaced.get("diffusion", {}) | parts.get("diffusion", {}) | parts.get("objective", {})
    learns_variance = parts.get("network", {}).get("learned_variance", False)
    if _has_other_weighting(config, chosen, learns_variance=learns_variance):
        plain = {"weighting": "plain", "weighting_gamma": None, "weighting_k": 1.0}
        replaced["objective"] = replaced.get("objective", {}) | plain
    if any(limit is not None for limit in parts.get("budget", {}).values()):
        replaced |= {"budget": dict.fromkeys(field.name for field in fields(Budget))}
    if parts.get("network", {}).get("blocks"):
        replaced |= {"network": {"up_blocks": []}}
    family = parts.get("network", {}).get("family", config.network.family)
    if family != config.network.family and family in FAMILY_DEFAULTS:  # others are refused later
        replaced |= {"network": _beginning(family)}
    return updated(updated(config, replaced), settings)


def _has_other_weighting(
    config: RunConfig, chosen: dict[str, Any], *, learns_variance: bool
) -> bool:
    """Whether the weighting of the loss does not go with what is chosen.

    It goes with a parameterisation and a loss; a learned one with every loss of one term.
    """
    current = {
        "parameterisation": config.diffusion.parameterisation,
        "loss": config.objective.loss,
        "weighting": config.objective.weighting,
    }
    now = current | {name: chosen[name] for name in current.keys() & chosen.keys()}
    if current["weighting"] == now["weighting"] == "learned":
        return learns_variance or now["loss"] in ("vlb", CONSISTENCY)
    return now != current


def _beginning(family: str) -> dict[str, Any]:
    """The settings of a network but for its images and conditions, as its family begins."""
    of_images = {field.name for field in fields(NetworkInputs)}
    defaults = {f.name: f.default for f in fields(NetworkConfig) if f.name not in of_images}
    return defaults | {"family": family} | FAMILY_DEFAULTS[family]
