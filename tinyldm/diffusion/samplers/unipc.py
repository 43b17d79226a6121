"""UniPC: a predictor and a corrector of any order from one formula, at one call of the model a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinyldm.diffusion.config import ZeroSNR
from tinyldm.diffusion.samplers.log_snr import LogSNRConfig, LogSNRSampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict


@register
class UniPC(LogSNRSampler):
    r"""Zhao et al. (2023), "UniPC", arXiv 2302.04867, Algorithms 5 to 8 (multistep; $B(h)$ is $h$ or $e^h - 1$).

    Before a step, the prediction at its beginning corrects the latent that the last step led to (UniC); then the
    latest predictions lead to the next one (UniP).
    """

    name = "unipc"
    aliases = ("uni_pc", "unipc_multistep", "uni_pc_bh2")
    scheduler_class = "UniPCMultistepScheduler"
    summary = "each prediction corrects the last step and leads the next (solver_order 1 to 3)"

    @dataclass(frozen=True)
    class Config(LogSNRConfig, ZeroSNR):
        """Fields of the log-SNR solvers; `disable_corrector` lists the steps after which nothing is corrected."""

        predict_x0: bool = True
        solver_type: Literal["bh2", "bh1", "midpoint", "heun", "logrho"] = "bh2"  # the others mean bh2
        disable_corrector: tuple[int, ...] = ()
        solver_p: None = None
        shift_terminal: None = None

    config: Config

    def __init__(self, config: Config, steps: int):
        super().__init__(config, steps)
        self.history: list[Array] = []  # the latest predictions, newest first
        self.last: tuple[Array, int] | None = None  # the latent before the last step, and its order

    def final_level(self, levels: Array) -> float:
        """The noise level at which the last step ends; of a schedule it is the schedule's own last."""
        own = self.config.final_sigmas_type == "sigma_min" and self.config.chosen_schedule()
        return float(levels[-1]) if own else super().final_level(levels)

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        c = self.config
        predicted = self.predicted(predict, z, i, noise=not c.predict_x0)
        if self.last is not None and i - 1 not in c.disable_corrector:
            z = self.update(i - 1, *self.last, predicted)
        self.history = [predicted, *self.history][: c.solver_order]
        order = min(len(self.history), len(self) - i) if c.lower_order_final else len(self.history)
        self.last = z, 1 if self.sigmas[i + 1] in (0, self.sigmas[i]) else order
        return self.update(i, *self.last)

    def update(self, i: int, z: Array, order: int, at_end: Array | None = None) -> Array:
        """The step from level `i` to the next with the latest predictions, and the one at its end if it is known."""
        x0 = self.config.predict_x0
        alpha, s, alpha_next, s_next = self.mixes(i, i + 1)
        h = self.log_snr(i + 1) - self.log_snr(i)
        hh = -h if x0 else h
        keep, scale = (s_next / s, alpha_next) if x0 else (alpha_next / alpha, s_next)
        z = keep * z - scale * math.expm1(hh) * self.history[0]
        r = [(self.log_snr(i - k) - self.log_snr(i)) / h for k in range(1, order)]
        differences = [(m - self.history[0]) / r_k for m, r_k in zip(self.history[1:order], r, strict=True)]
        if at_end is not None:
            r, differences = [*r, 1.0], [*differences, at_end - self.history[0]]
        if differences:
            b = hh if self.config.solver_type == "bh1" else math.expm1(hh)
            for weight, difference in zip(unified_weights(r, hh, b), differences, strict=True):
                z = z - (scale * b * weight) * difference
        return z


def unified_weights(r: list[float], h: float, b: float) -> list[float]:  # (n,) -> (n,)
    r"""The weights $a$ of the differences at $r_k h$: $\sum_k a_k r_k^{n-1} = n!\, h\, \varphi_{n+1}(h) / B$ (eq. 5).

    A single one is 1/2, which is enough for second order.
    """
    if len(r) == 1:
        return [0.5]
    phi, right = math.expm1(h) / h - 1, []
    for n in range(1, len(r) + 1):
        right.append(phi * math.factorial(n) / b)
        phi = phi / h - 1 / math.factorial(n + 1)
    powers = np.array(r)[None, :] ** np.arange(len(r))[:, None]
    return [float(a) for a in np.linalg.solve(powers, np.array(right))]
