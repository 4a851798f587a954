"""What a tracker's process tells the training: a JSON line each, without passwords."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator
from typing import Literal

from ddpm_cli.core.errors import first_line

_SLOW = 60.0  # seconds after which it is said that a tracker does not answer
_USER = re.compile(r"(?<=://)[^/?#\s]*@")  # and a password, in an address
_SECRET = re.compile(r"(^|_)(KEY|TOKEN|PASSWORD|SECRET)$")  # at the end of a variable's name
_SHORTEST = 8  # characters of a secret: fewer may be a word

Kind = Literal["where", "failed", "behind", "caught up"]
"""Of a message; after "behind" the tracker tries again."""


class Telling:
    """What writes messages to standard output, which becomes standard error for everything else."""

    def __init__(self) -> None:
        self._output = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._behind = False
        os.dup2(2, 1)

    def __call__(self, kind: Kind, text: str = "") -> None:
        """Write a message; that a tracker has caught up only if it was behind."""
        if kind == "caught up" and not self._behind:
            return
        if kind in ("behind", "caught up"):
            self._behind = kind == "behind"
        with contextlib.suppress(OSError):  # the training is gone
            print(json.dumps([kind, without_secrets(text)]), file=self._output, flush=True)

    @contextlib.contextmanager
    def slowly(self, what: str) -> Iterator[None]:
        """Say so where the block takes long."""
        text = f"{what} takes more than {_SLOW:.0f} s"
        timer = threading.Timer(_SLOW, self, ("behind", text))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def reason(error: Exception) -> str:
    """The first line of an error, without secrets, also where it is cut."""
    text = without_secrets(str(error))
    return first_line(Exception(text)) if text.strip() else first_line(error)


def without_secrets(text: str) -> str:
    """A text without users and passwords in addresses, nor the values of variables that hold keys.

    Those are the environment's whose names end in KEY, TOKEN, PASSWORD or SECRET.
    """
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"${name}")
    return _USER.sub("", text)
