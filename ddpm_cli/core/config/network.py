"""The settings of a network: of all families in one namespace, of which each has its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from ddpm_cli.core.config.fields import settings_of, shortened
from ddpm_cli.core.config.network_inputs import JOIN, NO_ATTRIBUTE, Architecture, NetworkInputs
from ddpm_cli.core.config.transformer import TransformerSettings
from ddpm_cli.core.config.unet import UNetSettings
from ddpm_cli.core.errors import UsageError


def _names(kind: type[NetworkInputs]) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))


SETTINGS: dict[str, type[Architecture]] = {
    "unet": UNetSettings,
    "transformer": TransformerSettings,
}
OF_FAMILY = {family: _names(kind) - _names(Architecture) for family, kind in SETTINGS.items()}
"""The settings of each family alone."""


@dataclass(frozen=True)
class NetworkConfig(TransformerSettings, UNetSettings):
    """The network F(x, c_noise, condition): a U-Net, or a transformer.

    Settings of the other family keep their defaults, and have no effect.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        defaults = {field.name: field.default for field in fields(self)}
        refuse_others(
            self.family, [name for name in self.unused if getattr(self, name) != defaults[name]]
        )
        if self.width % 2:
            raise UsageError(
                f"width {self.width} should be even: the noise level embedding is half sines and "
                "half cosines"
            )
        self.of_family.check_architecture(self)

    @property
    def of_family(self) -> type[Architecture]:
        """The settings of its family, which say what is the family's."""
        return SETTINGS[self.family]

    @property
    def unused(self) -> frozenset[str]:
        """The settings of other families."""
        return frozenset().union(*(OF_FAMILY[other] for other in OF_FAMILY if other != self.family))

    @property
    def size_multiple(self) -> int:
        """Images are padded to multiples of this many pixels."""
        return self.of_family.own_size_multiple(self)

    @property
    def encoding_dim(self) -> int:
        """Sines and cosines of the noise level, of which its embedding is made."""
        return self.of_family.own_encoding_dim(self)

    @property
    def embedding_dim(self) -> int:
        """Width of the noise level embedding, to which the class embedding is added."""
        if self.embedding_width is not None:
            return self.embedding_width
        return self.of_family.own_embedding_dim(self)

    @property
    def summary(self) -> tuple[str, str]:
        """The network and its blocks in words."""
        return self.of_family.own_summary(self)

    def check(self) -> None:
        """Raise UsageError for blocks without the condition that they attend to, and for names."""
        self.of_family.check_conditions(self)
        ambiguous = [name for name in self.classes if JOIN in name or name == NO_ATTRIBUTE]
        if self.multi_label and ambiguous:
            raise UsageError(
                f"an attribute cannot be called {shortened(ambiguous[0])}: --class joins the names "
                f"by {JOIN}, and {NO_ATTRIBUTE} is an image without any"
            )


def refuse_others(family: str, names: Collection[str]) -> None:
    """Raise UsageError for names of settings that another family has, and this one does not."""
    for setting in settings_of(NetworkConfig):
        name = setting.path[-1]
        for other, theirs in OF_FAMILY.items():
            if len(setting.path) == 1 and name in names and name in theirs and other != family:
                option = setting.option.split("/")[0] if setting.info.panel else name
                raise UsageError(
                    f"{option} is of {SETTINGS[other].SPELLED}, and the network is "
                    f"{SETTINGS[family].SPELLED}; "
                    f"leave it out, or give --network {other}"
                )
