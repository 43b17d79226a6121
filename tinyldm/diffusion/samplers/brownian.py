"""Noise for stochastic samplers from one Brownian path in the noise level, for each picture or for the whole batch."""

from __future__ import annotations

import math

import numpy as np

from tinyldm.diffusion.brownian import BrownianTree, brownian_halves
from tinyldm.diffusion.samplers.sigma import SigmaSampler
from tinyldm.diffusion.types import Array, NoiseSource


class BrownianNoise:
    """Normals for steps between noise levels: the path's increment over the root of the step's length.

    `seed`, if there is one, is that of a path for the whole batch. Otherwise the generators' own seeds are taken: of
    each picture's generator for its picture. `halving` computes the path: this one, or its compiled twin.
    """

    def __init__(self, seed: int | None = None):
        self.seed, self.halving = seed, brownian_halves
        self.trees: list[BrownianTree] = []

    def between(
        self, sampler: SigmaSampler, rng: NoiseSource | None, z: Array, sigma: float, sigma_next: float
    ) -> Array:
        """Standard normals of the shape and dtype of `z` for the step from one level down to another."""
        if not self.trees:
            self.trees = self.plant(sampler, rng, z)
        # The path runs up in sigma, the step down.
        drawn = [-tree(sigma_next, sigma) for tree in self.trees]
        noise = np.concatenate(drawn).reshape(z.shape)
        return noise / math.sqrt(sigma - sigma_next)

    def plant(self, sampler: SigmaSampler, rng: NoiseSource | None, z: Array) -> list[BrownianTree]:
        """The tree of the batch, or those of its pictures."""
        seeds = [self.seed] if self.seed is not None else getattr(rng, "seeds", None)
        if seeds is None:
            # A generator without a seed to tell: some of its bits.
            seeds = [abs(int(sampler.draw_noise(rng, z[:1]).ravel()[0] * 2**24))]
        shape = z.shape if len(seeds) == 1 else z.shape[1:]
        levels = sampler.sigmas[sampler.sigmas > 0]
        ends = float(levels.min()), float(levels.max())
        return [BrownianTree(*ends, shape, seed, z.dtype, self.halving) for seed in seeds]
