"""TCD: the few-step sampler of trajectory consistency models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from tinyldm.diffusion import prediction
from tinyldm.diffusion.config import Range
from tinyldm.diffusion.samplers.lcm import DistilledConfig, DistilledSampler
from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.types import Array, NoiseSource, Predict


@register
class TCD(DistilledSampler):
    r"""Zheng et al. (2024), "Trajectory Consistency Distillation", arXiv 2402.19159, Algorithm 4.

    A DDIM step to a timestep $s = \lfloor (1 - \gamma)\, t_{next} \rfloor$ beyond the next one, then noise that leads
    back: $z_{next} = \sqrt{\bar\alpha_{next} / \bar\alpha_s}\, z_s + \sqrt{1 - \bar\alpha_{next} / \bar\alpha_s}\,
    \epsilon$. The paper's $\gamma$ is `eta`: 0 is deterministic, 1 jumps to the least noisy timestep and back.
    """

    name = "tcd"
    scheduler_class = "TCDScheduler"
    summary = "for trajectory consistency models: a step too far and some noise back; eta says how far"

    @dataclass(frozen=True)
    class Config(DistilledConfig):
        """The fields of samplers of distilled models; `eta` is the share of fresh noise."""

        eta: Annotated[float, Range(0, 1)] = 0.3

    config: Config

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        eta, t = self.config.eta, self.timesteps[i]
        t_next = int(self.timesteps[i + 1]) if i + 1 < len(self) else 0
        t_beyond = math.floor((1 - eta) * t_next)

        kind, mix = self.config.prediction_type, self.signal_and_noise(int(t))
        output, _ = self.ask(predict, z, t, *mix)
        x0, epsilon = prediction.to_sample(kind, output, z, *mix), prediction.to_epsilon(kind, output, z, *mix)
        signal, noise = self.signal_and_noise(t_beyond)
        z = signal * x0 + noise * epsilon
        if eta == 0 or i + 1 == len(self):
            return z
        ratio = self.alpha_bar_at(t_next) / self.alpha_bar_at(t_beyond)
        return math.sqrt(ratio) * z + math.sqrt(1 - ratio) * self.draw_noise(rng, z)
