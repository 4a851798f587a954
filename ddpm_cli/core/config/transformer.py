"""The settings of the transformer: those of DiT, of JiT, and between them."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_cli.core.config.fields import channels_above_zero, choice, number, setting
from ddpm_cli.core.config.network_inputs import Architecture
from ddpm_cli.core.errors import UsageError

_PANEL = "Network"


@dataclass(frozen=True)
class TransformerSettings(Architecture):
    """A transformer over the patches of an image; by default as JiT (Li & He 2025).

    DiT (Peebles & Xie 2023) has the norm "layer", the MLP "gelu", positions "sin-cos", and neither
    a bottleneck, normalised queries and keys, nor context tokens.
    """

    SPELLED = "a transformer"

    depth: int = setting(
        12, "Blocks of a transformer.", unit="blocks", panel=_PANEL, check=number(most=1000)
    )
    bottleneck: int | None = setting(
        128,
        "Channels that a transformer narrows each patch to before it widens it to --width.",
        unit="channels",
        panel=_PANEL,
        check=channels_above_zero,
    )
    context_tokens: int = setting(
        8,
        "Tokens of the class that a transformer's patches attend to, from a third of its depth on; "
        "0: the class modulates its blocks alone.",
        unit="tokens",
        panel=_PANEL,
        check=number(zero=True, most=1024),
    )
    positions: str = setting(
        "both",
        "How a transformer's tokens have their positions: rope (rotated queries and keys), sin-cos "
        "(added to the tokens, as DiT) or both (as JiT).",
        check=choice("rope", "sin-cos", "both"),
    )
    norm: str = setting(
        "rms",
        "Normalisation in a transformer: rms (with learned scales) or layer (without, as DiT).",
        check=choice("rms", "layer"),
    )
    qk_norm: bool = setting(True, "Normalise the queries and keys of each head of a transformer.")
    mlp: str = setting(
        "swiglu",
        "MLP of a transformer's blocks: swiglu or gelu (as DiT), of as many weights.",
        check=choice("swiglu", "gelu"),
    )
    encoding_width: int = setting(
        256,
        "Sines and cosines that encode the noise level for a transformer.",
        check=channels_above_zero,
    )

    @property
    def context_from(self) -> int:
        """The first block that has context tokens: JiT's 4 of 12, 8 of 24 and 10 of 32."""
        return self.depth // 3

    def own_size_multiple(self) -> int:
        """A patch."""
        return self.patch

    def own_encoding_dim(self) -> int:
        """As set."""
        return self.encoding_width

    def own_embedding_dim(self) -> int:
        """A token's width."""
        return self.width

    def own_summary(self) -> tuple[str, str]:
        """Width and patch; the number of blocks and their heads."""
        network = f"transformer of {self.width} channels, on patches of {self.patch} pixels"
        return network, f"{self.depth}, attention of {self.heads_of(self.width)} heads"

    def check_conditions(self) -> None:
        """Its blocks attend to captions where there are any."""

    def check_architecture(self) -> None:
        """Raise UsageError for widths and heads that make no transformer."""
        self.check_heads(self.width, "a token")
        head = self.width // self.heads_of(self.width)
        if self.positions != "sin-cos" and head % 4:
            raise UsageError(
                f"a head of {head} channels cannot be rotated by rows and by columns, which takes "
                "a multiple of 4; use another --width or --heads"
            )
        if self.positions != "rope" and self.width % 4:
            raise UsageError(
                f"a token of {self.width} channels cannot be sines and cosines of its row and its "
                "column, which takes a multiple of 4; use another --width"
            )
        if self.encoding_width % 2:
            raise UsageError(
                f"encoding_width {self.encoding_width} should be even: half sines and half cosines"
            )
        if self.classes and self.context_tokens and self.embedding_width not in (None, self.width):
            raise UsageError(
                "context tokens are made of the class embedding, so --embedding-width is --width; "
                "leave it out, or give --context-tokens 0"
            )
