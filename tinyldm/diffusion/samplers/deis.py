"""DEIS: an exponential multistep integrator of noise predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tinyldm.diffusion.samplers.dpm_multistep import DPMMultistep
from tinyldm.diffusion.samplers.dpm_solver import DPMSolverConfig
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array


@register
class DEIS(DPMMultistep):
    r"""Zhang and Chen (2023), "Fast Sampling of Diffusion Models with Exponential Integrator", arXiv 2204.13902.

    The polynomial through the latest noise predictions is taken in $\log\rho$, $\rho = \sigma = e^{-\lambda}$
    (section 4, $\rho$AB-DEIS with log-rho), and integrated exactly: DPM-Solver's multistep method with Heun's weights
    and the whole quadratic term. The last level is the smallest of the table.
    """

    name = "deis"
    aliases = ("deis_multistep",)
    variants: ClassVar = {}
    scheduler_class = "DEISMultistepScheduler"
    summary = "the noise extrapolated in the log-SNR from the latest steps (solver_order 1 to 3)"
    curve_weight = 2.0

    @dataclass(frozen=True)
    class Config(DPMSolverConfig):
        """Fields of the DPM-Solvers; the file may name the solver and the algorithm of another class of the family."""

        algorithm_type: Literal["deis", "dpmsolver", "dpmsolver++"] = "deis"
        solver_type: Literal["logrho", "midpoint", "heun", "bh1", "bh2"] = "logrho"

        def __post_init__(self) -> None:
            object.__setattr__(self, "algorithm_type", "dpmsolver")
            object.__setattr__(self, "solver_type", "heun")
            object.__setattr__(self, "final_sigmas_type", "sigma_min")
            super().__post_init__()

    def final_level(self, levels: Array) -> float:
        """The noise level at which the last step ends."""
        return float(levels[-1]) if self.config.chosen_schedule() else super().final_level(levels)
