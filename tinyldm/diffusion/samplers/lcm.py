"""LCM: the few-step sampler of latent consistency models."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion import prediction
from tinyldm.diffusion.samplers.base import AlphaBarSampler, NoiseSource, draw_noise
from tinyldm.errors import InputError

SIGMA_DATA = 0.5


class LCM(AlphaBarSampler):
    r"""Luo et al. (2023), "Latent Consistency Models", arXiv 2310.04378, Algorithm 3.

    The model jumps to a clean latent, $f = c_{skip}(t)\, z + c_{out}(t)\, x_0$ (eq. 9), which is made noisy again for
    the next timestep: $z_{next} = \sqrt{\bar\alpha_{next}}\, f + \sqrt{1 - \bar\alpha_{next}}\, \epsilon$. With
    $\tau$ = `timestep_scaling` $\cdot\, t$ and $\sigma_d = 0.5$ the boundary coefficients are
    $c_{skip} = \sigma_d^2 / (\tau^2 + \sigma_d^2)$ and $c_{out} = \tau / \sqrt{\tau^2 + \sigma_d^2}$.
    """

    scheduler_class = "LCMScheduler"

    def make_timesteps(self) -> np.ndarray:
        """A subset of the timesteps that the model was distilled on, evenly spread and beginning with the noisiest."""
        total, original = self.config.num_train_timesteps, self.config.original_inference_steps
        if original > total:
            raise InputError(f"original_inference_steps is {original}; it must be at most {total}")
        if self.steps > original:
            raise InputError(f"steps: {self.steps} is out of range for lcm; it must be from 1 to {original}")
        distilled = (np.arange(original, 0, -1) * (total // original)) - 1
        return distilled[np.linspace(0, original, self.steps, endpoint=False).astype(np.int64)]

    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """See `Sampler.step`."""
        t = int(self.timesteps[i])
        x0 = prediction.to_sample(self.config.prediction_type, output, z, self.alpha_bar_at(t, z))
        tau = z.dtype.type(t * self.config.timestep_scaling)
        c_skip = SIGMA_DATA**2 / (tau**2 + SIGMA_DATA**2)
        c_out = tau / np.sqrt(tau**2 + SIGMA_DATA**2)
        denoised = c_out * self.bounded(x0) + c_skip * z
        if i + 1 == len(self.timesteps):
            return denoised
        signal, noise = prediction.signal_and_noise(self.alpha_bar_at(int(self.timesteps[i + 1]), z))
        return signal * denoised + noise * draw_noise(rng, z, "lcm")
