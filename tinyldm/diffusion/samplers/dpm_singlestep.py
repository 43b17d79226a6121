"""DPM-Solver's singlestep methods, of order 1, 2 or 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from tinyldm.diffusion.samplers.dpm_solver import DPMSolver, DPMSolverConfig, Integral
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict


@register
class DPMSinglestep(DPMSolver):
    r"""Lu et al. (2022), "DPM-Solver", arXiv 2206.00927, Algorithms 1 and 2, and "DPM-Solver++", Algorithm 1 (2S).

    A step of order $n$ spans $n$ levels and calls the model at each: first a step of order 1 to the second level, then
    from the first level again, with what was predicted at both. `steps` counts the calls, and each is a step here; the
    latent between them is a trial. The levels are spread evenly over the timesteps.
    """

    name = "dpm++_2s"
    aliases = ("dpmpp_2s", "dpm_solver_singlestep", "dpm_single")
    variants: ClassVar = {
        "dpm++_2s": {"algorithm_type": "dpmsolver++"},
        "dpm++_2s_sde": {"algorithm_type": "sde-dpmsolver++"},
        "dpm_2s": {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    }
    scheduler_class = "DPMSolverSinglestepScheduler"
    summary = "two or three calls from the same latent make a step (solver_order 1 to 3; steps counts the calls)"

    @dataclass(frozen=True)
    class Config(DPMSolverConfig):
        """Fields of the DPM-Solvers."""

        algorithm_type: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "deis"] = "dpmsolver++"
        lower_order_final: bool = False

    config: Config

    def __init__(self, config: Config, steps: int):
        super().__init__(config, steps)
        self.orders = self.spanned()
        self.begun: Array = np.empty(0)  # the latent that the present step began with

    def whole_timesteps(self) -> Array:
        """The whole timesteps of a run; evenly spread, whatever the config says."""
        return np.round(np.linspace(0, self.timesteps_in_reach() - 1, self.steps + 1)[:0:-1])

    def spanned(self) -> list[int]:
        """At each level, how many levels back the step to the next one begins: 1, 2, 3, 1, 2, 3, …; the last is 1."""
        c, steps, order = self.config, self.steps, self.config.solver_order
        orders = [1 + i % order for i in range(steps)]
        whole = not c.lower_order_final and steps % order == 0 and c.final_sigmas_type != "zero"
        if whole or order == 1:
            return orders
        if steps % order == 0:  # the last step is taken as one of an order less and one of order 1
            orders[-1] = 1
        if c.final_sigmas_type == "zero":
            orders[-1] = 1
        return orders

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        self.ask_for(predict, z, i)
        order = min(self.orders[i], len(self.history))
        if order == 1:
            self.begun = z
        step = self.integral(i + 1 - order, i + 1)
        z = step.keep * self.begun - step.scale * self.integrated(i, order, step)
        return self.with_noise(z, step, i + 1 - order, i + 1, rng)

    def integrated(self, i: int, order: int, step: Integral) -> Array:
        """The polynomial through the predictions of the levels spanned, integrated over the step."""
        oldest = self.history[order - 1]
        total = step.constant * oldest
        if order == 1:
            return total
        lam = self.log_snr(i + 1 - order)
        h = self.log_snr(i + 1) - lam
        r0 = (self.log_snr(i) - lam) / h
        d0 = (self.history[0] - oldest) / r0
        heun = self.config.solver_type == "heun"
        if order == 2:
            return total + (step.linear if heun else step.constant / 2) * d0
        if not heun:
            return total + step.linear * d0
        r1 = (self.log_snr(i - 1) - lam) / h
        d1 = (self.history[1] - oldest) / r1
        slope, curve = (r0 * d1 - r1 * d0) / (r0 - r1), 2 * (d0 - d1) / (r0 - r1)
        return total + step.linear * slope + step.quadratic * curve
