"""DDPM: the original ancestral sampler, one draw from the learned reverse process a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tinyldm.diffusion.config import Clipping, ZeroSNR
from tinyldm.diffusion.samplers.base import AlphaBarSampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict

SMALLEST_VARIANCE = 1e-20


@register
class DDPM(AlphaBarSampler):
    r"""Ho, Jain and Abbeel (2020), "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, Algorithm 2.

    The reverse step is a draw from the posterior $q(z_{t-1} | z_t, x_0)$ with the predicted $x_0$ (eqs. 6 and 7):

    $z_{t-1} = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1 - \bar\alpha_t} x_0
             + \frac{\sqrt{\alpha_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} z_t + \sigma_t \epsilon$

    With fewer steps than timesteps, $t - 1$ is the next timestep visited and
    $\alpha_t = \bar\alpha_t / \bar\alpha_{t-1}$, $\beta_t = 1 - \alpha_t$.
    """

    name = "ddpm"
    scheduler_class = "DDPMScheduler"
    summary = "the original: a draw from the learned reverse process at every step"

    @dataclass(frozen=True)
    class Config(ZeroSNR, Clipping):
        """Fields of every sampler; `variance_type` is $\\sigma_t^2$ of the reverse step."""

        variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", None] = "fixed_small"

    config: Config

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        t = self.timesteps[i]
        t_prev = int(self.timesteps[i + 1]) if i + 1 < len(self.timesteps) else -1
        a_bar, a_bar_prev = self.alpha_bar_at(int(t)), self.alpha_bar_at(t_prev)
        alpha = a_bar / a_bar_prev
        beta = 1 - alpha

        _, x0 = self.predicted(predict, z, t)
        x0_weight = math.sqrt(a_bar_prev) * beta / (1 - a_bar)
        z_weight = math.sqrt(alpha) * (1 - a_bar_prev) / (1 - a_bar)
        mean: Array = x0_weight * x0 + z_weight * z
        if t == 0:
            return mean
        variance = beta if self.config.variance_type == "fixed_large" else (1 - a_bar_prev) / (1 - a_bar) * beta
        return mean + math.sqrt(max(variance, SMALLEST_VARIANCE)) * self.draw_noise(rng, z)
