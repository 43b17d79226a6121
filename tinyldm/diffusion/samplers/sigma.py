r"""Samplers that go down a list of noise levels $\sigma_0 > \sigma_1 > \dots$ instead of timesteps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from tinyldm.diffusion import schedule
from tinyldm.diffusion.config import Positive, Range, SchedulerConfig
from tinyldm.diffusion.samplers.base import Sampler
from tinyldm.diffusion.spacing import SIGMA_SCHEDULES, sigma_to_timestep
from tinyldm.diffusion.types import Array, NoiseSource, Predict, Timesteps
from tinyldm.errors import ConfigError, InputError

# Zero terminal SNR would put the first sigma at infinity; the smallest float16 stands in for an alpha-bar of 0.
TINY_ALPHA_BAR = np.float32(2**-24)

ScheduleName = Literal[
    "karras",
    "exponential",
    "beta",
    "uniform",
    "sgm_uniform",
    "simple",
    "kl_optimal",
    "align_your_steps",
    "align_your_steps_xl",
]
NotNegative = Annotated[float, Range(least=0)]
Level = Annotated[float, Range(least=0, below=math.inf)]


@dataclass(frozen=True)
class ScheduleSwitches(SchedulerConfig):
    """The schedules of noise levels that a published config chooses by a switch each."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False

    def chosen_schedule(self) -> str | None:
        """The schedule that is switched on, if one is. Raises `ConfigError` for several."""
        chosen = [name for name in ("karras", "exponential", "beta") if getattr(self, f"use_{name}_sigmas")]
        if len(chosen) > 1:
            raise ConfigError(f"scheduler config: use_{'_sigmas and use_'.join(chosen)}_sigmas are both on; take one")
        return chosen[0] if chosen else None


@dataclass(frozen=True)
class SigmaConfig(ScheduleSwitches):
    """Which noise levels are visited.

    They are those of the timesteps that are visited, or of a schedule between the largest and the smallest of them
    (`sigma_min` and `sigma_max` move these), or `sigmas`: as many as steps, and then the last that is left.
    """

    timestep_spacing: Literal["leading", "linspace", "trailing"] = "linspace"
    sigma_schedule: ScheduleName | None = None
    sigmas: tuple[Level, ...] | None = None
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    def chosen_schedule(self) -> str | None:
        """What chooses the noise levels: those given by hand, a schedule by name, or a schedule's switch."""
        if self.sigmas is not None or self.sigma_schedule is not None:
            return "sigmas" if self.sigmas is not None else self.sigma_schedule
        return super().chosen_schedule()


class SigmaSampler(Sampler):
    r"""A sampler of variance-preserving latents over noise levels; `sigmas` are one longer than the steps."""

    config: SigmaConfig
    sigmas: Array  # (S + 1,) float32; the last is what is left at the end, mostly 0

    def __init__(self, config: SigmaConfig, steps: int):
        super().__init__(config, steps)
        if self.alpha_bar[-1] == 0:
            self.alpha_bar[-1] = TINY_ALPHA_BAR
        self.sigma_table = schedule.sigmas(self.alpha_bar)  # (T,), rising
        levels, self.visited = self.make_levels()
        self.sigmas = np.append(levels, self.final_level(levels))[: len(self.visited) + 1].astype(np.float32)
        self.timesteps = self.visited

    def final_level(self, levels: Array) -> float:
        """The level that is left at the end of a run over `levels`, where they do not have one of their own."""
        return (
            min(float(self.sigma_table[0]), float(levels[-1])) if self.config.final_sigmas_type == "sigma_min" else 0.0
        )

    def make_levels(self) -> tuple[Array, Timesteps]:
        """The levels of the run, float64 (S,), or (S + 1,) with a final one of their own, and their timesteps (S,)."""
        c = self.config
        spaced = schedule.spaced_timesteps(c.timestep_spacing, self.steps, c.num_train_timesteps, c.steps_offset)
        timesteps = spaced.astype(np.float32)
        levels = self.levels_at(timesteps)
        name = c.chosen_schedule()
        if name is not None:
            levels = self.scheduled_levels(name, levels)
            timesteps = sigma_to_timestep(levels[: self.steps], self.sigma_table).astype(np.float32)
        return levels, timesteps

    def levels_at(self, timesteps: Array) -> Array:
        r"""$\sigma$ at these timesteps, linear between the entries of the table; (S,) -> (S,) float64."""
        return np.interp(timesteps, np.arange(len(self.sigma_table)), self.sigma_table)

    def scheduled_levels(self, name: str, levels: Array) -> Array:
        """The levels of a schedule from the first of `levels` to their last, or those given by hand."""
        c = self.config
        if name == "sigmas":
            return self.given_levels(np.array(c.sigmas))
        largest = float(levels[0]) if c.sigma_max is None else c.sigma_max
        smallest = float(levels[-1]) if c.sigma_min is None else c.sigma_min
        return SIGMA_SCHEDULES[name](largest, smallest, self.steps, self.sigma_table)

    def given_levels(self, levels: Array) -> Array:
        """Levels given by hand, if they go down and are as many as the steps, or one more."""
        if len(levels) not in (self.steps, self.steps + 1):
            raise InputError(f"sigmas: {len(levels)} levels for {self.steps} steps; wanted as many, or one more")
        if not (np.all(np.diff(levels) < 0) and np.all(levels[: self.steps] > 0)):
            raise InputError("sigmas: the levels must go down, and all but the last be above 0")
        return levels

    def sigma(self, i: int) -> float:
        r"""$\sigma_i$."""
        return float(self.sigmas[i])

    def timestep_of(self, sigma: float) -> np.float32:
        r"""The fractional timestep of a level, as the model takes it."""
        return np.float32(sigma_to_timestep(np.array([sigma]), self.sigma_table)[0])

    def signal_and_noise(self, sigma: float) -> tuple[float, float]:
        r"""$(\alpha, s)$ of a latent at this level: $(1, \sigma) / \sqrt{\sigma^2 + 1}$."""
        scale = math.hypot(sigma, 1)
        return 1 / scale, sigma / scale

    def denoised(self, predict: Predict, z: Array, sigma: float, t: np.number) -> Array:
        """The clean latent that the model sees in `z` at this level, (N, …); one call of the model."""
        _, clean = self.ask(predict, z, t, *self.signal_and_noise(sigma))
        return clean

    def add_noise(self, z0: Array, noise: Array, i: int) -> Array:
        r"""The clean latent as noisy as before step `i`, (N, …); here $\alpha_i z_0 + s_i\epsilon$."""
        signal, sigma = self.signal_and_noise(self.sigma(i))
        return signal * z0 + sigma * noise


class VarianceExplodingSampler(SigmaSampler):
    r"""A sampler of latents $z = x_0 + \sigma\epsilon$ (k-diffusion's form)."""

    variance_exploding = True

    def __init__(self, config: SigmaConfig, steps: int):
        super().__init__(config, steps)
        largest = float(self.sigmas.max())
        # With leading spacing the first level is not the noisiest one, and its signal's variance counts too.
        self.init_noise_sigma = math.hypot(largest, 1) if config.timestep_spacing == "leading" else largest

    def signal_and_noise(self, sigma: float) -> tuple[float, float]:
        r"""The shares of signal and noise in the latent; here $(1, \sigma)$."""
        return 1.0, sigma

    def slope(self, predict: Predict, z: Array, sigma: float, t: np.number) -> Array:
        r"""$\frac{dz}{d\sigma} = \frac{z - x_0}{\sigma}$ of the probability-flow ODE, (N, …); one call of the model."""
        return (z - self.denoised(predict, z, sigma, t)) / sigma


@dataclass(frozen=True)
class Churn(SchedulerConfig):
    """Of the samplers that can add noise before a step (Karras et al. 2022, arXiv 2206.00364, Algorithm 2).

    `s_churn` is $S_{churn}$: how much in a whole run; it is added at levels from `s_tmin` to `s_tmax`, its deviation
    times `s_noise`.
    """

    s_churn: NotNegative = 0.0
    s_tmin: NotNegative = 0.0
    s_tmax: NotNegative = math.inf
    s_noise: NotNegative = 1.0

    def raised(self, sigma: float, steps: int) -> float:
        r"""The level $\hat\sigma = (1 + \gamma)\,\sigma$ that a step begins at (eq. 6)."""
        gamma = min(self.s_churn / steps, math.sqrt(2) - 1) if self.s_tmin <= sigma <= self.s_tmax else 0.0
        return sigma * (gamma + 1)


def churned(
    sampler: VarianceExplodingSampler, i: int, z: Array, t: np.number, rng: NoiseSource | None
) -> tuple[Array, float, np.number]:
    """The latent before step `i` with the noise that `Churn` adds, its level and its timestep."""
    config, sigma = sampler.config, sampler.sigma(i)
    assert isinstance(config, Churn)
    sigma_hat = config.raised(sigma, len(sampler))
    if sigma_hat == sigma:
        return z, sigma, t
    noise = config.s_noise * sampler.draw_noise(rng, z)
    return z + math.sqrt(sigma_hat**2 - sigma**2) * noise, sigma_hat, sampler.timestep_of(sigma_hat)


@dataclass(frozen=True)
class Ancestral(SchedulerConfig):
    """`eta` is the share of the noise of a step that is drawn anew, `s_noise` a factor on its deviation."""

    eta: NotNegative = 1.0
    s_noise: NotNegative = 1.0


def split_noise(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    r"""$(\sigma_{down}, \sigma_{up})$: the level to step down to, and the deviation of the noise that lifts it again.

    $\sigma_{up} = \eta\, \sigma_{i+1} \sqrt{\sigma_i^2 - \sigma_{i+1}^2} / \sigma_i$, for $\eta = 1$ that of the
    posterior (Song et al. 2021, arXiv 2011.13456, eq. 47), and $\sigma_{down}^2 + \sigma_{up}^2 = \sigma_{i+1}^2$.
    """
    sigma_up = min(sigma_next, eta * sigma_next * math.sqrt(max(sigma**2 - sigma_next**2, 0.0)) / sigma)
    return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up
