"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinyldm.diffusion.config import ZeroSNR
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import Churn, SigmaConfig, VarianceExplodingSampler, churned
from tinyldm.diffusion.types import Array, NoiseSource, Predict


@register
class Euler(VarianceExplodingSampler):
    r"""Karras et al. (2022), arXiv 2206.00364, Algorithm 2 without its second-order correction.

    $\frac{dz}{d\sigma} = \frac{z - x_0}{\sigma}$ is followed in a straight line from $\sigma_i$ to $\sigma_{i+1}$.
    """

    name = "euler"
    aliases = ("euler_discrete",)
    scheduler_class = "EulerDiscreteScheduler"
    summary = "a straight line along the ODE at every step"

    @dataclass(frozen=True)
    class Config(SigmaConfig, ZeroSNR, Churn):
        """Fields of noise levels and of churn."""

        interpolation_type: Literal["linear"] = "linear"
        timestep_type: Literal["discrete"] = "discrete"

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        z, sigma, t = churned(self, i, z, self.timesteps[i], rng)
        d = self.slope(predict, z, sigma, t)
        return z + d * (self.sigma(i + 1) - sigma)
