"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion.samplers.base import NoiseSource, VarianceExplodingSampler


class Euler(VarianceExplodingSampler):
    r"""Karras et al. (2022), arXiv 2206.00364, Algorithm 1 without its second-order correction.

    $\frac{dz}{d\sigma} = \frac{z - x_0}{\sigma}$ is followed in a straight line from $\sigma_i$ to $\sigma_{i+1}$.
    """

    scheduler_class = "EulerDiscreteScheduler"

    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """See `Sampler.step`."""
        sigma, sigma_next = self.sigma_at(i, z), self.sigma_at(i + 1, z)
        d = (z - self.denoised(output, i, z)) / sigma
        return z + d * (sigma_next - sigma)
