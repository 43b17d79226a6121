"""SA-Solver: a stochastic Adams method, predictor and corrector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tinyldm.diffusion.samplers.lagrange import lagrange_weights
from tinyldm.diffusion.samplers.log_snr import DPMAlgorithm, LogSNRConfig, LogSNRSampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import NotNegative
from tinyldm.diffusion.types import Array, NoiseSource, Predict


@register
class SASolver(LogSNRSampler):
    r"""Xue et al. (2023), "SA-Solver", arXiv 2309.05019, Algorithm 1.

    The SDE with noise of strength $\tau$ is solved with a polynomial in $\lambda$ through the latest predictions: a
    stochastic Adams-Bashforth step (eq. 14), which the prediction at its end corrects by an Adams-Moulton step (eq. 17)
    with the same noise. `tau` acts at the timesteps from `tau_start` to `tau_end`, 0 elsewhere.
    """

    name = "sa_solver"
    aliases = ("sa", "sasolver")
    scheduler_class = "SASolverScheduler"
    summary = "stochastic Adams steps, each corrected by the next prediction; tau is the noise"

    @dataclass(frozen=True)
    class Config(LogSNRConfig):
        """Fields of the log-SNR solvers."""

        predictor_order: Literal[1, 2, 3, 4] = 2
        corrector_order: Literal[1, 2, 3, 4] = 2
        # The last are of DPM-Solver's files and mean nothing here.
        algorithm_type: Literal["data_prediction", "noise_prediction", DPMAlgorithm] = "data_prediction"
        tau: NotNegative = 1.0
        tau_start: NotNegative = 200.0
        tau_end: NotNegative = 800.0
        tau_func: None = None

    config: Config

    def __init__(self, config: Config, steps: int):
        super().__init__(config, steps)
        self.history: list[Array] = []  # the latest predictions, newest first
        self.last: tuple[Array, Array] | None = None  # the latent before the last step, and its noise

    def final_level(self, levels: Array) -> float:
        """The noise level at which the last step ends."""
        return float(levels[-1] if self.config.chosen_schedule() else self.sigma_table[0])

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        c = self.config
        predicted = self.predicted(predict, z, i, noise=c.algorithm_type == "noise_prediction")
        left = len(self) - i if c.lower_order_final else 4  # steps left: near the end the orders fall
        if self.last is not None:
            order = min(c.corrector_order, left + 2, len(self.history) + 1)
            z = self.update(i - 1, *self.last, [predicted, *self.history][:order], first=i)
        self.history = [predicted, *self.history][: max(c.predictor_order, c.corrector_order - 1)]
        self.last = z, self.draw_noise(rng, z)
        return self.update(i, *self.last, self.history[: min(c.predictor_order, left)], first=i)

    def update(self, i: int, z: Array, noise: Array, predictions: list[Array], first: int) -> Array:
        """The step from level `i` to the next; the predictions are of the levels `first`, `first` - 1, …"""
        c = self.config
        tau = c.tau if c.tau_start <= self.timesteps[i] <= c.tau_end else 0.0
        alpha, s, alpha_next, s_next = self.mixes(i, i + 1)
        h = self.log_snr(i + 1) - self.log_snr(i)
        nodes = [self.log_snr(first - k) - self.log_snr(i) for k in range(len(predictions))]
        if c.algorithm_type != "noise_prediction":
            weights = adams_weights(nodes, h, 1 + tau**2, halved=len(nodes) == 2)
            scale, z = (1 + tau**2) * alpha_next, math.exp(-(tau**2) * h) * (s_next / s) * z
            z = z + s_next * math.sqrt(-math.expm1(-2 * tau**2 * h)) * noise
        else:
            weights = adams_weights(nodes, h, -1.0)
            scale, z = -(1 + tau**2) * s_next, (alpha_next / alpha) * z
            z = z + tau * s_next * math.sqrt(math.expm1(2 * h)) * noise
        for weight, m in zip(weights, predictions, strict=True):
            z = z + (scale * weight) * m
        return z


def adams_weights(nodes: list[float], h: float, rate: float, halved: bool = False) -> list[float]:
    r"""$\int_0^h e^{a (u - h)}\, l_k(u)\, du$ of the Lagrange polynomials $l_k$ of the nodes, $a$ = `rate` (eq. 15).

    `halved` takes $h^2 / 2$ for the integral of $e^{a (u - h)} u$, which suits few steps better (as published).
    """
    moments = [-math.expm1(-rate * h) / rate]
    for n in range(1, len(nodes)):
        moments.append((h**n - n * moments[-1]) / rate)
    if halved:
        moments[1] = h**2 / 2
    return lagrange_weights(nodes, moments)
