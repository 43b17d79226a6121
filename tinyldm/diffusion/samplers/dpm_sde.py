"""DPM++ SDE and DPM++ 2S ancestral: second-order steps of DPM-Solver++ with fresh noise, in k-diffusion's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tinyldm.diffusion.config import Range
from tinyldm.diffusion.samplers.brownian import BrownianNoise
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import Ancestral, SigmaConfig, split_noise
from tinyldm.diffusion.samplers.two_calls import MiddleCall, MiddleCallConfig
from tinyldm.diffusion.types import Array, NoiseSource, Predict


def towards(x0: Array, z: Array, ratio: float) -> Array:
    r"""First-order DPM-Solver++ (arXiv 2211.01095, eq. 11) to a level of `ratio` times the noise; all (N, …)."""
    return ratio * z + (1 - ratio) * x0


@register
class DPM2SAncestral(MiddleCall):
    r"""Lu et al. (2022), "DPM-Solver++", Algorithm 1 (2S), to a level below the next one; then fresh noise.

    The clean latent is asked for in the middle of the step in $\log\sigma$ (K. Crowson, k-diffusion
    `sample_dpmpp_2s_ancestral`).
    """

    name = "dpm++_2s_a"
    aliases = ("dpmpp_2s_ancestral", "dpmpp_2s_a")
    summary = "second order, the clean latent asked for in mid-step, with fresh noise"

    @dataclass(frozen=True)
    class Config(SigmaConfig, Ancestral):
        """Fields of noise levels and of fresh noise."""

    config: Config

    def target(self, i: int) -> float:
        """The level that step `i` goes to before the fresh noise."""
        return split_noise(self.sigma(i), self.sigma(i + 1), self.config.eta)[0]

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        sigma, middle = self.sigma(i), self.middle(i)
        sigma_down, sigma_up = split_noise(sigma, self.sigma(i + 1), self.config.eta)
        t, *t_middle = self.calls_of(i)
        x0 = self.denoised(predict, z, sigma, t)
        if self.sigma(i + 1) == 0:
            return x0
        x0 = self.denoised(predict, towards(x0, z, middle / sigma), middle, t_middle[0])
        return towards(x0, z, sigma_down / sigma) + self.config.s_noise * sigma_up * self.draw_noise(rng, z)


@register
class DPMSDE(MiddleCall):
    r"""DPM-Solver++ for the SDE, with two calls a step (K. Crowson, k-diffusion `sample_dpmpp_sde`).

    As 2S ancestral, but the middle of the step has its noise, too, and noise comes from one Brownian path.
    """

    name = "dpm++_sde"
    aliases = ("dpmpp_sde", "dpm_solver_sde")
    scheduler_class = "DPMSolverSDEScheduler"
    summary = "second order with noise in mid-step and at its end, from one Brownian path"

    @dataclass(frozen=True)
    class Config(MiddleCallConfig, Ancestral):
        """Fields of noise levels and of fresh noise.

        `noise_sampler_seed` is that of the path, else the generator's own.
        """

        noise_sampler_seed: Annotated[int, Range(least=0)] | None = None

    config: Config

    def __init__(self, config: Config, steps: int):
        super().__init__(config, steps)
        self.path = BrownianNoise(config.noise_sampler_seed)

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        sigma, sigma_next = self.sigma(i), self.sigma(i + 1)
        t, *t_middle = self.calls_of(i)
        x0 = self.denoised(predict, z, sigma, t)
        if sigma_next == 0:
            return x0
        middle = self.middle(i)
        x0 = self.denoised(predict, self.moved(x0, z, rng, sigma, middle), middle, t_middle[0])
        return self.moved(x0, z, rng, sigma, sigma_next)

    def moved(self, x0: Array, z: Array, rng: NoiseSource | None, sigma: float, sigma_to: float) -> Array:
        """`z` a step towards the clean latent, to below `sigma_to`, and lifted by the path's noise."""
        sigma_down, sigma_up = split_noise(sigma, sigma_to, self.config.eta)
        noise = self.path.between(self, rng, z, sigma, sigma_to)
        return towards(x0, z, sigma_down / sigma) + self.config.s_noise * sigma_up * noise
