"""What samplers are written in: the arrays, the model as a function, and where noise comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Timesteps = np.ndarray  # int64, or float32 where a sampler visits fractional ones

# The network as a sampler sees it, guidance and conditions included: its raw output for a latent of unit variance and
# a timestep, (N, …), () -> (N, …).
Predict = Callable[[Array, np.number], Array]


class NoiseSource(Protocol):
    """Where a sampler takes noise from: a `TorchGenerator`, `PictureStreams`, or anything with their `randn`."""

    def randn(self, shape: tuple[int, ...]) -> Array:
        """Standard normals of the shape, in the axis order of the latent."""
        ...
