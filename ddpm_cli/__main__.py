"""The program `ddpm`; also `python -m ddpm_cli`, so that `torchrun -m ddpm_cli train …` works."""

import signal


def main() -> None:
    """Run the command line. Until a command handles Ctrl-C, it ends the process silently."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the imports below take half a second
    from ddpm_cli.cli import app

    app.main()


if __name__ == "__main__":
    main()
