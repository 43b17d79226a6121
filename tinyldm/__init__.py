"""Latent diffusion in NumPy: text encoder, UNet, autoencoder, schedule and samplers, written to be read.

>>> import tinyldm
>>> model = tinyldm.load()                               # doctest: +SKIP
>>> image = model.text_to_image("red apple", seed=0)[0]  # doctest: +SKIP
"""

from tinyldm import golden, random
from tinyldm.errors import CheckpointError, ConfigError, InputError, Stopped, TinyldmError
from tinyldm.pipelines.load import load
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.version import __version__

__all__ = [
    "CheckpointError",
    "ConfigError",
    "InputError",
    "LatentDiffusion",
    "Stopped",
    "TinyldmError",
    "__version__",
    "golden",
    "load",
    "random",
]
