"""PNDM and PLMS: multistep solvers that combine the last four noise predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinyldm.diffusion import prediction
from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.samplers.base import AlphaBarSampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict, Timesteps
from tinyldm.errors import InputError

RUNGE_KUTTA_STEPS = 3  # steps of four model calls each, before the multistep formula has its history


@register
class PNDM(AlphaBarSampler):
    r"""Liu, Ren, Lin and Zhao (2022), "Pseudo Numerical Methods for Diffusion Models", arXiv 2202.09778, Algorithm 2.

    The transfer from $z_t$ to $z_{t-\delta}$ for a noise $\epsilon$ (eq. 9) is

    $z_{t-\delta} = \sqrt{\frac{\bar\alpha_{t-\delta}}{\bar\alpha_t}}\, z_t - \frac{(\bar\alpha_{t-\delta} -
    \bar\alpha_t)\,\epsilon}{\bar\alpha_t \sqrt{1 - \bar\alpha_{t-\delta}} + \sqrt{\bar\alpha_t (1 - \bar\alpha_t)
    \bar\alpha_{t-\delta}}}$

    and $\epsilon$ is the four-step Adams-Bashforth combination of the latest predictions (eq. 12). The history is begun
    with three Runge-Kutta steps of four model calls (eq. 13), or, if the config has `skip_prk_steps` as Stable
    Diffusion's does, with lower orders: then the first step is taken twice, the second time with the mean of two
    predictions (this is PLMS), so that `timesteps` has one entry more than there are steps.

    A run that begins in the middle (image-to-image) begins its history there. With `skip_prk_steps` it does so as the
    published pictures do: the timestep of its second step is not repeated, as it is in a whole run, but passed by.
    """

    name = "pndm"
    aliases = ("plms",)
    scheduler_class = "PNDMScheduler"
    summary = "the last four predictions combined; begins with Runge-Kutta steps, or with lower orders (PLMS)"

    @dataclass(frozen=True)
    class Config(SchedulerConfig):
        """Fields of every sampler; `skip_prk_steps` leaves the Runge-Kutta steps out."""

        prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
        set_alpha_to_one: bool = False
        skip_prk_steps: bool = False

    config: Config

    def __init__(self, config: Config, steps: int):
        super().__init__(config, steps)
        self.stride = config.num_train_timesteps // steps
        self.history: list[Array] = []  # the latest predictions, at most four, newest first
        self.begun = 0  # the step that this run began with
        if config.skip_prk_steps:
            self.timesteps = np.concatenate([self.visited[:1], self.visited[1:2], self.visited[1:]])
            self.visited = self.timesteps[: len(self.visited)]  # what a run that begins in the middle begins at
        elif steps <= RUNGE_KUTTA_STEPS:
            raise InputError(f"steps: {steps} is too few for pndm with Runge-Kutta steps; it needs at least 4")
        else:
            stages = [t for i in range(RUNGE_KUTTA_STEPS) for t in self.runge_kutta_timesteps(i)]
            self.timesteps = np.concatenate([stages, self.visited[RUNGE_KUTTA_STEPS:]])

    def __len__(self) -> int:
        """The steps of a whole run."""
        return len(self.visited)

    def calls(self, start: int = 0) -> int:
        """How often a run from step `start` calls the model.

        One more than steps, or three more for every Runge-Kutta step.
        """
        steps = len(self) - start
        if self.config.skip_prk_steps:
            return len(self.timesteps) - start
        return steps + 3 * min(RUNGE_KUTTA_STEPS, steps - 1)

    def runge_kutta_timesteps(self, i: int) -> Timesteps:  # -> (4,)
        """Those of the calls in step `i`: where it begins, twice the midpoint, and where the next step begins."""
        t, t_next = self.visited[i : i + 2]
        midpoint = t_next + self.stride // 2
        return np.array([t, midpoint, midpoint, t_next])

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        if not self.history:
            self.begun = i
        if not self.config.skip_prk_steps:
            if i - self.begun < RUNGE_KUTTA_STEPS and i + 1 < len(self):
                return self.runge_kutta_step(predict, i, z)
            t = self.visited[i]
        elif self.history:
            t = self.timesteps[i + 1]
        else:
            return self.first_step(predict, i, z)
        output, _ = self.predicted(predict, z, t)
        self.history = [output, *self.history[:3]]
        return self.transfer(z, int(t), int(t) - self.stride, adams_bashforth(self.history))

    def first_step(self, predict: Predict, i: int, z: Array) -> Array:
        """A step on trial, then the same step with the mean of the predictions at both its ends."""
        t = self.timesteps[i]
        first, _ = self.predicted(predict, z, t)
        self.history = [first]
        trial = self.transfer(z, int(t), int(t) - self.stride, first)
        if len(self.timesteps) == 1:
            return trial
        t_again = self.timesteps[i + 1]
        second, _ = self.predicted(predict, trial, t_again)
        return self.transfer(z, int(t_again) + self.stride, int(t_again), (first + second) / 2)

    def runge_kutta_step(self, predict: Predict, i: int, z: Array) -> Array:
        """A step of four calls: at its beginning, twice at its midpoint, at its end (eq. 13)."""
        t, midpoint, _, t_next = self.runge_kutta_timesteps(i)
        e1, _ = self.predicted(predict, z, t)
        e2, _ = self.predicted(predict, self.transfer(z, int(t), int(t) - self.stride // 2, e1), midpoint)
        e3, _ = self.predicted(predict, self.transfer(z, int(t), int(midpoint), e2), midpoint)
        e4, _ = self.predicted(predict, self.transfer(z, int(t), int(t_next), e3), t_next)
        self.history = [e1, *self.history[:3]]
        return self.transfer(z, int(t), int(t_next), (e1 + 2 * e2 + 2 * e3 + e4) / 6)

    def transfer(self, z: Array, t: int, t_to: int, output: Array) -> Array:
        """Eq. 9: from timestep `t` to `t_to` along the predicted noise."""
        # Far from the picture both terms are large and cancel: even the coefficients are rounded as the original's.
        a, a_to = z.dtype.type(self.alpha_bar_at(t)), z.dtype.type(self.alpha_bar_at(t_to))
        epsilon = prediction.to_epsilon(self.config.prediction_type, output, z, np.sqrt(a), np.sqrt(1 - a))
        denominator = a * np.sqrt(1 - a_to) + np.sqrt(a * (1 - a) * a_to)
        moved: Array = np.sqrt(a_to / a) * z - (a_to - a) * epsilon / denominator
        return moved


def adams_bashforth(e: Sequence[Array]) -> Array:  # (N, …) each -> (N, …)
    """The combination of up to four predictions, newest first and weighted most (eq. 12)."""
    if len(e) == 1:
        return e[0]
    if len(e) == 2:
        return (3 * e[0] - e[1]) / 2
    if len(e) == 3:
        return (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
    return (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
