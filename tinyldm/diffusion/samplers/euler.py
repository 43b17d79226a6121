"""Euler's method on the probability-flow ODE, with and without fresh noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinyldm.diffusion.config import ZeroSNR
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import (
    Ancestral,
    Churn,
    SigmaConfig,
    VarianceExplodingSampler,
    churned,
    split_noise,
)
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


@register
class EulerAncestral(VarianceExplodingSampler):
    r"""Ancestral sampling in k-diffusion's form (K. Crowson, `sample_euler_ancestral`), after Song et al. (2021).

    An Euler step to a level $\sigma_{down}$ below the next one, then fresh noise of $\sigma_{up}$ that lifts it there.
    """

    name = "euler_a"
    aliases = ("euler_ancestral", "euler_ancestral_discrete")
    scheduler_class = "EulerAncestralDiscreteScheduler"
    summary = "Euler with fresh noise at every step"

    @dataclass(frozen=True)
    class Config(SigmaConfig, ZeroSNR, Ancestral):
        """Fields of noise levels and of fresh noise."""

        prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"

    config: Config

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        sigma = self.sigma(i)
        sigma_down, sigma_up = split_noise(sigma, self.sigma(i + 1), self.config.eta)
        d = self.slope(predict, z, sigma, self.timesteps[i])
        # Noise is drawn in the last step too, where it is multiplied by 0: the stream moves on as in the original.
        z = z + d * (sigma_down - sigma)
        return z + (self.config.s_noise * sigma_up) * self.draw_noise(rng, z)
