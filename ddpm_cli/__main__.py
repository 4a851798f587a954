"""`python -m ddpm_cli` is `ddpm`, so that `torchrun -m ddpm_cli train …` works too."""

from ddpm_cli.cli.app import main

if __name__ == "__main__":
    main()
