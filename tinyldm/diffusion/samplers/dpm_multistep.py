"""DPM-Solver's multistep methods: DPM++ 2M, its stochastic kin, and the solvers of noise predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyldm.diffusion.config import ZeroSNR
from tinyldm.diffusion.samplers.dpm_solver import DPMSolver, DPMSolverConfig, Integral
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict

FEW_STEPS = 15  # below this many steps, `lower_order_final` takes effect


@register
class DPMMultistep(DPMSolver):
    r"""Lu et al. (2022), "DPM-Solver++", arXiv 2211.01095, Algorithm 2 (2M); order 1 is DDIM, order 3 its extension.

    $z_{i+1} = \frac{s_{i+1}}{s_i} z_i - \alpha_{i+1} (e^{-h} - 1) \big(x_0^{(i)} + \tfrac12 D_1\big)$ with
    $D_1 = \frac{h}{h_{prev}} (x_0^{(i)} - x_0^{(i-1)})$ (eq. 12): the clean latent extrapolated from the latest steps.
    The latent is variance preserving: the model takes it as it is.
    """

    name = "dpm++_2m"
    aliases: ClassVar[tuple[str, ...]] = ("dpmpp_2m", "dpm_solver++", "dpm_solver_multistep")
    variants: ClassVar = {
        "dpm++_2m": {"algorithm_type": "dpmsolver++"},
        "dpm++_2m_karras": {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
        "dpm++_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
        "dpm++_3m_sde": {
            "algorithm_type": "sde-dpmsolver++",
            "solver_order": 3,
            "solver_type": "heun",
            "lower_order_final": False,
        },
        "dpm_2m": {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        "dpm_2m_sde": {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
    }
    scheduler_class = "DPMSolverMultistepScheduler"
    summary = "the clean latent extrapolated in the log-SNR from two steps (solver_order 1 to 3)"
    curve_weight: ClassVar[float] = 1.0  # of the quadratic term: the published solver has half of the exact integral

    @dataclass(frozen=True)
    class Config(DPMSolverConfig, ZeroSNR):
        """Fields of the DPM-Solvers; `use_lu_lambdas` spaces the levels evenly in the log-SNR."""

        euler_at_final: bool = False
        use_lu_lambdas: bool = False

        def chosen_schedule(self) -> str | None:
            """The schedule of noise levels that the fields choose."""
            return super().chosen_schedule() or ("exponential" if self.use_lu_lambdas else None)

    config: DPMSolverConfig

    def rounds(self, name: str) -> bool:
        """Whether the timesteps are rounded to whole ones."""
        even = getattr(self.config, "use_lu_lambdas", False)
        return (name == "karras" or even) and self.config.beta_schedule != "squaredcos_cap_v2"

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        self.ask_for(predict, z, i)
        step = self.integral(i, i + 1)
        z = step.keep * z - step.scale * self.integrated(i, step)
        return self.with_noise(z, step, i, i + 1, rng)

    def integrated(self, i: int, step: Integral) -> Array:
        """The polynomial through the latest predictions (divided differences), integrated over the step."""
        order = self.order_at(i)
        total = step.constant * self.history[0]
        if order == 1:
            return total
        h = self.log_snr(i + 1) - self.log_snr(i)
        r0 = (self.log_snr(i) - self.log_snr(i - 1)) / h
        d1 = (self.history[0] - self.history[1]) / r0
        if order == 2:
            return total + (step.linear if self.config.solver_type == "heun" else step.constant / 2) * d1
        r1 = (self.log_snr(i - 1) - self.log_snr(i - 2)) / h
        curve = (d1 - (self.history[1] - self.history[2]) / r1) / (r0 + r1)
        return total + step.linear * (d1 + r0 * curve) + (self.curve_weight * step.quadratic) * curve

    def order_at(self, i: int) -> int:
        """The order of step `i`: as high as the history allows, lower in the last steps of a short run."""
        c = self.config
        last = len(self) - 1
        short = c.lower_order_final and len(self) < FEW_STEPS
        if i == last and (getattr(c, "euler_at_final", False) or short):
            return 1
        if self.sigmas[i + 1] in (0, self.sigmas[i]):
            return 1  # to the end of all noise, or a step of no length, as Karras levels with `sigma_min` end in
        return min(len(self.history), 2) if i == last - 1 and short else len(self.history)
