"""Where the settings of a training come from, as lines, as comments and as a document."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

from ddpm_cli import __version__
from ddpm_cli.cli.options.groups import SettingOptions
from ddpm_cli.core.config import environment
from ddpm_cli.core.config.fields import Setting, in_a_line, shortened
from ddpm_cli.core.config.request import OF_A_RUN

if TYPE_CHECKING:
    from ddpm_cli.core.training.preparation.origins import Origin
    from ddpm_cli.core.training.preparation.planning import TrainingPlan

_WIDTH = 48  # columns of a value
_GIVEN = ("option ", "environment ")  # how their sources begin


@dataclass(frozen=True)
class Call:
    """An option that was given and is no setting of a run."""

    setting: Setting
    value: Any

    @property
    def source(self) -> str:
        """The option, or the environment variable that stands in for it."""
        positive, _, negative = self.setting.option.partition("/")
        variable = environment.variable_of(positive, None)
        words = {word.partition("=")[0] for word in sys.argv[1:]}
        if variable and environment.value(variable) and not words & {positive, negative}:
            return f"environment {variable}"
        return f"option {negative if self.value is False else positive}"

    @property
    def words(self) -> list[str]:
        """As it is written on a command line."""
        positive, _, negative = self.setting.option.partition("/")
        if isinstance(self.value, bool):
            return [positive if self.value else negative]
        several = isinstance(self.value, tuple | list)
        text = ",".join(map(str, self.value)) if several else str(self.value)
        return [positive, _quoted(f"{self.value:g}" if isinstance(self.value, float) else text)]


Calls = Sequence[Call]


def calls(*groups: SettingOptions) -> Calls:
    """The options given in these groups that are no settings of a run."""
    return [
        Call(setting, value)
        for group in groups
        for setting in group.settings
        if setting.path[0] not in OF_A_RUN
        and (value := _given(group.nested(), setting)) is not None
    ]


def _given(nested: Any, setting: Setting) -> Any:
    for name in setting.path:
        nested = nested.get(name) if isinstance(nested, Mapping) else None
    return nested


def heading(plan: TrainingPlan, given: Calls) -> str:
    """The comment above a printed config: what it is, and the command that takes it."""
    words = ["ddpm", "train", "--config", "FILE.toml", *(w for call in given for w in call.words)]
    from_preset = f", of the preset {plan.preset}" if plan.preset else ""
    return (
        f"# A training of ddpm {__version__}{from_preset}. To make this run:\n"
        f"#   {' '.join(words)}\n"
        '# A setting that may be without a value, and is, says "none".\n'
    )


def remarks(plan: TrainingPlan) -> dict[str, str]:
    """By a setting's name, where it comes from, if not from the preset and not by default."""
    return {n: o.source for n, o in plan.origins.items() if o.source not in _usual(plan)}


def origins(plan: TrainingPlan, given: Calls) -> dict[str, Origin]:
    """Those of the run's settings, and of the options of this call."""
    from ddpm_cli.core.training.preparation.origins import Origin

    of_call = {call.setting.name: Origin(call.value, call.source) for call in given}
    return {**plan.origins, **of_call}


def origin_lines(plan: TrainingPlan, found: Mapping[str, Origin]) -> Iterator[str]:
    """A line a setting that an option set, or that differs from the preset's; then what is left.

    The last line counts the others. A run that is continued stands in for the preset.
    """
    shown = {n: o for n, o in found.items() if not o.usual or o.source.startswith(_GIVEN)}
    if shown:
        yield "Settings:"
    texts = {_text(name, origin): origin.source for name, origin in shown.items()}
    width = max(map(len, texts), default=0)
    yield from (f"  {text:{width}}  {in_a_line(source)}" for text, source in texts.items())
    usual = plan.preset_because or "those of the run"
    if plan.preset:
        usual = f"those of the preset {plan.preset} or the defaults"
    counts = Counter(o.source for n, o in found.items() if n not in shown)
    named = [
        f"{count} from {in_a_line(source)}"
        for source, count in counts.items()
        if source not in _usual(plan) and plan.preset
    ]
    also = f" ({', '.join(named)})" if named else ""
    yield f"  {counts.total()} more are {usual}{also}; all of them: --print-config, or --json"


def as_document(found: Mapping[str, Origin]) -> dict[str, Any]:
    """All of them as `--json` has them."""
    return {
        name: {
            "value": origin.value if isinstance(origin.value, _JSON) else str(origin.value),
            "from": origin.source,
        }
        for name, origin in found.items()
    }


_JSON = (str, int, float, bool, list, tuple, type(None))


def _usual(plan: TrainingPlan) -> set[str]:
    return {"default", f"preset {plan.preset}"}


def _quoted(text: str) -> str:
    """As a shell reads it, in a line."""
    if text.isprintable():
        return quote(text)
    return "$'" + text.encode("unicode_escape").decode().replace("'", "\\'") + "'"


def _text(name: str, origin: Origin) -> str:
    value = origin.value
    if isinstance(value, tuple):
        value = [*value]
    shown = value if isinstance(value, _JSON) else str(value)
    return f"{name} = {shortened(shown, _WIDTH)}"
