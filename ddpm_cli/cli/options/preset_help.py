"""The help of `ddpm train`, whose defaults are those of a preset."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ddpm_cli.cli.options.arguments import Command
from ddpm_cli.cli.options.groups import default_shown
from ddpm_cli.core.config.fields import Setting, settings_of
from ddpm_cli.core.config.presets import PRESETS, preset
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated

USUAL = "shapes"  # the preset of plain `ddpm train`


class PresetHelp(Command):
    """A command whose help shows the values of the preset that --preset names, or of `shapes`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the preset: --help ends the command before options are read."""
        ctx.meta["preset"] = _named_preset(args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the preset's values as the defaults."""
        self.show_values_of(ctx.meta["preset"])
        super().format_help(ctx, formatter)

    def show_values_of(self, name: str) -> None:
        """Make the values of the preset of that name the defaults that are shown."""
        config = updated(RunConfig(), preset(name).settings)
        settings = {s.parameter: s for s in settings_of(RunConfig) if s.info.panel is not None}
        for param in self.params:
            if (setting := settings.get(str(param.name))) is not None:
                value = _value(config, setting)
                param.show_default = default_shown(setting, value)  # type: ignore[attr-defined]


def _value(config: Any, setting: Setting) -> Any:
    """The config's value of a setting; its default where the part that holds it is left out."""
    for name in setting.path:
        config = getattr(config, name, None)
    return setting.default if config is None else config


def _named_preset(args: list[str]) -> str:
    for word, following in pairwise([*args, ""]):
        name = following if word == "--preset" else word.removeprefix("--preset=")
        if name in PRESETS and name != word:
            return name
    return USUAL
