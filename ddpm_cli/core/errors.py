"""Errors, by exit code.

Each message says what was seen, where, and how to fix it.
"""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from tokenize import TokenError

# Exceptions that reading a damaged file may raise besides OSError: torch's unpickler, zipfile and
# numpy's header parser validate little of their input.
DAMAGED_FILE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TokenError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


_LONGEST, _END = 1000, 300  # characters of a message, and of its end where the middle is left out


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters; its type's name if empty."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def listed(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first `most` of the names, and how many others there are: "a, b and 3 more"."""
    more = len(names) - most
    return separator.join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


class DdpmError(Exception):
    """An error in the user's input, data or machine. The message is one line.

    Line breaks, which a name in it may hold, become spaces, and the middle of a very long message
    is left out.
    """

    exit_code = 1

    def __str__(self) -> str:
        line = " ".join(super().__str__().splitlines())
        return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_END:]}"

    @classmethod
    def of_machine(cls, error: OSError | MemoryError) -> "DdpmError | None":
        """The same in a line: a file that cannot be used, or too little memory.

        None for other errors of the operating system, which may be faults of ours.
        """
        if isinstance(error, MemoryError):
            return cls(f"this machine's memory does not suffice: {first_line(error)}")
        if not isinstance(error.filename, str) or not error.strerror:
            return None
        cut = "…" if len(error.filename) > 200 else ""
        return cls(f"{error.filename[:200]}{cut}: {error.strerror}")


class UsageError(DdpmError):
    """Invalid or contradictory options."""

    exit_code = 2


class DivergedError(DdpmError):
    """The loss or the gradients stopped being finite."""

    exit_code = 3


class PreemptedError(DdpmError):
    """Stopped by a signal or the time limit, after saving (EX_TEMPFAIL: run the command again)."""

    exit_code = 75


class StoppedByUserError(DdpmError):
    """Stopped by Ctrl-C, after saving."""

    exit_code = 130


class WorkersFailedError(DdpmError):
    """Worker processes failed; carries the message and exit code of the first failure.

    The message of a fault of ours holds that process's traceback.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return Exception.__str__(self)
