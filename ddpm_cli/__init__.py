"""ddpm: train, sample and judge pixel-space diffusion models from a shell."""

__version__ = "0.1.0"
