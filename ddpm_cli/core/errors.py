"""What can go wrong, by exit code.

Each message says what was seen, where, and how to mend it.
"""

import pickle
import struct
import zipfile
import zlib
from tokenize import TokenError

# What reading a damaged file may raise, beside OSError: torch's unpickler, zip and numpy's headers
# check little of what they are given.
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


def first_line(error: BaseException) -> str:
    """The first line of what an error says, cut to 200 characters; its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


class DdpmError(Exception):
    """Something in the user's input, data or machine is at fault. The message is one line."""

    exit_code = 1


class UsageError(DdpmError):
    """The options contradict each other or cannot be meant."""

    exit_code = 2


class DivergedError(DdpmError):
    """The training's numbers stopped being finite."""

    exit_code = 3


class PreemptedError(DdpmError):
    """A signal asked the training to stop; a snapshot was written (EX_TEMPFAIL: run it again)."""

    exit_code = 75


class StoppedByUserError(DdpmError):
    """Ctrl-C; a snapshot was written."""

    exit_code = 130


class WorkersFailedError(DdpmError):
    """Processes that this one started ended, as the first of them told."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
