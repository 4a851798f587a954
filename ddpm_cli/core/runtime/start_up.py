"""What the program sets for its whole process, and a library leaves to its host. Imports no torch.

The garbage collector would go through all modules again and again while they are imported, and once
more at the end: a fifth of a short command.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

from ddpm_cli.core.runtime import threads

_PACKAGE = str(Path(__file__).parents[2] / "__init__.py")
_PROGRAM = """\
import importlib, importlib.util, sys
found = importlib.util.spec_from_file_location("ddpm_cli", sys.argv.pop(1))
sys.modules["ddpm_cli"] = package = importlib.util.module_from_spec(found)
found.loader.exec_module(package)
importlib.import_module(sys.argv.pop(1)).main()
"""  # runs this very package, wherever it is, with no folder of it or of the user on sys.path


def program(module: str) -> tuple[str, ...]:
    """Python's arguments, before those of the program, to run `main` of a module of ours."""
    return ("-P", "-c", _PROGRAM, _PACKAGE, module)


def begin() -> None:
    """Before torch is imported: leave garbage alone until `end`, and have threads wait briefly."""
    gc.disable()
    threads.set_waiting(os.environ)
    threads.watch()


def end() -> None:
    """After a command's imports: collect from now on, except what is there; limit the threads.

    Nothing without a `begin`.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
        threads.limit_to_cores()
