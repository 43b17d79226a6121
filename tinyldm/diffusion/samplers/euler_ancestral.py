"""Euler's method with part of the noise drawn anew in each step."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion.samplers.base import NoiseSource, VarianceExplodingSampler, draw_noise


class EulerAncestral(VarianceExplodingSampler):
    r"""Ancestral sampling in k-diffusion's form (K. Crowson, `sample_euler_ancestral`), after Song et al. (2021).

    An Euler step to a level $\sigma_{down}$ below the next one, then fresh noise that lifts it there:
    $\sigma_{up}^2 = \sigma_{i+1}^2 (\sigma_i^2 - \sigma_{i+1}^2) / \sigma_i^2$, the variance of the posterior (arXiv
    2011.13456, eq. 47), and $\sigma_{down}^2 = \sigma_{i+1}^2 - \sigma_{up}^2$.
    """

    scheduler_class = "EulerAncestralDiscreteScheduler"

    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """See `Sampler.step`."""
        sigma, sigma_next = self.sigma_at(i, z), self.sigma_at(i + 1, z)
        sigma_up = np.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
        sigma_down = np.sqrt(sigma_next**2 - sigma_up**2)
        d = (z - self.denoised(output, i, z)) / sigma
        # Noise is drawn in the last step too, where it is multiplied by 0: the stream moves on as in the original.
        return z + d * (sigma_down - sigma) + draw_noise(rng, z, "euler_a") * sigma_up
