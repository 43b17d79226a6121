"""DDPM: the original ancestral sampler, one draw from the learned reverse process a step."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion import prediction
from tinyldm.diffusion.samplers.base import AlphaBarSampler, NoiseSource, draw_noise

SMALLEST_VARIANCE = 1e-20


class DDPM(AlphaBarSampler):
    r"""Ho, Jain and Abbeel (2020), "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, Algorithm 2.

    The reverse step is a draw from the posterior $q(z_{t-1} | z_t, x_0)$ with the predicted $x_0$ (eqs. 6 and 7):

    $z_{t-1} = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1 - \bar\alpha_t} x_0
             + \frac{\sqrt{\alpha_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} z_t + \sigma_t \epsilon$

    With fewer steps than timesteps, $t - 1$ is the next timestep visited and
    $\alpha_t = \bar\alpha_t / \bar\alpha_{t-1}$, $\beta_t = 1 - \alpha_t$.
    """

    scheduler_class = "DDPMScheduler"

    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """See `Sampler.step`."""
        t = int(self.timesteps[i])
        t_prev = int(self.timesteps[i + 1]) if i + 1 < len(self.timesteps) else -1
        a_bar, a_bar_prev = self.alpha_bar_at(t, z), self.alpha_bar_at(t_prev, z)
        alpha = a_bar / a_bar_prev
        beta = 1 - alpha

        x0 = self.bounded(prediction.to_sample(self.config.prediction_type, output, z, a_bar))
        x0_weight = np.sqrt(a_bar_prev) * beta / (1 - a_bar)
        z_weight = np.sqrt(alpha) * (1 - a_bar_prev) / (1 - a_bar)
        mean = x0_weight * x0 + z_weight * z
        if t == 0:
            return mean
        variance = (1 - a_bar_prev) / (1 - a_bar) * beta
        return mean + self.deviation(variance, beta) * draw_noise(rng, z, "ddpm")

    def deviation(self, variance: np.floating, beta: np.floating) -> np.floating:
        r"""$\sigma_t$: that of the posterior (`fixed_small`), or $\sqrt{\beta_t}$ (`fixed_large`; section 3.2)."""
        if self.config.variance_type == "fixed_large":
            return np.sqrt(beta)
        return np.sqrt(np.maximum(variance, variance.dtype.type(SMALLEST_VARIANCE)))
