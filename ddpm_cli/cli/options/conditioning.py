"""Options that say what pictures show: what `train` learns of it, and what is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli.options.groups import given

if TYPE_CHECKING:
    from ddpm_cli.core.conditioning.requests import ConditionRequest

_PANEL = "Conditions"


@dataclass(frozen=True)
class ConditionOptions:
    """What is learned of what pictures show."""

    unconditional: Annotated[
        bool | None,
        typer.Option(
            "--unconditional/--conditional",
            help="Ignore the classes, or learn them.",
            rich_help_panel=_PANEL,
            show_default="learn them, unless captions are learned or the preset says otherwise",
        ),
    ] = None
    captions: Annotated[
        bool | None,
        typer.Option(
            help="Learn captions, for --prompt: those of a .txt beside each image (a line a "
            "caption), or of captions.csv (file,caption) or metadata.jsonl (file_name, text) at "
            "the top. The shapes have their own.",
            rich_help_panel=_PANEL,
            show_default="where they lie beside the images, unless the preset says otherwise",
        ),
    ] = None
    caption: Annotated[
        list[str] | None,
        typer.Option(
            help='Make captions of class names: "a photo of a {class}". Repeat for several, of '
            "which one is shown each time.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="What reads captions: bytes (a small transformer that learns along), or a frozen "
            "CLIP text model or T5 encoder: its folder, or its name on the Hugging Face hub.",
            rich_help_panel=_PANEL,
            show_default="bytes",
        ),
    ] = None
    text_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Bytes (a frozen encoder's tokens) of the longest caption.",
            rich_help_panel=_PANEL,
            show_default="128",
        ),
    ] = None
    class_drop: Annotated[
        float | None,
        typer.Option(
            help="Share of classes and captions hidden in training, which is what makes --guidance "
            "possible.",
            rich_help_panel=_PANEL,
            show_default="0.1",
        ),
    ] = None

    @property
    def conditional(self) -> bool | None:
        """Whether classes are asked for."""
        return None if self.unconditional is None else not self.unconditional

    @property
    def captioned(self) -> bool | None:
        """Whether captions are asked for; those made of class names are."""
        return True if self.caption and self.captions is None else self.captions

    def network(self) -> dict[str, Any]:
        """The settings of NetworkConfig that were given."""
        text = given(encoder=self.text_encoder, length=self.text_length)
        return {"text": text} if text else {}

    def data(self) -> dict[str, Any]:
        """The settings of DataConfig that were given."""
        return given(templates=self.caption)

    def optimiser(self) -> dict[str, Any]:
        """The settings of OptimiserConfig that were given."""
        return given(class_drop=self.class_drop)


@dataclass(frozen=True)
class ShownOptions:
    """What drawn pictures show."""

    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Draw this class, by name or number; cat:8 for eight of it; all of them in turn; "
            "or random ones. Repeat for several in turn.",
            show_default="all, for a model of classes",
        ),
    ] = None
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw what this caption says. Repeat for several in turn.",
            show_default="captions that it was trained on, for a model of captions",
        ),
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text file with a prompt a line: one picture of each, or -n in turn."),
    ] = None
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="Folder of the frozen encoder that the model was trained with, or its name on "
            "the Hugging Face hub.",
            show_default="where it lay in training",
        ),
    ] = None

    @property
    def request(self) -> ConditionRequest:
        """The wish that they are. Raises DdpmError where it cannot be read."""
        from ddpm_cli.core.conditioning.requests import ConditionRequest

        return ConditionRequest.from_options(
            self.classes, self.prompt, self.prompts, self.text_encoder
        )
