r"""Samplers that go down a list of noise levels $\sigma_0 > \sigma_1 > \dots$ instead of timesteps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinyldm.diffusion import schedule
from tinyldm.diffusion.config import Positive, SchedulerConfig
from tinyldm.diffusion.samplers.base import Sampler
from tinyldm.diffusion.spacing import karras_sigmas, sigma_to_timestep
from tinyldm.diffusion.types import Array, Predict, Timesteps

# Zero terminal SNR would put the first sigma at infinity; the smallest float16 stands in for an alpha-bar of 0.
TINY_ALPHA_BAR = np.float32(2**-24)


@dataclass(frozen=True)
class SigmaConfig(SchedulerConfig):
    """Which noise levels are visited; a field whose only value is False is of a choice that is not offered."""

    timestep_spacing: Literal["leading", "linspace", "trailing"] = "linspace"
    use_karras_sigmas: bool = False
    use_exponential_sigmas: Literal[False] = False
    use_beta_sigmas: Literal[False] = False
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


class SigmaSampler(Sampler):
    r"""A sampler of variance-preserving latents over noise levels; `sigmas` are one longer than the steps."""

    config: SigmaConfig
    sigmas: Array  # (S + 1,) float32; the last is what is left at the end, mostly 0

    def __init__(self, config: SigmaConfig, steps: int):
        super().__init__(config, steps)
        if self.alpha_bar[-1] == 0:
            self.alpha_bar[-1] = TINY_ALPHA_BAR
        self.sigma_table = schedule.sigmas(self.alpha_bar)  # (T,), rising
        levels, self.timesteps = self.make_levels()
        final = self.sigma_table[0] if config.final_sigmas_type == "sigma_min" else 0.0
        self.sigmas = np.append(levels, final).astype(np.float32)

    def make_levels(self) -> tuple[Array, Timesteps]:
        """The noise levels of the run without the final one, and their timesteps: float64 (S,), float32 (S,)."""
        timesteps = self.spaced_timesteps(self.steps).astype(np.float32)
        levels = self.levels_at(timesteps)
        if self.config.use_karras_sigmas:
            levels, timesteps = self.karras_levels(levels)
        return levels, timesteps.astype(np.float32)

    def levels_at(self, timesteps: Array) -> Array:
        r"""$\sigma$ at these timesteps, linear between the entries of the table; (S,) -> (S,) float64."""
        return np.interp(timesteps, np.arange(len(self.sigma_table)), self.sigma_table)

    def karras_levels(self, levels: Array) -> tuple[Array, Timesteps]:
        """As many Karras levels as `steps`, from the first of `levels` to their last, and their timesteps."""
        largest = float(levels[0]) if self.config.sigma_max is None else self.config.sigma_max
        smallest = float(levels[-1]) if self.config.sigma_min is None else self.config.sigma_min
        levels = karras_sigmas(largest, smallest, self.steps)
        return levels, sigma_to_timestep(levels, self.sigma_table)

    def sigma(self, i: int) -> float:
        r"""$\sigma_i$."""
        return float(self.sigmas[i])

    def signal_and_noise(self, sigma: float) -> tuple[float, float]:
        r"""$(\alpha, s)$ of a latent at this level: $(1, \sigma) / \sqrt{\sigma^2 + 1}$."""
        scale = math.hypot(sigma, 1)
        return 1 / scale, sigma / scale

    def denoised(self, predict: Predict, z: Array, sigma: float, t: np.number) -> Array:
        """The clean latent that the model sees in `z` at this level, (N, …); one call of the model."""
        self.ask(predict, z, t, *self.signal_and_noise(sigma))
        assert self.clean is not None
        return self.clean

    def add_noise(self, z0: Array, noise: Array, i: int) -> Array:
        r"""See `Sampler.add_noise`; here $\alpha_i z_0 + s_i\epsilon$."""
        signal, sigma = self.signal_and_noise(self.sigma(i))
        return signal * z0 + sigma * noise


class VarianceExplodingSampler(SigmaSampler):
    r"""A sampler of latents $z = x_0 + \sigma\epsilon$ (k-diffusion's form)."""

    def __init__(self, config: SigmaConfig, steps: int):
        super().__init__(config, steps)
        largest = float(self.sigmas.max())
        # With leading spacing the first level is not the noisiest one, and its signal's variance counts too.
        self.init_noise_sigma = math.hypot(largest, 1) if config.timestep_spacing == "leading" else largest

    def signal_and_noise(self, sigma: float) -> tuple[float, float]:
        r"""See `SigmaSampler.signal_and_noise`; here $(1, \sigma)$."""
        return 1.0, sigma

    def scale_input(self, z: Array, noise: float) -> Array:
        r"""See `Sampler.scale_input`; here $z / \sqrt{\sigma^2 + 1}$."""
        return z / math.hypot(noise, 1)
