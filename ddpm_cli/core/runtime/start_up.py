"""The garbage collector while the program starts and ends. Imports no torch.

It would go through all modules again and again while they are imported, and once more at the end:
a fifth of a short command. A library leaves it to its host, so only the program begins this.
"""

from __future__ import annotations

import gc


def begin() -> None:
    """Leave garbage alone until `end`, which every command calls after its imports."""
    gc.disable()


def end() -> None:
    """Collect from now on, but never what is there: modules stay. Nothing without a `begin`."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
