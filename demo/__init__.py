"""A small text-to-image diffusion model that runs anywhere, and the world of shapes it draws."""
