"""DDIM: the deterministic sampler with the same marginals as DDPM."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion import prediction
from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.samplers.base import AlphaBarSampler, NoiseSource, draw_noise
from tinyldm.errors import InputError


class DDIM(AlphaBarSampler):
    r"""Song, Meng and Ermon (2021), "Denoising Diffusion Implicit Models", arXiv 2010.02502, eqs. 12 and 16.

    $z_{t-1} = \sqrt{\bar\alpha_{t-1}}\, x_0 + \sqrt{1 - \bar\alpha_{t-1} - \sigma_t^2}\;\epsilon_\theta
             + \sigma_t \epsilon$

    $\sigma_t = \eta \sqrt{\frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t}}
                     \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_{t-1}}}$

    `eta` 0 is deterministic, 1 is ancestral sampling. The step is a stride of $T / S$ timesteps.
    """

    scheduler_class = "DDIMScheduler"

    def __init__(self, config: SchedulerConfig, steps: int, eta: float = 0.0):
        super().__init__(config, steps)
        if not 0 <= eta <= 1:
            raise InputError(f"eta: {eta} is out of range; it must be from 0 to 1")
        self.eta = eta
        self.stride = config.num_train_timesteps // steps

    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """See `Sampler.step`."""
        t = int(self.timesteps[i])
        a_bar, a_bar_prev = self.alpha_bar_at(t, z), self.alpha_bar_at(t - self.stride, z)
        # The noise is the one that was predicted, even where x0 had to be held in bounds.
        epsilon = prediction.to_epsilon(self.config.prediction_type, output, z, a_bar)
        x0 = self.bounded(prediction.to_sample(self.config.prediction_type, output, z, a_bar))

        sigma = self.eta * np.sqrt((1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar / a_bar_prev))
        z_prev = np.sqrt(a_bar_prev) * x0 + np.sqrt(1 - a_bar_prev - sigma**2) * epsilon
        if self.eta > 0:
            z_prev = z_prev + sigma * draw_noise(rng, z, "ddim")
        return z_prev
