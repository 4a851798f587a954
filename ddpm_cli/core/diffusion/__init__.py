"""The diffusion process and its samplers, independent of the network architecture."""
