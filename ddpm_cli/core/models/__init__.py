"""Networks F(x, c_noise, condition), independent of the diffusion process."""
