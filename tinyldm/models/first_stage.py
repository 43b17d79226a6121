"""What every first stage does before it computes: check the shapes of what it is given."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from tinyldm.errors import InputError
from tinyldm.runtime import Runtime


class FirstStage(Protocol):
    """An autoencoder: `config` has `in_channels` and `factor`, the pixels along one side of a latent."""

    runtime: Runtime
    config: Any


def checked(x: np.ndarray, channels: int, name: str, model: FirstStage, component: str = "VAE") -> np.ndarray:
    """`x` in the dtype of the runtime. Raises `InputError` if it is not `(N, channels, height, width)`, or empty."""
    x = np.asarray(x, model.runtime.dtype)
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
        raise InputError(f"{component}: {name} must have the shape (N, {channels}, height, width), not {x.shape}")
    return x


def checked_pixels(pixels: np.ndarray, model: FirstStage, component: str = "VAE") -> np.ndarray:
    """Pictures for the encoder, `checked`. Raises `InputError` too for a size that is not a multiple of the factor."""
    pixels = checked(pixels, model.config.in_channels, "pixels", model, component)
    factor, (height, width) = model.config.factor, pixels.shape[2:]
    if height % factor or width % factor:
        raise InputError(f"{component}: height and width must be multiples of {factor}, not {height} and {width}")
    return pixels
