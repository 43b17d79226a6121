"""Variations of a picture: its noise, moved a part of the way to that of another seed."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion.random import PictureStreams, TorchGenerator
from tinyldm.diffusion.slerp import slerp
from tinyldm.pipelines.request import Request
from tinyldm.typing import Array


def varied(noise: Array, request: Request, group: range) -> Array:
    """The noise `(N, C, h, w)` of a group's pictures on the way to that of their variation seeds.

    As the web interface AUTOMATIC1111 does it, whose pictures are made again so: each column of the latent is a vector.
    """
    first = request.variation_seed or 0
    other = PictureStreams([TorchGenerator(first + k) for k in group]).randn(noise.shape)
    return slerp(noise, np.asarray(other, noise.dtype), request.variation_strength, axis=2)
