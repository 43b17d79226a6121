"""DPM-Solver++: an exponential multistep integrator that uses the structure of the diffusion ODE."""

from __future__ import annotations

import math

import numpy as np

from tinyldm.diffusion import prediction
from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.samplers.base import NoiseSource, SigmaSampler

FEW_STEPS = 15  # below this many steps, `lower_order_final` takes effect


class DPMSolverPlusPlus(SigmaSampler):
    r"""Lu et al. (2022), "DPM-Solver++", arXiv 2211.01095, Algorithm 2 (2M); order 1 is DDIM, order 3 its extension.

    With $\alpha_i = 1 / \sqrt{\sigma_i^2 + 1}$, the noise $s_i = \sigma_i \alpha_i$, the half log-SNR
    $\lambda_i = \ln(\alpha_i / s_i)$ and $h = \lambda_{i+1} - \lambda_i$, the linear part of the ODE is solved exactly
    and the model's clean latent $x_0$ is extrapolated in $\lambda$ (eq. 12):

    $z_{i+1} = \frac{s_{i+1}}{s_i} z_i - \alpha_{i+1} (e^{-h} - 1) \big(x_0^{(i)} + \tfrac12 D_1\big)$, where
    $D_1 = \frac{h}{h_{prev}} (x_0^{(i)} - x_0^{(i-1)})$.

    The latent is variance preserving: the model takes it as it is.
    """

    scheduler_class = "DPMSolverMultistepScheduler"

    def __init__(self, config: SchedulerConfig, steps: int):
        super().__init__(config, steps)
        self.history: list[np.ndarray] = []  # the latest clean latents, newest first

    def make_levels(self) -> tuple[np.ndarray, np.ndarray]:
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

    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """See `Sampler.step`."""
        order = self.config.solver_order
        self.history = [self.clean_latent(output, i, z), *self.history][:order]
        update = (self.first_order, self.second_order, self.third_order)[self.order_at(i) - 1]
        return update(i, z)

    def clean_latent(self, output: np.ndarray, i: int, z: np.ndarray) -> np.ndarray:
        r"""The model's output as a clean latent $x_0$."""
        alpha, s, _ = self.coefficients(i)
        kind = self.config.prediction_type
        if kind == "sample":
            x0 = output
        elif kind == "epsilon":
            x0 = (z - s * output) / alpha
        else:
            x0 = alpha * z - s * output
        if self.config.thresholding:
            c = self.config
            x0 = prediction.dynamic_threshold(x0, c.dynamic_thresholding_ratio, c.sample_max_value)
        return x0

    def order_at(self, i: int) -> int:
        """The order of step `i`: as high as the history allows, lower in the last steps of a short run."""
        c = self.config
        last = len(self.timesteps) - 1
        short = c.lower_order_final and len(self.timesteps) < FEW_STEPS
        order = len(self.history)
        if i == last and (c.euler_at_final or short or c.final_sigmas_type == "zero"):
            return 1
        if self.sigmas[i] == self.sigmas[i + 1]:
            return 1  # a step of no length, as Karras levels with `sigma_min` end in: nothing to extrapolate over
        if i == last - 1 and short:
            return min(order, 2)
        return order

    def coefficients(self, i: int) -> tuple[float, float, float]:
        r"""$(\alpha_i, s_i, \lambda_i)$; $\lambda$ is infinite where no noise is left."""
        sigma = float(self.sigmas[i])
        alpha = 1 / math.sqrt(sigma**2 + 1)
        return alpha, sigma * alpha, -math.log(sigma) if sigma > 0 else math.inf

    def first_order(self, i: int, z: np.ndarray) -> np.ndarray:
        """$x_0$ taken as constant over the step."""
        (_, s, lam), (alpha, s_next, lam_next) = self.coefficients(i), self.coefficients(i + 1)
        return (s_next / s) * z - alpha * math.expm1(lam - lam_next) * self.history[0]

    def second_order(self, i: int, z: np.ndarray) -> np.ndarray:
        """$x_0$ taken as linear in the log-SNR."""
        (_, s, lam), (alpha, s_next, lam_next) = self.coefficients(i), self.coefficients(i + 1)
        h, h_prev = lam_next - lam, lam - self.coefficients(i - 1)[2]
        decay = math.expm1(-h)
        x0, x0_prev = self.history[:2]
        slope = (h / h_prev) * (x0 - x0_prev)
        weight = decay / h + 1 if self.config.solver_type == "heun" else -decay / 2
        return (s_next / s) * z - (alpha * decay) * x0 + (alpha * weight) * slope

    def third_order(self, i: int, z: np.ndarray) -> np.ndarray:
        """$x_0$ taken as quadratic in the log-SNR (divided differences of three predictions)."""
        (_, s, lam), (alpha, s_next, lam_next) = self.coefficients(i), self.coefficients(i + 1)
        lam_1, lam_2 = self.coefficients(i - 1)[2], self.coefficients(i - 2)[2]
        h = lam_next - lam
        r0, r1 = (lam - lam_1) / h, (lam_1 - lam_2) / h
        decay = math.expm1(-h)
        x0, x0_1, x0_2 = self.history
        d0, d1 = (x0 - x0_1) / r0, (x0_1 - x0_2) / r1
        curve = (d0 - d1) / (r0 + r1)
        slope = d0 + r0 * curve
        return (
            (s_next / s) * z
            - (alpha * decay) * x0
            + (alpha * (decay / h + 1)) * slope
            - (alpha * ((decay + h) / h**2 - 0.5)) * curve
        )

    def add_noise(self, z0: np.ndarray, noise: np.ndarray, i: int) -> np.ndarray:
        r"""See `Sampler.add_noise`; here $\alpha_i z_0 + s_i\epsilon$."""
        alpha, s, _ = self.coefficients(i)
        return alpha * z0 + s * noise
