"""Students of ddpm distill and their teachers, without the command line."""

from __future__ import annotations

from pathlib import Path

import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.consistency import ConsistencyConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.training import initial_weights
from ddpm_cli.core.training.preparation import distilling
from ddpm_cli.core.training.state import TrainingState
from tests.support.training import CONFIG, CPU

CLASSES = updated(CONFIG, {"network": {"classes": ["dark", "light"]}})


def as_student(config: RunConfig, **tuning: object) -> RunConfig:
    """The config of a student of a teacher of this config, over 48 images."""
    learned = ConsistencyConfig(**tuning)  # type: ignore[arg-type]
    return updated(
        config,
        {
            "network": {"guidance": bool(tuning.get("guidance"))},
            "diffusion": {"parameterisation": distilling.student_parameterisation(config, learned)},
            "objective": {
                **{"loss": "consistency", "weighting": "plain"},
                **distilling.noise_levels(learned),
                "consistency": {"stages": 3, "stage_images": 16, **tuning},
            },
            "budget": {"images": 48},
            "snapshot_every": 16,
        },
    )


def saved_teacher(path: Path, config: RunConfig, images: int = 100) -> Path:
    """A weights file of a teacher with random weights."""
    torch.manual_seed(3)
    network = TrainingState.initial(config, CPU.device).network
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights.save(path, network.state_dict(), config, images)
    return path


def begun(file: Path, config: RunConfig) -> TrainingState:
    """The state that a student begins with."""
    state = TrainingState.initial(config, CPU.device)
    initial_weights.load_into(state, initial_weights.read(file, config.network))
    return state
