"""The mathematics of diffusion. It knows nothing of networks."""
