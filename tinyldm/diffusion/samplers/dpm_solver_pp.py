"""DPM-Solver++: an exponential multistep integrator that uses the structure of the diffusion ODE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from tinyldm.diffusion.config import Range, Thresholding, ZeroSNR
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import SigmaConfig, SigmaSampler
from tinyldm.diffusion.types import Array, NoiseSource, Predict, Timesteps

FEW_STEPS = 15  # below this many steps, `lower_order_final` takes effect


@register
class DPMSolverPlusPlus(SigmaSampler):
    r"""Lu et al. (2022), "DPM-Solver++", arXiv 2211.01095, Algorithm 2 (2M); order 1 is DDIM, order 3 its extension.

    With $\alpha_i = 1 / \sqrt{\sigma_i^2 + 1}$, the noise $s_i = \sigma_i \alpha_i$, the half log-SNR
    $\lambda_i = \ln(\alpha_i / s_i)$ and $h = \lambda_{i+1} - \lambda_i$, the linear part of the ODE is solved exactly
    and the model's clean latent $x_0$ is extrapolated in $\lambda$ (eq. 12):

    $z_{i+1} = \frac{s_{i+1}}{s_i} z_i - \alpha_{i+1} (e^{-h} - 1) \big(x_0^{(i)} + \tfrac12 D_1\big)$, where
    $D_1 = \frac{h}{h_{prev}} (x_0^{(i)} - x_0^{(i-1)})$.

    The latent is variance preserving: the model takes it as it is.
    """

    name = "dpm++_2m"
    aliases = ("dpmpp_2m", "dpm_solver++", "dpm_solver_multistep")
    variants: ClassVar = {"dpm++_2m_karras": {"use_karras_sigmas": True}}
    scheduler_class = "DPMSolverMultistepScheduler"
    summary = "the clean latent extrapolated in the log-SNR from two steps (solver_order 1 to 3)"

    @dataclass(frozen=True)
    class Config(SigmaConfig, ZeroSNR, Thresholding):
        """See `SigmaConfig`; a field with one value is of a choice that is not offered."""

        solver_order: Literal[1, 2, 3] = 2
        solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
        algorithm_type: Literal["dpmsolver++", "deis"] = "dpmsolver++"
        lower_order_final: bool = True
        euler_at_final: bool = False
        use_lu_lambdas: Literal[False] = False
        use_flow_sigmas: Literal[False] = False
        use_dynamic_shifting: Literal[False] = False
        lambda_min_clipped: Annotated[float, Range(most=-math.inf)] = -math.inf
        # A fixed variance in a file for DDPM means nothing to this solver; a learned one would change the output.
        variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", None] = None

    config: Config

    def __init__(self, config: Config, steps: int):
        super().__init__(config, steps)
        self.history: list[Array] = []  # the latest clean latents, newest first

    def make_levels(self) -> tuple[Array, Timesteps]:
        """See `SigmaSampler.make_levels`; here the timesteps are whole: float64 (S,), int64 (S,)."""
        c = self.config
        if c.use_karras_sigmas:
            levels, timesteps = self.karras_levels(self.sigma_table[::-1])
            if c.beta_schedule != "squaredcos_cap_v2":
                timesteps = np.round(timesteps)
            return levels, timesteps.astype(np.int64)
        if c.timestep_spacing == "trailing":
            timesteps = self.spaced_timesteps(self.steps)
        else:
            # One step more than asked for, without the last: the final level has a place of its own.
            timesteps = np.round(self.spaced_timesteps(self.steps + 1)[:-1])
        return self.levels_at(timesteps), timesteps.astype(np.int64)

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """See `Sampler.step`."""
        x0 = self.denoised(predict, z, self.sigma(i), self.timesteps[i])
        self.history = [x0, *self.history][: self.config.solver_order]
        (_, s), (alpha, s_next) = (self.signal_and_noise(self.sigma(k)) for k in (i, i + 1))
        decay = math.expm1(self.log_snr(i) - self.log_snr(i + 1))
        z = (s_next / s) * z - (alpha * decay) * x0
        order = self.order_at(i)
        if order == 2:
            return z + alpha * self.second_order(i, decay)
        return z + alpha * self.third_order(i, decay) if order == 3 else z

    def order_at(self, i: int) -> int:
        """The order of step `i`: as high as the history allows, lower in the last steps of a short run."""
        c = self.config
        last = len(self) - 1
        short = c.lower_order_final and len(self) < FEW_STEPS
        order = len(self.history)
        if i == last and (c.euler_at_final or short or c.final_sigmas_type == "zero"):
            return 1
        if self.sigmas[i] == self.sigmas[i + 1]:
            return 1  # a step of no length, as Karras levels with `sigma_min` end in: nothing to extrapolate over
        return min(order, 2) if i == last - 1 and short else order

    def log_snr(self, i: int) -> float:
        r"""$\lambda_i = -\ln\sigma_i$; infinite where no noise is left."""
        return -math.log(self.sigma(i)) if self.sigma(i) > 0 else math.inf

    def second_order(self, i: int, decay: float) -> Array:
        """What $x_0$ taken as linear in the log-SNR adds to a step with a constant one."""
        lam_prev, lam, lam_next = map(self.log_snr, range(i - 1, i + 2))
        h, h_prev = lam_next - lam, lam - lam_prev
        x0, x0_prev = self.history[:2]
        weight = decay / h + 1 if self.config.solver_type == "heun" else -decay / 2
        return (weight * h / h_prev) * (x0 - x0_prev)

    def third_order(self, i: int, decay: float) -> Array:
        """The same for $x_0$ taken as quadratic (divided differences of three predictions)."""
        lam_2, lam_1, lam, lam_next = map(self.log_snr, range(i - 2, i + 2))
        h = lam_next - lam
        r0, r1 = (lam - lam_1) / h, (lam_1 - lam_2) / h
        x0, x0_1, x0_2 = self.history
        d0, d1 = (x0 - x0_1) / r0, (x0_1 - x0_2) / r1
        curve = (d0 - d1) / (r0 + r1)
        slope = d0 + r0 * curve
        return (decay / h + 1) * slope - ((decay + h) / h**2 - 0.5) * curve
