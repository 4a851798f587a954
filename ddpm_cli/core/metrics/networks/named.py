"""The feature networks with a name: which weights were published, and how they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ddpm_cli.core.config.choices import CLIP_L336, DINOV2_L, INCEPTION
from ddpm_cli.core.metrics.networks import clip, dinov2, inception
from ddpm_cli.core.metrics.networks.network import FeatureNetwork
from ddpm_cli.core.runtime.downloads import RemoteFile


@dataclass(frozen=True)
class NamedNetwork:
    """A network of published weights."""

    published: RemoteFile
    load: Callable[[Path, torch.device, str], FeatureNetwork]  # file, device, option of the file
    same: tuple[str, ...] = ()  # sha256 of other files of the same weights


NETWORKS = {
    INCEPTION: NamedNetwork(inception.PUBLISHED, inception.load_inception),
    DINOV2_L: NamedNetwork(dinov2.PUBLISHED, dinov2.load_dinov2, (dinov2.META_SHA256,)),
    CLIP_L336: NamedNetwork(clip.PUBLISHED, clip.load_clip),
}
