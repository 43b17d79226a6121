"""LMS: a linear multistep method on the probability-flow ODE."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import Polynomial

from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.samplers.base import NoiseSource, VarianceExplodingSampler

ORDER = 4


class LMS(VarianceExplodingSampler):
    r"""Adams-Bashforth over unevenly spaced noise levels (K. Crowson, k-diffusion `sample_lms`).

    $z_{i+1} = z_i + \sum_k c_k\, d_{i-k}$ where $d_j = (z_j - x_0) / \sigma_j$ is the slope at level $j$, and

    $c_k = \int_{\sigma_i}^{\sigma_{i+1}} \prod_{j \ne k} \frac{\tau - \sigma_{i-j}}{\sigma_{i-k} - \sigma_{i-j}} d\tau$

    integrates the polynomial through the latest four slopes.
    """

    scheduler_class = "LMSDiscreteScheduler"

    def __init__(self, config: SchedulerConfig, steps: int):
        super().__init__(config, steps)
        self.slopes: list[np.ndarray] = []  # at most four, newest first

    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """See `Sampler.step`."""
        slope = (z - self.denoised(output, i, z)) / self.sigma_at(i, z)
        self.slopes = [slope, *self.slopes][:ORDER]
        # The order follows the step's number, so a run that begins midway (image-to-image) lacks slopes at first and
        # leaves their terms out: so do the published pictures.
        coefficients = lms_coefficients(self.sigmas[: i + 2].astype(np.float64), min(i + 1, ORDER))
        return z + sum(z.dtype.type(c) * d for c, d in zip(coefficients, self.slopes, strict=False))


def lms_coefficients(sigmas: np.ndarray, order: int) -> list[float]:  # (i + 2,) -> (order,)
    """The weights of the newest `order` slopes for the step from `sigmas[-2]` to `sigmas[-1]`, newest first."""
    nodes = sigmas[-2 : -2 - order : -1] - sigmas[-2]  # measured from the present level, so that little cancels
    end = sigmas[-1] - sigmas[-2]
    coefficients = []
    for k, node in enumerate(nodes):
        others = np.delete(nodes, k)
        basis = Polynomial([1.0])
        for other in others:
            basis = basis * Polynomial([-other, 1.0]) / (node - other)
        coefficients.append(float(basis.integ()(end)))
    return coefficients
