"""The settings of sampling that a sweep tries, which are checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ddpm_cli.core.diffusion.settings import NoEffectError, Sampling
from ddpm_cli.core.generation.default_sampling import DefaultSampling, in_words
from ddpm_cli.core.sweep.axes import Axis, Values

OF_SAMPLING = {field.name for field in fields(Sampling)}


@dataclass(frozen=True)
class SweptSettings:
    """What the values of a sweep mean, as settings of Sampling.

    own: those that the weights start from, whatever an earlier sweep found, so that the same
    command has the same settings. held: those that all have where they mean something.
    """

    own: DefaultSampling
    held: Mapping[str, Any]

    def of(self, values: Values) -> dict[str, Any]:
        """Those that are not the usual ones. Raises UsageError where they contradict each other."""
        return self._fitting(values)[0]

    def check(self, axes: Sequence[Axis], every: Sequence[Values]) -> None:
        """Raise UsageError for a setting that has no effect in any, or whose values have none."""
        found = [self._fitting(values) for values in every]
        left = [errors for _, errors in found]
        for name in self.held:
            if all(name in errors for errors in left):
                raise left[0][name]
        for axis in axes:
            reasons = [errors[axis.name] for errors in left if axis.name in errors]
            if reasons and len({getattr(Sampling(**s), axis.name) for s, _ in found}) == 1:
                raise reasons[0]

    def _fitting(self, values: Values) -> tuple[dict[str, Any], dict[str, NoEffectError]]:
        """The settings, and why others are left out."""
        swept = {name: value for name, value in values.items() if name in OF_SAMPLING}
        settings = self.own.settings({**self.held, **swept})
        left = dict[str, NoEffectError]()
        while True:
            try:
                Sampling(**settings)
            except NoEffectError as error:
                names = settings.keys() & error.names
                if not names:
                    raise
                left |= dict.fromkeys(names, error)
                settings = {k: v for k, v in settings.items() if k not in names}
            else:
                return settings, left


def not_taken(default: DefaultSampling, asked: Mapping[str, Any]) -> str | None:
    """What a sweep leaves of the run's default, in a line; None for nothing.

    asked: what it varies, and what options give.
    """
    if default.path is None:
        return None
    left = {name: value for name, value in default.sampling.items() if name not in asked}
    words = [in_words(left)] if left else []
    words += [default.weights] if default.weights is not None and "sigma_rel" not in asked else []
    if not words:
        return None
    left_out = f"{', '.join(words)} ({default.path})"
    return f"a sweep starts without what an earlier one found, {left_out}: options say what holds"
