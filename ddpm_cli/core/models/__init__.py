"""Networks F(x, c_noise, condition). They know nothing of diffusion."""
