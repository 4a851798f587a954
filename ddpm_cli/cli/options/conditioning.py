"""Options that say what sampled images should show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli.options.common import CONDITIONS

if TYPE_CHECKING:
    from ddpm_cli.core.conditioning.requests import ConditionRequest


@dataclass(frozen=True)
class ConditionOptions:
    """Classes and prompts of the images to sample."""

    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Sample this class, by name or number; cat:8 for eight of it; all of them in "
            "turn; or random ones. Of a multi-label model Smiling+Male for what has both, none for "
            "what has no attribute. Repeat for several in turn.",
            show_default="all of a model of classes; frequent combinations of a multi-label one",
            rich_help_panel=CONDITIONS,
        ),
    ] = None
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Sample what this caption describes. Repeat for several in turn.",
            show_default="captions that it was trained on, for a model of captions",
            rich_help_panel=CONDITIONS,
        ),
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file with a prompt a line: one image of each, or -n in turn.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="Folder of the frozen encoder that the model was trained with, or its name on "
            "the Hugging Face hub.",
            show_default="where it lay in training",
            rich_help_panel=CONDITIONS,
        ),
    ] = None

    @property
    def request(self) -> ConditionRequest:
        """The request that they are. Raises DdpmError where --prompts cannot be read."""
        from ddpm_cli.core.conditioning.requests import ConditionRequest

        return ConditionRequest.from_options(
            self.classes, self.prompt, self.prompts, self.text_encoder
        )
