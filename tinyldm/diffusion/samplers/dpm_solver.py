r"""What DPM-Solver's multistep and singlestep methods share: the exact integrals of their steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from tinyldm.diffusion.samplers.brownian import BrownianNoise
from tinyldm.diffusion.samplers.log_snr import DPMAlgorithm, LogSNRConfig, LogSNRSampler
from tinyldm.diffusion.samplers.sigma import Ancestral
from tinyldm.diffusion.types import Array, NoiseSource, Predict
from tinyldm.errors import ConfigError


@dataclass(frozen=True)
class DPMSolverConfig(LogSNRConfig, Ancestral):
    """The fields of solvers in the log-SNR, and of fresh noise; `eta` is of the stochastic "++" solver, 1 as published.

    `brownian` takes its noise from one path in the noise level, so that it hardly depends on the number of steps.
    """

    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    algorithm_type: DPMAlgorithm = "dpmsolver++"
    brownian: bool = False

    def __post_init__(self) -> None:
        if self.algorithm_type in ("dpmsolver", "sde-dpmsolver") and self.final_sigmas_type == "zero":
            raise ConfigError(
                f"scheduler config: algorithm_type {self.algorithm_type!r} predicts noise, of which final_sigmas_type "
                "'zero' leaves none; 'sigma_min' does"
            )


class Integral(NamedTuple):
    r"""A step $z' = a z - b\,(w_0 D_0 + w_1 D_1 + w_2 D_2) + c\,\epsilon$ with the weights of $D_k \theta^k$ in it.

    $a$ = `keep`, $b$ = `scale`, $c$ = `noise`, and $w_k$ belong to $e^{k}$ integrated over the step, `k` its length.
    """

    keep: float
    scale: float
    k: float
    noise: float = 0.0

    @property
    def constant(self) -> float:
        r"""$w_0 = e^k - 1$."""
        return math.expm1(self.k)

    @property
    def linear(self) -> float:
        r"""$w_1 = (e^k - 1) / k - 1$."""
        return math.expm1(self.k) / self.k - 1

    @property
    def quadratic(self) -> float:
        r"""$w_2 = (e^k - 1 - k) / k^2 - 1/2$."""
        return (math.expm1(self.k) - self.k) / self.k**2 - 0.5


class DPMSolver(LogSNRSampler):
    r"""Lu et al. (2022), "DPM-Solver" (arXiv 2206.00927, eq. 3.4) and "DPM-Solver++" (arXiv 2211.01095, eqs. 9 and 19).

    The ODE, or the SDE of the same marginals, is linear in $z$ and solved exactly but for the model, whose prediction
    (the clean latent $x_0$ in the "++" solvers, else the noise) is taken as a polynomial in $\lambda$.
    """

    config: DPMSolverConfig
    stochastic: ClassVar[tuple[str, ...]] = ("sde-dpmsolver++", "sde-dpmsolver")

    def __init__(self, config: DPMSolverConfig, steps: int):
        super().__init__(config, steps)
        self.history: list[Array] = []  # the latest predictions, newest first
        self.path = BrownianNoise()

    def ask_for(self, predict: Predict, z: Array, i: int) -> None:
        """One call of the model; its prediction, of the kind that the algorithm wants, heads the history."""
        noise = self.config.algorithm_type in ("dpmsolver", "sde-dpmsolver")
        self.history = [self.predicted(predict, z, i, noise), *self.history][: self.config.solver_order]

    def integral(self, i: int, j: int) -> Integral:
        """The step from level `i` to level `j`."""
        alpha, s, alpha_next, s_next = self.mixes(i, j)
        h = self.log_snr(j) - self.log_snr(i)
        kind = self.config.algorithm_type
        if kind == "dpmsolver":
            return Integral(alpha_next / alpha, s_next, h)
        if kind == "sde-dpmsolver":
            return Integral(alpha_next / alpha, 2 * s_next, h, s_next * math.sqrt(math.expm1(2 * h)))
        if kind == "sde-dpmsolver++" and self.config.eta > 0:
            drawn = self.config.eta * h
            noise = s_next * math.sqrt(-math.expm1(-2 * drawn))
            return Integral(s_next / s * math.exp(-drawn), alpha_next, -h - drawn, noise)
        return Integral(s_next / s, alpha_next, -h)

    def with_noise(self, z: Array, step: Integral, i: int, j: int, rng: NoiseSource | None) -> Array:
        """The latent with the noise of a stochastic step; drawn even where it is multiplied by 0, as published."""
        if self.config.algorithm_type not in self.stochastic:
            return z
        if self.config.brownian:
            drawn = self.path.between(self, rng, z, self.sigma(i), self.sigma(j)) if self.sigma(j) > 0 else 0 * z
        else:
            drawn = self.draw_noise(rng, z)
        return z + self.config.s_noise * step.noise * drawn
