r"""Exponential integrators: solvers that step in the log-SNR, where the linear part of the ODE is solved exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from tinyldm.diffusion import prediction, schedule
from tinyldm.diffusion.config import Range, Thresholding
from tinyldm.diffusion.samplers.sigma import SigmaConfig, SigmaSampler
from tinyldm.diffusion.spacing import sigma_to_timestep
from tinyldm.diffusion.types import Array, Predict, Timesteps

DPMAlgorithm = Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis"]  # of DPM-Solver's files


@dataclass(frozen=True)
class LogSNRConfig(SigmaConfig, Thresholding):
    """Fields of noise levels. A field with one value is of a choice that is not offered."""

    solver_order: Literal[1, 2, 3] = 2
    lower_order_final: bool = True
    lambda_min_clipped: Annotated[float, Range()] = -math.inf
    use_flow_sigmas: Literal[False] = False
    use_dynamic_shifting: Literal[False] = False
    # A fixed variance in a file for DDPM means nothing to a solver; a learned one would change the model's output.
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", None] = None


class LogSNRSampler(SigmaSampler):
    r"""A sampler whose steps go from one half log-SNR $\lambda_i = \ln(\alpha_i / s_i) = -\ln\sigma_i$ to the next.

    Its timesteps are whole numbers, except in the schedules that are not of diffusers.
    """

    config: LogSNRConfig

    def make_levels(self) -> tuple[Array, Timesteps]:
        """Noise levels and timesteps; the timesteps are int64 (S,), or float32."""
        name = self.config.chosen_schedule()
        if name is None:
            timesteps = self.whole_timesteps()
            return self.levels_at(timesteps), timesteps.astype(np.int64)
        levels = self.scheduled_levels(name, self.sigma_table[::-1])
        timesteps = sigma_to_timestep(levels[: self.steps], self.sigma_table)
        if name not in ("karras", "exponential", "beta"):
            return levels, timesteps.astype(np.float32)
        # As published: rounded, or only cut off.
        return levels, (np.round(timesteps) if self.rounds(name) else timesteps).astype(np.int64)

    def rounds(self, name: str) -> bool:
        """Whether the timesteps of this schedule are rounded, or cut off."""
        return name == "karras"

    def whole_timesteps(self) -> Array:
        """The timesteps of a run without a schedule, float64: one step more, and then without the last.

        The final level has a place of its own.
        """
        c, total, last = self.config, self.config.num_train_timesteps, self.timesteps_in_reach()
        if c.timestep_spacing == "trailing":
            return np.round(np.arange(last, 0, -total / self.steps)) - 1
        return np.round(schedule.spaced_timesteps(c.timestep_spacing, self.steps + 1, last, c.steps_offset)[:-1])

    def timesteps_in_reach(self) -> int:
        """How many timesteps there are, without those whose log-SNR is lower than `lambda_min_clipped`."""
        log_snr = np.log(np.sqrt(self.alpha_bar)) - np.log(np.sqrt(1 - self.alpha_bar))
        clipped = int(np.searchsorted(log_snr[::-1], self.config.lambda_min_clipped))
        return self.config.num_train_timesteps - clipped

    def log_snr(self, i: int) -> float:
        r"""$\lambda_i$; infinite where no noise is left."""
        return -math.log(self.sigma(i)) if self.sigma(i) > 0 else math.inf

    def mixes(self, i: int, j: int) -> tuple[float, float, float, float]:
        r"""$(\alpha_i, s_i, \alpha_j, s_j)$."""
        return *self.signal_and_noise(self.sigma(i)), *self.signal_and_noise(self.sigma(j))

    def predicted(self, predict: Predict, z: Array, i: int, noise: bool) -> Array:
        r"""The clean latent that the model sees in `z`, or with `noise` its $\epsilon$; one call of the model.

        The noise is that of the clean latent in bounds, if there are any.
        """
        alpha, s = self.signal_and_noise(self.sigma(i))
        output, clean = self.ask(predict, z, self.timesteps[i], alpha, s)
        if not noise:
            return clean
        if self.config.thresholding:
            return (z - alpha * clean) / s
        return prediction.to_epsilon(self.config.prediction_type, output, z, alpha, s)
