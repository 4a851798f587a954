"""What networks of every family have in common: their images, conditions, and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ddpm_cli.core.config.fields import (
    Settings,
    above_zero,
    channels_above_zero,
    choice,
    each,
    number,
    setting,
)
from ddpm_cli.core.errors import UsageError

NULL_CLASS = -1  # the label that means "no class"
JOIN, NO_ATTRIBUTE = "+", "none"  # in names of several classes' labels: Smiling+Male, and no class
FAMILIES = ("unet", "transformer")

_PANEL, _CONDITIONS = "Network", "Conditions"


@dataclass(frozen=True)
class TextConfig(Settings):
    """The caption encoder, whose tokens the network attends to."""

    encoder: str = setting(
        "bytes",
        "Caption encoder: bytes (a small transformer, trained with the network), or a frozen CLIP "
        "text model or T5 encoder: its folder, or its name on the Hugging Face hub.",
        panel=_CONDITIONS,
        option="--text-encoder",
    )
    length: int = setting(
        128,
        "Bytes (a frozen encoder's tokens) of the longest caption; longer ones are refused.",
        unit="tokens",
        panel=_CONDITIONS,
        option="--text-length",
        check=number(most=10**6),
    )
    width: int = setting(
        128,
        "Width of the trained transformer, or the frozen encoder's.",
        check=channels_above_zero,
    )
    layers: int = setting(2, "Layers of the trained transformer.", check=number(most=1000))
    heads: int = setting(
        4, "Attention heads of the trained transformer.", check=channels_above_zero
    )
    fingerprint: str = setting("", "Hash of a frozen encoder's weights.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder == "bytes" and self.width % self.heads:
            raise UsageError(
                f"a text width of {self.width} cannot be split into {self.heads} heads"
            )


@dataclass(frozen=True)
class NetworkInputs(Settings):
    """The images of a network, and the conditions beside them."""

    size: tuple[int, int] = setting(
        (32, 32), "Height and width of the images.", unit="pixels", check=each(number(most=2**14))
    )
    channels: int = setting(3, "1 grey, 3 colour, 4 with alpha.", check=choice(1, 3, 4))
    classes: tuple[str, ...] = setting((), "Class names; empty: no class condition.")
    multi_label: bool = setting(
        False, "An image has any number of the classes (attributes), and not one of them."
    )
    text: TextConfig | None = None  # None: no captions
    null_class: bool = setting(True, "A learned embedding of no class, which guidance needs.")
    augmented: bool = setting(
        False, "Condition on augmentation (Karras et al. 2022, appendix F.2); set by --augment."
    )
    given_channels: int = setting(
        0,
        "Channels of an image that the network is given beside its input; set by --given.",
        check=number(zero=True, most=16),
    )
    given_noise: bool = setting(
        False, "Condition on the deviation of the noise in that image; set by --given-noise."
    )
    guidance: bool = setting(
        False, "Condition on the guidance of a teacher; set by ddpm distill --guidance."
    )
    learned_variance: bool = setting(
        False,
        "Learn the variance of sampling steps, too: better likelihoods, and few-step ddpm.",
        panel="Diffusion",
        option="--learned-variance/--fixed-variance",
    )

    @property
    def conditioned(self) -> bool:
        """Whether the network is conditional: on classes or captions."""
        return bool(self.classes) or self.text is not None


@dataclass(frozen=True)
class Architecture(NetworkInputs):
    """The family, and the sizes that mean the same in each."""

    FORMER_NAMES: ClassVar[dict[str, str]] = {"time": "modulation", "time_width": "embedding_width"}
    SPELLED: ClassVar[str] = ""  # the family in messages

    family: str = setting(
        "unet",
        "The family of the network: unet (convolutions, at several resolutions) or transformer "
        "(over patches of the image, as DiT and JiT).",
        panel=_PANEL,
        option="--network",
        check=choice(*FAMILIES),
    )
    width: int = setting(
        128,
        "Channels of the first level, or of a transformer's tokens.",
        unit="channels",
        panel=_PANEL,
        check=channels_above_zero,
    )
    patch: int = setting(
        1,
        "Side of the squares of pixels that are one position to the network: coarser and faster.",
        unit="pixels",
        panel=_PANEL,
        check=number(most=1024),
    )
    heads: int = setting(1, "Heads of attention.", panel=_PANEL, check=channels_above_zero)
    head_width: int | None = setting(
        None,
        "Channels of an attention head, which then decides how many there are.",
        unit="channels",
        panel=_PANEL,
        default_text="by --heads",
        check=channels_above_zero,
    )
    dropout: float = setting(
        0.1,
        "Fraction of activations dropped in training.",
        panel=_PANEL,
        check=number(zero=True, below=1),
    )
    embedding_width: int | None = setting(
        None,
        "Width of the noise level embedding.",
        panel=_PANEL,
        aliases=("--time-width",),
        default_text="4 x --width, a transformer's --width",
        check=channels_above_zero,
    )
    class_width: int | None = setting(
        None,
        "Width of the class embedding.",
        panel=_PANEL,
        default_text="--embedding-width",
        check=channels_above_zero,
    )
    encoding: str = setting(
        "sin-cos",
        "Encoding of c_noise: sin-cos (DDPM) or cos-sin (improved DDPM, ADM).",
        check=choice("sin-cos", "cos-sin"),
    )
    epsilon: float = setting(1e-6, "Epsilon of the normalisation layers.", check=above_zero)

    # What each family says in its own way; NetworkConfig asks the settings of its family.

    def check_architecture(self) -> None:
        """Raise UsageError for widths, heads and levels that make no network of the family."""
        raise NotImplementedError

    def check_conditions(self) -> None:
        """Raise UsageError for parts that attend to a condition that there is not."""
        raise NotImplementedError

    def own_size_multiple(self) -> int:
        """Images are padded to multiples of this many pixels."""
        raise NotImplementedError

    def own_encoding_dim(self) -> int:
        """Sines and cosines of the noise level, of which its embedding is made."""
        raise NotImplementedError

    def own_embedding_dim(self) -> int:
        """Width of the noise level embedding where `embedding_width` does not say it."""
        raise NotImplementedError

    def own_summary(self) -> tuple[str, str]:
        """The network and its blocks in words."""
        raise NotImplementedError

    def heads_of(self, channels: int) -> int:
        """Number of heads of attention over so many channels."""
        return self.heads if self.head_width is None else channels // self.head_width

    def check_heads(self, channels: int, where: str) -> None:
        """Raise UsageError for channels that attention cannot split into its heads."""
        if channels % (self.head_width or self.heads):
            heads, option = f"{self.heads} heads", "--heads"
            if self.head_width is not None:
                heads, option = f"heads of {self.head_width} channels", "--head-width"
            raise UsageError(
                f"{where} of {channels} channels cannot be split into {heads}; use another "
                f"--width or {option}"
            )
