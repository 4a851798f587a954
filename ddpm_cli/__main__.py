"""The program `ddpm`; also `python -m ddpm_cli`, so that `torchrun -m ddpm_cli train …` works."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the working folder there: before the other imports


def main() -> None:
    """Run the command line. Until a command handles Ctrl-C, it ends the process silently."""
    _import_nothing_from_the_working_folder()
    import gc
    import signal

    from ddpm_cli.core.runtime import start_up

    start_up.begin()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the imports below take half a second
    from ddpm_cli.cli import app

    try:
        app.main()
    finally:
        gc.freeze()  # the process ends: nothing is worth collecting


def _import_nothing_from_the_working_folder() -> None:
    """Nor in processes that this one starts: a data set's random.py is not Python's.

    An empty entry of PYTHONPATH means the working folder; the others are the user's and stay.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [entry for entry in entries if entry]
    if named == entries:
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(named)
    here = os.path.realpath("")
    if len(entries) > 1 and here not in map(os.path.realpath, named):
        sys.path[:] = [entry for entry in sys.path if entry and os.path.realpath(entry) != here]


if __name__ == "__main__":
    main()
