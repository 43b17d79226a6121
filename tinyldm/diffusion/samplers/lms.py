"""LMS: a linear multistep method on the probability-flow ODE."""

from __future__ import annotations

from tinyldm.diffusion.samplers.lagrange import lagrange_weights
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
        """The less noisy latent after step `i`: `(N, …) -> (N, …)`."""
        slope = self.slope(predict, z, self.sigma(i), self.timesteps[i])
        self.slopes = [slope, *self.slopes][:ORDER]
        # The order follows the step's number, so a run that begins midway (image-to-image) lacks slopes at first and
        # leaves their terms out: so do the published pictures.
        order = min(i + 1, ORDER)
        # Measured from the present level, so that little cancels.
        nodes = [self.sigma(i - k) - self.sigma(i) for k in range(order)]
        end = self.sigma(i + 1) - self.sigma(i)
        coefficients = lagrange_weights(nodes, [end ** (n + 1) / (n + 1) for n in range(order)])
        for c, d in zip(coefficients, self.slopes, strict=False):
            z = z + c * d
        return z
