"""Ancestral sampling: how a step is split into one to a lower level and fresh noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.samplers.sigma import NotNegative


@dataclass(frozen=True)
class Ancestral(SchedulerConfig):
    """`eta` is the share of the noise of a step that is drawn anew, `s_noise` a factor on its deviation."""

    eta: NotNegative = 1.0
    s_noise: NotNegative = 1.0


def split_noise(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    r"""$(\sigma_{down}, \sigma_{up})$: the level to step down to, and the deviation of the noise that lifts it again.

    $\sigma_{up} = \eta\, \sigma_{i+1} \sqrt{\sigma_i^2 - \sigma_{i+1}^2} / \sigma_i$, for $\eta = 1$ that of the
    posterior (Song et al. 2021, arXiv 2011.13456, eq. 47), and $\sigma_{down}^2 + \sigma_{up}^2 = \sigma_{i+1}^2$.
    """
    sigma_up = min(sigma_next, eta * sigma_next * math.sqrt(max(sigma**2 - sigma_next**2, 0.0)) / sigma)
    return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up
