"""Latent diffusion in NumPy: text encoder, UNet, autoencoder, schedule and samplers, written to be read.

>>> import tinyldm
>>> model = tinyldm.load()                              # doctest: +SKIP
>>> image = model.text_to_image("red apple", seed=0)[0]  # doctest: +SKIP
"""

__version__ = "0.1.0"
