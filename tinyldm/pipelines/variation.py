"""Noise that is moved a part of the way to that of another seed: variations, and pictures between two seeds."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion.random import PictureStreams
from tinyldm.diffusion.slerp import slerp
from tinyldm.diffusion.streams import generators
from tinyldm.pipelines.request import Request
from tinyldm.typing import Array


def varied(noise: Array, request: Request, group: range) -> Array:
    """The noise `(N, C, h, w)` of a group's pictures on the way to that of other seeds.

    Of variations as the web interface AUTOMATIC1111 does it, whose pictures are made again so: each column of the
    latent is a vector. Of the pictures on a `way` between two seeds, the whole latent is one.
    """
    generator = generators(request.rng)
    if request.way is not None:
        seed, places = request.way
        amounts = np.array(places)[group.start : group.stop, None, None, None]
        last = generator(seed).randn((1, *noise.shape[1:]))
        return slerp(noise, np.repeat(last.astype(noise.dtype, copy=False), len(noise), 0), amounts, axis=(1, 2, 3))
    first = request.variation_seed or 0
    other = PictureStreams([generator(first + k) for k in group]).randn(noise.shape)
    return slerp(noise, np.asarray(other, noise.dtype), request.variation_strength, axis=2)
