"""LMS: a linear multistep method on the probability-flow ODE."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import Polynomial

from tinyldm.diffusion.samplers.registry import register
from tinyldm.diffusion.samplers.sigma import SigmaConfig, VarianceExplodingSampler
from tinyldm.diffusion.types import Array, NoiseSource, Predict

ORDER = 4


@register
class LMS(VarianceExplodingSampler):
    r"""Adams-Bashforth over unevenly spaced noise levels (K. Crowson, k-diffusion `sample_lms`).

    $z_{i+1} = z_i + \sum_k c_k\, d_{i-k}$ where $d_j = (z_j - x_0) / \sigma_j$ is the slope at level $j$, and

    $c_k = \int_{\sigma_i}^{\sigma_{i+1}} \prod_{j \ne k} \frac{\tau - \sigma_{i-j}}{\sigma_{i-k} - \sigma_{i-j}} d\tau$

    integrates the polynomial through the latest four slopes.
    """

    name = "lms"
    aliases = ("lms_discrete",)
    scheduler_class = "LMSDiscreteScheduler"
    summary = "a polynomial through the latest four slopes, integrated"
    Config = SigmaConfig

    def __init__(self, config: SigmaConfig, steps: int):
        super().__init__(config, steps)
        self.slopes: list[Array] = []  # at most four, newest first

    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """See `Sampler.step`."""
        slope = self.slope(predict, z, self.sigma(i), self.timesteps[i])
        self.slopes = [slope, *self.slopes][:ORDER]
        # The order follows the step's number, so a run that begins midway (image-to-image) lacks slopes at first and
        # leaves their terms out: so do the published pictures.
        coefficients = lms_coefficients(self.sigmas[: i + 2].astype(np.float64), min(i + 1, ORDER))
        for c, d in zip(coefficients, self.slopes, strict=False):
            z = z + c * d
        return z


def lms_coefficients(sigmas: Array, order: int) -> list[float]:  # (i + 2,) -> (order,)
    """The weights of the newest `order` slopes for the step from `sigmas[-2]` to `sigmas[-1]`, newest first."""
    nodes = sigmas[-2 : -2 - order : -1] - sigmas[-2]  # measured from the present level, so that little cancels
    end = sigmas[-1] - sigmas[-2]
    coefficients = []
    for k, node in enumerate(nodes):
        basis = Polynomial([1.0])
        for other in np.delete(nodes, k):
            basis = basis * Polynomial([-other, 1.0]) / (node - other)
        coefficients.append(float(basis.integ()(end)))
    return coefficients
