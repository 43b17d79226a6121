"""Heun's method on the probability-flow ODE: two calls of the model a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyldm.diffusion.config import Beta, Clipping
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import Churn, SigmaConfig, VarianceExplodingSampler, churned
from tinyldm.diffusion.samplers.two_calls import TwoCalls
from tinyldm.diffusion.types import Array, NoiseSource, Predict


@register
class Heun(TwoCalls, VarianceExplodingSampler):
    r"""Karras et al. (2022), arXiv 2206.00364, Algorithm 2.

    A step of Euler's method along the slope $d$, then the same step along the mean of $d$ and the slope at its end. The
    step to a level of zero has no slope at its end and stays Euler's.
    """

    name = "heun"
    aliases = ("heun_discrete",)
    scheduler_class = "HeunDiscreteScheduler"
    summary = "second order: Euler's step, corrected by the slope at its end"

    @dataclass(frozen=True)
    class Config(SigmaConfig, Clipping, Churn):
        """Fields of noise levels and of churn."""

        beta_start: Beta = 0.00085
        beta_end: Beta = 0.012
        clip_sample: bool = False

    def second_timestep(self, i: int) -> np.number:
        """The timestep of the second call of step `i`: that of the next level."""
        last = i + 1 == len(self.visited)
        return self.timestep_of(self.sigma(i + 1)) if last else self.visited[i + 1]

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        t, *t_next = self.calls_of(i)
        z, sigma, t = churned(self, i, z, t, rng)
        sigma_next = self.sigma(i + 1)
        d = self.slope(predict, z, sigma, t)
        end = z + d * (sigma_next - sigma)
        if sigma_next == 0:
            return end
        d_end = self.slope(predict, end, sigma_next, t_next[0])
        return z + (d + d_end) / 2 * (sigma_next - sigma)
