"""Samplers that call the model twice in a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tinyldm.diffusion.config import Beta
from tinyldm.diffusion.samplers.base import Sampler
from tinyldm.diffusion.samplers.sigma import SigmaConfig, VarianceExplodingSampler
from tinyldm.diffusion.types import Array, Timesteps


class TwoCalls(Sampler):
    """Over noise levels, with two calls in a step, but one in a step that ends without noise.

    `timesteps` are those of the calls; `visited`, of the class beside this one, are those that the steps begin at.
    """

    sigmas: Array
    visited: Timesteps

    def __init__(self, config: Any, steps: int):
        super().__init__(config, steps)
        calls = ((t, self.second_timestep(i)) if self.sigmas[i + 1] > 0 else (t,) for i, t in enumerate(self.visited))
        self.timesteps = np.array([t for step in calls for t in step], np.float32)

    def second_timestep(self, i: int) -> np.number:
        """The timestep of the second call in step `i`."""
        raise NotImplementedError

    def __len__(self) -> int:
        """The steps of a whole run."""
        return len(self.visited)

    def calls(self, start: int = 0) -> int:
        """How often a run from step `start` calls the model."""
        return len(self) - start + int(np.count_nonzero(self.sigmas[start + 1 :]))

    def calls_of(self, i: int) -> Timesteps:
        """The timesteps of the calls in step `i`: two, or one."""
        first = self.calls() - self.calls(i)
        return self.timesteps[first : first + 1 + int(self.sigmas[i + 1] > 0)]


@dataclass(frozen=True)
class MiddleCallConfig(SigmaConfig):
    """The defaults that the published schedulers of this kind share."""

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


class MiddleCall(TwoCalls, VarianceExplodingSampler):
    r"""The second call is in the middle of the step in $\log\sigma$, $\sqrt{\sigma_i \sigma_{i+1}}$ (DPM-Solver)."""

    def target(self, i: int) -> float:
        """The level that step `i` goes to before any fresh noise."""
        return self.sigma(i + 1)

    def middle(self, i: int) -> float:
        """The level in the middle of step `i`."""
        return math.sqrt(self.sigma(i) * self.target(i))

    def second_timestep(self, i: int) -> np.number:
        """The timestep of the second call of step `i`: that of the level in the middle."""
        return self.timestep_of(self.middle(i))
