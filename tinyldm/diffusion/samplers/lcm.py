"""LCM: the few-step sampler of latent consistency models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from tinyldm.diffusion.config import Beta, Clipping, Positive, Range, ZeroSNR
from tinyldm.diffusion.samplers.base import AlphaBarSampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict, Timesteps
from tinyldm.errors import InputError

SIGMA_DATA = 0.5


@dataclass(frozen=True)
class DistilledConfig(ZeroSNR, Clipping):
    """Fields of every sampler; the model was distilled on `original_inference_steps` timesteps."""

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    clip_sample: bool = False
    set_alpha_to_one: bool = True
    original_inference_steps: Annotated[int, Range(above=0)] = 50
    timestep_scaling: Positive = 10.0


class DistilledSampler(AlphaBarSampler):
    """A sampler of models that were distilled on some of the timesteps."""

    config: DistilledConfig

    def make_timesteps(self) -> Timesteps:
        """A subset of the timesteps that the model was distilled on, int64, evenly spread, the noisiest first."""
        total, original = self.config.num_train_timesteps, self.config.original_inference_steps
        if original > total:
            raise InputError(f"original_inference_steps is {original}; it must be at most {total}")
        if self.steps > original:
            raise InputError(f"steps: {self.steps} is out of range for {self.name}; it must be from 1 to {original}")
        distilled = (np.arange(original, 0, -1) * (total // original)) - 1
        return distilled[np.linspace(0, original, self.steps, endpoint=False).astype(np.int64)]


@register
class LCM(DistilledSampler):
    r"""Luo et al. (2023), "Latent Consistency Models", arXiv 2310.04378, Algorithm 3.

    The model jumps to a clean latent, $f = c_{skip}(t)\, z + c_{out}(t)\, x_0$ (eq. 9), which is made noisy again for
    the next timestep: $z_{next} = \sqrt{\bar\alpha_{next}}\, f + \sqrt{1 - \bar\alpha_{next}}\, \epsilon$. With
    $\tau$ = `timestep_scaling` $\cdot\, t$ and $\sigma_d = 0.5$ the boundary coefficients are
    $c_{skip} = \sigma_d^2 / (\tau^2 + \sigma_d^2)$ and $c_{out} = \tau / \sqrt{\tau^2 + \sigma_d^2}$.
    """

    name = "lcm"
    scheduler_class = "LCMScheduler"
    summary = "for latent consistency models: a jump to the clean latent, made noisy again"

    Config = DistilledConfig

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        _, x0 = self.predicted(predict, z, self.timesteps[i])
        tau = float(self.timesteps[i]) * self.config.timestep_scaling
        c_skip = SIGMA_DATA**2 / (tau**2 + SIGMA_DATA**2)
        c_out = tau / math.sqrt(tau**2 + SIGMA_DATA**2)
        f = c_out * x0 + c_skip * z
        if i + 1 == len(self):
            return f
        signal, noise = self.signal_and_noise(int(self.timesteps[i + 1]))
        return signal * f + noise * self.draw_noise(rng, z)
