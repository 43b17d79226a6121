"""PNDM and PLMS: multistep solvers that combine the last four noise predictions."""

from __future__ import annotations

import numpy as np

from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.samplers.base import AlphaBarSampler, NoiseSource
from tinyldm.errors import InputError

RUNGE_KUTTA_STEPS = 3  # steps of four model calls each, before the multistep formula has its history
RUNGE_KUTTA_WEIGHTS = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


class PNDM(AlphaBarSampler):
    r"""Liu, Ren, Lin and Zhao (2022), "Pseudo Numerical Methods for Diffusion Models", arXiv 2202.09778, Algorithm 2.

    The transfer from $z_t$ to $z_{t-\delta}$ for a noise $\epsilon$ (eq. 9) is

    $z_{t-\delta} = \sqrt{\frac{\bar\alpha_{t-\delta}}{\bar\alpha_t}}\, z_t - \frac{(\bar\alpha_{t-\delta} -
    \bar\alpha_t)\,\epsilon}{\bar\alpha_t \sqrt{1 - \bar\alpha_{t-\delta}} + \sqrt{\bar\alpha_t (1 - \bar\alpha_t)
    \bar\alpha_{t-\delta}}}$

    and $\epsilon$ is the four-step Adams-Bashforth combination of the latest predictions (eq. 12). The history is begun
    with three Runge-Kutta steps of four model calls (eq. 13), or, if the config has `skip_prk_steps` as Stable
    Diffusion's does, with lower orders: then the first step is taken twice, the second time with the mean of two
    predictions (this is PLMS), so that `timesteps` has one entry more than `steps`.

    The solver counts its own calls: in image-to-image it begins its history wherever the run begins.
    """

    scheduler_class = "PNDMScheduler"

    def __init__(self, config: SchedulerConfig, steps: int):
        if not config.skip_prk_steps and steps <= RUNGE_KUTTA_STEPS:
            raise InputError(f"steps: {steps} is too few for pndm with Runge-Kutta steps; it needs at least 4")
        self.stride = config.num_train_timesteps // max(steps, 1)
        super().__init__(config, steps)
        self.calls = 0
        self.history: list[np.ndarray] = []  # the latest predictions, at most four, newest last
        self.z_start = np.empty(0)  # the latent before a step that takes several calls
        self.weighted_sum: np.ndarray | float = 0.0  # of the predictions in a Runge-Kutta step

    def make_timesteps(self) -> np.ndarray:
        """The timesteps of the run with the repeated ones, int64; notes how many belong to Runge-Kutta steps."""
        timesteps = super().make_timesteps()
        self.runge_kutta_timesteps = timesteps[:0]
        if self.config.skip_prk_steps:
            return np.concatenate([timesteps[:1], timesteps[1:2], timesteps[1:]])
        # Each Runge-Kutta step from t calls the model at t, twice at the midpoint, and at the next t.
        midpoints = timesteps[1 : RUNGE_KUTTA_STEPS + 1] + self.stride // 2
        calls = zip(timesteps, midpoints, midpoints, timesteps[1:], strict=False)
        self.runge_kutta_timesteps = np.array([t for step in calls for t in step])
        return np.concatenate([self.runge_kutta_timesteps, timesteps[RUNGE_KUTTA_STEPS:]])

    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """See `Sampler.step`."""
        call, self.calls = self.calls, self.calls + 1
        t = int(self.timesteps[i])
        if call < len(self.runge_kutta_timesteps):
            return self.runge_kutta_step(output, call, t, z)
        return self.multistep_step(output, call, t, z)

    def runge_kutta_step(self, output: np.ndarray, call: int, t: int, z: np.ndarray) -> np.ndarray:
        """One of the four calls of a Runge-Kutta step: a trial transfer, or with the fourth the weighted one."""
        stage = call % 4
        t_from = int(self.runge_kutta_timesteps[call - stage])
        t_to = t if stage % 2 else t - self.stride // 2
        if stage == 0:
            self.history.append(output)
            self.z_start, self.weighted_sum = z, 0.0
        weighted_sum = self.weighted_sum + RUNGE_KUTTA_WEIGHTS[stage] * output
        self.weighted_sum = weighted_sum
        return self.transfer(self.z_start, t_from, t_to, weighted_sum if stage == 3 else output)

    def multistep_step(self, output: np.ndarray, call: int, t: int, z: np.ndarray) -> np.ndarray:
        """A step by the Adams-Bashforth formula of the highest order that the history allows."""
        t_to = t - self.stride
        if call == 1:
            # The first step once more, from where it began, with the mean of the predictions at both its ends.
            return self.transfer(self.z_start, t + self.stride, t, (output + self.history[-1]) / 2)
        self.history = [*self.history[-3:], output]
        if call == 0:
            self.z_start = z
        return self.transfer(z, t, t_to, self.adams_bashforth())

    def adams_bashforth(self) -> np.ndarray:
        """The combination of the predictions in the history, newest weighted most (eq. 12)."""
        e = self.history[::-1]
        if len(e) == 1:
            return e[0]
        if len(e) == 2:
            return (3 * e[0] - e[1]) / 2
        if len(e) == 3:
            return (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        return (1 / 24) * (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3])

    def transfer(self, z: np.ndarray, t: int, t_to: int, output: np.ndarray) -> np.ndarray:
        """Eq. 9: from timestep `t` to `t_to` along the predicted noise."""
        a, a_to = self.alpha_bar_at(t, z), self.alpha_bar_at(t_to, z)
        if self.config.prediction_type == "v_prediction":
            output = np.sqrt(a) * output + np.sqrt(1 - a) * z
        denominator = a * np.sqrt(1 - a_to) + np.sqrt(a * (1 - a) * a_to)
        return np.sqrt(a_to / a) * z - (a_to - a) * output / denominator
