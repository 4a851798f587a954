"""A folder for the files of one result: taken before the work, and never of two calls at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.files import cannot_write, create_folder, new_folder
from ddpm_cli.core.runtime.reporting import Reporter


@contextmanager
def results_folder(
    out: Path | None,
    default: Path,
    names: Sequence[str],
    reporter: Reporter,
    option: str = "--out",
    *,
    overwrite: bool = False,
) -> Iterator[Path]:
    """Yield the folder for the results, which is there from now on; removed where it stays empty.

    out: as the option names it; None: the default, or, unless that is to be overwritten, the first
    of DEFAULT-2, DEFAULT-3, … that is free, which is said. names: of the files that will be
    written. Raises DdpmError where the folder holds such a
    file already that is not to be overwritten.
    """
    if out is None and not (overwrite and default.is_dir()):
        folder = new_folder(default)
        if folder != default:
            reporter.say(
                f"{default} is there already: the results go to {folder} (--overwrite replaces "
                f"those there, {option} names another folder)"
            )
    elif not create_folder(folder := default if out is None else paths.expanded(out)):
        if not folder.is_dir():
            raise DdpmError(f"{option} {folder} is there already, and is no folder; choose another")
        there = [name for name in names if (folder / name).exists()]
        if there and not overwrite:
            raise DdpmError(
                f"{folder} holds {there[0]}; choose another {option}, or add --overwrite"
            )
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()  # fails where there are files


def remove_earlier(folder: Path, names: Sequence[str]) -> None:
    """Remove the files of an earlier call, so that what fails half-way leaves no mixture.

    Raises DdpmError where one cannot be removed.
    """
    for path in (folder / name for name in names):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
