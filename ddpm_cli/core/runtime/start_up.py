"""What the program sets for its whole process, and a library leaves to its host. Imports no torch.

The garbage collector would go through all modules again and again while they are imported, and once
more at the end: a fifth of a short command.
"""

from __future__ import annotations

import gc
import os

from ddpm_cli.core.runtime import threads


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
