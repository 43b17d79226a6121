"""Euler's method with part of the noise drawn anew in each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tinyldm.diffusion.config import ZeroSNR
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import SigmaConfig, VarianceExplodingSampler
from tinyldm.diffusion.types import Array, NoiseSource, Predict


@register
class EulerAncestral(VarianceExplodingSampler):
    r"""Ancestral sampling in k-diffusion's form (K. Crowson, `sample_euler_ancestral`), after Song et al. (2021).

    An Euler step to a level $\sigma_{down}$ below the next one, then fresh noise that lifts it there:
    $\sigma_{up}^2 = \sigma_{i+1}^2 (\sigma_i^2 - \sigma_{i+1}^2) / \sigma_i^2$, the variance of the posterior (arXiv
    2011.13456, eq. 47), and $\sigma_{down}^2 = \sigma_{i+1}^2 - \sigma_{up}^2$.
    """

    name = "euler_a"
    aliases = ("euler_ancestral", "euler_ancestral_discrete")
    scheduler_class = "EulerAncestralDiscreteScheduler"
    summary = "Euler with fresh noise at every step"

    @dataclass(frozen=True)
    class Config(SigmaConfig, ZeroSNR):
        """See `SigmaConfig`."""

        prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """See `Sampler.step`."""
        sigma, sigma_next = self.sigma(i), self.sigma(i + 1)
        sigma_up = sigma_next * math.sqrt(sigma**2 - sigma_next**2) / sigma
        sigma_down = math.sqrt(sigma_next**2 - sigma_up**2)
        x0 = self.denoised(predict, z, sigma, self.timesteps[i])
        d = (z - x0) / sigma
        # Noise is drawn in the last step too, where it is multiplied by 0: the stream moves on as in the original.
        return z + d * (sigma_down - sigma) + self.draw_noise(rng, z) * sigma_up
