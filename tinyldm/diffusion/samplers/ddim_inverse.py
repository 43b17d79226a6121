"""DDIM backwards: from a picture to the noise that DDIM would make it of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tinyldm.diffusion import prediction
from tinyldm.diffusion.config import Clipping, ZeroSNR
from tinyldm.diffusion.samplers.base import AlphaBarSampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict, Timesteps


@register
class DDIMInverse(AlphaBarSampler):
    r"""Song, Meng and Ermon (2021), arXiv 2010.02502, section 4.3: the ODE of DDIM, followed upwards.

    $z_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\; \epsilon_\theta$ with the prediction at the less
    noisy end, where the latent is. It begins with a clean latent and ends with noise.
    """

    name = "ddim_inverse"
    aliases = ("ddim_inversion",)
    scheduler_class = "DDIMInverseScheduler"
    begins_clean = True
    summary = "from a clean latent to the noise that ddim would make it of"

    @dataclass(frozen=True)
    class Config(ZeroSNR, Clipping):
        """Fields of every sampler."""

        timestep_spacing: Literal["leading", "trailing"] = "leading"
        set_alpha_to_one: bool = True

    def make_timesteps(self) -> Timesteps:
        """The timesteps that the steps end at, rising, int64."""
        return super().make_timesteps()[::-1].copy()

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        t = self.timesteps[i]
        t_from = min(int(t) - self.config.num_train_timesteps // self.steps, self.config.num_train_timesteps - 1)
        mix = self.signal_and_noise(t_from)
        output, x0 = self.ask(predict, z, t, *mix)
        epsilon = prediction.to_epsilon(self.config.prediction_type, output, z, *mix)
        return math.sqrt(self.alpha_bar_at(int(t))) * x0 + math.sqrt(1 - self.alpha_bar_at(int(t))) * epsilon

    def add_noise(self, z0: Array, noise: Array, i: int) -> Array:
        """The clean latent as noisy as before step `i`, (N, …); here the latent at the less noisy end of step `i`."""
        signal, sigma = self.signal_and_noise(int(self.timesteps[i]) - self.config.num_train_timesteps // self.steps)
        return signal * z0 + sigma * noise
