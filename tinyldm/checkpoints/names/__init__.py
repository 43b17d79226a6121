"""Name maps between the layouts that weights are published in.

Models here use the names of the diffusers folder layout, called canonical. The files that the authors of latent
diffusion published use those of their own modules, called original. A map is a list of `Link`s between the two and is
read in either direction; one file for each kind of model.
"""
