"""Flow matching: Euler's and Heun's method along straight paths from noise to data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from tinyldm.diffusion.config import Positive, Range, SchedulerConfig
from tinyldm.diffusion.samplers.base import Sampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import ScheduleSwitches
from tinyldm.diffusion.samplers.two_calls import TwoCalls
from tinyldm.diffusion.spacing import SIGMA_SCHEDULES
from tinyldm.diffusion.types import Array, NoiseSource, Predict
from tinyldm.errors import ConfigError


@dataclass(frozen=True)
class FlowConfig(SchedulerConfig):
    """`shift` moves the levels towards noise, as large pictures need; the model predicts the flow's velocity."""

    prediction_type: Literal["flow_prediction"] = "flow_prediction"  # type: ignore[assignment]
    shift: Positive = 1.0


class FlowSampler(Sampler):
    r"""A sampler of latents $z = (1 - \sigma)\, x_0 + \sigma \epsilon$, whose model predicts $v = \epsilon - x_0$.

    Lipman et al. (2023), "Flow Matching for Generative Modeling", arXiv 2210.02747; Liu et al. (2023), "Flow Straight
    and Fast", arXiv 2209.03003. The levels go down from 1, their timesteps are $T\sigma$.
    """

    family = "flow"
    config: FlowConfig
    sigmas: Array  # (S + 1,) float32; the last is 0

    def __init__(self, config: FlowConfig, steps: int):
        super().__init__(config, steps)
        total = config.num_train_timesteps
        # As published, the shift acts on the range of levels and then on the levels in it.
        largest, smallest = (float(np.float32(self.shifted(np.float32(t) / np.float32(total)))) for t in (total, 1))
        levels = self.spread(np.linspace(largest * total, smallest * total, steps) / total)
        self.sigmas = np.append(levels.astype(np.float32), np.float32(0))
        self.visited = self.sigmas[:-1] * np.float32(total)
        self.timesteps = self.visited

    def shifted(self, sigma: Array | np.floating) -> Array | np.floating:
        r"""$\frac{c \sigma}{1 + (c - 1) \sigma}$, $c$ = `shift` (Esser et al. 2024, arXiv 2403.03206, eq. 23)."""
        shift = self.config.shift
        return shift * sigma / (1 + (shift - 1) * sigma)

    def spread(self, levels: Array) -> Array:
        """The levels of the run from evenly spaced ones, (S,)."""
        return np.asarray(self.shifted(levels))

    def velocity(self, predict: Predict, z: Array, i: int, t: np.number) -> tuple[Array, Array]:
        """The model's velocity at level `i`, and the clean latent, (N, …) each; one call."""
        sigma = float(self.sigmas[i])
        return self.ask(predict, z, t, 1 - sigma, sigma)

    def length(self, i: int) -> float:
        """How far the noise level falls in step `i`; negative."""
        return float(self.sigmas[i + 1]) - float(self.sigmas[i])

    def add_noise(self, z0: Array, noise: Array, i: int) -> Array:
        r"""The clean latent as noisy as before step `i`, (N, …); here $(1 - \sigma_i) z_0 + \sigma_i\epsilon$."""
        sigma = float(self.sigmas[i])
        return (1 - sigma) * z0 + sigma * noise


@register
class FlowEuler(FlowSampler):
    """Euler's method on the flow; `stochastic_sampling` jumps to the clean latent and draws the noise anew."""

    name = "flow_euler"
    aliases = ("flow_match_euler", "flow_match_euler_discrete")
    scheduler_class = "FlowMatchEulerDiscreteScheduler"
    summary = "for flow-matching models: a straight line at every step"

    @dataclass(frozen=True)
    class Config(FlowConfig, ScheduleSwitches):
        """The fields of flow-matching samplers.

        With `use_dynamic_shifting` the shift depends on the picture's size, by `mu`.
        """

        use_dynamic_shifting: bool = False
        mu: Annotated[float, Range()] | None = None
        time_shift_type: Literal["exponential", "linear"] = "exponential"
        base_shift: float | None = 0.5
        max_shift: float | None = 1.15
        base_image_seq_len: int = 256
        max_image_seq_len: int = 4096
        shift_terminal: Positive | None = None
        invert_sigmas: Literal[False] = False
        stochastic_sampling: bool = False

    config: Config

    def shifted(self, sigma: Array | np.floating) -> Array | np.floating:
        """The noise levels shifted towards noise; a dynamic shift leaves the range of levels as it is."""
        return sigma if self.config.use_dynamic_shifting else super().shifted(sigma)

    def spread(self, levels: Array) -> Array:
        """The noise levels spread over the steps.

        Here also by `mu`, stretched to `shift_terminal`, and in another schedule.
        """
        c = self.config
        levels = np.asarray(self.shifted(levels))
        if c.use_dynamic_shifting:
            if c.mu is None:
                raise ConfigError("scheduler config: use_dynamic_shifting needs the option mu, the shift for this size")
            shift = math.exp(c.mu) if c.time_shift_type == "exponential" else c.mu
            levels = shift / (shift + 1 / levels - 1)
        if c.shift_terminal is not None:
            levels = 1 - (1 - levels) * (1 - c.shift_terminal) / (1 - levels[-1])
        name = c.chosen_schedule()
        if name is None:
            return levels
        return SIGMA_SCHEDULES[name](float(levels[0]), float(levels[-1]), self.steps, levels)

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        v, x0 = self.velocity(predict, z, i, self.timesteps[i])
        if self.config.stochastic_sampling:
            return self.add_noise(x0, self.draw_noise(rng, z), i + 1)
        return z + self.length(i) * v


@register
class FlowHeun(TwoCalls, FlowSampler):
    """Heun's method on the flow: Euler's step, then the same step along the mean of the velocities at both its ends."""

    name = "flow_heun"
    aliases = ("flow_match_heun", "flow_match_heun_discrete")
    scheduler_class = "FlowMatchHeunDiscreteScheduler"
    summary = "for flow-matching models: Euler's step, corrected by the velocity at its end"
    Config = FlowConfig

    def second_timestep(self, i: int) -> np.number:
        """The timestep of the second call of step `i`: that of the next level."""
        t: np.number = self.visited[i + 1]
        return t

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        t, *t_next = self.calls_of(i)
        v, _ = self.velocity(predict, z, i, t)
        end = z + self.length(i) * v
        if self.sigmas[i + 1] == 0:
            return end
        v_end, _ = self.velocity(predict, end, i + 1, t_next[0])
        return z + self.length(i) * ((v + v_end) / 2)
