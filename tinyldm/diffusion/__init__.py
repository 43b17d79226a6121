"""Noise, schedule and samplers: everything of a diffusion model that is not the network."""
