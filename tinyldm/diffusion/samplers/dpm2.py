"""DPM2: DPM-Solver's second-order method, as k-diffusion writes it, with and without fresh noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import Ancestral, Churn, churned, split_noise
from tinyldm.diffusion.samplers.two_calls import MiddleCall, MiddleCallConfig
from tinyldm.diffusion.types import Array, NoiseSource, Predict, Timesteps


class KDPM2(MiddleCall):
    """What both share."""

    def make_levels(self) -> tuple[Array, Timesteps]:
        """Noise levels and timesteps; the timesteps of Karras levels are rounded, as published."""
        levels, timesteps = super().make_levels()
        return levels, np.round(timesteps) if self.config.chosen_schedule() == "karras" else timesteps


@register
class DPM2(KDPM2):
    r"""Lu et al. (2022), "DPM-Solver", arXiv 2206.00927, Algorithm 1, in the noise levels of Karras et al.

    An Euler step to the middle of the step in $\log\sigma$, $\sqrt{\sigma_i \sigma_{i+1}}$, and the whole step along
    the slope found there (K. Crowson, k-diffusion `sample_dpm_2`).
    """

    name = "dpm2"
    aliases = ("dpm_2", "kdpm2", "kdpm2_discrete")
    scheduler_class = "KDPM2DiscreteScheduler"
    summary = "second order: the slope in the middle of the step"

    @dataclass(frozen=True)
    class Config(MiddleCallConfig, Churn):
        """Fields of noise levels and of churn."""

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        z, sigma, t = churned(self, i, z, self.calls_of(i)[0], rng)
        sigma_next = self.sigma(i + 1)
        d = self.slope(predict, z, sigma, t)
        if sigma_next == 0:
            return z + d * (sigma_next - sigma)
        middle = math.sqrt(sigma * sigma_next)
        t_middle = self.calls_of(i)[1] if sigma == self.sigma(i) else self.timestep_of(middle)
        d = self.slope(predict, z + d * (middle - sigma), middle, t_middle)
        return z + d * (sigma_next - sigma)


@register
class DPM2Ancestral(KDPM2):
    """DPM2 to a level below the next one, then fresh noise (K. Crowson, k-diffusion `sample_dpm_2_ancestral`)."""

    name = "dpm2_a"
    aliases = ("dpm_2_ancestral", "dpm2_ancestral", "kdpm2_ancestral", "kdpm2_ancestral_discrete", "kdpm2_a")
    scheduler_class = "KDPM2AncestralDiscreteScheduler"
    summary = "DPM2 with fresh noise at every step"

    @dataclass(frozen=True)
    class Config(MiddleCallConfig, Ancestral):
        """Fields of noise levels and of fresh noise."""

    config: Config

    def target(self, i: int) -> float:
        """The level that step `i` goes to before the fresh noise."""
        return split_noise(self.sigma(i), self.sigma(i + 1), self.config.eta)[0]

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        sigma = self.sigma(i)
        sigma_down, sigma_up = split_noise(sigma, self.sigma(i + 1), self.config.eta)
        t, *t_middle = self.calls_of(i)
        d = self.slope(predict, z, sigma, t)
        if sigma_down == 0:
            return z + d * (sigma_down - sigma)
        d = self.slope(predict, z + d * (self.middle(i) - sigma), self.middle(i), t_middle[0])
        z = z + d * (sigma_down - sigma)
        return z + (self.config.s_noise * sigma_up) * self.draw_noise(rng, z)
