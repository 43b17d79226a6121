"""DDIM: the deterministic sampler with the same marginals as DDPM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from tinyldm.diffusion import prediction
from tinyldm.diffusion.config import Clipping, Range, ZeroSNR
from tinyldm.diffusion.samplers.base import AlphaBarSampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict


@register
class DDIM(AlphaBarSampler):
    r"""Song, Meng and Ermon (2021), "Denoising Diffusion Implicit Models", arXiv 2010.02502, eqs. 12 and 16.

    $z_{t-1} = \sqrt{\bar\alpha_{t-1}}\, x_0 + \sqrt{1 - \bar\alpha_{t-1} - \sigma_t^2}\;\epsilon_\theta
             + \sigma_t \epsilon$

    $\sigma_t = \eta \sqrt{\frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t}}
                     \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_{t-1}}}$

    `eta` 0 is deterministic, 1 is ancestral sampling. The step is a stride of $T / S$ timesteps.
    """

    name = "ddim"
    scheduler_class = "DDIMScheduler"
    summary = "deterministic, with the marginals of DDPM; eta adds noise"

    @dataclass(frozen=True)
    class Config(ZeroSNR, Clipping):
        """Fields of every sampler; `eta` is the share of fresh noise."""

        set_alpha_to_one: bool = True
        eta: Annotated[float, Range(0, 1)] = 0.0

    config: Config

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        t, eta = self.timesteps[i], self.config.eta
        t_prev = int(t) - self.config.num_train_timesteps // self.steps
        a_bar, a_bar_prev = self.alpha_bar_at(int(t)), self.alpha_bar_at(t_prev)

        signal, noise = math.sqrt(a_bar), math.sqrt(1 - a_bar)
        output, x0 = self.ask(predict, z, t, signal, noise)
        # The noise is the one that was predicted, even where x0 had to be held in bounds.
        epsilon = prediction.to_epsilon(self.config.prediction_type, output, z, signal, noise)
        sigma = eta * math.sqrt((1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar / a_bar_prev))
        z_prev = math.sqrt(a_bar_prev) * x0 + math.sqrt(1 - a_bar_prev - sigma**2) * epsilon
        return z_prev + sigma * self.draw_noise(rng, z) if eta > 0 else z_prev
