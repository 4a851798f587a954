"""matplotlib without a display and with its own defaults, whatever the user has configured."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runtime.cache import cache_root


@contextmanager
def defaults() -> Iterator[None]:
    """Draw with matplotlib's default settings, and without its warnings, within a block."""
    rc = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    rc["text.parse_math"] = False  # names of runs and classes are shown as they are, also with $
    with warnings.catch_warnings(), matplotlib.rc_context(rc):
        warnings.simplefilter("ignore")  # a missing glyph, a layout that is too tight
        yield


def _imported() -> Any:
    """The modules matplotlib, its Agg backend and figure.

    Importing matplotlib reads MPLBACKEND and a matplotlibrc, and fails where one is invalid: it is
    then imported without them. Otherwise they remain in effect for other users of this process.
    """
    with _silenced(logging.getLogger("matplotlib")):
        try:
            return _import()
        except Exception:
            try:
                with _unconfigured():
                    return _import()
            except Exception as error:
                raise DdpmError(
                    f"matplotlib, which draws figures, cannot be imported: {first_line(error)}"
                ) from error


def _import() -> Any:
    import matplotlib
    from matplotlib import figure
    from matplotlib.backends import backend_agg

    return matplotlib, backend_agg, figure


@contextmanager
def _unconfigured() -> Iterator[None]:
    """Hide matplotlib's configuration from it: its variables, and files in any folder."""
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        del sys.modules[name]  # left by the import that failed
    exists, before = os.path.exists, dict(os.environ)
    for name in ("MPLBACKEND", "MATPLOTLIBRC"):
        os.environ.pop(name, None)
    os.environ["MPLCONFIGDIR"] = str(cache_root() / "matplotlib")
    try:
        with patch("os.path.exists", lambda path: path != "matplotlibrc" and exists(path)):
            yield
    finally:
        for name in ("MPLBACKEND", "MATPLOTLIBRC", "MPLCONFIGDIR"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


@contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


matplotlib, _backend_agg, _figure = _imported()
FigureCanvasAgg, Figure = _backend_agg.FigureCanvasAgg, _figure.Figure
